r"""Sampling the words that heads choose between, and packing their tokens into one sequence.

Samples depend on (seed, image) only, through a counter-based generator: every worker, batch and resumed run
samples the same words, and the samples of an image's first n calls do not depend on how many calls follow.

The sequence of each image has the start token, if the encoder has one, and then the tokens of one word per
concept, packed without gaps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwise.measuring.concepts import ConceptSet, WordEmbeddings

__all__ = ["PackedWords", "WordTokens", "sample_words"]


def sample_words(
    seed: int, picture: int, calls: int, layers: int, concepts: ConceptSet | Sequence[int]
) -> Int[np.ndarray, "calls layers concepts"]:
    """Sample the index of one word of each concept, at each call and layer, for one image.

    Uniform and independent, from the raw 64-bit output of Philox keyed by (seed, image): the high half of
    each number, times the number of words, divided by 2³². Any platform and NumPy version samples the same.

    Args:
        seed, picture: The key of the image, the only source of randomness.
        calls: The number of denoiser calls; samples for more calls begin with those for fewer.
        layers: The number of layers.
        concepts: A concept set, or the number of words of each concept.
    """
    if isinstance(concepts, ConceptSet):
        concepts = [len(concepts.words(name)) for name in concepts.names]
    words = [int(n) for n in concepts]
    key = np.array([seed % 2**64, picture % 2**64], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(calls * layers * len(words))
    high = raw.reshape(calls, layers, len(words)) >> np.uint64(32)
    return (high * np.array(words, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)


class PackedWords(NamedTuple):
    """The words that each image's heads choose between.

    Args:
        tokens: Indices into `WordTokens.embeddings`, the start token first where there is one.
        padding: True beyond the tokens of an image.
        token_index: The positions in `tokens` of the tokens of each concept's word; 0 where it is shorter.
        token_weight: 1 / (tokens of the word) for each of them; 0 where the word is shorter.
    """

    tokens: Int[Tensor, "images tokens"]
    padding: Bool[Tensor, "images tokens"]
    token_index: Int[Tensor, "images concepts word_tokens"]
    token_weight: Float[Tensor, "images concepts word_tokens"]

    def to(self, device: torch.device, dtype: torch.dtype) -> "PackedWords":
        """Move all tensors to a device, and convert the weights to `dtype`."""
        return PackedWords(
            *(tensor.to(device) for tensor in self._replace(token_weight=self.token_weight.to(dtype)))
        )


class WordTokens:
    """The tokens of all concept words in one list, the start token first, with an index by word.

    Args:
        embeddings: The embeddings of the start token and of each word of each concept.

    Attributes:
        embeddings: The embeddings of all tokens, "all_tokens dim".
        word_id: The word that each token belongs to, "all_tokens"; −1 for the start token.
        places: The position that each token would have if its word were the whole prompt, "all_tokens".
        counts: The number of words of each concept.
        first: The index of each concept's first word among all words.
        words: The tokens of each word, "all_words longest"; −1 where a word is shorter.
    """

    def __init__(self, embeddings: WordEmbeddings) -> None:
        tokens_of: dict[bytes, list[int]] = {}
        self.starts = len(embeddings.start)
        rows, words = [embeddings.start], []
        longest = max(len(word) for concept in embeddings.words for word in concept)
        for concept in embeddings.words:
            for word in concept:
                # Words with equal embeddings ("orange" the fruit and the colour) share tokens, so that they
                # tie exactly.
                content = word.float().cpu().numpy().tobytes()
                if content not in tokens_of:
                    first = sum(map(len, rows))
                    tokens_of[content] = list(range(first, first + len(word)))
                    rows.append(word)
                words.append(tokens_of[content] + [-1] * (longest - len(word)))
        self.embeddings = torch.cat(rows)
        self.word_id = torch.cat([torch.full((len(row),), n - 1) for n, row in enumerate(rows)])
        after = [0] + [self.starts] * (len(rows) - 1)
        self.places = torch.cat([n + torch.arange(len(row)) for n, row in zip(after, rows, strict=True)])
        self.counts = [len(concept) for concept in embeddings.words]
        self.first = np.cumsum([0, *self.counts[:-1]])
        self.words = np.array(words)

    def pack(self, samples: Int[np.ndarray, "images concepts"]) -> PackedWords:
        """The tokens of the words sampled for each image, packed without gaps."""
        tokens = self.words[self.first + samples]
        mask = tokens >= 0
        after = np.cumsum(mask.reshape(len(samples), -1), 1).reshape(mask.shape)
        token_index = np.where(mask, after - 1 + self.starts, 0)
        lengths = self.starts + mask.sum((1, 2))
        packed = np.zeros((len(samples), lengths.max()), np.int64)
        packed[:, : self.starts] = np.arange(self.starts)
        picture = np.nonzero(mask)[0]
        packed[picture, token_index[mask]] = tokens[mask]
        # A token that occurs twice is read at its first position both times: equal words get equal values.
        earliest = np.full((len(samples), len(self.embeddings)), packed.shape[1])
        np.minimum.at(earliest, (picture, tokens[mask]), token_index[mask])
        token_index[mask] = earliest[picture, tokens[mask]]
        padding = np.arange(packed.shape[1]) >= lengths[:, None]
        token_weight = mask / mask.sum(-1, keepdims=True)
        return PackedWords(*map(torch.from_numpy, (packed, padding, token_index, token_weight)))
