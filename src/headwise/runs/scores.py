"""Score arrays with named axes, filled in incrementally; missing entries are NaN.

Parts of one sweep add up to the same array in any order; two parts that scored an image differently are
refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwise.errors import UnreadableFile, VotesMismatch
from headwise.files import deserialise, read_whole, serialise, write_whole
from headwise.runs.shards import ranges_of

__all__ = ["Axes", "Scores"]

Label = str | int
Axes = Mapping[str, Sequence[Label]]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores along named axes.

    Args:
        values: The scores; NaN where an image is not scored yet.
        axes: The name and labels of each axis of `values`, in order.
        settings: How the images were generated and scored; scores with different settings are not added.
    """

    values: Float[np.ndarray, "..."]
    axes: Mapping[str, tuple[Label, ...]]
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def empty(cls, axes: Axes, settings: dict[str, Any]) -> "Scores":
        """An array without scores; adding it changes nothing."""
        labelled = {name: tuple(labels) for name, labels in axes.items()}
        return cls(np.full([len(labels) for labels in labelled.values()], np.nan), labelled, settings)

    def __len__(self) -> int:
        """The number of entries that are scored."""
        return int(np.isfinite(self.values).sum())

    def __add__(self, other: "Scores") -> "Scores":
        if (dict(self.axes), self.settings) != (dict(other.axes), other.settings):
            raise VotesMismatch("These scores have different axes or settings. Add parts of one run only.")
        both = np.isfinite(self.values) & np.isfinite(other.values)
        if not np.array_equal(self.values[both], other.values[both]):
            raise VotesMismatch("The two parts scored the same images differently. Measure one again.")
        values = np.where(np.isfinite(self.values), self.values, other.values)
        return Scores(values, self.axes, self.settings)

    def left(self, numbers: range) -> list[range]:
        """The ranges of these positions on the last axis where an entry is missing."""
        missing = np.isnan(self.values).reshape(-1, self.values.shape[-1]).any(0)
        return [range(*pair) for pair in ranges_of(n for n in numbers if missing[n])]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically."""
        write_whole(path, self.pack())

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read a file that `save` wrote."""
        return cls.unpack(read_whole(path, "scores"), path)

    def pack(self) -> bytes:
        """The content of the file that `save` writes."""
        axes = [[name, list(labels)] for name, labels in self.axes.items()]
        return serialise("scores", {"values": self.values}, {"axes": axes, "settings": self.settings})

    @classmethod
    def unpack(cls, content: bytes, path: str | Path = "What a worker sent") -> "Scores":
        """The inverse of `pack`.

        Args:
            content: The bytes.
            path: Their origin, for error messages.
        """
        arrays, metadata = deserialise(content, "scores", ("values",), path)
        try:
            axes = {name: tuple(labels) for name, labels in metadata["axes"]}
            scores = cls(arrays["values"], axes, metadata["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(f"{path} is a damaged file of scores ({error!r}). Measure again.") from None
        shape = tuple(len(labels) for labels in axes.values())
        if scores.values.shape != shape:
            raise UnreadableFile(
                f"{path} is damaged: {scores.values.shape} scores on axes of {shape}. Measure again."
            )
        return scores
