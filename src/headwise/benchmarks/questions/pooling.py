r"""Pooling attention to several tokens of one word: with a[t] a head's attention to token t of n,

mean   Σ a[t] / n, as the paper does        sum    Σ a[t]
last   a[n]                                 best   max a[t], without a penalty for long words
"""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe, token_attention
from headwise.measuring.word_samples import PackedWords

__all__ = ["POOLS", "Pool", "PooledProbe", "pooled"]

Pool = Literal["mean", "sum", "last", "best"]
POOLS: tuple[Pool, ...] = get_args(Pool)


class PooledProbe(ConceptProbe):
    """A probe that pools the tokens of a word in one of several ways.

    Args:
        pipe, concepts, seed, samples_per_call: As in `ConceptProbe`.
        pool: How attention to a word's tokens is pooled into attention to the word.
    """

    def __init__(
        self, pipe: Any, concepts: ConceptSet, seed: int, pool: Pool, *, samples_per_call: int
    ) -> None:
        super().__init__(pipe, concepts, seed, samples_per_call=samples_per_call)
        self.pool = pool

    def attention(self, query: Tensor, key: Tensor, words: PackedWords) -> Tensor:
        """The attention to each concept's word, pooled by `pool`."""
        return pooled(token_attention(query, key, words), words, self.pool)


def pooled(
    attention: Float[Tensor, "images heads concepts word_tokens"], words: PackedWords, pool: Pool
) -> Float[Tensor, "images heads concepts"]:
    """The attention to each concept's word.

    Args:
        attention: The attention to each token of each concept's word.
        words: Which tokens belong to the word, and their weight in the mean.
        pool: How the tokens are pooled.
    """
    weight = words.token_weight[:, None]
    in_word = weight > 0
    if pool == "mean":
        return (attention * weight).sum(-1)
    if pool == "sum":
        return (attention * in_word).sum(-1)
    if pool == "best":
        return (attention * in_word).amax(-1)
    before_another = torch.nn.functional.pad(in_word[..., 1:], (0, 1))
    return (attention * (in_word & ~before_another)).sum(-1)
