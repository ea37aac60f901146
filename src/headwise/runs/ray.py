r"""Workers on a Ray cluster, accepted wherever a pipeline is:

    with RayWorkers(partial(load_pipeline, "emoji"), workers=2) as workers:
        relevance = measure(workers, concepts, pictures=1000, out="runs/emoji")
        weakening = measure_weakening(workers, relevance, "Color", prompts, score, out="runs/weaken-color")

Each worker is a Ray actor that loads the pipeline once and keeps it. Which worker gets which images, and
what happens when one dies, is decided in schedule.py and workers.py; this module spawns workers wherever the
cluster has room, replaces those that die, and sends them chunks. A worker that starts late, on a machine that
joined or became free in the meantime, gets the remaining chunks.

Ray executes code that the members of a cluster send each other: join only clusters you trust. Results of
workers are encoded like files (safetensors and JSON).

References:
    | Ray: A Distributed Framework for Emerging AI Applications (Moritz et al., 2018)
    | https://arxiv.org/abs/1712.05889
"""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from headwise.errors import HeadwiseError, MissingExtra, RunMismatch, WorkersDied
from headwise.runs.workers import Result, Task, Worker, WorkerLost

__all__ = ["Crew", "RayWorkers"]

PAUSE = 5.0  # seconds between queries of the cluster's size
SILENCE = 120.0  # seconds without a worker after which the user is warned
FAILED_STARTS = 3  # per worker, with no image counted in between, after which the run ends


class RayWorkers:
    """Workers on a Ray cluster, each with its own pipeline; use it as a context.

    Args:
        load: Loads the pipeline, in the worker's process: `partial(load_pipeline, "emoji")`.
        address: The address of a Ray cluster, "10.0.0.5:6379" or "ray://…:10001"; "auto" is the one that this
            machine belongs to, "local" a new one on this machine only.
        workers: The number of workers. By default one per GPU of the cluster, or one per CPU if it has no
            GPU; machines that join later add more.
        gpus: GPUs per worker, such as 0.5 for two workers that share one; 1 by default, if there are any.
        cpus: CPUs per worker.

    Raises:
        MissingExtra: Ray is not installed.
        HeadwiseError: No cluster answers at the address.
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
        self.started_ray = False
        self.actors: dict[int, Any] = {}
        self.spawned = 0
        self.free: list[int] = []
        self.pending: dict[
            Any, tuple[int, bool]
        ] = {}  # pending reference → its worker, and whether it is a count
        self.job: Any = None
        self.versions: dict[str, str] | None = None
        self.failed_starts = 0

    def __enter__(self) -> "RayWorkers":
        self.ray = _ray()
        if not self.ray.is_initialized():
            self._join()
            self.started_ray = True
        self.worker_class = self.ray.remote(Worker)
        self.looked_at = self.last_answer = self.now()
        self.wanted = self._capacity()
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self.actors.values():
            self.ray.kill(actor, no_restart=True)
        self.actors, self.pending, self.free = {}, {}, []
        if self.started_ray:
            self.ray.shutdown()
        self.ray, self.started_ray = None, False

    def __len__(self) -> int:
        return self.wanted

    def begin(self, task: Task) -> Any:
        """Give a task to all workers, and to later ones; returns the first worker's count of no images."""
        if self.ray is None:
            raise HeadwiseError(
                "The workers have not started. Enter the context first: `with RayWorkers(…) as workers`."
            )
        self.job = self.ray.put((self.load, task))
        self.nothing: Any = None
        self.pending, self.free, self.failed_starts = (
            {},
            [],
            0,
        )  # pending results of the last task are dropped
        for worker in self.actors:
            self._prepare(worker)
        while self.nothing is None:
            self.wait()
        return self.nothing

    def idle(self) -> Sequence[Hashable]:
        """The workers that wait for a chunk and still respond: a death while idle counts against no chunk."""
        errors = self.ray.exceptions
        answers = {worker: self.actors[worker].is_there.remote() for worker in self.free}
        there = []
        for worker, answer in answers.items():
            try:
                self.ray.get(answer, timeout=PAUSE)
                there.append(worker)
            except errors.GetTimeoutError:
                continue
            except errors.RayError:
                self.free.remove(worker)
                self.ray.kill(self.actors.pop(worker), no_restart=True)
        return tuple(there)

    def give(self, worker: Hashable, chunk: range) -> None:
        """Let a worker count a chunk."""
        self.free.remove(worker)  # type: ignore[arg-type]
        self.pending[self.actors[worker].do.remote(chunk)] = (worker, True)  # type: ignore[index,assignment]

    def wait(self) -> Sequence[Result | WorkerLost]:
        """The events since the last call; none if nothing happens for a few seconds."""
        self._spawn()
        ready, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=PAUSE)
        self._warn_if_silent()
        happened = [self._event(*self.pending.pop(reference), reference) for reference in ready]
        return [event for event in happened if event is not None]

    def now(self) -> float:
        """The time in seconds on a monotonic clock."""
        return time.monotonic()

    def _join(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self.address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
            os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")  # the machine may be busy
            options["include_dashboard"] = False
        try:
            _require_listening(self.address)
            self.ray.init(address=self.address, **options)
        except Exception as error:  # Ray raises its own classes, and plain exceptions
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise HeadwiseError(
                f"No Ray cluster answers at {self.address!r}: {lines[0].rstrip('.')}. "
                "Give the address that `ray start --head` printed, auto on one of its machines, or local."
            ) from error

    def _capacity(self) -> int:
        """The number of workers that there should be now."""
        if self.workers is not None:
            return self.workers
        has = self.ray.cluster_resources()
        kind, each = ("GPU", self._gpus()) if self._gpus() else ("CPU", self.cpus)
        return max(1, int(has.get(kind, 0) / each))

    def _gpus(self) -> float | int:
        return self.gpus if self.gpus is not None else int(self.ray.cluster_resources().get("GPU", 0) > 0)

    def _spawn(self) -> None:
        if self.now() - self.looked_at > PAUSE:
            self.looked_at, self.wanted = self.now(), self._capacity()
        while len(self.actors) < self.wanted:
            self.spawned += 1
            options = {"num_cpus": self.cpus, "num_gpus": self._gpus(), "max_restarts": 0}
            self.actors[self.spawned] = self.worker_class.options(**options).remote()
            self._prepare(self.spawned)

    def _prepare(self, worker: int) -> None:
        self.pending[self.actors[worker].begin.remote(self.job)] = (worker, False)

    def _event(self, worker: int, counting: bool, reference: Any) -> Result | WorkerLost | None:
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, HeadwiseError):
                raise cause from None
            return self._lost(worker, counting, f"{type(cause).__name__}: {cause}")
        except errors.RayError as error:
            return self._lost(worker, counting, str(error))
        self.last_answer = self.now()
        if counting:
            self.failed_starts = 0
            self.free.append(worker)
            return Result(worker, *answer)
        self._require_same(worker, *answer)
        self.free.append(worker)
        return None

    def _require_same(self, worker: int, versions: dict[str, str], nothing: Any) -> None:
        expected = self.versions or versions
        for name, version in expected.items():
            if versions.get(name) != version:
                raise RunMismatch(
                    f"Worker {worker} has {name} {versions.get(name)}, but the first worker has {version}. "
                    "Install the same versions on all machines of the cluster."
                )
        self.versions, self.nothing = expected, nothing if self.nothing is None else self.nothing

    def _lost(self, worker: int, counting: bool, reason: str) -> WorkerLost:
        self.ray.kill(self.actors.pop(worker), no_restart=True)
        short = " ".join(reason.split())[:300].rstrip(".") + "."
        self.failed_starts += not counting
        if self.failed_starts > FAILED_STARTS * self.wanted:
            raise WorkersDied(
                f"{self.failed_starts} workers died before counting any image; the last reported: {short} "
                "Run `headwise doctor` on one of their machines."
            )
        return WorkerLost(worker, short)

    def _warn_if_silent(self) -> None:
        if not self.free and not any(counting for _, counting in self.pending.values()):
            if self.now() - self.last_answer > SILENCE:
                warnings.warn(
                    f"No worker has started for {SILENCE:.0f} seconds. Each needs {self._gpus()} GPUs and "
                    f"{self.cpus} CPUs; the cluster has {self.ray.available_resources()} free.",
                    stacklevel=2,
                )
                self.last_answer = self.now()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as missing:
        raise MissingExtra(
            "Sharing work over a cluster needs Ray, which is not installed: pip install 'headwise[ray]'"
        ) from missing
    return ray


Crew = RayWorkers  # its earlier name


def _require_listening(address: str) -> None:
    """Raise an OSError unless something listens at host:port; Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
