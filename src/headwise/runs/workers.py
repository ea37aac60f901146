r"""Tasks for one pipeline or for many workers: chunks go out, counts come back and add up.

    task      from a pipeline to a `Counter`; picklable, so that any worker can start it
    counter   one pipeline at work: number ranges → counts, batch by batch
    driver    missing numbers → chunks → give, wait, add, checkpoint

A `Job` is a task on a pipeline or on workers; `measure` and every sweep are tasks (measuring/measure.py,
benchmarks/sweep.py). Each chunk is counted exactly once, whichever workers die (schedule.py). The driver
holds only the total and the latest results, however many images there are.

This module depends on no cluster: any object with the methods of `Workers` works (ray.py has Ray's).
"""

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from headwise.pictures import save_picture
from headwise.runs.folder import RunFolder, versions
from headwise.runs.schedule import ATTEMPTS, Schedule, chunks_of
from headwise.runs.shards import batches

__all__ = [
    "Counter", "Job", "Keep", "Result", "Task", "Worker", "WorkerLost", "Workers", "are_workers", "collect",
    "dispatch",
]  # fmt: skip

Keep = Callable[[str, Any, str], None]
"""Saves an image under a name, with its prompt."""


class Counter(Protocol):
    """Carries out a task with one pipeline.

    Args:
        nothing: The count of no images, with the settings that determine the result.
    """

    nothing: Any

    def counts(self, missing: Sequence[range], so_far: Any, keep: Keep) -> Generator[Any, None, None]:
        """Generate the counts batch by batch.

        Args:
            missing: The numbers that are not, or not completely, counted yet.
            so_far: The count so far.
            keep: Called with each image to save.
        """
        ...


Task = Callable[[Any], Counter]
"""From a pipeline to its counter. It is pickled and sent to workers, so it must not hold a pipeline."""


class Result(NamedTuple):
    """The result of a worker: the packed count of its chunk, and the kept images by file name."""

    worker: Hashable
    packed: bytes
    pictures: Mapping[str, bytes]


class WorkerLost(NamedTuple):
    """The loss of a worker, with the reason."""

    worker: Hashable
    reason: str


@runtime_checkable
class Workers(Protocol):
    """Any set of workers, each with its own pipeline.

    Args:
        versions: The package versions that all of them count with; None before they begin.
    """

    versions: dict[str, str] | None

    def __len__(self) -> int:
        """The number of workers that there should be."""
        ...

    def begin(self, task: Task) -> Any:
        """Give a task to all workers, and to later ones; returns the first worker's count of no images."""
        ...

    def idle(self) -> Sequence[Hashable]:
        """The workers that wait for a chunk."""
        ...

    def give(self, worker: Hashable, chunk: range) -> None:
        """Let a worker count a chunk."""
        ...

    def wait(self) -> Sequence[Result | WorkerLost]:
        """The events since the last call; none if nothing happens for a few seconds."""
        ...

    def now(self) -> float:
        """The time in seconds on a monotonic clock."""
        ...


def are_workers(pipe: Any) -> TypeGuard[Workers]:
    """Whether these are workers instead of a pipeline; only the class is inspected, as pipelines may warn."""
    return all(hasattr(type(pipe), name) for name in ("begin", "idle", "give", "wait"))


class Worker:
    """The object that each worker process runs."""

    def __init__(self) -> None:
        self.pipe: Any = None

    def begin(self, job: tuple[Callable[[], Any], Task]) -> tuple[dict[str, str], Any]:
        """Accept a job: a function that loads the pipeline, and the task.

        Returns:
            The package versions of this process, and the count of no images.
        """
        load, task = job
        if self.pipe is None:
            self.pipe = load()
        self.counter = task(self.pipe)
        return versions(), self.counter.nothing

    def is_there(self) -> bool:
        """True; a dead worker cannot respond."""
        return True

    def do(self, chunk: range) -> tuple[bytes, dict[str, bytes]]:
        """Count one chunk; kept images are sent with the count, since the driver cannot read this disk."""
        nothing = self.counter.nothing
        with TemporaryDirectory() as folder:
            pictures = Path(folder) / "pictures"

            def keep(name: str, picture: Any, prompt: str) -> None:
                save_picture(pictures / f"{name}.png", picture, {"prompt": prompt})

            total = sum(self.counter.counts([chunk], nothing, keep), start=nothing)
            return total.pack(), {file.name: file.read_bytes() for file in pictures.glob("*.png")}


class Job:
    """A task in progress: on one pipeline in this process, or shared by workers.

    Args:
        pipe: A pipeline, or workers.
        task: The work of each pipeline.

    Attributes:
        nothing: The count of no images, with the settings that determine the result.
        versions: The package versions of the workers; None if this process counts.
        size: How many pipelines share the task.
    """

    def __init__(self, pipe: Any, task: Task) -> None:
        self.workers: Workers | None = pipe if are_workers(pipe) else None
        self.counter = task(pipe) if self.workers is None else None
        self.nothing = pipe.begin(task) if self.counter is None else self.counter.nothing
        self.versions = None if self.workers is None else self.workers.versions
        self.size = 1 if self.workers is None else len(self.workers)

    def count_missing(
        self,
        folder: RunFolder[Any],
        numbers: range,
        together: int,
        *,
        most: int | None = None,
        cuts: Sequence[int] = (),
        in_order: bool = False,
    ) -> Generator[Any, None, None]:
        """The counts that the folder does not have yet; close the generator if you do not exhaust it.

        Args:
            folder: The folder with the count so far, where kept images are saved.
            numbers: Which images to count.
            together: The batch size of a worker, in consecutive numbers.
            most: How many numbers one worker gets at a time; `together` if None.
            cuts: Numbers that no batch spans.
            in_order: Whether to hold back counts until those of all earlier numbers have arrived.
        """
        missing = folder.so_far.left(numbers)
        if self.workers is None:
            assert self.counter is not None
            return self.counter.counts(missing, folder.so_far, folder.keep)
        todo = batches(numbers.start, numbers.stop, together, cuts)
        chunks = chunks_of(todo, missing, len(self.workers), most or together, cuts)
        return collect(self.workers, chunks, folder, in_order=in_order)


def dispatch(
    workers: Workers, chunks: Sequence[range], *, in_order: bool = False, attempts: int = ATTEMPTS
) -> Generator[Result, None, None]:
    """Give out chunks, and yield one result per chunk as results arrive.

    Args:
        workers: Workers that have begun a task.
        chunks: Ranges of image numbers.
        in_order: Whether to hold back results until those of all earlier chunks have arrived.
        attempts: How many workers have to die on one chunk to end the run.

    Raises:
        WorkersDied: As many workers as `attempts` died on the same chunk.
    """
    schedule = Schedule(chunks, attempts)
    early: dict[int, Result] = {}
    expected = 0

    def give() -> None:
        for worker in workers.idle():
            chunk = schedule.take(worker, workers.now(), 2 * len(workers) if in_order else None)
            if chunk is not None:
                workers.give(worker, chunk)

    while schedule.open:
        give()
        for event in workers.wait():
            if isinstance(event, WorkerLost):
                schedule.lose(event.worker, event.reason)
                continue
            i = schedule.finish(event.worker, workers.now())
            if i is not None:
                early[i] = event
        give()  # before the driver is busy adding
        while early and (not in_order or expected in early):
            i = expected if in_order else next(iter(early))
            expected += 1
            yield early.pop(i)


def collect(
    workers: Workers, chunks: Sequence[range], folder: RunFolder[Any], *, in_order: bool = False
) -> Generator[Any, None, None]:
    """The counts of all chunks, in the order of `dispatch`; kept images are saved in the folder."""
    kind = type(folder.so_far)
    with closing(dispatch(workers, chunks, in_order=in_order)) as results:
        for result in results:
            for name, content in result.pictures.items():
                folder.keep_file(name, content)
            yield kind.unpack(result.packed)
