"""Mixing other words into a word: the sums that are claimed, and nothing else in the image touched."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import headwise as hw
from conftest import tiny_flux, tiny_sd
from headwise.errors import HeadMapMismatch, HeadwiseError, HookMisuse, WordNotInPrompt
from headwise.measuring.concepts import ConceptSet
from headwise.model.heads import denoiser_of
from headwise.steering.word_mixture import WordMixture, mixed_words, neighbour_weights, span_weights

WORDS = ["red", "blue", "green"]
FAST = {"num_inference_steps": 2, "output_type": "latent"}


def latents(pipe, prompts, *hooks):
    with hw.hooked(pipe, *hooks):
        return hw.generate(pipe, prompts, 0, range(len(prompts)), **FAST)


def test_keys_and_values_are_the_sum_that_is_claimed():
    pipe = tiny_sd()
    denoiser_of(pipe).double(), pipe.text_encoder.double()
    prompts, mixtures = ["a red dog", "a cat and a dog"], [{"blue": 0.5, "green": -1.0}, {"blue": 2.0}]
    seen = {}

    def spy(name):
        def look(attend, site, query, key, value):
            seen.setdefault(name, {}).setdefault((site.step, site.layer), (key, value, site))
            return attend(query, key, value)

        return look

    latents(pipe, prompts, WordMixture(pipe, ["red", "cat"], mixtures, keep=0.25), spy("mixed"))
    latents(pipe, prompts, spy("plain"))
    of_word = {
        w: e.double().mean(0)
        for w, e in zip(WORDS, ConceptSet({"c": WORDS}).embed(pipe).words[0], strict=True)
    }
    for step, layer in seen["plain"]:
        if step:
            continue  # later steps' queries differ, though not their keys
        key, value, site = seen["plain"][step, layer]
        for row in range(site.conditional.start, site.conditional.stop):
            picture = site.picture[row]
            places = list(site.call.positions(picture, ("red", "cat")[picture]))
            for which, make in enumerate((site.module.to_k, site.module.to_v)):
                expected = (key, value)[which][row].clone()
                mixed = sum(w * make(of_word[word]) for word, w in mixtures[picture].items())
                heads = mixed.unflatten(-1, (expected.shape[0], -1))
                expected[:, places] = 0.25 * expected[:, places] + heads[:, None]
                assert torch.allclose(seen["mixed"][step, layer][which][row], expected, atol=1e-10)
        for row in range(site.conditional.start):  # the rows without the prompt
            assert torch.equal(seen["mixed"][step, layer][0][row], key[row])


def test_a_word_that_keeps_all_of_itself_is_left_bit_for_bit(sd):
    plain = latents(sd, ["a red dog"])
    assert torch.equal(latents(sd, ["a red dog"], WordMixture(sd, ["red"], [{"blue": 0.0}], keep=1.0)), plain)
    assert not torch.equal(latents(sd, ["a red dog"], WordMixture(sd, ["red"], [{"blue": 1.0}])), plain)


def test_one_row_of_a_batch_is_its_prompt_alone(sd):
    both = latents(sd, ["a red dog", "a blue cat"], mixed_words(sd, "span", ["red", "blue"], [WORDS, WORDS]))
    first = latents(sd, ["a red dog"], mixed_words(sd, "span", ["red"], [WORDS]))
    assert torch.allclose(both[:1], first, atol=1e-5)


def test_the_word_itself_is_not_mixed_in(sd):
    assert mixed_words(sd, "neighbours", ["Red"], [WORDS]).weights.shape == (1, 2)
    mixture = mixed_words(sd, "neighbours", ["red"], [WORDS], factor=0.5)
    assert mixture.weights.shape == (1, 2) and mixture.weights.sum() == pytest.approx(0.5)


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_span_is_a_projection(seed, count):
    rng = np.random.default_rng(seed)
    word, others = rng.normal(size=8), rng.normal(size=(count, 8))
    left = word - span_weights(word, others) @ others
    assert np.abs(others @ left).max() < 1e-8  # what is left is orthogonal to every other word
    inside = rng.normal(size=count) @ others
    assert np.allclose(span_weights(inside, others) @ others, inside)


@given(st.integers(0, 10_000))
def test_nearer_neighbours_weigh_more(seed):
    rng = np.random.default_rng(seed)
    word, others = rng.normal(size=8), rng.normal(size=(5, 8))
    weights = neighbour_weights(word, others)
    cosines = others @ word / np.linalg.norm(others, axis=1)
    assert weights.sum() == pytest.approx(1) and np.array_equal(np.argsort(weights), np.argsort(cosines))
    assert np.allclose(neighbour_weights(3 * word, others), weights)  # a word's length does not count


def test_what_cannot_be_mixed_is_refused(sd):
    with pytest.raises(HeadwiseError, match="has no other word"):
        mixed_words(sd, "span", ["red"], [["red"]])
    with pytest.raises(HeadMapMismatch, match="joint attention"):
        WordMixture(tiny_flux(), ["red"], [{"blue": 1.0}])
    with pytest.raises(WordNotInPrompt, match="'green' is not a word of"):
        latents(sd, ["a red dog"], WordMixture(sd, ["green"], [{"blue": 1.0}]))
    with pytest.raises(HookMisuse, match="2 words were given for 1 images"):
        latents(sd, ["a red dog"], WordMixture(sd, ["red", "dog"], [{"blue": 1.0}, {"blue": 1.0}]))
