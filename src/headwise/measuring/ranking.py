"""Rankings: the heads of a concept in the order of their relevance."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from headwise.model.heads import HeadMap

__all__ = ["HeadRank", "address_of", "below_zero", "ranked"]


class HeadRank(NamedTuple):
    """One head in the ranking of a concept.

    Args:
        index: The head's position in the head map, from 0.
        address: Its layer's path in the denoiser and its number within the layer.
        relevance: Its relevance for the concept; 1 is the average head.
        standard_error: The standard error of that relevance; nan where it could not be estimated.
    """

    index: int  # type: ignore[assignment]
    address: str
    relevance: float
    standard_error: float


def address_of(head: int, head_map: HeadMap | None) -> str:
    """The address of a head: "layer[number]", or "head 12" where layers are unknown."""
    return f"head {head}" if head_map is None else head_map.address(head)


def ranked(
    values: Float[np.ndarray, " all_heads"],
    standard_errors: Float[np.ndarray, " all_heads"],
    head_map: HeadMap | None,
) -> list[HeadRank]:
    """All heads, the most relevant first; heads of equal relevance in the order of their index."""
    return [
        HeadRank(int(h), address_of(int(h), head_map), float(values[h]), float(standard_errors[h]))
        for h in np.argsort(-values, kind="stable")
    ]


def below_zero(ranking: list[HeadRank]) -> list[HeadRank]:
    """The heads of a ranking whose 95 % interval is below 0, the strongest first."""
    return [rank for rank in reversed(ranking) if rank.relevance + 1.96 * rank.standard_error < 0]
