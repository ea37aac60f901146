"""Hooks change no image that they were not asked to change, and raise nothing but our errors."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ddim, tiny_sd
from headwise.errors import HeadwiseError
from headwise.measuring.attention_maps import AttentionMaps
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.steering.steer import weaken

WORDS = [
    "red",
    "dog",
    "a",
    "cat",
    "红",
    "色",
    "犬",
    "สุนัข",
    "café",
    "cafe\u0301",
    "don’t",
    "red_hair",
    "🐕",
    "(dog:1.2)",
]
prompts = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)
words = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    st.tuples(st.integers(-2, 30)),
)


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_sd(scheduler=ddim())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe, texts, copies, guidance_scale):
    generators = [torch.Generator().manual_seed(n) for n in range(len(texts) * copies)]
    options = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": guidance_scale}
    return pipe(texts, num_images_per_prompt=copies, generator=generators, **options).images


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(prompts, min_size=1, max_size=2),
    word=words,
    copies=st.integers(1, 2),
    guidance_scale=st.sampled_from([1.0, 7.5]),
)
def test_hooks_change_what_they_were_asked_to_and_raise_only_our_errors(
    pipe, texts, word, copies, guidance_scale
):
    plain = images(pipe, texts, copies, guidance_scale)
    for looking in (ConceptProbe(pipe, CONCEPTS), AttentionMaps()):
        try:
            with hooked(pipe, looking):
                assert torch.equal(images(pipe, texts, copies, guidance_scale), plain)
        except HeadwiseError:
            pass
    one_word = (word, *[None] * (len(texts) - 1))  # in the first prompt alone
    try:
        with hooked(pipe, weaken(HeadMap.of(pipe), range(8), list(one_word))):
            steered = images(pipe, texts, copies, guidance_scale)
    except HeadwiseError:
        steered = plain
    assert torch.allclose(steered[copies:], plain[copies:], atol=1e-6)
    assert torch.equal(images(pipe, texts, copies, guidance_scale), plain)


CONCEPTS = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "orange"]})
