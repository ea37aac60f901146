"""A word excites the heads of what it means: put to the test with relevance that is known."""

import numpy as np
import pytest

from conftest import TRANSFORMERS
from headwise.errors import HeadwiseError, WordNotInPrompt
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.model.heads import HeadMap
from headwise.steering.suggest import suggest
from helpers import relevance_for

OPTIONS = {"num_inference_steps": 2, "progress": False}


def test_the_concept_with_the_words_own_heads_comes_first(exact_pipe):
    """A concept that was given the word's own relevance, and one that was given its reverse."""
    words = {"Animals": ("dog", "cat"), "Color": ("red", "vase"), "Things": ("car",)}
    rest = words | {"Color": ("red",)}  # the word itself stands back from its concept
    options = OPTIONS | {"prompts": ["a red vase"], "pictures": 8}
    options["beside"] = None
    own = measure(exact_pipe, ConceptSet([*rest.items(), ("the word vase", ("vase",))]), **options)
    mine = own["the word vase"]
    assert mine.any() and len(set(mine)) > 2
    known = Relevance(
        np.stack([mine.max() - mine, mine, np.ones_like(mine)]),
        np.full((3, len(mine)), np.nan),
        np.full(3, np.nan),
        tuple(words),
        HeadMap.of(exact_pipe),
        {"concepts": [[name, list(of)] for name, of in words.items()]},
    )
    found = suggest(exact_pipe, known, "a red vase", "vase", pictures=8, **OPTIONS)
    assert [suggestion.concept for suggestion in found] == ["Color", "Things", "Animals"]
    assert [suggestion.fit for suggestion in found] == pytest.approx([1.0, 0.0, -1.0])


def test_rank_correlation_is_of_ranks():
    a = np.array([[1.0, 2.0, 3.0, 10.0], [1.0, 1.0, 1.0, 1.0]])
    assert rank_correlation(a, a**3).tolist() == pytest.approx([1.0, 0.0])
    assert rank_correlation(a, -a)[0] == pytest.approx(-1.0)


def test_a_word_is_looked_for_where_the_denoiser_reads():
    """Beyond what FLUX's CLIP reads, of which no token goes to the denoiser."""
    pipe = TRANSFORMERS["flux-schnell"]()
    found = ConceptSet({"Animals": ["dog"], "Color": ["red"]})
    relevance = measure(pipe, found, beside=None, pictures=1, num_inference_steps=1, progress=False)
    prompt = "a photo of a car in color of " * 4 + "a vase"
    options = OPTIONS | {"pictures": 1, "num_inference_steps": 1}
    assert {s.concept for s in suggest(pipe, relevance, prompt, "vase", **options)} == {"Animals", "Color"}


def test_refusals(sd):
    relevance = relevance_for(sd)
    with pytest.raises(WordNotInPrompt, match="'blue' is not a word of"):
        suggest(sd, relevance, "a red dog", "blue", **OPTIONS)
    with pytest.raises(HeadwiseError, match="does not record the words of its concepts"):
        suggest(sd, relevance, "a red dog", "dog", **OPTIONS)
