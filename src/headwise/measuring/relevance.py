r"""Head relevance: how strongly each attention head is tied to each concept, by votes or by effect.

A head votes for the concept that its image queries attend to most (probe.py). With n[c, h] the votes of head
h for concept c,

    relevance[c, h] = H · n[c, h] / Σ_h' n[c, h'],

so a concept's row sums to the number of heads H, and the average head has 1. The row of a concept without
votes is zeros. By *effect* it is H times the share of the words' whole effect on the output that passes
through the head (effect.py), which is negative for a head that works against the words. Standard errors and
split-half correlations are stored with the values (reliability.py).

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float, Shaped

from headwise.errors import BadStrength, HeadMapMismatch, HeadwiseError, UnreadableFile
from headwise.files import expanded, read_arrays, write_arrays
from headwise.measuring.effect_samples import EffectSamples, ratio
from headwise.measuring.hub import HubFile
from headwise.measuring.ranking import HeadRank, below_zero, ranked
from headwise.measuring.reliability import normalise, remarks, split_half, standard_errors
from headwise.measuring.tables import (
    ConceptRow,
    frame_of,
    html_of,
    look_up,
    names_of_rows,
    row_of,
    text_of,
)
from headwise.measuring.votes import Votes
from headwise.model.heads import HeadMap

if TYPE_CHECKING:
    import pandas

__all__ = ["HeadRank", "Relevance"]


@dataclass(frozen=True, eq=False)
class Relevance(HubFile):
    """Relevance of every head for every concept (the paper's HRV: one vector over heads per concept).

        relevance["Color"]                          # of all heads for one concept
        relevance["Color", "mid_block.….attn2[3]"]  # of one head, given by address or index
        relevance["mid_block.….attn2[3]"]           # of one head for all concepts

    Args:
        values: Relevance by concept and head. By votes, each row sums to the number of heads, or is zeros if
            the concept got no vote.
        standard_errors: The standard error of each value; nan where there are fewer than two blocks of
            images.
        split_half: The rank correlation between two halves of the images for each concept, -1 … 1; nan
            where there are fewer than two blocks.
        concepts: The names of the rows.
        head_map: The heads of the columns; None for arrays that came without one.
        settings: How the relevance was measured, as JSON-able values by name. If there were background
            concepts, "foreground" has the names of the user's concepts and "beside" describes the background.
        by_decile: The votes in each tenth of the denoiser calls, in order; by effect, Σ shares of each head
            and, in the last column, the number of measured calls. None for bare arrays.
    """

    values: Float[np.ndarray, "concepts all_heads"]
    standard_errors: Float[np.ndarray, "concepts all_heads"]
    split_half: Float[np.ndarray, " concepts"]
    concepts: tuple[str, ...]
    head_map: HeadMap | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    by_decile: Shaped[np.ndarray, "10 concepts columns"] | None = None

    def __post_init__(self) -> None:
        if self.head_map is not None and self.head_map.all_heads != self.values.shape[1]:
            raise HeadMapMismatch(
                f"The votes have {self.values.shape[1]} heads, the head map has {self.head_map}. "
                "Give the head map of the model that the votes were counted on."
            )
        for array in (self.values, self.standard_errors, self.split_half, self.by_decile):
            if array is not None:
                array.setflags(write=False)

    @classmethod
    def from_votes(
        cls, votes: Any, concepts: Sequence[str] | None = None, head_map: HeadMap | None = None
    ) -> "Relevance":
        """Normalise votes.

        Args:
            votes: `Votes`, or a bare array "concepts all_heads", which has no blocks and so no standard
                errors.
            concepts: The names of the rows of a bare array; by default "concept 0", "concept 1", …
            head_map: The heads of the columns of a bare array.

        Raises:
            VotesMismatch: A bare array does not hold counts by concept and head, or names do not fit rows.
        """
        if not isinstance(votes, Votes):
            return cls._from_array(np.asarray(votes), concepts, head_map)
        names = [*votes.foreground, *(name for name in votes.concepts.names if name not in votes.foreground)]
        order = [votes.concepts.names.index(name) for name in names]  # the background comes last
        listed = votes.concepts.to_json()
        return cls(
            normalise(votes.totals)[order],
            standard_errors(votes)[order],
            split_half(votes)[order],
            tuple(names),
            votes.head_map,
            votes.described | {"concepts": [listed[c] for c in order]},
            votes.by_decile[:, order],
        )

    @classmethod
    def from_effect(cls, samples: EffectSamples) -> "Relevance":
        """Relevance by effect: H times the share of each head."""
        completeness = [round(float(each), 4) for each in samples.completeness]
        return cls(
            samples.relevance,
            samples.standard_errors,
            samples.split_half,
            samples.concepts.names,
            samples.head_map,
            samples.described | {"concepts": samples.concepts.to_json(), "completeness": completeness},
            samples.by_decile,
        )

    @classmethod
    def of(cls, relevance: "Relevance | str | Path") -> "Relevance":
        """Return a relevance unchanged, or read it from a file or from the folder of a run.

        Raises:
            UnreadableFile: No relevance was found at this path.
            HeadwiseError: The argument is neither a relevance nor a path.
        """
        if isinstance(relevance, cls):
            return relevance
        if not isinstance(relevance, str | Path):
            raise HeadwiseError(
                f"A {type(relevance).__name__} was given as relevance. Give a Relevance, or the path of its "
                "file or run; for an array of votes use Relevance.from_votes."
            )
        path = expanded(relevance)
        if not path.exists():
            raise UnreadableFile(
                f"{path} does not exist. Give a relevance file or the folder of a run; "
                "Relevance.from_pretrained reads one from the Hub."
            )
        return cls.from_pretrained(path)

    @classmethod
    def _from_array(
        cls, votes: np.ndarray, concepts: Sequence[str] | None, head_map: HeadMap | None
    ) -> "Relevance":
        names = names_of_rows(votes, concepts)
        unknown = np.full(votes.shape, np.nan)
        return cls(normalise(votes), unknown, unknown[:, 0].copy(), names, head_map)

    @overload
    def __getitem__(self, key: str | int) -> Float[np.ndarray, " axis"]: ...
    @overload
    def __getitem__(self, key: tuple[str | int, str | int]) -> float: ...
    def __getitem__(self, key: Any) -> Any:
        """The row of a concept, the column of a head given by its address, or the value of both."""
        return look_up(key, self.values, self.concepts, self.head_map)

    def __contains__(self, concept: object) -> bool:
        return concept in self.concepts

    def __iter__(self) -> Iterator[str]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def kind(self) -> str:
        """What was measured: "votes" or "effect"."""
        return self.settings.get("by", "votes")

    @property
    def completeness(self) -> dict[str, float]:
        """By effect, the share that all heads account for, 1 if the integral is exact; empty by votes."""
        means = self.values.mean(1).tolist() if self.kind == "effect" else []
        return dict(zip(self.concepts, means, strict=bool(means)))

    @property
    def foreground(self) -> tuple[str, ...]:
        """The user's concepts: all except the background concepts."""
        return tuple(name for name in self.settings.get("foreground", self.concepts) if name in self.concepts)

    @property
    def split_half_median(self) -> float:
        """The median split-half correlation of the user's concepts."""
        return float(np.median([self.split_half[self.concepts.index(name)] for name in self.foreground]))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes to print with the numbers: the background concepts, and a warning if there are few images."""
        return remarks(self.settings)

    def at_steps(self, start: float | int, stop: float | int) -> "Relevance":
        """The relevance in a window of the denoiser calls: (0, 0.3) is the first three tenths.

        What a head attends to drifts from call to call, so early and late relevance may name different heads.
        Votes are stored by tenths of the calls; part of a tenth counts in proportion. Reliability cannot be
        estimated for a window: standard errors and split-half correlations are nan.

        Args:
            start: Where the window begins, as a share of the calls, 0 … 1.
            stop: Where it ends, above `start` and at most 1.

        Raises:
            BadStrength: The window is not within 0 … 1.
            HeadwiseError: The votes were not stored by call.
        """
        if self.by_decile is None:
            raise HeadwiseError(
                "This relevance has no votes by call. Measure it with this version of Headwise."
            )
        if not 0 <= start < stop <= 1:
            raise BadStrength(f"({start}, {stop}) was given; expected shares of the calls, such as (0, 0.3).")
        edges = np.arange(10) / 10
        weights = np.clip(np.minimum(edges + 0.1, stop) - np.maximum(edges, start), 0, 0.1) * 10
        sums = np.tensordot(weights, self.by_decile, 1)
        values = normalise(sums) if self.kind == "votes" else ratio(sums[:, :-1], sums[:, -1:])
        unknown = np.full(self.values.shape, np.nan)
        settings = self.settings | {"during": [float(start), float(stop)]}
        return Relevance(values, unknown, unknown[:, 0].copy(), self.concepts, self.head_map, settings)

    def require(self, head_map: HeadMap, whose: str = "the pipeline") -> None:
        """Refuse relevance that was measured on other heads; relevance without a head map fits any model.

        Args:
            head_map: The heads that the relevance will be used on.
            whose: How the error message refers to their model.

        Raises:
            HeadMapMismatch: The heads differ.
        """
        if self.head_map is not None:
            self.head_map.require(head_map, "The relevance", whose)

    def top(self, concept: str, k: int = 10) -> list[HeadRank]:
        """The k most relevant heads of a concept; heads of equal relevance in the order of their index.

        Raises:
            UnknownConcept: The concept was not measured.
            HeadwiseError: k is smaller than 1.
        """
        if k < 1:
            raise HeadwiseError(f"k={k} was given; expected 1 or more heads.")
        return self._ranked(concept)[:k]

    def against(self, concept: str, k: int = 10) -> list[HeadRank]:
        """The k heads that work most against a concept, among those whose 95 % interval is below 0.

        Raises:
            UnknownConcept: The concept was not measured.
        """
        return below_zero(self._ranked(concept))[:k]

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas data frame with one row for each concept and head, in the order of the concepts.

        Its columns are concept, head (the index), layer, address, relevance and standard_error;
        `frame.pivot(index="concept", columns="head", values="relevance")` has the shape of `values`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return frame_of(self.values, self.standard_errors, self.concepts, self.head_map)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file."""
        arrays = {
            "values": self.values,
            "standard_errors": self.standard_errors,
            "split_half": self.split_half,
        }
        if self.by_decile is not None:
            arrays["tenths"] = self.by_decile
        heads = None if self.head_map is None else json.loads(self.head_map.to_json())
        metadata = {"concepts": list(self.concepts), "head_map": heads, "settings": self.settings}
        write_arrays(path, "relevance", arrays, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Relevance":
        """Read a file that `save` wrote."""
        arrays, metadata = read_arrays(path, "relevance", ("values", "standard_errors", "split_half"))
        try:
            heads = metadata["head_map"]
            head_map = None if heads is None else HeadMap.from_json(json.dumps(heads))
            shape = (len(metadata["concepts"]), arrays["values"].shape[1])
            if arrays["values"].shape != shape or arrays["standard_errors"].shape != shape:
                raise ValueError(f"{arrays['values'].shape} values for {shape[0]} concepts")
            return cls(
                arrays["values"],
                arrays["standard_errors"],
                arrays["split_half"],
                tuple(metadata["concepts"]),
                head_map,
                metadata["settings"],
                arrays.get("tenths"),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnreadableFile(f"{path} is a damaged relevance file ({error!r}). Measure again.") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Relevance):
            return NotImplemented
        metadata = (self.concepts, self.head_map, self.settings)
        if metadata != (other.concepts, other.head_map, other.settings):
            return False
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return text_of(self._by_concept(), self.remarks)

    def _repr_html_(self) -> str:
        model = self.settings.get("model", "an unknown model")
        caption = f"Relevance by {self.kind} of {self.values.shape[1]} heads of {model}"
        return html_of(caption, self._by_concept(), self.remarks)

    def _by_concept(self) -> list[ConceptRow]:
        """The table row of each of the user's concepts."""
        rows = ((name, row_of(name, self.concepts)) for name in self.foreground)
        return [(name, float(self.split_half[r]), self.values[r], self.top(name, 3)) for name, r in rows]

    def _arrays(self) -> tuple[np.ndarray, ...]:
        by_decile = np.zeros(0) if self.by_decile is None else self.by_decile
        return self.values, self.standard_errors, self.split_half, by_decile

    def _ranked(self, concept: str) -> list[HeadRank]:
        row = row_of(concept, self.concepts)
        return ranked(self.values[row], self.standard_errors[row], self.head_map)
