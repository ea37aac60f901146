r"""The reliability of relevance, estimated from the votes of B blocks of images.

* Standard errors by the jackknife: with θ₋ᵦ the relevance without block b and θ̄ their mean,
  se² = (B − 1)/B · Σᵦ (θ₋ᵦ − θ̄)².
* Split-half: the Spearman rank correlation over heads between the relevance of two halves of the blocks,
  averaged over 100 seeded random halvings; equal values share their average rank. For a half without any
  vote for a concept the correlation is 0.

With fewer than two blocks both are nan.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwise.measuring.votes import Votes

__all__ = [
    "normalise", "rank_correlation", "ranks", "remarks", "split_half", "standard_errors",
]  # fmt: skip

HALVINGS = 100
FEW_PICTURES = 64  # in a measurement by votes
FEW_OF_CONCEPT = 10  # images per concept, in a measurement by effect

Counts = Float[np.ndarray, "concepts all_heads"] | Int[np.ndarray, "concepts all_heads"]


def normalise(votes: Counts) -> Float[np.ndarray, "concepts all_heads"]:
    """The relevance H · n[c, h] / Σ_h' n[c, h'].

    The paper divides by the votes of each head first; this cancels, because all heads have equally many.
    """
    per_concept = votes.sum(-1, keepdims=True)
    shares = np.divide(votes, per_concept, out=np.zeros(votes.shape), where=per_concept > 0)
    return votes.shape[-1] * shares


def split_half(votes: Votes, seed: int = 0) -> Float[np.ndarray, " concepts"]:
    """Mean Spearman correlation over heads between random halves of the blocks; nan with fewer than two."""
    blocks = _filled(votes.blocks.transpose(0, 2, 1))
    if len(blocks) < 2:
        return np.full(len(votes.concepts), np.nan)
    generator = np.random.Generator(np.random.Philox(seed))
    total = blocks.sum(0)
    agreement = np.zeros(len(votes.concepts))
    for _ in range(HALVINGS):
        half = blocks[generator.permutation(len(blocks))[: len(blocks) // 2]].sum(0)
        agreement += rank_correlation(half, total - half)
    return agreement / HALVINGS


def standard_errors(votes: Votes) -> Float[np.ndarray, "concepts all_heads"]:
    """The standard error of every entry of the relevance by the jackknife; nan with fewer than two blocks."""
    blocks, total = _filled(votes.blocks.transpose(0, 2, 1)), votes.totals
    if len(blocks) < 2:
        return np.full(total.shape, np.nan)
    squares, mean = np.zeros(total.shape), np.zeros(total.shape)
    # One pass over the blocks, since the relevance without each of them is large to keep for H = 1300.
    for i, block in enumerate(blocks):
        without = normalise(total - block)
        step = without - mean
        mean += step / (i + 1)
        squares += step * (without - mean)
    return np.sqrt((len(blocks) - 1) / len(blocks) * squares)


def rank_correlation(a: Counts, b: Counts) -> Float[np.ndarray, " concepts"]:
    """Spearman's rank correlation over heads; 0 where one side is constant."""
    return _correlation(ranks(a), ranks(b))


def _filled(
    blocks: Int[np.ndarray, "blocks concepts all_heads"],
) -> Int[np.ndarray, "filled concepts all_heads"]:
    return blocks[blocks.any(axis=(1, 2))]


def ranks(values: Counts) -> Float[np.ndarray, "concepts all_heads"]:
    """Ranks over heads, from 0; equal values share their average rank."""
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, -1)
    place = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    new = np.ones(values.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    last = np.ones(values.shape, bool)
    last[:, :-1] = new[:, 1:]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    final = np.minimum.accumulate(np.where(last, place, values.shape[-1])[:, ::-1], axis=-1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + final) / 2, -1)
    return ranks


def _correlation(
    a: Float[np.ndarray, "concepts all_heads"], b: Float[np.ndarray, "concepts all_heads"]
) -> Float[np.ndarray, " concepts"]:
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), spread, out=np.zeros(len(a)), where=spread > 0)


def remarks(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Notes to print with a measurement: its background concepts, and a warning if it has few images."""
    sentences, pictures = [], settings.get("pictures")
    if "beside" in settings:
        sentences.append(f"Heads chose between these concepts and a background of {settings['beside']}.")
    if pictures is None:
        return tuple(sentences)
    if settings.get("by") == "effect":
        each = pictures / max(1, len(settings.get("concepts", ())))
        if each < FEW_OF_CONCEPT:
            sentences.append(
                f"Intervals and split-half from fewer than {FEW_OF_CONCEPT} images per concept are rough "
                f"(here {each:.3g})."
            )
    elif pictures < FEW_PICTURES:
        sentences.append(
            f"Intervals and split-half from fewer than {FEW_PICTURES} images are rough (here {pictures}). "
            "Split-half estimates how well other images would reproduce the ranking of heads, not whether "
            "these heads matter for the concept; `headwise weaken` tests that."
        )
    return tuple(sentences)
