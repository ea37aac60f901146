r"""Agreement: how far two measurements rank heads alike.

    ρ[c] = Spearman rank correlation over heads between the relevance of concept c in both

It answers questions such as "did my LoRA move the Color heads?" Noise limits it: a measurement's reliability
is its split-half correlation r, extrapolated to all images by the Spearman-Brown formula, 2r / (1 + r), and
the ceiling of ρ[c] is the geometric mean of the two reliabilities. This holds for two measurements of one
kind (votes or effect), with the same words and, for votes, the same other concepts to choose from;
`differences` lists where they differ.
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
        ceiling: The correlation that two measurements with the same settings could reach, 0 … 1.
        shared: How many of the most relevant heads, ten by default, the two have in common.
    """

    correlation: float
    ceiling: float
    shared: int


def agreement(a: Relevance | str | Path, b: Relevance | str | Path, top: int = 10) -> dict[str, Agreement]:
    """The agreement of two measurements for each concept that both measured.

    Warns where the two differ in what they measured: see `differences`.

    Args:
        a: A relevance, or the path of its file or run.
        b: Another relevance, of a model with the same heads.
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
            "The two measurements have no concept in common. Measure both with the same concepts."
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
    """How two measurements differ apart from their images, one sentence per difference.

    Two measurements by votes may differ in the concepts that heads chose between, two by effect in their
    settings (other concepts do not influence them). One of each kind is a difference by itself.

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
                f"{len(first & second)} of them in common."
            )
    return sentences + (_of_background(a, b) if by_votes else [])


def _of_choice(a: Relevance, b: Relevance) -> list[str]:
    """The concepts that heads could choose in only one of two measurements by votes."""
    sentences = []
    for whose, here, there in (("first", a, b), ("second", b, a)):
        only = [name for name in here.concepts if name not in there.concepts]
        if only:
            sentences.append(f"Heads could choose {_listed(only)} only in the {whose}.")
    return sentences


def _of_background(a: Relevance, b: Relevance) -> list[str]:
    first, second = (relevance.settings.get("beside", "none") for relevance in (a, b))
    if first == second:
        return []
    return [f"The background concepts of the first measurement are {first}, those of the second {second}."]


def _of_effect(a: Relevance, b: Relevance) -> list[str]:
    """The differences where one or both of two measurements are by effect."""
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
    """Reliability with all images, extrapolated from split-half; 1 for arrays without standard errors."""
    half = float(relevance.split_half[relevance.concepts.index(name)])
    return 1.0 if np.isnan(half) else max(0.0, 2 * half / (1 + half))
