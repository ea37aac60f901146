r"""Agreement: do two measurements name the same heads?

    ρ[c] = Spearman rank correlation over heads of the relevance of concept c in both

"Did my LoRA move the Color heads?", "does my measurement agree with the published one?" Two measurements of
the very same thing agree as far as their split-half correlation, extrapolated to all images by Spearman and
Brown's formula, 2ρ / (1 + ρ); the ceiling of ρ[c] is the geometric mean of this reliability of both. The
very same thing is of the same kind (votes, or effect), has the same words and, by votes, the same other
concepts to choose from; `differences` says where not.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation

__all__ = ["Agreement", "agreement", "differences"]


class Agreement(NamedTuple):
    """How two measurements agree on one concept.

    Args:
        correlation: The rank correlation over heads, −1 … 1.
        ceiling: The correlation that two measurements of the same thing could reach, 0 … 1.
        shared: How many heads are among the most relevant ones of both, by default of ten.
    """

    correlation: float
    ceiling: float
    shared: int


def agreement(a: Relevance | str | Path, b: Relevance | str | Path, top: int = 10) -> dict[str, Agreement]:
    """The agreement of two measurements for each concept that both measured.

    Warns where the two differ in what they measured: see `differences`.

    Args:
        a: A relevance, or the path of its file or run.
        b: Another, of a model with the same heads.
        top: How many of the most relevant heads are compared for `shared`.

    Raises:
        HeadMapMismatch: Their heads differ.
        HeadwiseError: They have no concept in common.
    """
    a, b = Relevance.of(a), Relevance.of(b)
    if a.head_map is not None and b.head_map is not None:
        a.head_map.require(b.head_map, "The first", "the second")
    names = [name for name in a.concepts if name in b.concepts]
    if not names:
        raise HeadwiseError(
            "The two measurements have no concept in common. Measure one with the other's words."
        )
    for difference in differences(a, b):
        warnings.warn(difference, stacklevel=2)
    correlation = rank_correlation(*(np.stack([r[name] for name in names]) for r in (a, b)))
    return {
        name: Agreement(
            float(correlation[i]),
            float(np.sqrt(max(0.0, _reliability(a, name) * _reliability(b, name)))),
            len({h.index for h in a.top(name, top)} & {h.index for h in b.top(name, top)}),
        )
        for i, name in enumerate(names)
    }


def differences(a: Relevance, b: Relevance) -> list[str]:
    """In what two measurements differ beside their images, a sentence each; empty where they are the same.

    By votes, in the concepts that heads chose between. By effect, in what was asked; other concepts decide
    nothing there. Of one by votes and one by effect, that they are.

    Args:
        a: A relevance.
        b: A relevance of a model with the same heads.
    """
    by_votes = a.kind == b.kind == "votes"
    sentences = _of_choice(a, b) if by_votes else _of_effect(a, b)
    ours, theirs = (dict(relevance.settings.get("concepts", ())) for relevance in (a, b))
    for name in (name for name in a.concepts if name in ours and name in theirs):
        first, second = ({word.casefold() for word in words[name]} for words in (ours, theirs))
        if first != second:
            sentences.append(
                f"{name} has {len(first)} words in the first and {len(second)} in the second, "
                f"{len(first & second)} of them the same."
            )
    return sentences + (_of_background(a, b) if by_votes else [])


def _of_choice(a: Relevance, b: Relevance) -> list[str]:
    """The concepts that heads could choose in one measurement by votes only."""
    sentences = []
    for whose, here, there in (("first", a, b), ("second", b, a)):
        only = [name for name in here.concepts if name not in there.concepts]
        if only:
            sentences.append(f"Only in the {whose} could heads choose {_listed(only)}.")
    return sentences


def _of_background(a: Relevance, b: Relevance) -> list[str]:
    grounds = [relevance.settings.get("beside", "nothing") for relevance in (a, b)]
    if grounds[0] == grounds[1]:
        return []
    return [f"The first was measured beside {grounds[0]}, the second beside {grounds[1]}."]


def _of_effect(a: Relevance, b: Relevance) -> list[str]:
    """What differs where one of two measurements, or both, are by effect, which no other concepts decide."""
    if a.kind != b.kind:
        means = {"votes": "what heads attend to", "effect": "what heads do with the words"}
        return [
            f"The first was measured by {a.kind}, {means[a.kind]}; the second by {b.kind}, {means[b.kind]}."
        ]
    return [
        f"The first was measured with {name} {a.settings.get(name)}, the second with {name} "
        f"{b.settings.get(name)}."
        for name in ("against", "window")
        if a.settings.get(name) != b.settings.get(name)
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _reliability(relevance: Relevance, name: str) -> float:
    """The reliability of all images, from that of half of them; 1 for arrays without standard errors."""
    half = float(relevance.split_half[relevance.concepts.index(name)])
    return 1.0 if np.isnan(half) else max(0.0, 2 * half / (1 + half))
