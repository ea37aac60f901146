"""Counting the images that a measurement's folder still lacks, by votes or by effect."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from headwise.errors import HeadwiseError, RunMismatch
from headwise.measuring.announcement import announce
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import Votes
from headwise.runs.folder import Progress, ProgressCallback, RunFolder
from headwise.runs.shards import batches, format_ranges
from headwise.runs.workers import Job

__all__ = [
    "CHUNK", "Counted", "Measurement", "batches_of", "check", "check_steps", "count", "relevance_of",
    "save_relevance",
]  # fmt: skip

CHUNK = 32  # images that a worker counts at a time when several share a run

Counted = Votes | EffectSamples


@runtime_checkable
class Measurement(Protocol):
    """The properties of a measurement that counting needs."""

    @property
    def pictures(self) -> int:
        """The maximum number of images in the whole run, 1 or more."""
        ...

    @property
    def batch_size(self) -> int:
        """The number of images per pipeline call, 1 or more."""
        ...

    @property
    def until(self) -> float | int | None:
        """The median split-half correlation, above 0 and at most 1, at which it stops early; None: never."""
        ...

    @property
    def round_of(self) -> int:
        """It may stop early after every `round_of` images, 1 or more."""
        ...

    @property
    def extra_calls(self) -> float:
        """About how many denoiser calls an image takes beyond its steps, 0 or more."""
        ...

    @property
    def keep_pictures(self) -> int:
        """How many of the first images are decoded and saved, 0 or more."""
        ...


def cuts_of(task: Measurement) -> tuple[int, ...]:
    """The image numbers that no batch spans: where the run may stop, and where it stops decoding images."""
    ends = range(0, task.pictures, task.round_of) if task.until is not None else ()
    return task.keep_pictures, *ends


def batches_of(task: Measurement, missing: Iterable[range]) -> Iterator[range]:
    """The missing images, divided into pipeline calls."""
    cuts = cuts_of(task)
    for numbers in missing:
        yield from batches(numbers.start, numbers.stop, task.batch_size, cuts)


def check(
    pictures: int, numbers: range | None, batch_size: int, not_kept: int, until: float | int | None
) -> None:
    """Refuse arguments of a measurement that are out of range or exclude each other.

    Args:
        pictures, numbers, batch_size, until: As in `measure`.
        not_kept: How many images should be kept although no folder was given.
    """
    if pictures < 1 or batch_size < 1:
        raise HeadwiseError(
            f"pictures={pictures} and batch_size={batch_size} were given; expected 1 or more of each."
        )
    if until is not None and not 0 < until <= 1:
        raise HeadwiseError(f"until={until} was given; expected a correlation above 0 and up to 1.")
    if not_kept:
        raise HeadwiseError(f"keep_pictures={not_kept} needs a folder for the images. Give out=…")
    if numbers is not None and not numbers:
        raise HeadwiseError(
            f"numbers={numbers} holds no image. Make fewer shards: at most as many as there are images."
        )
    if numbers is not None and until is not None:
        raise HeadwiseError(
            f"until={until} needs all images, but only {format_ranges([numbers])} are counted here. "
            "Leave it out, or let workers share the run."
        )


def check_steps(num_inference_steps: int | None) -> None:
    """Raise a HeadwiseError unless the number of steps is 1 or more, or None for the default."""
    if num_inference_steps is not None and num_inference_steps < 1:
        raise HeadwiseError(f"num_inference_steps={num_inference_steps} was given; expected 1 or more.")


def count(
    job: Job, task: Measurement, wanted: range, out: str | Path | None, every: float | int,
    progress: ProgressCallback,
) -> Relevance:  # fmt: skip
    """Count the wanted images that the folder lacks, and return the relevance from all of them."""
    options: dict[str, Any] = {"most": CHUNK, "cuts": cuts_of(task), "in_order": task.until is not None}
    name = "effect" if isinstance(job.nothing, EffectSamples) else "votes"
    with RunFolder(out, job.nothing.settings, job.nothing, name, task.pictures, job.versions) as folder:
        _require_among(folder, wanted)
        if _enough(folder.so_far, len(wanted), task):
            return save_relevance(folder)
        if progress is True:
            missing = len(wanted) - len(folder.so_far)
            announce(getattr(job.counter, "pipe", None), missing, job.nothing.settings, task.extra_calls)
        with (
            closing(job.count_missing(folder, wanted, task.batch_size, **options)) as counts,
            Progress(folder, len(wanted), every, progress, _reliability) as counting,
        ):
            for batch in counts:
                counting(batch)
                if _enough(counting.so_far, len(wanted), task):
                    break
        return save_relevance(folder)


def counted_in(folder: Path) -> Counted | None:
    """The votes or effects counted so far in the folder of a measurement; None if it has none.

    Raises:
        UnreadableFile: Their file is damaged.
    """
    effect, votes = folder / "effect.safetensors", folder / "votes.safetensors"
    if effect.is_file():
        return EffectSamples.load(effect)
    return Votes.load(votes) if votes.is_file() else None


def relevance_of(counted: Counted) -> Relevance:
    """The relevance from votes or from effects."""
    if isinstance(counted, EffectSamples):
        return Relevance.from_effect(counted)
    return Relevance.from_votes(counted)


def save_relevance(folder: RunFolder[Any]) -> Relevance:
    """Save the relevance from everything counted so far in the folder, and return it."""
    relevance = relevance_of(folder.so_far)
    relevance = replace(
        relevance, settings=relevance.settings | {"versions": folder.versions or dict(folder.counted_with)}
    )
    if folder.path is not None:
        relevance.save(folder.path / "relevance.safetensors")
    return relevance


def _reliability(counted: Counted) -> str:
    return f"split-half {relevance_of(counted).split_half_median:.2f}"


def _enough(counted: Counted, pictures: int, task: Measurement) -> bool:
    """Whether the run is over; it stops early only at the end of a round, whatever the batch size."""
    if len(counted) >= pictures:
        return True
    if task.until is None or len(counted.pictures) != 1 or len(counted) % task.round_of:
        return False
    return relevance_of(counted).split_half_median >= task.until


def _require_among(folder: RunFolder[Any], wanted: range) -> None:
    counted = folder.so_far.pictures
    if counted and wanted.start == 0 and counted[-1][1] > wanted.stop:
        raise RunMismatch(
            f"{folder.path} already counts {len(folder.so_far)} images, more than the {len(wanted)} that "
            "were requested. Request at least as many, or give another folder."
        )
    if counted and not (wanted.start <= counted[0][0] and counted[-1][1] <= wanted.stop):
        raise RunMismatch(
            f"{folder.path} already counts {format_ranges([range(*pair) for pair in counted])}, not all of "
            f"them among the requested {format_ranges([wanted])}. Request those too, or give another folder."
        )
