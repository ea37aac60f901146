r"""Votes: how often each head preferred each concept, counted in integers.

    counts[step, h, c]    at each call of the denoiser, over all images
    blocks[b, h, c]       over all calls, by block of images (image i is in block i mod 32)

Adding votes is exact, in any order, on any number of machines, and no image is counted twice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from headwise.errors import PictureCountedTwice, UnreadableFile, VotesMismatch
from headwise.files import deserialise, read_whole, serialise, write_whole
from headwise.measuring.concepts import ConceptSet
from headwise.model.heads import HeadMap
from headwise.runs.shards import Ranges, merge_ranges, ranges_of, subtract

__all__ = ["BLOCKS", "Votes"]

BLOCKS = 32


@dataclass(frozen=True, eq=False)
class Votes:
    """Vote counts, and the images they were counted on.

    Args:
        counts: The votes at each denoiser call, over all images.
        blocks: The same votes for each block of images, over all calls.
        pictures: The images counted, as (start, stop) ranges.
        head_map: The heads that voted.
        concepts: The concepts that they chose between.
        settings: How the images were generated, by name; votes with different settings are not added.
    """

    counts: Int[np.ndarray, "steps all_heads concepts"]
    blocks: Int[np.ndarray, "blocks all_heads concepts"]
    pictures: Ranges
    head_map: HeadMap
    concepts: ConceptSet
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, head_map: HeadMap, concepts: ConceptSet, settings: dict[str, Any] | None = None
    ) -> "Votes":
        """Votes on no images; adding them changes nothing."""
        each = (head_map.all_heads, len(concepts))
        counts, blocks = np.zeros((0, *each), np.int64), np.zeros((BLOCKS, *each), np.int64)
        return cls(counts, blocks, (), head_map, concepts, settings or {})

    @classmethod
    def of_pictures(
        cls,
        winners: Int[np.ndarray, "images steps samples all_heads"],
        numbers: Sequence[int],
        head_map: HeadMap,
        concepts: ConceptSet,
        settings: dict[str, Any],
    ) -> "Votes":
        """Count votes.

        Args:
            winners: The concept that each head preferred, by index, for each image, call and sample of
                words.
            numbers: The numbers of the images.
            head_map: The heads that voted.
            concepts: The concepts that they chose between.
            settings: How the images were generated, by name.
        """
        won = (winners[..., None] == np.arange(len(concepts))).sum(2)
        votes = cls.empty(head_map, concepts, settings)
        for number, counts in zip(numbers, won.sum(1), strict=True):
            votes.blocks[number % BLOCKS] += counts
        return cls(won.sum(0), votes.blocks, ranges_of(numbers), head_map, concepts, settings)

    def __len__(self) -> int:
        """The number of images counted."""
        return sum(stop - start for start, stop in self.pictures)

    @property
    def totals(self) -> Int[np.ndarray, "concepts all_heads"]:
        """The votes n[c, h], over all images and calls."""
        return self.blocks.sum(0).T

    @property
    def described(self) -> dict[str, Any]:
        """The settings, with the number of images and their ranges."""
        return self.settings | {"pictures": len(self), "counted": [list(pair) for pair in self.pictures]}

    @property
    def by_decile(self) -> Int[np.ndarray, "10 concepts all_heads"]:
        """The votes in each tenth of the calls; call i of n is in tenth ⌊10 i / n⌋."""
        by_decile = np.zeros((10, *self.totals.shape), np.int32)
        calls = np.arange(len(self.counts))
        tenths = 10 * calls // max(1, len(calls))
        np.add.at(by_decile, tenths, self.counts.transpose(0, 2, 1).astype(np.int32))
        return by_decile

    def __add__(self, other: "Votes") -> "Votes":
        if self.head_map != other.head_map:
            self.head_map.require(other.head_map, "the first votes", "the second votes")
        if self.concepts != other.concepts:
            raise VotesMismatch(
                f"These votes are for different concepts: {_difference(self, other)}. "
                "Add votes of one run only."
            )
        if self.settings != other.settings:
            raise VotesMismatch(
                f"These votes are of different runs: {_difference(self, other)}. Add votes of one run only."
            )
        steps = max(len(self.counts), len(other.counts))
        counts = np.zeros((steps, *self.counts.shape[1:]), np.int64)
        counts[: len(self.counts)] += self.counts
        counts[: len(other.counts)] += other.counts
        pictures = _union(self.pictures, other.pictures)
        return Votes(
            counts, self.blocks + other.blocks, pictures, self.head_map, self.concepts, self.settings
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Votes):
            return NotImplemented
        ours, theirs = self._metadata(), other._metadata()
        return ours == theirs and all(
            np.array_equal(a, b) for a, b in ((self.counts, other.counts), (self.blocks, other.blocks))
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def foreground(self) -> tuple[str, ...]:
        """The user's concepts: all except the background concepts."""
        return tuple(self.settings.get("foreground", self.concepts.names))

    def left(self, numbers: range) -> list[range]:
        """The ranges of these images that are not counted yet."""
        return subtract(numbers, self.pictures)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically; equal votes give equal bytes."""
        write_whole(path, self.pack())

    @classmethod
    def load(cls, path: str | Path) -> "Votes":
        """Read a file that `save` wrote."""
        return cls.unpack(read_whole(path, "votes"), path)

    def pack(self) -> bytes:
        """The content of the file that `save` writes: each array in the smallest type that holds it."""
        arrays = {"counts": _narrow(self.counts), "blocks": _narrow(self.blocks)}
        return serialise("votes", arrays, self._metadata())

    @classmethod
    def unpack(cls, content: bytes, path: str | Path = "What a worker sent") -> "Votes":
        """The inverse of `pack`; errors name the path as the origin of the content."""
        arrays, metadata = deserialise(content, "votes", ("counts", "blocks"), path)
        arrays = {name: array.astype(np.int64) for name, array in arrays.items()}
        try:
            head_map = HeadMap.from_json(json.dumps(metadata["head_map"]))
            concepts = ConceptSet.from_json(metadata["concepts"])
            pictures = tuple((int(start), int(stop)) for start, stop in metadata["pictures"])
            settings = metadata["settings"]
            votes = cls(arrays["counts"], arrays["blocks"], pictures, head_map, concepts, settings)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(f"{path} does not describe its votes ({error!r}). Measure again.") from None
        each = (head_map.all_heads, len(concepts))
        if votes.counts.shape[1:] != each or votes.blocks.shape != (BLOCKS, *each):
            raise UnreadableFile(
                f"{path} holds {votes.counts.shape} and {votes.blocks.shape} votes; "
                f"its head map and concepts need {each} each. The file is damaged: measure again."
            )
        return votes

    def _metadata(self) -> dict[str, Any]:
        return {
            "head_map": json.loads(self.head_map.to_json()),
            "concepts": self.concepts.to_json(),
            "pictures": [list(pair) for pair in self.pictures],
            "settings": self.settings,
        }


def _narrow(votes: Int[np.ndarray, "..."]) -> np.ndarray:
    return votes.astype(np.min_scalar_type(int(votes.max(initial=0))))


def _union(ours: Ranges, theirs: Ranges) -> Ranges:
    merged = merge_ranges([*ours, *theirs])
    if merged.overlap is not None:
        raise PictureCountedTwice(
            f"Both votes counted image {merged.overlap}. Add votes of different images: each counts once."
        )
    return merged.ranges


def _difference(a: Votes, b: Votes) -> str:
    ours, theirs = (dict(v.concepts.to_json()) | v.settings for v in (a, b))
    keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)] or ["order of concepts"]
    return f"{keys[0]!r} is {ours.get(keys[0])!r} in one and {theirs.get(keys[0])!r} in the other"
