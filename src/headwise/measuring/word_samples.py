r"""Which words the probe shows, and how their tokens stand side by side.

Words come from (seed, picture) alone, by counting and not by a running generator, so that every worker, batch
and resumed run draws the same, and of one picture's calls the first n are the same however many follow.

Each picture is shown the start token, if the encoder has one, and then the tokens of one word per concept,
packed without gaps.
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
    """Which word of each concept is shown, at each call and layer, for one picture.

    Uniform and independent, from the raw 64-bit output of Philox keyed by (seed, picture): the high half of
    each
    number, times the number of words, divided by 2³². Any platform and NumPy version draws the same.

    Args:
        seed, picture: The whole source of chance.
        calls, layers: How many. More calls go on where fewer end.
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
    """What each picture's heads choose between.

    Args:
        tokens: Rows of `WordTokens.embeddings`, the start token first where there is one.
        padding: True beyond a picture's own tokens.
        place: Where the tokens of each concept's word stand in `tokens`; 0 where the word is shorter.
        share: 1 / (tokens of the word) at these places; 0 where the word is shorter.
    """

    tokens: Int[Tensor, "pictures tokens"]
    padding: Bool[Tensor, "pictures tokens"]
    place: Int[Tensor, "pictures concepts word_tokens"]
    share: Float[Tensor, "pictures concepts word_tokens"]

    def to(self, device: torch.device, dtype: torch.dtype) -> "PackedWords":
        """On a device, shares in a type."""
        tokens, padding, place, share = (tensor.to(device) for tensor in self)
        return PackedWords(tokens, padding, place, share.to(dtype))


class WordTokens:
    """The tokens of all concept words in one list, the start token first, and where each word's are.

    Args:
        embeddings: Of the words.

    Attributes:
        embeddings: "all_tokens dim".
        owner: Which word each token is of, "all_tokens"; −1 for the start token.
    """

    def __init__(self, embeddings: WordEmbeddings) -> None:
        known: dict[bytes, list[int]] = {}
        self.starts = len(embeddings.start)
        rows, words = [embeddings.start], []
        longest = max(len(word) for concept in embeddings.words for word in concept)
        for concept in embeddings.words:
            for word in concept:
                # Words that embed alike ("orange" the fruit and the colour) share tokens, so that their tie
                # is exact.
                alike = word.float().cpu().numpy().tobytes()
                if alike not in known:
                    first = sum(map(len, rows))
                    known[alike] = list(range(first, first + len(word)))
                    rows.append(word)
                words.append(known[alike] + [-1] * (longest - len(word)))
        self.embeddings = torch.cat(rows)
        self.owner = torch.cat([torch.full((len(row),), n - 1) for n, row in enumerate(rows)])
        self.counts = [len(concept) for concept in embeddings.words]
        self.first = np.cumsum([0, *self.counts[:-1]])
        self.words = np.array(words)  # all_words longest, −1 where a word is shorter

    def pack(self, draws: Int[np.ndarray, "pictures concepts"]) -> PackedWords:
        """The tokens of the words drawn for each picture, packed tightly."""
        tokens = self.words[self.first + draws]
        there = tokens >= 0
        after = np.cumsum(there.reshape(len(draws), -1), 1).reshape(there.shape)
        place = np.where(there, after - 1 + self.starts, 0)
        lengths = self.starts + there.sum((1, 2))
        shown = np.zeros((len(draws), lengths.max()), np.int64)
        picture = np.nonzero(there)[0]
        shown[picture, place[there]] = tokens[there]
        # A token that is shown twice is read at its first place both times: equal words get equal numbers.
        earliest = np.full((len(draws), len(self.embeddings)), shown.shape[1])
        np.minimum.at(earliest, (picture, tokens[there]), place[there])
        place[there] = earliest[picture, tokens[there]]
        padding = np.arange(shown.shape[1]) >= lengths[:, None]
        share = there / there.sum(-1, keepdims=True)
        return PackedWords(*map(torch.from_numpy, (shown, padding, place, share)))
