r"""Suggest which concept a word of a prompt means: the one whose heads attend to the word's tokens.

The word is added to the probe as a concept of one word, beside one word of every other concept, and heads
vote while images of the prompt are generated. (If it is also a word of a concept, it is left out there, so
that it does not compete with itself.) With v the relevance of the word so measured, and R[c] that of
concept c,

    fit[c] = Spearman rank correlation over heads of v and R[c]

so users need not choose between "Color" and "Material" themselves.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.model.heads import HeadMap
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import positions_in

__all__ = ["Suggestion", "suggest"]


class Suggestion(NamedTuple):
    """A concept that a word may mean.

    Args:
        concept: The name of the concept.
        fit: The rank correlation over heads between the concept and the word, −1 … 1.
    """

    concept: str
    fit: float


def suggest(
    pipe: Any,
    relevance: Relevance,
    prompt: str,
    word: str,
    *,
    pictures: int = 4,
    seed: int = 0,
    batch_size: int = 1,
    num_inference_steps: int = 10,
    guidance_scale: float | int = 7.5,
    progress: bool = True,
) -> list[Suggestion]:
    """The concepts whose heads attend to a word of the prompt, best first.

    Args:
        pipe: The user's pipeline; it is left unchanged.
        relevance: A relevance measured on it, whose settings record the words of its concepts.
        prompt: The prompt.
        word: A word of the prompt.
        pictures: The number of images generated to measure the word.
        seed: The seed of the images.
        batch_size: Images per pipeline call.
        num_inference_steps: Denoiser calls per image.
        guidance_scale: The weight of classifier-free guidance, as the pipeline takes it.
        progress: Whether to show a bar on stderr.

    Raises:
        WordNotInPrompt: The word is not in the prompt.
        HeadMapMismatch: The relevance was measured on other heads.
        HeadwiseError: The relevance does not record the words of its concepts.
    """
    positions_in(text_segments(pipe), prompt, word)  # refuses a word that is not there
    if "concepts" not in relevance.settings:
        raise HeadwiseError("This relevance does not record the words of its concepts. Measure it again.")
    relevance.require(HeadMap.of(pipe))
    name = f"the word {word}"
    measured = measure(
        pipe,
        ConceptSet([*_without(relevance.settings["concepts"], word), (name, (word,))]),
        beside=None,
        prompts=[prompt],
        pictures=pictures,
        seed=seed,
        batch_size=batch_size,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        progress=progress,
    )
    fits = rank_correlation(np.broadcast_to(measured[name], relevance.values.shape), relevance.values)
    suggestions = [
        Suggestion(concept, float(fit)) for concept, fit in zip(relevance.concepts, fits, strict=True)
    ]
    return sorted(suggestions, key=lambda suggestion: -suggestion.fit)


def _without(concepts: Sequence[Sequence[Any]], word: str) -> list[tuple[str, tuple[str, ...]]]:
    """The concepts without this word; a concept with no other word is left out."""
    others = [(name, tuple(w for w in words if w.casefold() != word.casefold())) for name, words in concepts]
    return [(name, words) for name, words in others if words]
