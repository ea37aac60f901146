r"""Head relevance: how much each attention head cares about each concept.

A head votes for the concept its picture attends to most (probe.py). With n[c, h] the votes of head h for
concept c,

    relevance[c, h] = H · n[c, h] / Σ_h' n[c, h'],

so a concept's row sums to the number of heads H, and 1 is the average head. A concept nobody voted for has no
relevance to speak of: its row is zeros. How sure the numbers are is said beside them (reliability.py).

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from headwise.errors import BadStrength, HeadMapMismatch, HeadwiseError, UnreadableFile, VotesMismatch
from headwise.files import read_arrays, write_arrays
from headwise.measuring.concepts import unknown_concept
from headwise.measuring.reliability import normalise, split_half, standard_errors
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.heads import HeadMap

__all__ = ["BLOCKS", "HeadRank", "Relevance", "Votes", "normalise", "split_half"]


class HeadRank(NamedTuple):
    """One head in the ranking of a concept."""

    index: int  # type: ignore[assignment]
    address: str
    relevance: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every head for every concept (the paper's HRV: one vector over heads per concept).

    Args:
        values: Each row sums to the number of heads, or is zeros where the concept got no vote.
        standard_errors: Of each value; nan where there are fewer than two blocks of pictures.
        split_half: Rank correlation between two halves of the pictures; nan likewise.
        concepts: The names of the rows.
        head_map: The heads of the columns; None for arrays that came without.
        settings: How it was made, JSON-able.
        votes_by_decile: The votes in each tenth of the denoiser calls, in order; None for bare arrays.
    """

    values: Float[np.ndarray, "concepts all_heads"]
    standard_errors: Float[np.ndarray, "concepts all_heads"]
    split_half: Float[np.ndarray, " concepts"]
    concepts: tuple[str, ...]
    head_map: HeadMap | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    votes_by_decile: Int[np.ndarray, "10 concepts all_heads"] | None = None

    def __post_init__(self) -> None:
        if self.head_map is not None and self.head_map.all_heads != self.values.shape[1]:
            raise HeadMapMismatch(
                f"The votes have {self.values.shape[1]} heads, the head map has {self.head_map}. "
                "Give the head map of the model the votes were counted on."
            )
        for array in (self.values, self.standard_errors, self.split_half, self.votes_by_decile):
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
            concepts, head_map: For a bare array, the names of its axes.
        """
        if not isinstance(votes, Votes):
            return cls._from_array(np.asarray(votes), concepts, head_map)
        settings = votes.settings | {
            "pictures": len(votes),
            "counted": [list(pair) for pair in votes.pictures],
        }
        return cls(
            normalise(votes.totals),
            standard_errors(votes),
            split_half(votes),
            votes.concepts.names,
            votes.head_map,
            settings | {"concepts": votes.concepts.to_json()},
            _tenths(votes),
        )

    @classmethod
    def _from_array(
        cls, votes: np.ndarray, concepts: Sequence[str] | None, head_map: HeadMap | None
    ) -> "Relevance":
        if votes.ndim != 2:
            raise VotesMismatch(f"Expected votes of shape (concepts, all_heads), got {votes.shape}.")
        names = tuple(concepts) if concepts is not None else tuple(f"concept {c}" for c in range(len(votes)))
        if len(names) != len(votes):
            raise VotesMismatch(f"{len(names)} names for {len(votes)} rows of votes. Give one name per row.")
        unknown = np.full(votes.shape, np.nan)
        return cls(normalise(votes), unknown, unknown[:, 0].copy(), names, head_map)

    def __getitem__(self, concept: str) -> Float[np.ndarray, " all_heads"]:
        return self.values[self._row(concept)]

    def at_steps(self, start: float | int, stop: float | int) -> "Relevance":
        """The relevance of a part of the denoiser calls: (0, 0.3) is the first three tenths.

        What a head attends to drifts from call to call, so early and late relevance may name other heads. The
        votes are kept by tenths of the calls; a part of a tenth counts in proportion. Nothing is known about
        how sure it is: standard errors and split-half correlations are nan.

        Args:
            start, stop: Shares of the calls, 0 … 1.
        """
        if self.votes_by_decile is None:
            raise HeadwiseError(
                "This relevance does not know its votes by call. Measure it with this Headwise."
            )
        if not 0 <= start < stop <= 1:
            raise BadStrength(f"({start}, {stop}) was given; expected a part of the calls, such as (0, 0.3).")
        edges = np.arange(10) / 10
        share = np.clip(np.minimum(edges + 0.1, stop) - np.maximum(edges, start), 0, 0.1) * 10
        votes = np.tensordot(share, self.votes_by_decile, 1)
        unknown = np.full(self.values.shape, np.nan)
        settings = self.settings | {"during": [float(start), float(stop)]}
        return Relevance(
            normalise(votes), unknown, unknown[:, 0].copy(), self.concepts, self.head_map, settings
        )

    def top(self, concept: str, k: int = 10) -> list[HeadRank]:
        """The k most relevant heads of a concept; equal ones by index."""
        row = self._row(concept)
        order = np.argsort(-self.values[row], kind="stable")[:k]
        return [
            HeadRank(
                int(h), self._address(int(h)), float(self.values[row, h]), float(self.standard_errors[row, h])
            )
            for h in order
        ]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything in it."""
        arrays = {
            "values": self.values,
            "standard_errors": self.standard_errors,
            "split_half": self.split_half,
        }
        if self.votes_by_decile is not None:
            arrays["tenths"] = self.votes_by_decile
        heads = None if self.head_map is None else json.loads(self.head_map.to_json())
        said = {"concepts": list(self.concepts), "head_map": heads, "settings": self.settings}
        write_arrays(path, "relevance", arrays, said)

    @classmethod
    def load(cls, path: str | Path) -> "Relevance":
        """Read what `save` wrote."""
        arrays, said = read_arrays(path, "relevance", ("values", "standard_errors", "split_half"))
        try:
            heads = None if said["head_map"] is None else HeadMap.from_json(json.dumps(said["head_map"]))
            shape = (len(said["concepts"]), arrays["values"].shape[1])
            if arrays["values"].shape != shape or arrays["standard_errors"].shape != shape:
                raise ValueError(f"{arrays['values'].shape} values for {len(said['concepts'])} concepts")
            return cls(
                arrays["values"],
                arrays["standard_errors"],
                arrays["split_half"],
                tuple(said["concepts"]),
                heads,
                said["settings"],
                arrays.get("tenths"),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnreadableFile(f"{path} is a damaged relevance file ({error!r}). Measure again.") from None

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "Relevance":
        """Read from a folder, or a repository of the Hub: see hub.py."""
        from headwise.measuring.hub import from_pretrained

        return from_pretrained(name, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the file and a card into a folder."""
        from headwise.measuring.hub import save_pretrained

        return save_pretrained(self, folder)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the file and a card to a repository of the Hub; returns the commit's address."""
        from headwise.measuring.hub import push_to_hub

        return push_to_hub(self, name, private=private, token=token)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Relevance):
            return NotImplemented
        said = (self.concepts, self.head_map, self.settings)
        if said != (other.concepts, other.head_map, other.settings):
            return False
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        width = max(map(len, self.concepts))
        lines = [f"{'concept':{width}}  split-half  most relevant heads"]
        for name, sure in zip(self.concepts, self.split_half, strict=True):
            heads = ", ".join(f"{rank.index} ({rank.relevance:.1f})" for rank in self.top(name, 3))
            lines.append(f"{name:{width}}  {sure:10.2f}  {heads}")
        return "\n".join(lines)

    def _arrays(self) -> tuple[np.ndarray, ...]:
        by_call = np.zeros(0) if self.votes_by_decile is None else self.votes_by_decile
        return self.values, self.standard_errors, self.split_half, by_call

    def _row(self, concept: str) -> int:
        if concept not in self.concepts:
            raise unknown_concept(concept, self.concepts)
        return self.concepts.index(concept)

    def _address(self, head: int) -> str:
        return f"head {head}" if self.head_map is None else self.head_map.address(head)


def _tenths(votes: Votes) -> Int[np.ndarray, "10 concepts all_heads"]:
    """The votes of each tenth of the calls; call i of n lies in tenth ⌊10 i / n⌋."""
    tenths = np.zeros((10, *votes.totals.shape), np.int32)
    calls = np.arange(len(votes.counts))
    np.add.at(tenths, 10 * calls // max(1, len(calls)), votes.counts.transpose(0, 2, 1).astype(np.int32))
    return tenths
