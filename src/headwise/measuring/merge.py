r"""Shards put together again: votes add exactly, scores fill each other's gaps, nothing is taken on trust.

First the headers of all files are read, a few kilobytes each. They must tell of one run (the same model,
settings, heads and concepts), count no picture twice and, together, leave none out. Only then the numbers are
added, one file after the other, so that memory does not grow with the number of shards; each file's checksum
is compared on the way. A refusal names files and pictures, and leaves the folder of the whole as it was.
"""

import itertools
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headwise.errors import PictureCountedTwice, PicturesMissing, RunMismatch, UnreadableFile, VotesMismatch
from headwise.files import Header, checksum_error, checksum_of, read_header
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.totals import Total
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.heads import HeadMap
from headwise.runs.folder import RunFolder, all_versions
from headwise.runs.scores import Scores
from headwise.runs.shards import Ranges, Shard, format_ranges, merge_ranges, ranges_of, subtract

__all__ = ["Merged", "merge"]

NAMES = ("votes.safetensors", "scores.safetensors")
OWN = ("pictures", "checksum")  # what a shard says that others do not
READERS = 2  # threads that read, and compare checksums, while one adds
AHEAD = 4  # files read and not added yet


class Merged(NamedTuple):
    """What was put together.

    Args:
        file: Of the sum.
        shards: How many files were added.
        counted: How many pictures, or scores, they hold.
        missing: Pictures, or prompts, that are in none of them; only with `partial=True` there are any.
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
    """Add shards into the folder of the whole run, exactly.

    Args:
        files: Votes or scores; or the folders of runs; or one that has shards below it, such as `out` itself.
        out: The folder of the whole. It may hold an earlier merge of some of the shards.
        pictures: How many the whole should have, where the shards do not say so themselves.
        partial: Take what is there though pictures are missing. Measuring in `out` then goes on with those.

    Returns:
        What was put together: one, or one for each concept where shards hold many.

    Raises:
        UnreadableFile: A file is damaged, or no result.
        VotesMismatch: Two are of other models, settings, heads or concepts.
        PictureCountedTwice: Two count the same picture.
        PicturesMissing: A picture is in none of them.
        RunMismatch: `out` holds another run, or pictures that are in none of them.
    """
    groups = {name: [_Shard(file) for file in group] for name, group in sorted(_found(files).items())}
    sums = {name: _summed(shards, pictures, partial) for name, shards in groups.items()}
    return [_kept(Path(out) / name, groups[name], found) for name, found in sums.items()]


@dataclass(frozen=True)
class _Shard:
    """One file."""

    path: Path

    @cached_property
    def header(self) -> Header:
        return read_header(self.path)

    @property
    def said(self) -> dict[str, Any]:
        return self.header.said

    def share(self, other: "_Shard") -> None:
        """Hold but once what both say: of ten thousand it is half a gigabyte."""
        own = {key: self.said[key] for key in OWN if key in self.said}
        self.__dict__["header"] = Header({**other.said, **own}, self.header.arrays)

    @cached_property
    def ranges(self) -> Ranges:
        """The pictures counted."""
        try:
            return tuple((int(start), int(stop)) for start, stop in self.said["pictures"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(f"{self.path} does not say which pictures it counts ({error!r}).") from None

    @cached_property
    def whole(self) -> int:
        """How many pictures the whole run should have, if the folder says so."""
        try:
            return int(self._run.get("pictures", 0))
        except (ValueError, TypeError):
            return 0

    @property
    def versions(self) -> dict[str, str]:
        """With which it was counted, if the folder says so."""
        said = self._run.get("versions", {})
        return said if isinstance(said, dict) and all(isinstance(of, str) for of in said.values()) else {}

    @property
    def _run(self) -> dict[str, Any]:
        """What the folder says of its run; not kept, for there may be ten thousand."""
        try:
            said = json.loads((self.path.parent / "run.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def number(self) -> Shard | None:
        """Which of how many it is, if a folder is named so."""
        named = re.search(r"(\d+)-of-(\d+)", str(self.path.parent))
        return Shard(int(named[1]), int(named[2])) if named else None

    def arrays(self) -> dict[str, np.ndarray]:
        """Its numbers, read once more and compared with their checksum."""
        with self.path.open("rb") as file:
            content = memoryview(file.read())
        parts = {name: content[start:stop] for name, (*_, start, stop) in sorted(self.header.arrays.items())}
        known = self.said.get("checksum")
        if known is not None and checksum_of(self.said, list(parts.values())) != known:
            if read_header(self.path).said.get("checksum") != known:
                raise RunMismatch(
                    f"{self.path} changed while it was merged: its shard still counts. Merge when it has "
                    "ended."
                )
            raise checksum_error(self.path)
        return {
            name: np.frombuffer(part, self.header.arrays[name][0]).reshape(self.header.arrays[name][1])
            for name, part in parts.items()
        }


def _found(files: Sequence[str | Path]) -> dict[str, list[Path]]:
    """All files of results, by where they lie in their shard: "." or a concept."""
    groups: dict[str, list[Path]] = {}
    for path in map(Path, files):
        below = path / "shards"
        for shard in sorted(below.iterdir()) if below.is_dir() else [path]:
            for file in _results(shard):
                inner = "." if file == shard else str(file.parent.relative_to(shard))
                groups.setdefault(inner, []).append(file)
    if not groups:
        raise UnreadableFile(
            f"There is no {' or '.join(NAMES)} in {', '.join(map(str, files)) or 'no file at all'}. Give "
            "such files, the folders of runs, or one that has shards."
        )
    return groups


def _results(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    own = [path / name for name in NAMES if (path / name).is_file()]
    return own or sorted(file for name in NAMES for file in path.glob(f"*/{name}"))


class _Sum(NamedTuple):
    """What a group of shards comes to."""

    total: Votes | Scores
    missing: list[range]
    whole: int | None  # how many pictures there should be, of votes


def _summed(shards: list[_Shard], pictures: int | None, partial: bool) -> _Sum:
    first = shards[0]
    for shard in shards:
        if _of_run(shard.said) != _of_run(first.said):
            raise VotesMismatch(
                f"{shard.path} is of another run than {first.path}: {_difference(shard.said, first.said)}. "
                "Merge shards of one run only."
            )
        shard.share(first)
    if first.said.get("kind") == "votes":
        return _sum_of_votes(shards, pictures, partial)
    if first.said.get("kind") == "scores":
        return _sum_of_scores(shards, partial)
    raise UnreadableFile(f"{first.path} holds {first.said.get('kind')}; expected votes or scores.")


def _of_run(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in OWN}


def _difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    ours, theirs = (_of_run(said) | dict(said.get("settings", {})) for said in (a, b))
    keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    key = min(keys, key=lambda key: len(repr(ours.get(key))))  # the model's name, and not its head map
    return f"{key} is {ours.get(key)!r:.200} in it, and {theirs.get(key)!r:.200} there"


def _sum_of_votes(shards: list[_Shard], pictures: int | None, partial: bool) -> _Sum:
    ranges = _disjoint(shards)
    most = ranges[-1][1] if ranges else 0
    whole = pictures or max(most, *(shard.whole for shard in shards))
    if most > whole:
        raise RunMismatch(
            f"The shards count {most} pictures and more, but {whole} were to be merged. "
            "Say how many the whole has, or give fewer shards."
        )
    missing = subtract(range(whole), ranges)
    if missing and not partial:
        raise _missing("pictures", missing, whole, shards)
    said, each = shards[0].said, _shape(shards)
    totals = {"counts": Total((0, *each)), "blocks": Total((BLOCKS, *each))}
    for arrays in _read_ahead(shards):
        for name, total in totals.items():
            total.add(arrays[name])
    return _Sum(
        Votes(
            totals["counts"].taken(),
            totals["blocks"].taken(),
            ranges,
            HeadMap.from_json(json.dumps(said["head_map"])),
            ConceptSet.from_json(said["concepts"]),
            said["settings"],
        ),
        missing,
        whole,
    )


def _disjoint(shards: list[_Shard]) -> Ranges:
    """The pictures of all together."""
    pairs = sorted((*pair, str(shard.path)) for shard in shards for pair in shard.ranges)
    for (_, end, before), (start, _, after) in itertools.pairwise(pairs):
        if start < end:
            raise PictureCountedTwice(
                f"{before} and {after} both count picture {start}. Each is counted once: leave one of the "
                "two files out."
            )
    return merge_ranges((start, stop) for start, stop, _ in pairs).ranges


def _shape(shards: list[_Shard]) -> tuple[int, int]:
    """Heads and concepts, which every file must have."""
    said = shards[0].said
    try:
        each = (sum(layer["heads"] for layer in said["head_map"]), len(said["concepts"]))
    except (KeyError, TypeError) as error:
        raise UnreadableFile(f"{shards[0].path} says nothing usable about its votes ({error!r}).") from None
    for shard in shards:
        found = {name: (dtype.kind, *shape) for name, (dtype, shape, *_) in shard.header.arrays.items()}
        counts, blocks = found.get("counts", ()), found.get("blocks", ())
        if counts[2:] != each or blocks[1:] != (BLOCKS, *each) or {counts[0], blocks[0]} - set("iu"):
            raise UnreadableFile(
                f"{shard.path} is damaged: its votes are not of {each[0]} heads and {each[1]} concepts. "
                "Remove it, and measure again what it held."
            )
    return each


def _sum_of_scores(shards: list[_Shard], partial: bool) -> _Sum:
    total = Scores.load(shards[0].path)
    owner: dict[int, Path] = {}
    for shard in shards:
        scores = Scores.load(shard.path)
        mine = _places(np.isfinite(scores.values))
        twice = next((n for n in mine if n in owner), None)
        if twice is not None:
            raise PictureCountedTwice(
                f"{owner[twice]} and {shard.path} both score prompt {twice}. Each is scored once: leave one "
                "of the two files out."
            )
        owner |= dict.fromkeys(mine, shard.path)
        total = total + scores
    count = total.values.shape[-1]
    missing = total.left(range(count))
    if missing and not partial:
        raise _missing("prompts", missing, count, shards)
    return _Sum(total, missing, None)


def _places(where: np.ndarray) -> list[int]:
    """The prompts, on the last axis, with anything true."""
    return [int(n) for n in np.flatnonzero(where.reshape(-1, where.shape[-1]).any(0))]


def _missing(what: str, missing: list[range], count: int, shards: list[_Shard]) -> PicturesMissing:
    return PicturesMissing(
        f"Of {count} {what}, these are in none of the {len(shards)} files: {format_ranges(missing)}. "
        f"{_cure(shards, missing, count)}; or merge what is there with --partial (partial=True)."
    )


def _cure(shards: list[_Shard], missing: list[range], count: int) -> str:
    """Which shards to run again, if they have names."""
    sizes = {shard.number.n for shard in shards if shard.number is not None}
    if len(sizes) != 1:
        return "Count them"
    parts = [(Shard(i, n), Shard(i, n).of(count)) for n in sizes for i in range(n)]
    again = [f"{i}" for i, of in parts if any(of.start < m.stop and m.start < of.stop for m in missing)]
    more = f" and {len(again) - 6} more" if len(again) > 6 else ""
    return f"Run shard {', '.join(again[:6])}{more} again"


def _read_ahead(shards: list[_Shard]) -> Iterator[dict[str, np.ndarray]]:
    """The numbers of all, in order, some of them read while others are added."""
    with ThreadPoolExecutor(READERS) as readers:
        coming: deque[Future[dict[str, np.ndarray]]] = deque()
        for shard in shards:
            coming.append(readers.submit(shard.arrays))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _kept(out: Path, shards: list[_Shard], found: _Sum) -> Merged:
    """Write the sum where a run would have left it."""
    total, name = found.total, shards[0].said["kind"]
    empty: Any = (
        Votes.empty(total.head_map, total.concepts, total.settings)
        if isinstance(total, Votes)
        else Scores.empty(total.axes, total.settings)
    )
    by = all_versions(shard.versions for shard in shards) or None
    with RunFolder(out, total.settings, empty, name, found.whole, by) as folder:
        _require_no_more(folder.so_far, total, out)
        folder.checkpoint(total)
        for shard in shards:
            for picture in sorted((shard.path.parent / "pictures").glob("*.png")):
                folder.keep_file(picture.name, picture.read_bytes())
        if isinstance(total, Votes):
            from headwise.measuring.measure import finished  # with all of diffusers

            finished(folder)
    return Merged(out / folder.name, len(shards), len(total), tuple(found.missing))


def _require_no_more(there: Any, total: Any, out: Path) -> None:
    if isinstance(total, Votes):
        lost = [of for pair in there.pictures for of in total.left(range(*pair))]
    else:
        only = _places(np.isfinite(there.values) & ~np.isfinite(total.values))
        lost = [range(*pair) for pair in ranges_of(only)]
    if lost:
        raise RunMismatch(
            f"{out} already counts {format_ranges(lost)}, which none of the shards has. Give another folder, "
            "or the shards that have them too."
        )
