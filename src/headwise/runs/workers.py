r"""Work that many workers share: ranges of picture numbers go out, counts come back and add up.

    driver    what is left to do → pieces → give, wait, add, checkpoint
    worker    one pipeline, loaded once: piece → count

A piece is a range of numbers, and whoever dies it is counted once: it goes to another worker where one died
of it, to a second one where it takes much longer than the others did, and of two counts the later is dropped.
Where several workers died of the same piece the driver gives up, with a sentence. It holds one count, and the
parts that have just come, however many pictures there are.

No cluster is known here: whatever has the methods of `Workers` will do (cluster.py has Ray's).
"""

import statistics
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeGuard, TypeVar, runtime_checkable

from headwise.errors import WorkersDied
from headwise.measuring.votes import Votes
from headwise.runs.folder import Progress, RunFolder, versions
from headwise.runs.scores import Scores
from headwise.runs.shards import batches, format_ranges, subtract

__all__ = [
    "WorkerLost",
    "Result",
    "Worker",
    "Workers",
    "are_workers",
    "dispatch",
    "parts",
    "chunks_of",
    "shared",
]

ATTEMPTS = 3  # so many workers may die of one piece
LATE = 3.0  # times the usual time, and a piece is given to a second worker
SOON = 30.0  # but not before so many seconds

Count = Callable[[range, Path], Any]
"""From numbers, and a folder for pictures that are kept, to what was found; of no numbers, how it begins."""
P, Found = ParamSpec("P"), TypeVar("Found")


class Result(NamedTuple):
    """What a worker sends back: the count of its piece, packed, and the pictures kept, by file name."""

    worker: Hashable
    packed: bytes
    pictures: Mapping[str, bytes]


class WorkerLost(NamedTuple):
    """A worker is gone, and why."""

    worker: Hashable
    said: str


@runtime_checkable
class Workers(Protocol):
    """Workers somewhere, each with a pipeline of its own.

    Args:
        versions: That all of them count with; None before they begin, or where nobody asks.
    """

    versions: dict[str, str] | None

    def __len__(self) -> int:
        """How many there should be."""
        ...

    def begin(self, prepare: Callable[[Any], Count]) -> Any:
        """Give all of them a job, those who come later too; returns what the first found of no pictures."""
        ...

    def idle(self) -> Sequence[Hashable]:
        """Those who wait for a piece of the job."""
        ...

    def give(self, worker: Hashable, piece: range) -> None:
        """Let one count a piece."""
        ...

    def wait(self) -> Sequence[Result | WorkerLost]:
        """What has happened, as soon as something has; nothing after a few seconds."""
        ...

    def now(self) -> float:
        """Seconds, on whatever clock."""
        ...


def are_workers(pipe: Any) -> TypeGuard[Workers]:
    """Are these workers, and no pipeline? (A pipeline may not like to be asked for what it has not.)"""
    return all(hasattr(type(pipe), name) for name in ("begin", "idle", "give", "wait"))


class Worker:
    """What stands at a worker's place."""

    def __init__(self) -> None:
        self.pipe: Any = None

    def begin(self, job: tuple[Callable[[], Any], Callable[[Any], Count]]) -> tuple[dict[str, str], Any]:
        """Take a job, which is how to load a pipeline and what to do with it.

        Returns:
            The versions it is done with, and what is found of no pictures.
        """
        load, prepare = job
        if self.pipe is None:
            self.pipe = load()
        self.count = prepare(self.pipe)
        return versions(), self.count(range(0), Path())

    def is_there(self) -> bool:
        """Yes."""
        return True

    def do(self, piece: range) -> tuple[bytes, dict[str, bytes]]:
        """Count one piece; the pictures kept go with it, for the worker's disk is nobody's."""
        with TemporaryDirectory() as folder:
            packed = counted_in(self.count(piece, Path(folder))).pack()
            kept = (Path(folder) / "pictures").glob("*.png")
            return packed, {file.name: file.read_bytes() for file in kept}


class Schedule:
    """Which pieces are to be done, which are done, and who is at which.

    Args:
        pieces: In the order in which they are to be given.
        attempts: How many workers may die of one piece.
    """

    def __init__(self, pieces: Sequence[range], attempts: int = ATTEMPTS) -> None:
        self.pieces, self.attempts = pieces, attempts
        self.todo, self.done = deque(range(len(pieces))), [False] * len(pieces)
        self.at: dict[Hashable, tuple[int, float]] = {}  # worker → piece, since when
        self.holders: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self.took: deque[float] = deque(maxlen=99)
        self.first = 0  # of those that are not done

    @property
    def open(self) -> bool:
        """Is there anything left?"""
        return self.first < len(self.pieces)

    def take(self, worker: Hashable, now: float, ahead: int | None = None) -> range | None:
        """A piece for a worker; None where there is nothing to do.

        Args:
            now: The time.
            ahead: How far beyond the first piece that is not done.
        """
        i = self._next(now, len(self.pieces) if ahead is None else self.first + ahead)
        if i is None:
            return None
        self.at[worker] = (i, now)
        self.holders[i] += 1
        return self.pieces[i]

    def came(self, worker: Hashable, now: float) -> int | None:
        """A result: the number of its piece, or None where that was done already."""
        i, since = self._let_go(worker)
        if i is None or self.done[i]:
            return None
        self.done[i] = True
        self.took.append(now - since)
        while self.open and self.done[self.first]:
            self.first += 1
        return i

    def died(self, worker: Hashable, said: str) -> None:
        """A worker is gone: its piece goes back, to be given first.

        Raises:
            WorkersDied: It was the last of the attempts.
        """
        i, _ = self._let_go(worker)
        if i is None or self.done[i]:
            return
        self.deaths[i] += 1
        if self.deaths[i] >= self.attempts:
            raise WorkersDied(
                f"{self.deaths[i]} workers died one after the other while they counted "
                f"{format_ranges([self.pieces[i]])}, the last so: {said} What was counted before is kept. "
                "Look into the workers' logs (fewer pictures at a time need less memory), and run it again."
            )
        if not self.holders[i]:
            self.todo.appendleft(i)

    def _let_go(self, worker: Hashable) -> tuple[int | None, float]:
        i, since = self.at.pop(worker, (None, 0.0))
        if i is not None:
            self.holders[i] -= 1
        return i, since

    def _next(self, now: float, limit: int) -> int | None:
        if self.todo and self.todo[0] < limit:
            return self.todo.popleft()
        if not self.took:
            return None
        late = max(SOON, LATE * statistics.median(self.took))
        waiting = [(since, i) for i, since in self.at.values() if not self.done[i] and self.holders[i] == 1]
        since, i = min(waiting, default=(now, 0))
        return i if now - since > late else None


def dispatch(
    workers: Workers, pieces: Sequence[range], *, in_order: bool = False, attempts: int = ATTEMPTS
) -> Generator[Result, None, None]:
    """Give out pieces; their results, each piece once, as they come.

    Args:
        workers: Who have begun a job.
        pieces: Ranges of numbers.
        in_order: Keep back results until those of all pieces before them have come.
        attempts: How many workers may die of one piece.

    Raises:
        WorkersDied: Too many died of the same.
    """
    ledger = Schedule(pieces, attempts)
    early: dict[int, Result] = {}
    expected = 0

    def give() -> None:
        for worker in workers.idle():
            piece = ledger.take(worker, workers.now(), 2 * len(workers) if in_order else None)
            if piece is not None:
                workers.give(worker, piece)

    while ledger.open:
        give()
        for event in workers.wait():
            if isinstance(event, WorkerLost):
                ledger.died(event.worker, event.said)
                continue
            i = ledger.came(event.worker, workers.now())
            if i is not None:
                early[i] = event
        give()  # before the driver is busy with adding
        while early and (not in_order or expected in early):
            i = expected if in_order else next(iter(early))
            expected += 1
            yield early.pop(i)


def parts(
    workers: Workers, pieces: Sequence[range], folder: RunFolder[Any], *, in_order: bool = False
) -> Generator[Any, None, None]:
    """The counts of all pieces, as `dispatch` brings them; pictures that were kept go into the folder."""
    kind = type(folder.so_far)
    with closing(dispatch(workers, pieces, in_order=in_order)) as results:
        for result in results:
            for name, content in result.pictures.items():
                folder.keep_file(name, content)
            yield kind.unpack(result.packed)


def chunks_of(
    todo: Iterable[range], left: Sequence[range], workers: int, most: int, cuts: Iterable[int] = ()
) -> list[range]:
    """What one process would do batch by batch, in pieces for several.

    Towards the end they get smaller, a quarter of a worker's share of what is left, so that nobody waits long
    for the last ones.

    Args:
        todo: The batches, in order. A piece has whole ones, so that pictures share them with the same others.
        left: What of them is not done yet.
        workers: For how many.
        most: Numbers in a piece, though not less than in a batch.
        cuts: Where a piece must end.
    """
    done = [(a.stop, b.start) for a, b in zip([range(0), *left], [*left, range(2**62, 2**62)], strict=True)]
    ranges = tuple(pair for pair in done if pair[0] < pair[1])
    todo, cuts, remaining = list(todo), set(cuts), sum(map(len, left))
    pieces: list[range] = []
    for batch in todo:
        last = pieces[-1] if pieces else range(0)
        size = min(most, -(-remaining // (4 * workers)))
        joins = last.stop == batch.start and batch.start not in cuts and batch.stop - last.start <= size
        pieces[-1:] = [range(last.start, batch.stop)] if joins else [*pieces[-1:], batch]
        remaining -= sum(map(len, subtract(batch, ranges)))
    return [part for piece in pieces for part in subtract(piece, ranges)]


def shared(over: str, together: str | None = None) -> Callable[[Callable[P, Found]], Callable[P, Found]]:
    """Let a sweep take workers where it takes a pipeline.

        @shared("cases", together="batch_size")
        def measure_something(pipe, cases, *, batch_size=16, numbers=None, out=None, progress=True): ...

    The sweep returns `Scores` whose last axis are the cases, or a dataclass with them, and scores only
    those with `numbers`; of none (`range(0)`) it returns scores of nothing. It need not know about workers:
    each calls it with its own pipeline and numbers, and the parts are added up in `out`.

    Args:
        over: The argument whose entries are shared out.
        together: The argument that says how many of them a worker should get at once; one if None.
    """

    def decorate(sweep: Callable[P, Found]) -> Callable[P, Found]:
        known = signature(sweep)

        @wraps(sweep)
        def run(*args: P.args, **options: P.kwargs) -> Found:
            pipe = args[0] if args else options.get("pipe")
            if not are_workers(pipe):
                return sweep(*args, **options)
            bound = known.bind(*args, **options)
            bound.apply_defaults()
            given = dict(bound.arguments)
            given.pop(next(iter(known.parameters)))
            return _spread(run, pipe, given, len(given[over]), given[together] if together else 1)

        return run

    return decorate


def _spread(run: Callable[..., Any], workers: Workers, given: dict[str, Any], count: int, most: int) -> Any:
    out, numbers = given.pop("out"), given.pop("numbers")
    every, progress = given.pop("checkpoint_every", 10), given.pop("progress", True)
    silent = {"progress": False} if "progress" in signature(run).parameters else {}
    keeps = out is not None and any(of for name, of in given.items() if name.startswith("keep_"))
    found = workers.begin(partial(_prepared, run, given | silent, keeps))
    nothing = counted_in(found)
    wanted = range(count) if numbers is None else numbers
    with RunFolder(out, nothing.settings, nothing, "scores", by=workers.versions) as folder:
        todo = batches(wanted.start, wanted.stop, min(most, -(-len(wanted) // len(workers))) or 1)
        pieces = chunks_of(todo, folder.so_far.left(wanted), len(workers), most)
        total = folder.so_far.values[..., wanted].size
        with (
            closing(parts(workers, pieces, folder)) as coming,
            Progress(folder, total, every, progress) as done,
        ):
            for part in coming:
                done(part)
        return _with(found, folder.so_far)


def _prepared(run: Callable[..., Any], given: dict[str, Any], keeps: bool, pipe: Any) -> Count:
    def count(numbers: range, folder: Path) -> Any:
        out = folder if keeps and len(numbers) else None
        return run(pipe, **given, numbers=numbers, out=out)

    return count


def counted_in(found: Any) -> Any:
    """The votes or scores that a result is, or has."""
    return found if isinstance(found, Votes | Scores) else getattr(found, _field(found))


def _with(found: Any, scores: Scores) -> Any:
    return scores if isinstance(found, Scores) else replace(found, **{_field(found): scores})


def _field(found: Any) -> str:
    if not is_dataclass(found):
        raise TypeError(
            f"A sweep returned {type(found).__name__}; expected Scores, or a dataclass with them."
        )
    return next(field.name for field in fields(found) if isinstance(getattr(found, field.name), Scores))
