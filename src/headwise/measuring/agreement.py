r"""Do two measurements name the same heads?

    ρ[c] = Spearman rank correlation over heads of the relevance of concept c in both

"Did my LoRA move the Color heads?", "does my measurement agree with the published one?" How far two
measurements of the very same thing agree is their split-half correlation, raised to the full length by
Spearman and Brown's formula, 2ρ / (1 + ρ); the ceiling of ρ[c] is the geometric mean of both measurements'
own.
"""

from typing import NamedTuple

import numpy as np

from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation

__all__ = ["Agreement", "agreement"]


class Agreement(NamedTuple):
    """How two measurements agree on one concept.

    Args:
        correlation: −1 … 1.
        ceiling: What two measurements of the same could reach; nan where their own reliability is unknown.
        shared: How many of each one's ten most relevant heads are the other's, too.
    """

    correlation: float
    ceiling: float
    shared: int


def agreement(a: Relevance, b: Relevance, top: int = 10) -> dict[str, Agreement]:
    """By concept, for those that both measured.

    Args:
        a, b: Of models with the same heads.
        top: How many heads are looked at for `shared`.

    Raises:
        HeadMapMismatch: Their heads are not the same.
        HeadwiseError: They have no concept in common.
    """
    if a.head_map is not None and b.head_map is not None:
        a.head_map.require(b.head_map, "The first", "the second")
    names = [name for name in a.concepts if name in b.concepts]
    if not names:
        raise HeadwiseError(
            "The two measurements have no concept in common. Measure one with the other's words."
        )
    mine, theirs = (np.stack([r[name] for name in names]) for r in (a, b))
    found = rank_correlation(mine, theirs)
    return {
        name: Agreement(
            float(found[i]),
            float(np.sqrt(max(0.0, _reliability(a, name) * _reliability(b, name)))),
            len({h.index for h in a.top(name, top)} & {h.index for h in b.top(name, top)}),
        )
        for i, name in enumerate(names)
    }


def _reliability(relevance: Relevance, name: str) -> float:
    """Of all pictures, from that of half of them; of published arrays nothing is known, and 1 assumed."""
    half = float(relevance.split_half[relevance.concepts.index(name)])
    return 1.0 if np.isnan(half) else max(0.0, 2 * half / (1 + half))
