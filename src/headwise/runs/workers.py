r"""Tasks that one pipeline carries out, or many workers share: chunks go out, counts come back and add up.

    task      from a pipeline to a `Counter`; picklable, so that any worker can start it
    counter   one pipeline at work: number ranges → counts, batch by batch
    driver    what is still missing → chunks → give, wait, add, checkpoint

A `Job` is a task on a pipeline or on workers; `measure` and every sweep are tasks (measuring/measure.py,
benchmarks/sweep.py). Each chunk is counted exactly once, whichever workers die (schedule.py). The driver
holds one count, and the results that have just come, however many images there are.

No cluster is known here: whatever has the methods of `Workers` will do (ray.py has Ray's).
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
    """One pipeline at work on a task.

    Args:
        nothing: The count of no images; it has the settings that decide the result.
    """

    nothing: Any

    def counts(self, missing: Sequence[range], so_far: Any, keep: Keep) -> Generator[Any, None, None]:
        """The count of each batch, as it is done.

        Args:
            missing: The numbers that are not, or not completely, counted yet.
            so_far: What is counted of them already.
            keep: Takes the images that are to be saved.
        """
        ...


Task = Callable[[Any], Counter]
"""From a pipeline to its counter. It is pickled to go to workers, so it holds no pipeline."""


class Result(NamedTuple):
    """What a worker sends back: the count of its chunk, packed, and the images kept, by file name."""

    worker: Hashable
    packed: bytes
    pictures: Mapping[str, bytes]


class WorkerLost(NamedTuple):
    """A worker is gone, and why."""

    worker: Hashable
    reason: str


@runtime_checkable
class Workers(Protocol):
    """Workers somewhere, each with a pipeline of its own.

    Args:
        versions: The package versions that all of them count with; None before they begin.
    """

    versions: dict[str, str] | None

    def __len__(self) -> int:
        """How many there should be."""
        ...

    def begin(self, task: Task) -> Any:
        """Give a task to all of them, now and later; returns the first one's count of no images."""
        ...

    def idle(self) -> Sequence[Hashable]:
        """Those that wait for a chunk."""
        ...

    def give(self, worker: Hashable, chunk: range) -> None:
        """Let a worker count a chunk."""
        ...

    def wait(self) -> Sequence[Result | WorkerLost]:
        """What has happened, as soon as something has; nothing after a few seconds."""
        ...

    def now(self) -> float:
        """The time in seconds, on whatever clock."""
        ...


def are_workers(pipe: Any) -> TypeGuard[Workers]:
    """Whether these are workers instead of a pipeline, which is not asked for attributes: some warn of it."""
    return all(hasattr(type(pipe), name) for name in ("begin", "idle", "give", "wait"))


class Worker:
    """What each worker process runs."""

    def __init__(self) -> None:
        self.pipe: Any = None

    def begin(self, job: tuple[Callable[[], Any], Task]) -> tuple[dict[str, str], Any]:
        """Take a job: how to load a pipeline, and what to do with it.

        Returns:
            The versions of the packages here, and the count of no images.
        """
        load, task = job
        if self.pipe is None:
            self.pipe = load()
        self.counter = task(self.pipe)
        return versions(), self.counter.nothing

    def is_there(self) -> bool:
        """True, which no worker that is gone can answer."""
        return True

    def do(self, chunk: range) -> tuple[bytes, dict[str, bytes]]:
        """Count one chunk; kept images are sent with it, since the driver cannot read a worker's disk."""
        nothing = self.counter.nothing
        with TemporaryDirectory() as folder:
            pictures = Path(folder) / "pictures"

            def keep(name: str, picture: Any, prompt: str) -> None:
                save_picture(pictures / f"{name}.png", picture, {"prompt": prompt})

            total = sum(self.counter.counts([chunk], nothing, keep), start=nothing)
            return total.pack(), {file.name: file.read_bytes() for file in pictures.glob("*.png")}


class Job:
    """A task under way: on one pipeline here, or shared by workers.

    Args:
        pipe: A pipeline, or workers.
        task: What each pipeline is to do.

    Attributes:
        nothing: The count of no images, with the settings that decide the result.
        versions: Of the packages that the workers count with; None where this process counts.
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
        """The counts of what the folder does not have yet; close it where it is not read to its end.

        Args:
            folder: What is counted already, and where kept images go.
            numbers: Which images to count.
            together: How many of them, side by side, a worker generates in one batch.
            most: How many one worker gets at a time; `together` if None.
            cuts: Numbers that no batch reaches across.
            in_order: Keep back the counts of workers until those of all numbers before them have come.
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
    """Give out chunks; yields their results, each chunk once, as they come.

    Args:
        workers: Workers that have begun a task.
        chunks: Ranges of image numbers.
        in_order: Keep back results until those of all chunks before them have come.
        attempts: How many workers may die of one chunk.

    Raises:
        WorkersDied: Too many died of the same chunk.
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
        give()  # before the driver is busy with adding
        while early and (not in_order or expected in early):
            i = expected if in_order else next(iter(early))
            expected += 1
            yield early.pop(i)


def collect(
    workers: Workers, chunks: Sequence[range], folder: RunFolder[Any], *, in_order: bool = False
) -> Generator[Any, None, None]:
    """The counts of all chunks, as `dispatch` brings them; images that were kept go into the folder."""
    kind = type(folder.so_far)
    with closing(dispatch(workers, chunks, in_order=in_order)) as results:
        for result in results:
            for name, content in result.pictures.items():
                folder.keep_file(name, content)
            yield kind.unpack(result.packed)
