r"""Steering without heads, a baseline: other words mixed into a word, equally in every head of every layer.

The embedding x of a word's tokens becomes

    x' = a x + Σ_j w[j] x[j]

where the x[j] are the embeddings of other words of the intended concept, averaged over their tokens. There
are two choices of w, each up to a factor:

    span          the least-squares solution of Σ_j w[j] x[j] = x: the projection of the word onto the
                  span of the concept's words
    neighbours    softmax(cos(x, x[j]) / τ): the nearer a word of the concept, the larger its weight

Keys and values of cross-attention are mixed in place of embeddings, which is equivalent where they are linear
in the text, as in the UNets of Stable Diffusion.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwise.errors import HeadMapMismatch, HeadwiseError, HookMisuse
from headwise.measuring.concepts import ConceptSet
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["MIXTURES", "Mixture", "WordMixture", "mixed_words", "neighbour_weights", "span_weights"]

TEMPERATURE = 0.1  # τ, in units of the cosine
Mixture = Literal["span", "neighbours"]


def span_weights(
    word: Float[np.ndarray, " dim"], others: Float[np.ndarray, "words dim"]
) -> Float[np.ndarray, " words"]:
    """The least-squares weights that approximate a word by other words; of several, the smallest."""
    return np.linalg.lstsq(others.T, word, rcond=None)[0]


def neighbour_weights(
    word: Float[np.ndarray, " dim"], others: Float[np.ndarray, "words dim"]
) -> Float[np.ndarray, " words"]:
    """The softmax over other words of their cosine with a word, divided by the temperature."""
    cosines = others @ word / (np.linalg.norm(others, axis=1) * np.linalg.norm(word))
    weights = np.exp((cosines - cosines.max()) / TEMPERATURE)
    return weights / weights.sum()


MIXTURES: Mapping[Mixture, Callable[..., np.ndarray]] = {
    "span": span_weights,
    "neighbours": neighbour_weights,
}


def mixed_words(
    pipe: Any, mixture: Mixture, words: Sequence[str], concept: Sequence[Sequence[str]],
    keep: float = 0.0, factor: float = 1.0,
) -> "WordMixture":  # fmt: skip
    """Mix words of a concept into a word of each prompt.

    Args:
        pipe: The pipeline that will be hooked, whose text encoders encode each word alone.
        mixture: "span" or "neighbours".
        words: The word of each prompt.
        concept: The words of each word's concept; the word itself is left out.
        keep: The share a of its own embedding that the word keeps.
        factor: A factor on the weights.

    Raises:
        HeadwiseError: A concept has no word other than the one to be mixed into.
        HeadMapMismatch: As in `WordMixture`.
    """
    mixtures = []
    for word, of_concept in zip(words, concept, strict=True):
        others = [each for each in dict.fromkeys(of_concept) if each.casefold() != word.casefold()]
        if not others:
            raise HeadwiseError(f"The concept to be mixed into {word!r} has no other word. Add words to it.")
        (of_word,), of_others = (_means(pipe, some) for some in ([word], others))
        weights = factor * MIXTURES[mixture](of_word, of_others)
        mixtures.append(dict(zip(others, weights.tolist(), strict=True)))
    return WordMixture(pipe, words, mixtures, keep)


class WordMixture(Hook):
    """A hook that mixes other words into a word of each prompt.

    Args:
        pipe: The pipeline that will be hooked.
        words: The word of each prompt.
        mixtures: The other words of each, with their weights w.
        keep: The share a of its own keys and values that the word keeps.

    Raises:
        HeadMapMismatch: The pipeline reads text by joint attention, in which keys of text depend on pixels.
        WordNotInPrompt: When the pipeline runs, as in `strengthen`.
    """

    kinds = ("cross",)

    def __init__(
        self, pipe: Any, words: Sequence[str], mixtures: Sequence[Mapping[str, float]], keep: float = 0.0
    ) -> None:
        if any(layer.kind == "joint" for layer in HeadMap.of(pipe)):
            raise HeadMapMismatch(
                f"{type(pipe).__name__} reads text by joint attention, in which a word's keys and values "
                "depend on the pixels. Words can be mixed in cross-attention only."
            )
        self.words, self.keep = list(words), keep
        vocabulary = list(dict.fromkeys(other for mixture in mixtures for other in mixture))
        self.weights = torch.tensor(
            [[mixture.get(other, 0.0) for other in vocabulary] for mixture in mixtures], dtype=torch.float64
        )
        embeddings = ConceptSet({"words": vocabulary}).embed(pipe)
        self.starts = len(embeddings.start)
        self.text = torch.cat(
            [embeddings.start, *(word.mean(0, keepdim=True) for word in embeddings.words[0])]
        )
        self._places: list[tuple[int, ...]] = []
        self._mixed: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values of each image, by layer

    def prepare(self, call: DenoiserCall) -> None:
        """Find the words, and read the other words' keys and values at the first step of a call."""
        if not call.prompted:
            return
        if call.encode_text is None:
            raise HookMisuse("The mixture was prepared outside `hooked`. Enter the context first.")
        if len(self.words) != call.pictures:
            raise HookMisuse(
                f"{len(self.words)} words were given for {call.pictures} images. Give one for each prompt."
            )
        self._places = [call.positions(picture, word) for picture, word in enumerate(self.words)]
        if call.step == 0 or not self._mixed:
            read: dict[int, tuple[Tensor, Tensor]] = {}

            def reading(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                read[site.layer] = (key[0], value[0])
                return attend(query, key, value)

            call.encode_text(reading, self.text, 1)
            self._mixed = {layer: (self._mix(key), self._mix(value)) for layer, (key, value) in read.items()}

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the mixed keys and values."""
        if site.conditional.start == site.conditional.stop:
            return attend(query, key, value)
        key, value = key.clone(), value.clone()
        for row in range(site.conditional.start, site.conditional.stop):
            picture = site.picture[row]
            for states, mixed in zip((key, value), self._mixed[site.layer], strict=True):
                places = list(self._places[picture])
                states[row, :, places] = self.keep * states[row, :, places] + mixed[picture][:, None].to(
                    states
                )
        return attend(query, key, value)

    def _mix(self, states: Float[Tensor, "heads words dim"]) -> Float[Tensor, "images heads dim"]:
        """The weighted sum of the other words' keys or values, for each image."""
        others = states[:, self.starts :]
        return torch.einsum("pw,hwd->phd", self.weights.to(others), others)


def _means(pipe: Any, words: Sequence[str]) -> Float[np.ndarray, "words dim"]:
    """The embedding of each word, the mean over its tokens."""
    (encoded,) = ConceptSet({"words": list(words)}).embed(pipe).words
    return np.stack([tokens.double().mean(0).cpu().numpy() for tokens in encoded])
