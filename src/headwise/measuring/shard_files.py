"""The result files of shards: where they are, their headers, and reading their arrays ahead."""

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headwise.errors import RunMismatch, UnreadableFile
from headwise.files import Header, deserialise, read_header, read_whole
from headwise.runs.shards import Ranges, Shard

__all__ = ["ShardFile", "difference", "find_files", "read_ahead", "shared_metadata"]

NAMES = ("votes.safetensors", "effect.safetensors", "scores.safetensors")
OF_ONE_SHARD = ("pictures", "checksum")  # the metadata in which shards of one run differ
READERS = 2  # threads that read files and verify checksums while another adds
AHEAD = 4  # files read but not added yet


@dataclass(frozen=True)
class ShardFile:
    """A file of votes, effects or scores that one shard wrote.

    Args:
        path: The file; the name of its folder may hold the shard's number.
    """

    path: Path

    @cached_property
    def header(self) -> Header:
        """The metadata and the shapes of the arrays."""
        return read_header(self.path)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, with the checksum."""
        return self.header.metadata

    def share(self, other: "ShardFile") -> None:
        """Share equal metadata with another shard: ten thousand copies would take half a gigabyte."""
        differing = {key: self.metadata[key] for key in OF_ONE_SHARD if key in self.metadata}
        self.__dict__["header"] = Header({**other.metadata, **differing}, self.header.arrays)

    @cached_property
    def ranges(self) -> Ranges:
        """The images counted."""
        try:
            return tuple((int(start), int(stop)) for start, stop in self.metadata["pictures"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(f"{self.path} does not say which images it counts ({error!r}).") from None

    @cached_property
    def run_pictures(self) -> int:
        """How many images the run has over all its shards; 0 if the shard's folder does not record it."""
        try:
            return int(self._run.get("pictures", 0))
        except (ValueError, TypeError):
            return 0

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that counted it; empty if its folder does not record them."""
        versions = self._run.get("versions", {})
        valid = isinstance(versions, dict) and all(isinstance(version, str) for version in versions.values())
        return versions if valid else {}

    @property
    def run_kind(self) -> str:
        """The kind of run that its folder records; "" if none."""
        kind = self._run.get("kind", "")
        return kind if isinstance(kind, str) else ""

    @property
    def _run(self) -> dict[str, Any]:
        """The folder's run.json; not kept in memory, since there may be ten thousand shards."""
        try:
            run = json.loads((self.path.parent / "run.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return run if isinstance(run, dict) else {}

    @property
    def number(self) -> Shard | None:
        """The number of the shard, and of how many, if the name of its folder holds them."""
        match = re.search(r"(\d+)-of-(\d+)", str(self.path.parent))
        return Shard(int(match[1]), int(match[2])) if match else None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, verified against their checksum and against the header that was read before."""
        kind = self.metadata["kind"]
        arrays, metadata = deserialise(read_whole(self.path, kind), kind, (), self.path)
        if metadata != {key: value for key, value in self.metadata.items() if key != "checksum"}:
            raise RunMismatch(
                f"{self.path} changed during the merge: its shard is still counting. Merge when it has ended."
            )
        return arrays


def find_files(paths: Sequence[str | Path]) -> dict[str, list[Path]]:
    """All result files, grouped by their folder within the shard: "." or a concept.

    Args:
        paths: Files, run folders, or folders that have shards.

    Raises:
        UnreadableFile: No result file was found.
    """
    groups: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        below = path / "shards"
        for shard in sorted(below.iterdir()) if below.is_dir() else [path]:
            for file in _results(shard):
                inner = "." if file == shard else str(file.parent.relative_to(shard))
                groups.setdefault(inner, []).append(file)
    if not groups:
        raise UnreadableFile(
            f"No {', '.join(NAMES[:-1])} or {NAMES[-1]} was found in "
            f"{', '.join(map(str, paths)) or 'an empty list of paths'}. Give such files, run folders, or a "
            "folder that has shards."
        )
    return groups


def _results(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    direct = [path / name for name in NAMES if (path / name).is_file()]
    return direct or sorted(file for name in NAMES for file in path.glob(f"*/{name}"))


def shared_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What all shards of one run have in common."""
    return {key: value for key, value in metadata.items() if key not in OF_ONE_SHARD}


def difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    """An entry in which the metadata of two runs differ, the shortest one, as a clause."""
    ours, theirs = (shared_metadata(each) | dict(each.get("settings", {})) for each in (a, b))
    keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    key = min(keys, key=lambda key: len(repr(ours.get(key))))  # the model's name rather than its head map
    return f"{key} is {ours.get(key)!r:.200} in the former and {theirs.get(key)!r:.200} in the latter"


def read_ahead(shards: Sequence[ShardFile]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of all shards in order; other threads read a few ahead while earlier ones are added."""
    with ThreadPoolExecutor(READERS) as readers:
        coming: deque[Future[dict[str, np.ndarray]]] = deque()
        for shard in shards:
            coming.append(readers.submit(shard.arrays))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
