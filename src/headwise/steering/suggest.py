r"""Which concept does a word mean here? The one whose heads the word's own tokens excite.

The word joins the probe as a concept of its own, beside one word of every other concept, and the heads vote
while the prompt's picture is made. (Where it is a word of a concept itself, that concept does without it: no
word can outvote itself.) With v the relevance of the word so measured, and R[c] that of concept c,

    fit[c] = Spearman rank correlation over heads of v and R[c]

so users need not know "Color" from "Material".
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
from headwise.model.tokens import token_positions

__all__ = ["Suggestion", "suggest"]


class Suggestion(NamedTuple):
    """A concept, and how alike its heads and the word's are: −1 … 1."""

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
    """The concepts, best first, whose heads a word of the prompt excites.

    Args:
        pipe: The user's pipeline; it is left as it was.
        relevance: Measured on it; it knows which words its concepts had.
        prompt, word: The word must be one of the prompt's.
        pictures: How many are drawn to look at.
        seed, batch_size, num_inference_steps, guidance_scale, progress: As in `measure`.
    """
    token_positions(pipe.tokenizer, prompt, word)  # refuses a word that is not there
    if "concepts" not in relevance.settings:
        raise HeadwiseError("This relevance does not say which words its concepts had. Measure it anew.")
    relevance.require(HeadMap.of(pipe))
    mine = f"the word {word}"
    measured = measure(
        pipe,
        ConceptSet([*_without(relevance.settings["concepts"], word), (mine, (word,))]),
        prompts=[prompt],
        pictures=pictures,
        seed=seed,
        batch_size=batch_size,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        progress=progress,
    )
    fits = rank_correlation(np.broadcast_to(measured[mine], relevance.values.shape), relevance.values)
    found = [Suggestion(name, float(fit)) for name, fit in zip(relevance.concepts, fits, strict=True)]
    return sorted(found, key=lambda suggestion: -suggestion.fit)


def _without(concepts: Sequence[Sequence[Any]], word: str) -> list[tuple[str, tuple[str, ...]]]:
    """The concepts without this word, those that it leaves with none left out."""
    rest = [(name, tuple(w for w in words if w.casefold() != word.casefold())) for name, words in concepts]
    return [(name, words) for name, words in rest if words]
