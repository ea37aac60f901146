r"""Merging shards: votes add exactly, effects and scores fill gaps, and every file is checked.

First the headers of all files are read, a few kilobytes each. They must describe one run (the same model,
settings, heads and concepts), count no image twice and, together, leave none out. Only then are the arrays
added, one file after another, so that memory does not grow with the number of shards; each file's checksum
is verified as it is read. An error names files and images, and leaves the merged folder unchanged.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from headwise.errors import PictureCountedTwice, PicturesMissing, RunMismatch, UnreadableFile, VotesMismatch
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.shard_files import ShardFile, difference, find_files, read_ahead, shared_metadata
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.heads import HeadMap
from headwise.runs.folder import RunFolder, all_versions
from headwise.runs.scores import Scores
from headwise.runs.shards import Ranges, Shard, format_ranges, merge_ranges, ranges_of, subtract

__all__ = ["Merged", "merge"]


class Merged(NamedTuple):
    """What `merge` wrote.

    Args:
        file: The file that holds the sum.
        shards: How many files were added.
        counted: How many images, or scores, the sum holds.
        missing: Images, or prompts, that are in none of the files; empty unless `partial=True`.
    """

    file: Path
    shards: int
    counted: int
    missing: tuple[range, ...]


def merge(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    pictures: int | None = None,
    partial: bool = False,
) -> list[Merged]:
    """Add shards into the folder of the complete run, exactly.

    Args:
        files: Files of votes, effects or scores; run folders; or a folder that has shards, such as `out`.
        out: The folder of the complete run. It may hold an earlier merge of some of the shards.
        pictures: How many images the run has over all shards, where the shards do not record it.
        partial: Merge what there is even if images are missing. Measuring in `out` then continues with
            those.

    Returns:
        One result, or one per concept where the shards hold several.

    Raises:
        UnreadableFile: A file is damaged, or does not hold votes, effects or scores.
        VotesMismatch: Two files have different models, settings, heads or concepts.
        PictureCountedTwice: Two files count the same image.
        PicturesMissing: An image is in none of the files.
        RunMismatch: `out` holds another run, or images that are in none of the files.
    """
    groups = {name: [ShardFile(file) for file in group] for name, group in sorted(find_files(files).items())}
    sums = {name: _add_up(shards, pictures, partial) for name, shards in groups.items()}
    return [_write(Path(out) / name, groups[name], total) for name, total in sums.items()]


class _Sum(NamedTuple):
    """The sum of a group of shards; `pictures` is how many images the run has, None for scores."""

    total: Votes | EffectSamples | Scores
    missing: list[range]
    pictures: int | None


class _Counted(NamedTuple):
    """The images that a group of shards counted, those it lacks, and how many the run has."""

    ranges: Ranges
    missing: list[range]
    pictures: int


def _add_up(shards: list[ShardFile], pictures: int | None, partial: bool) -> _Sum:
    first = shards[0]
    for shard in shards:
        if shared_metadata(shard.metadata) != shared_metadata(first.metadata):
            raise VotesMismatch(
                f"{shard.path} is from a different run than {first.path}: "
                f"{difference(shard.metadata, first.metadata)}. Merge shards of one run only."
            )
        shard.share(first)
    kind = first.metadata.get("kind")
    if kind == "votes":
        return _sum_votes(shards, pictures, partial)
    if kind == "effect":
        return _sum_effects(shards, pictures, partial)
    if kind == "scores":
        return _sum_scores(shards, partial)
    raise UnreadableFile(f"{first.path} holds {kind}; expected votes, effects or scores.")


def _counted(shards: list[ShardFile], pictures: int | None, partial: bool) -> _Counted:
    """The images of all shards together, none twice and, unless `partial`, none missing."""
    ranges = _disjoint(shards)
    most = ranges[-1][1] if ranges else 0
    count = pictures or max(most, *(shard.run_pictures for shard in shards))
    if most > count:
        raise RunMismatch(
            f"The shards count at least {most} images, but the run should have {count}. "
            "Give the number of images of the whole run, or fewer shards."
        )
    missing = subtract(range(count), ranges)
    if missing and not partial:
        raise _missing("images", missing, count, shards)
    return _Counted(ranges, missing, count)


def _sum_effects(shards: list[ShardFile], pictures: int | None, partial: bool) -> _Sum:
    counted = _counted(shards, pictures, partial)
    total = EffectSamples.load(shards[0].path)
    for shard in shards[1:]:
        total = total + EffectSamples.load(shard.path)
    return _Sum(total, counted.missing, counted.pictures)


def _sum_votes(shards: list[ShardFile], pictures: int | None, partial: bool) -> _Sum:
    ranges, missing, count = _counted(shards, pictures, partial)
    metadata, each = shards[0].metadata, _shape(shards)
    counts, blocks = np.zeros((0, *each), np.int64), np.zeros((BLOCKS, *each), np.int64)
    for arrays in read_ahead(shards):
        counts, blocks = _add(counts, arrays["counts"]), _add(blocks, arrays["blocks"])
    head_map = HeadMap.from_json(json.dumps(metadata["head_map"]))
    concepts = ConceptSet.from_json(metadata["concepts"])
    return _Sum(Votes(counts, blocks, ranges, head_map, concepts, metadata["settings"]), missing, count)


def _add(total: Int[np.ndarray, "..."], array: Integer[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Add an array of any integer type to a sum in 64 bits, in place; a longer array makes the sum longer."""
    if len(array) > len(total):
        total = np.concatenate([total, np.zeros((len(array) - len(total), *total.shape[1:]), np.int64)])
    rows = total[: len(array)]
    np.add(rows, array, out=rows, dtype=np.int64, casting="unsafe")  # for unsigned 64-bit integers too
    return total


def _disjoint(shards: list[ShardFile]) -> Ranges:
    """The images of all shards together."""
    pairs = sorted((*pair, str(shard.path)) for shard in shards for pair in shard.ranges)
    for (_, end, before), (start, _, after) in itertools.pairwise(pairs):
        if start < end:
            raise PictureCountedTwice(
                f"{before} and {after} both count image {start}. Each image counts once: leave one of the "
                "two files out."
            )
    return merge_ranges((start, stop) for start, stop, _ in pairs).ranges


def _shape(shards: list[ShardFile]) -> tuple[int, int]:
    """The numbers of heads and concepts, which every file must have."""
    metadata = shards[0].metadata
    try:
        each = (sum(layer["heads"] for layer in metadata["head_map"]), len(metadata["concepts"]))
    except (KeyError, TypeError) as error:
        raise UnreadableFile(
            f"{shards[0].path} does not describe its votes ({error!r}). Measure it again."
        ) from None
    for shard in shards:
        arrays = [shard.header.arrays.get(name, ("", ())) for name in ("counts", "blocks")]
        (_, counts), (_, blocks) = arrays
        integers = all(kind[:1] in ("I", "U") for kind, _ in arrays)
        if not integers or counts[1:] != each or blocks != (BLOCKS, *each):
            raise UnreadableFile(
                f"{shard.path} is damaged: its votes are not of {each[0]} heads and {each[1]} concepts. "
                "Remove it, and measure its images again."
            )
    return each


def _sum_scores(shards: list[ShardFile], partial: bool) -> _Sum:
    total = Scores.load(shards[0].path)
    source: dict[int, Path] = {}
    for shard in shards:
        scores = Scores.load(shard.path)
        prompts = _prompts(np.isfinite(scores.values))
        twice = next((n for n in prompts if n in source), None)
        if twice is not None:
            raise PictureCountedTwice(
                f"{source[twice]} and {shard.path} both score prompt {twice}. Each prompt counts once: leave "
                "one of the two files out."
            )
        source |= dict.fromkeys(prompts, shard.path)
        total = total + scores
    count = total.values.shape[-1]
    missing = total.left(range(count))
    if missing and not partial:
        raise _missing("prompts", missing, count, shards)
    return _Sum(total, missing, None)


def _prompts(where: np.ndarray) -> list[int]:
    """The prompts, on the last axis, for which anything is true."""
    return [int(n) for n in np.flatnonzero(where.reshape(-1, where.shape[-1]).any(0))]


def _missing(what: str, missing: list[range], count: int, shards: list[ShardFile]) -> PicturesMissing:
    return PicturesMissing(
        f"Of {count} {what}, these are in none of the {len(shards)} files: {format_ranges(missing)}. "
        f"{_cure(shards, missing, count)}; or merge what is there with --partial (partial=True)."
    )


def _cure(shards: list[ShardFile], missing: list[range], count: int) -> str:
    """Which shards to run again, if their folders are numbered."""
    sizes = {shard.number.n for shard in shards if shard.number is not None}
    if len(sizes) != 1:
        return "Count them"
    (n,) = sizes
    ranges = [Shard(i, n).of(count) for i in range(n)]
    again = [
        f"{i}" for i, r in enumerate(ranges) if any(r.start < m.stop and m.start < r.stop for m in missing)
    ]
    more = f" and {len(again) - 6} more" if len(again) > 6 else ""
    return f"Run shard {', '.join(f'{i}/{n}' for i in again[:6])}{more} again"


def _write(out: Path, shards: list[ShardFile], summed: _Sum) -> Merged:
    """Write the sum as a single run would have written it."""
    total, name = summed.total, shards[0].metadata["kind"]
    empty: Any = (
        Scores.empty(total.axes, total.settings)
        if isinstance(total, Scores)
        else type(total).empty(total.head_map, total.concepts, total.settings)
    )
    versions = all_versions(shard.versions for shard in shards) or None
    kind = shards[0].run_kind or name
    with RunFolder(out, total.settings, empty, name, summed.pictures, versions, kind) as folder:
        _require_no_more(folder.so_far, total, out)
        folder.checkpoint(total)
        for shard in shards:
            for picture in sorted((shard.path.parent / "pictures").glob("*.png")):
                folder.keep_file(picture.name, picture.read_bytes())
        if not isinstance(total, Scores):
            from headwise.measuring.counting import save_relevance  # here, because it loads diffusers

            save_relevance(folder)
    return Merged(out / folder.name, len(shards), len(total), tuple(summed.missing))


def _require_no_more(so_far: Any, total: Any, out: Path) -> None:
    """Refuse to overwrite images that none of the shards holds."""
    if not isinstance(total, Scores):
        lost = [missing for pair in so_far.pictures for missing in total.left(range(*pair))]
    else:
        only = _prompts(np.isfinite(so_far.values) & ~np.isfinite(total.values))
        lost = [range(*pair) for pair in ranges_of(only)]
    if lost:
        raise RunMismatch(
            f"{out} already counts {format_ranges(lost)}, which none of the shards has. Give another folder, "
            "or the shards that have them too."
        )
