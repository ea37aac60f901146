r"""Which chunk of image numbers goes to which worker, when workers may die, hang or start late.

A chunk goes back to the front of the queue when its worker dies, and to a second worker when it takes much
longer than the median chunk. If a chunk has two results, the later one is dropped, so that each chunk is
counted exactly once. If several workers die on the same chunk, the run ends.

This module neither calls workers nor reads a clock: the driver (workers.py) passes events and times.
"""

import statistics
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence

from headwise.errors import WorkersDied
from headwise.runs.shards import format_ranges, subtract

__all__ = ["ATTEMPTS", "Schedule", "chunks_of"]

ATTEMPTS = 3  # workers that die on one chunk before the run ends
LATE = 3.0  # multiple of the median duration after which a chunk is given to a second worker
SOON = 30.0  # seconds before which no chunk is late


class Schedule:
    """Keeps track of which chunks are open and done, and which worker has which.

    Args:
        chunks: Ranges of image numbers, in the order in which they are given out.
        attempts: How many workers have to die on one chunk to end the run.
    """

    def __init__(self, chunks: Sequence[range], attempts: int = ATTEMPTS) -> None:
        self.chunks, self.attempts = chunks, attempts
        self.todo, self.done = deque(range(len(chunks))), [False] * len(chunks)
        self.at: dict[Hashable, tuple[int, float]] = {}  # worker → chunk, since when
        self.holders: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self.durations: deque[float] = deque(maxlen=99)
        self.first = 0  # the first chunk that is not done

    @property
    def open(self) -> bool:
        """Whether some chunk is not done yet."""
        return self.first < len(self.chunks)

    def take(self, worker: Hashable, now: float, ahead: int | None = None) -> range | None:
        """The next chunk for a worker; None if there is none.

        Args:
            worker: The worker that is idle.
            now: The time in seconds, on the driver's clock.
            ahead: How far beyond the first open chunk the next one may be; None for no limit.
        """
        i = self._next(now, len(self.chunks) if ahead is None else self.first + ahead)
        if i is None:
            return None
        self.at[worker] = (i, now)
        self.holders[i] += 1
        return self.chunks[i]

    def finish(self, worker: Hashable, now: float) -> int | None:
        """Record a result; returns the index of its chunk, or None if that was already done."""
        i, since = self._release(worker)
        if i is None or self.done[i]:
            return None
        self.done[i] = True
        self.durations.append(now - since)
        while self.open and self.done[self.first]:
            self.first += 1
        return i

    def lose(self, worker: Hashable, reason: str) -> None:
        """Record that a worker is gone; its chunk will be given out next.

        Raises:
            WorkersDied: As many workers as `attempts` died on this chunk.
        """
        i, _ = self._release(worker)
        if i is None or self.done[i]:
            return
        self.deaths[i] += 1
        if self.deaths[i] >= self.attempts:
            raise WorkersDied(
                f"{self.deaths[i]} workers died one after another while counting "
                f"{format_ranges([self.chunks[i]])}; the last reported: {reason} Earlier counts are kept. "
                "Check the workers' logs (fewer images at a time need less memory), and run it again."
            )
        if not self.holders[i]:
            self.todo.appendleft(i)

    def _release(self, worker: Hashable) -> tuple[int | None, float]:
        i, since = self.at.pop(worker, (None, 0.0))
        if i is not None:
            self.holders[i] -= 1
        return i, since

    def _next(self, now: float, limit: int) -> int | None:
        if self.todo and self.todo[0] < limit:
            return self.todo.popleft()
        if not self.durations:
            return None
        late = max(SOON, LATE * statistics.median(self.durations))
        waiting = [(since, i) for i, since in self.at.values() if not self.done[i] and self.holders[i] == 1]
        since, i = min(waiting, default=(now, 0))
        return i if now - since > late else None


def chunks_of(
    todo: Iterable[range], missing: Sequence[range], workers: int, most: int, cuts: Iterable[int] = ()
) -> list[range]:
    """Group the batches of one process into chunks for several workers.

    Chunks get smaller towards the end, a quarter of a worker's share of what is left, so that workers do not
    wait long for the last ones.

    Args:
        todo: The batches, in order. Chunks consist of complete batches, so that each image is in the same
            batch as in one process.
        missing: The numbers that are not counted yet.
        workers: The number of workers.
        most: The maximum size of a chunk, or the size of a batch if that is larger.
        cuts: The numbers at which a chunk must end.
    """
    done = [
        (a.stop, b.start) for a, b in zip([range(0), *missing], [*missing, range(2**62, 2**62)], strict=True)
    ]
    ranges = tuple(pair for pair in done if pair[0] < pair[1])
    todo, cuts, remaining = list(todo), set(cuts), sum(map(len, missing))
    chunks: list[range] = []
    for batch in todo:
        last = chunks[-1] if chunks else range(0)
        size = min(most, -(-remaining // (4 * workers)))
        joins = last.stop == batch.start and batch.start not in cuts and batch.stop - last.start <= size
        chunks[-1:] = [range(last.start, batch.stop)] if joins else [*chunks[-1:], batch]
        remaining -= sum(map(len, subtract(batch, ranges)))
    return [piece for chunk in chunks for piece in subtract(chunk, ranges)]
