r"""Shards: a run divided into ranges of image numbers, so that many machines can share it.

Shard i of n of N images holds the numbers

    ⌊i N / n⌋ … ⌊(i + 1) N / n⌋ − 1,        i = 0 … n − 1,

so that all shards together hold each number once. An image depends only on its number and the seed
(generate.py), so the count of a shard does not depend on the other shards.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from headwise.errors import HeadwiseError

__all__ = [
    "MergedRanges", "Ranges", "Shard", "subrange", "batches", "merge_ranges", "subtract", "ranges_of",
    "format_ranges", "shard_of",
]  # fmt: skip

Ranges = tuple[tuple[int, int], ...]  # half-open, in order, with gaps between them


class Shard(NamedTuple):
    """Shard i of n, counted from 0."""

    i: int
    n: int

    def of(self, count: int) -> range:
        """The numbers of this shard.

        Args:
            count: The number of images of all shards together.
        """
        return range(self.i * count // self.n, (self.i + 1) * count // self.n)

    def folder(self, out: Path) -> Path:
        """The folder of this shard, below that of the complete run.

        Args:
            out: The folder of the complete run.
        """
        return out / "shards" / f"{self.i:05d}-of-{self.n:05d}"

    def __str__(self) -> str:
        return f"{self.i}/{self.n}"


def shard_of(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Parse a shard such as "3/8".

    Args:
        text: "3/8", or "auto" to read the launcher's variables: RANK and WORLD_SIZE (torchrun, accelerate
            launch), SLURM_ARRAY_TASK_ID (sbatch --array) or SLURM_PROCID (srun).
        environment: The environment variables that "auto" reads.

    Raises:
        HeadwiseError: The text is not a shard, or no launcher set the variables.
    """
    if text == "auto":
        return _launched(environment)
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise HeadwiseError(
            f"--shard {text!r} was given; expected number/count, counted from 0, such as 0/8 … 7/8, or auto."
        )
    return Shard(int(number), int(count))


def _launched(environment: Mapping[str, str]) -> Shard:
    def number(name: str, default: str = "") -> int | None:
        text = environment.get(name, default)
        return int(text) if text.isdecimal() else None

    task, tasks = number("SLURM_ARRAY_TASK_ID"), number("SLURM_ARRAY_TASK_COUNT")
    if task is not None and tasks is not None and number("RANK") is None:
        first = number("SLURM_ARRAY_TASK_MIN", "0") or 0
        step = number("SLURM_ARRAY_TASK_STEP", "1") or 1
        end = first + step * (tasks - 1)
        if first > 1 or number("SLURM_ARRAY_TASK_MAX", f"{end}") != end:
            raise HeadwiseError(
                f"--shard auto was given in task {task} of a job array of {tasks} that does not go from 0 or "
                "1 without gaps, so the number of shards is unknown. Give --shard $SLURM_ARRAY_TASK_ID/64 "
                "for 64 shards, counted from 0."
            )
        return Shard((task - first) // step, tasks)
    launchers = ((number("RANK"), number("WORLD_SIZE")), (number("SLURM_PROCID"), number("SLURM_NTASKS")))
    for i, n in launchers:
        if i is not None and n is not None and 0 <= i < n:
            return Shard(i, n)
    raise HeadwiseError(
        "--shard auto was given, but no launcher set the variables: expected RANK and WORLD_SIZE, "
        "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, or SLURM_PROCID and SLURM_NTASKS in the "
        "environment. Start it with torchrun, accelerate launch, sbatch --array or srun, or give --shard 0/8."
    )


def subrange(numbers: range | None, count: int) -> range:
    """The numbers to count here.

    Args:
        numbers: Consecutive numbers within range(count); all if None.
        count: The number of images of the run.

    Raises:
        HeadwiseError: `numbers` are not within the range, or not consecutive.
    """
    wanted = range(count) if numbers is None else numbers
    if wanted and (wanted.step != 1 or wanted[0] < 0 or wanted[-1] >= count):
        raise HeadwiseError(
            f"numbers={numbers} was given; expected consecutive numbers within range(0, {count})."
        )
    return wanted


class MergedRanges(NamedTuple):
    """Merged ranges, and the first number that was in two of them, or None."""

    ranges: Ranges
    overlap: int | None


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> MergedRanges:
    """Sort ranges, and merge those that touch or overlap."""
    merged: list[tuple[int, int]] = []
    overlap = None
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            if start < merged[-1][1] and overlap is None:
                overlap = start
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return MergedRanges(tuple(merged), overlap)


def ranges_of(numbers: Iterable[int]) -> Ranges:
    """The ranges that hold exactly these numbers."""
    return merge_ranges((number, number + 1) for number in numbers).ranges


def subtract(numbers: range, ranges: Ranges) -> list[range]:
    """The numbers that are in none of these ranges, as ranges."""
    rest, start = [], numbers.start
    for begin, end in ranges:
        if begin >= numbers.stop:
            break
        if begin > start:
            rest.append(range(start, begin))
        start = max(start, end)
    return rest + ([range(start, numbers.stop)] if start < numbers.stop else [])


def format_ranges(ranges: Sequence[range], at_most: int = 6) -> str:
    """Ranges as text: "3, 64 to 95 and 4 more ranges".

    Args:
        ranges: One range or more.
        at_most: How many ranges are listed.
    """

    def each() -> Iterator[str]:
        for numbers in ranges[:at_most]:
            yield f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        if len(ranges) > at_most:
            yield f"{len(ranges) - at_most} more ranges"

    *before, last = each()
    return f"{', '.join(before)} and {last}" if before else last


def batches(start: int, stop: int, batch_size: int, cuts: Sequence[int] = ()) -> Iterator[range]:
    """The images start … stop − 1 in batches, none of which spans a cut."""
    while start < stop:
        end = min([start + batch_size, stop, *(cut for cut in cuts if cut > start)])
        yield range(start, end)
        start = end
