r"""A crew of workers on a Ray cluster, which goes wherever a pipeline goes:

    with RayWorkers(partial(load_pipeline, "emoji"), workers=2) as crew:
        relevance = measure(crew, concepts, pictures=1000, out="runs/emoji")
        found = measure_weakening(crew, relevance, "Color", cases, score, out="runs/weaken-color")

Each worker is a Ray actor that loads the pipeline once and keeps it. Who gets which pictures, and what
happens when a worker dies, is dispatch.py's; here workers are hired, wherever the cluster has room for them
and as often as one dies, given pieces, and listened to. A worker that comes late, on a machine that was
started or given back meanwhile, gets the pieces that are left.

Ray runs what the members of a cluster send each other: join only clusters you trust. What workers send back
is packed as files are (safetensors and JSON).

References:
    | Ray: A Distributed Framework for Emerging AI Applications (Moritz et al., 2018)
    | https://arxiv.org/abs/1712.05889
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from headwise.errors import HeadwiseError, MissingExtra, RunMismatch, WorkersDied
from headwise.runs.workers import Count, Result, Worker, WorkerLost

__all__ = ["Crew", "RayWorkers"]

PAUSE = 5.0  # seconds after which the cluster is asked again how large it is
SILENCE = 120.0  # seconds without a worker after which the user is told
STILLBORN = 3  # so many deaths a worker, with no picture counted, and nobody is hired any more


class RayWorkers:
    """Workers on a Ray cluster, each with a pipeline of its own; use it as a context.

    Args:
        load: Makes the pipeline, at the worker's place: `partial(load_pipeline, "emoji")`.
        address: Of a Ray cluster, "10.0.0.5:6379" or "ray://…:10001"; "auto" is the one that this machine
            belongs to, "local" a new one of this machine alone.
        workers: How many. By default one for each GPU of the cluster, and where it has none for each CPU;
            machines that join later bring more.
        gpus: How many each needs, such as 0.5 for two that share one; by default 1 if the cluster has any.
        cpus: Likewise.

    Raises:
        MissingExtra: Ray is not installed.
        HeadwiseError: There is no cluster at the address.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        address: str = "local",
        workers: int | None = None,
        *,
        gpus: float | int | None = None,
        cpus: float | int = 1,
    ) -> None:
        if workers is not None and workers < 1:
            raise HeadwiseError(f"workers={workers} was given; expected 1 or more.")
        self.load, self.address, self.workers, self.gpus, self.cpus = load, address, workers, gpus, cpus
        self.ray: Any = None
        self.mine = False  # did we start it?
        self.actors: dict[int, Any] = {}
        self.hired = 0
        self.free: list[int] = []
        self.pending: dict[Any, tuple[int, bool]] = {}  # what is awaited of whom, and is it a count?
        self.job: Any = None
        self.versions: dict[str, str] | None = None
        self.stillborn = 0

    def __enter__(self) -> "RayWorkers":
        self.ray = _ray()
        if not self.ray.is_initialized():
            self._join()
            self.mine = True
        self.station = self.ray.remote(Worker)
        self.asked = self.heard = self.now()
        self.wanted = self._room()
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self.actors.values():
            self.ray.kill(actor, no_restart=True)
        self.actors, self.pending, self.free = {}, {}, []
        if self.mine:
            self.ray.shutdown()
        self.ray, self.mine = None, False

    def __len__(self) -> int:
        return self.wanted

    def begin(self, prepare: Callable[[Any], Count]) -> Any:
        """Give everybody a job; returns what the first of them found of no pictures."""
        if self.ray is None:
            raise HeadwiseError("The crew is not at work yet. Enter it first: `with RayWorkers(…) as crew`.")
        self.job = self.ray.put((self.load, prepare))
        self.found: Any = None
        self.pending, self.free, self.stillborn = {}, [], 0  # what is left of the last job is dropped
        for worker in self.actors:
            self._prepare(worker)
        while self.found is None:
            self.wait()
        return self.found

    def idle(self) -> Sequence[Hashable]:
        """Those who wait for a piece and are still there: who died idle died of no piece."""
        errors = self.ray.exceptions
        asked = {worker: self.actors[worker].is_there.remote() for worker in self.free}
        there = []
        for worker, answer in asked.items():
            try:
                self.ray.get(answer, timeout=PAUSE)
                there.append(worker)
            except errors.GetTimeoutError:
                continue
            except errors.RayError:
                self.free.remove(worker)
                self.ray.kill(self.actors.pop(worker), no_restart=True)
        return tuple(there)

    def give(self, worker: Hashable, piece: range) -> None:
        """Let one count a piece."""
        self.free.remove(worker)  # type: ignore[arg-type]
        self.pending[self.actors[worker].do.remote(piece)] = (worker, True)  # type: ignore[index,assignment]

    def wait(self) -> Sequence[Result | WorkerLost]:
        """What has happened."""
        self._hire()
        ready, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=PAUSE)
        self._tell_if_silent()
        happened = [self._heard(*self.pending.pop(reference), reference) for reference in ready]
        return [event for event in happened if event is not None]

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def _join(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self.address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
            os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")  # the machine may be busy
            options["include_dashboard"] = False
        try:
            self.ray.init(address=self.address, **options)
        except Exception as error:  # Ray raises its own kinds, and bare ones
            said = str(error).strip().splitlines()
            raise HeadwiseError(
                f"No Ray cluster answers at {self.address!r}: {said[0] if said else type(error).__name__} "
                "Give the address that `ray start --head` printed, auto on one of its machines, or local."
            ) from error

    def _room(self) -> int:
        """How many workers there should be."""
        if self.workers is not None:
            return self.workers
        has = self.ray.cluster_resources()
        kind, each = ("GPU", self._gpus()) if self._gpus() else ("CPU", self.cpus)
        return max(1, int(has.get(kind, 0) / each))

    def _gpus(self) -> float | int:
        return self.gpus if self.gpus is not None else int(self.ray.cluster_resources().get("GPU", 0) > 0)

    def _hire(self) -> None:
        if self.now() - self.asked > PAUSE:
            self.asked, self.wanted = self.now(), self._room()
        while len(self.actors) < self.wanted:
            self.hired += 1
            options = {"num_cpus": self.cpus, "num_gpus": self._gpus(), "max_restarts": 0}
            self.actors[self.hired] = self.station.options(**options).remote()
            self._prepare(self.hired)

    def _prepare(self, worker: int) -> None:
        self.pending[self.actors[worker].begin.remote(self.job)] = (worker, False)

    def _heard(self, worker: int, counting: bool, reference: Any) -> Result | WorkerLost | None:
        errors = self.ray.exceptions
        try:
            got = self.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, HeadwiseError):
                raise cause from None
            return self._lost(worker, counting, f"{type(cause).__name__}: {cause}")
        except errors.RayError as error:
            return self._lost(worker, counting, str(error))
        self.heard = self.now()
        if counting:
            self.stillborn = 0
            self.free.append(worker)
            return Result(worker, *got)
        self._require_same(worker, *got)
        self.free.append(worker)
        return None

    def _require_same(self, worker: int, versions: dict[str, str], found: Any) -> None:
        known = self.versions or versions
        for name, of in known.items():
            if versions.get(name) != of:
                raise RunMismatch(
                    f"Worker {worker} has {name} {versions.get(name)}, the first {of}. Install the same "
                    "versions on all machines of the cluster."
                )
        self.versions, self.found = known, self.found if self.found is not None else found

    def _lost(self, worker: int, counting: bool, said: str) -> WorkerLost:
        self.ray.kill(self.actors.pop(worker), no_restart=True)
        short = " ".join(said.split())[:300].rstrip(".") + "."
        self.stillborn += not counting
        if self.stillborn > STILLBORN * self.wanted:
            raise WorkersDied(
                f"{self.stillborn} workers died before they counted anything, the last so: {short} "
                "Try one on such a machine: headwise doctor."
            )
        return WorkerLost(worker, short)

    def _tell_if_silent(self) -> None:
        if not self.free and not any(counting for _, counting in self.pending.values()):
            if self.now() - self.heard > SILENCE:
                warnings.warn(
                    f"No worker has come for {SILENCE:.0f} seconds. Has the cluster room for one that needs "
                    f"{self._gpus()} GPUs and {self.cpus} CPUs? It has {self.ray.available_resources()}.",
                    stacklevel=2,
                )
                self.heard = self.now()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as missing:
        raise MissingExtra(
            "Sharing work over a cluster needs Ray, which is not installed: pip install 'headwise[ray]'"
        ) from missing
    return ray


Crew = RayWorkers  # its first name
