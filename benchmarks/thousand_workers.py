"""How many workers can one driver serve? A simulation of the workers, with a real driver.

    python benchmarks/thousand_workers.py [--json] [--write] [--workers 1000] [--pictures 32000] [--seconds 5]

The workers are simulated: an image takes a fixed time on the clock of the simulation, a tenth of the workers
are half as fast, and they start minutes apart, die at random and are replaced after a while. The driver is
the library's own: it hands out chunks (runs/workers.py), receives results (serialised votes of Stable
Diffusion XL's size, 50 calls × 1300 heads × 34 concepts), adds them up, and writes checkpoints to disk every
ten seconds. The real time that this takes advances the clock as well, so that a driver that cannot keep up
makes its workers wait.

Printed are the total time, and the time that the same workers would need if none started late, died or
waited; how the workers spent their time; how many chunks per second the driver can receive, and how many such
workers that would keep busy; and the driver's memory.
"""

import argparse
import heapq
import itertools
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from looking import add_output_to, tell

from headwise.files import serialise
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.counting import CHUNK
from headwise.measuring.official import head_map_of
from headwise.measuring.votes import Votes
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.schedule import chunks_of
from headwise.runs.workers import Result, WorkerLost, collect

CALLS = 50
SETTINGS = {"model": "played", "seed": 0}


class Played:
    """Simulated workers, which take time and die, but count nothing.

    Args:
        count: The number of workers to keep.
        seconds: The time per image.
        hours: A worker's mean lifetime.
        starting: Seconds until a worker has started; half of the first workers take one to ten times as long.
        packed: What a worker sends back for a chunk.
    """

    def __init__(
        self, count: int, seconds: float, hours: float, starting: float, packed: Callable[[range], bytes]
    ) -> None:
        self.count, self.seconds, self.starting, self.packed = count, seconds, starting, packed
        self.chance = np.random.Generator(np.random.Philox(0))
        self.life = hours * 3600
        self.clock, self.real = 0.0, time.perf_counter()
        self.names = itertools.count()
        self.events: list[tuple[float, int, str, int]] = []  # time, order, event, worker
        self.free: list[int] = []
        self.since: dict[int, float] = {}  # when each idle worker became idle
        self.at: dict[int, tuple[range, float]] = {}
        self.until: dict[int, float] = {}  # when each worker dies
        self.pace: dict[int, float] = {}
        self.deaths = 0
        self.lost = self.waited = self.worked = self.started = 0.0
        self.came: set[range] = set()
        for _ in range(count):
            self._hire(self.starting * (1 if self.chance.random() < 0.5 else self.chance.uniform(1, 10)))

    def __len__(self) -> int:
        return self.count

    def idle(self) -> Sequence[Hashable]:
        """The workers that wait for a chunk."""
        return tuple(self.free)

    def give(self, worker: Hashable, chunk: range) -> None:
        """Give a worker a chunk; the time at which it will be done, or die, is determined at once."""
        assert isinstance(worker, int)
        now = self.now()
        self.free.remove(worker)
        self.waited += now - self.since.pop(worker)
        done = now + len(chunk) * self.seconds * self.pace[worker]
        self.at[worker] = (chunk, now)
        dies = self.until[worker] < done
        self._at(self.until[worker] if dies else done, "dies" if dies else "done", worker)

    def wait(self) -> Sequence[Result | WorkerLost]:
        """Advance the clock by the driver's time, and then to the next event."""
        now = self.now()
        if self.events and self.events[0][0] > now:
            self.clock += self.events[0][0] - now
        if not self.events:
            return []
        when, _, what, worker = heapq.heappop(self.events)
        event = self._happens(when, what, worker)
        return [] if event is None else [event]

    def now(self) -> float:
        """The clock: the simulated time plus the driver's real time."""
        return self.clock + time.perf_counter() - self.real

    def shares(self, end: float) -> dict[str, float]:
        """How the workers spent their time until the end, as fractions."""
        to_come = sum(max(0.0, when - end) for when, _, what, _ in self.events if what == "comes")
        parts = {
            "counting": self.worked,
            "starting": self.started - to_come,
            "lost to deaths": self.lost,
            "waiting for the driver": self.waited,
            "idle or doubled at the end": sum(end - since for since in self.since.values())
            + sum(end - began for _, began in self.at.values()),
        }
        return {name: seconds / (self.count * end) for name, seconds in parts.items()}

    def _happens(self, when: float, what: str, worker: int) -> Result | WorkerLost | None:
        if what == "comes":
            self.free.append(worker)
            self.since[worker] = when
            return None
        chunk, began = self.at.pop(worker)
        if what == "done":
            self.worked += 0 if chunk in self.came else when - began
            self.came.add(chunk)
            self.free.append(worker)
            self.since[worker] = when
            return Result(worker, self.packed(chunk), {})
        self.deaths += 1
        self.lost += when - began
        self._hire(self.starting * self.chance.uniform(1, 3))
        return WorkerLost(worker, "it reached the end of its life.")

    def _hire(self, after: float) -> None:
        worker, comes = next(self.names), self.now() + after
        self.pace[worker] = 2.0 if self.chance.random() < 0.1 else 1.0
        self.until[worker] = comes + self.chance.exponential(self.life)
        self.started += after
        self._at(comes, "comes", worker)

    def _at(self, when: float, what: str, worker: int) -> None:
        heapq.heappush(self.events, (when, next(self.names), what, worker))


def sender() -> tuple[Votes, Callable[[range], bytes]]:
    """What a worker sends: the votes of a chunk, generated once and labelled with the requested images."""
    heads, concepts = head_map_of("sd_xl_base_1_0"), ConceptSet.load("paper34")
    generator = np.random.Generator(np.random.Philox(0))
    winners = generator.integers(0, len(concepts), (CHUNK, CALLS, 1, heads.all_heads))
    votes = Votes.of_pictures(winners, range(CHUNK), heads, concepts, SETTINGS)
    arrays = {"counts": votes.counts.astype(np.uint8), "blocks": votes.blocks.astype(np.uint8)}
    metadata = votes._metadata()

    def packed_of(chunk: range) -> bytes:
        return serialise("votes", arrays, metadata | {"pictures": [[chunk.start, chunk.stop]]})

    return Votes.empty(heads, concepts, SETTINGS), packed_of


class Stopwatch:
    """Measures the time spent in calls of a function, to subtract it from the simulation's clock."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, *args: Any) -> Any:
        """Call the function, and add the time that it takes."""
        started = time.perf_counter()
        try:
            return self.call(*args)
        finally:
            self.seconds += time.perf_counter() - started


def simulate(count: int, pictures: int, seconds: float, hours: float, starting: float) -> dict[str, Any]:
    """Simulate one run, from the first worker to the last image."""
    nothing, packed_of = sender()
    sending = Stopwatch(packed_of)
    workers = Played(count, seconds, hours, starting, sending)
    now = workers.now
    workers.now = lambda: now() - sending.seconds  # type: ignore[method-assign]  # sending is the worker's work
    todo = [range(start, min(start + 4, pictures)) for start in range(0, pictures, 4)]
    chunks = chunks_of(todo, [range(pictures)], count, CHUNK)
    started = time.perf_counter()
    memory: list[float] = []
    with TemporaryDirectory() as out, RunFolder(out, SETTINGS, nothing, total=pictures) as folder:
        with (
            closing(collect(workers, chunks, folder)) as coming,
            Progress(folder, pictures, 10, False) as done,
        ):
            for number, part in enumerate(coming):
                done(part)
                if number % 100 == 0:
                    memory.append(_resident_mb())
        total, took = workers.now(), time.perf_counter() - started - sending.seconds
        counted = Votes.load(Path(out) / "votes.safetensors")
    exact = counted.pictures == ((0, pictures),) and int(counted.counts.sum()) == len(chunks) * int(
        Votes.unpack(packed_of(chunks[0])).counts.sum()
    )
    ideal = pictures * seconds / (0.95 * count)  # a tenth of them are half as fast
    rate = len(chunks) / took
    return {
        "workers": count,
        "pictures": pictures,
        "chunks": len(chunks),
        "deaths": workers.deaths,
        "exact": exact,
        "hours": total / 3600,
        "ideal_hours": ideal / 3600,
        "overhead": total / ideal - 1,
        "share": workers.shares(total),
        "driver_s": took,
        "driver_busy": took / total,
        "chunks_a_second": rate,
        "ceiling_workers": int(rate * pictures / len(chunks) * seconds),
        "driver_mb_early": memory[len(memory) // 4],
        "driver_mb_late": memory[-1],
    }


def _resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    """Print the results of the simulation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--seconds", type=float, default=5.0, help="time per image")
    parser.add_argument("--hours", type=float, default=2.0, help="mean lifetime of a worker")
    parser.add_argument("--starting", type=float, default=60.0, help="seconds until a worker has started")
    options = parser.parse_args()
    results = simulate(options.workers, options.pictures, options.seconds, options.hours, options.starting)
    used = resource.getrusage(resource.RUSAGE_SELF)
    results |= {
        "processor_s": used.ru_utime + used.ru_stime,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    results["machine"] = platform.machine()
    if not tell(results, options):
        return
    results |= results.pop("share")
    for name, value in results.items():
        sys.stdout.write(f"{name:28}{value:.3f}\n" if isinstance(value, float) else f"{name:28}{value}\n")


if __name__ == "__main__":
    main()
