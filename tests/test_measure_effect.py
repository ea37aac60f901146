"""Measuring by effect: the ratio estimator against its twin, runs that resume, shards, workers, prompts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwise as hw
from conftest import BUILD, TRANSFORMERS, ddim, tiny_sd
from headwise.errors import HeadwiseError, PictureCountedTwice, RunMismatch, UnreadablePrompts, VotesMismatch
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.effect import EffectProbe
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.measure_effect import measure_effect
from headwise.measuring.merge import merge
from headwise.measuring.relevance import Relevance
from headwise.measuring.word_prompts import Templates, WordPrompt, fill, word_prompts
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.heads import HeadMap, Layer

CONCEPTS = {"Color": ["red", "blue"], "Animals": ["dog", "cat"]}
PROMPTS = {
    "Color": [("a red dog", "red"), ("a blue dog", "blue")],
    "Animals": [("a photo of a dog", "dog"), ("a photo of a cat", "cat")],
}
OPTIONS = {"prompts": PROMPTS, "calls": None, "num_inference_steps": 2, "batch_size": 2, "progress": False}
HEADS = HeadMap((Layer("down_blocks.0.attentions.0.transformer_blocks.0.attn2", 3, "cross"),))


def sd():
    return tiny_sd(dtype=torch.float64, scheduler=ddim())


@pytest.fixture(scope="module")
def measured():
    return measure_effect(sd(), CONCEPTS, pictures=3, **OPTIONS)


def test_relevance_is_the_mean_of_the_probes_shares(measured):
    pipe, shares = sd(), {}
    for number in range(6):
        concept = list(CONCEPTS)[number % 2]
        prompt, word = PROMPTS[concept][number // 2 % 2]
        probe = EffectProbe(word)
        with hooked(pipe, probe):
            generate_keys(pipe, [prompt], [(0, number)], num_inference_steps=2, output_type="latent")
        effect = probe.take()
        shares.setdefault(concept, []).append((effect.through / effect.whole[..., None])[0, :, 0].mean(0))
    for concept in CONCEPTS:
        expected = measured.head_map.all_heads * np.mean(shares[concept], 0)
        assert np.allclose(measured[concept], expected, rtol=1e-5, atol=1e-6)
    assert measured.kind == "effect"
    assert measured.settings["completeness"] == pytest.approx(measured.values.mean(1), abs=1e-4)


def samples(through, whole, numbers):
    nothing = EffectSamples.empty(HEADS, ConceptSet(CONCEPTS), {"seed": 0})
    return EffectSamples.of_pictures(np.array(through), np.array(whole), numbers, nothing)


def drawn(seed, pictures, first=0):
    rng = np.random.default_rng(seed)
    numbers = range(first, first + pictures)
    return samples(rng.normal(1, 1, (pictures, 2, 3)), rng.uniform(1, 2, (pictures, 2)), numbers)


def test_standard_errors_are_those_of_the_jackknife():
    """Against the relevance computed anew without each image."""
    all_ = drawn(0, 10)
    for c in range(2):
        mine = [n for n in all_.numbers if n % 2 == c]
        without = []
        for left_out in mine:
            kept = [n for n in mine if n != left_out]
            through, whole = (array[kept].astype(np.float64) for array in (all_.through, all_.whole))
            without.append(3 * (through / whole[..., None]).mean((0, 1)))
        n, without = len(mine), np.array(without)
        expected = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
        assert np.allclose(all_.standard_errors[c], expected)


def test_a_law_without_noise_is_recovered_exactly():
    """Where every image has the same shares, whatever its size, errors are 0 and halves agree."""
    shares = np.array([0.7, 0.4, -0.1])
    whole = np.random.default_rng(0).uniform(1, 9, (8, 2))
    exact = samples(whole[..., None] * shares, whole, range(8))
    assert np.allclose(exact.relevance, 3 * shares, rtol=1e-6) and np.allclose(exact.completeness, 1)
    assert np.allclose(exact.standard_errors, 0, atol=1e-5) and np.allclose(exact.split_half, 1)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 10))
def test_joining_is_exact_in_any_order(order, seed):
    parts = [drawn(seed + i, 2, 2 * i) for i in range(4)]
    joined = sum((parts[i] for i in order[1:]), start=parts[order[0]])
    expected = sum(parts[1:], start=parts[0])
    assert joined == expected and np.array_equal(joined.relevance, expected.relevance)
    assert joined + EffectSamples.empty(HEADS, ConceptSet(CONCEPTS), {"seed": 0}) == joined
    assert EffectSamples.unpack(joined.pack()) == joined


def test_what_cannot_be_joined():
    with pytest.raises(PictureCountedTwice, match="Both measured image 1"):
        _ = drawn(0, 2) + drawn(1, 2, 1)
    other = EffectSamples.empty(HEADS, ConceptSet(CONCEPTS), {"seed": 1})
    with pytest.raises(VotesMismatch, match="seed"):
        _ = drawn(0, 2) + other


def test_a_run_goes_on_where_it_ended_and_shards_give_the_same(measured, tmp_path):
    def stop(done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_effect(sd(), CONCEPTS, pictures=3, out=tmp_path / "run", **OPTIONS | {"progress": stop})
    assert len(EffectSamples.load(tmp_path / "run" / "effect.safetensors")) == 4
    again = measure_effect(sd(), CONCEPTS, pictures=3, out=tmp_path / "run", **OPTIONS)
    for i, numbers in enumerate((range(0, 2), range(2, 6))):
        measure_effect(
            sd(), CONCEPTS, pictures=3, numbers=numbers, out=tmp_path / "shards" / str(i), **OPTIONS
        )
    merge([tmp_path / "shards" / str(i) for i in (1, 0)], tmp_path / "merged")
    merged = Relevance.of(tmp_path / "merged")
    assert np.array_equal(again.values, measured.values) and np.array_equal(merged.values, measured.values)
    assert np.array_equal(merged.standard_errors, measured.standard_errors)
    with pytest.raises(RunMismatch, match="points is 1 there and 3 here"):
        measure_effect(sd(), CONCEPTS, pictures=3, points=3, out=tmp_path / "run", **OPTIONS)


def test_steps_can_be_told_apart(measured):
    whole = measured.at_steps(0, 1)
    assert np.allclose(whole.values, measured.values) and whole.kind == "effect"
    early, late = measured.at_steps(0, 0.5), measured.at_steps(0.5, 1)
    assert np.allclose((early.values + late.values) / 2, measured.values)
    assert not np.allclose(early.values, late.values)
    assert np.isnan(early.standard_errors).all()


def test_a_file_keeps_everything(measured, tmp_path):
    measured.save(tmp_path / "relevance.safetensors")
    assert Relevance.load(tmp_path / "relevance.safetensors") == measured


def test_one_call_of_each_picture_is_measured_whatever_the_batch():
    options = OPTIONS | {"calls": 1, "num_inference_steps": 4}
    one, three = (
        measure_effect(sd(), CONCEPTS, pictures=4, **options | {"batch_size": size}) for size in (1, 3)
    )
    assert np.allclose(one.values, three.values, rtol=1e-4, atol=1e-5)
    assert one.by_decile[..., -1].sum(0).tolist() == [4, 4] and (one.by_decile[..., -1].sum(1) > 0).sum() > 1


def test_until_stops_at_a_round():
    done = []
    measure_effect(
        sd(), CONCEPTS, pictures=20, until=0.01, **OPTIONS | {"progress": lambda n, total: done.append(n)}
    )
    assert done[-1] % 8 == 0 and done[-1] < 40


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sd3", "flux-dev"])
def test_families_are_measured(name):
    relevance = measure_effect((BUILD | TRANSFORMERS)[name](), CONCEPTS, pictures=1, points=3, **OPTIONS)
    assert np.isfinite(relevance.values).all() and relevance.values.mean(1) == pytest.approx(1, abs=0.35)


def test_against_a_sibling_each_picture_has_two_prompts():
    relevance = measure_effect(sd(), CONCEPTS, pictures=2, against="sibling", points=3, **OPTIONS)
    assert relevance.values.mean(1) == pytest.approx(1, abs=0.1)
    with pytest.raises(HeadwiseError, match="'Color' has one word"):
        measure_effect(sd(), {"Color": ["red"]}, against="sibling", **OPTIONS)


def test_templates_say_every_word_in_turn():
    templates = Templates(
        {"Color": ["a {word} {thing}"], "Time": ["a {thing} at {word}", "a {thing} in the morning"]},
        things=("hat", "jeans", "apple"), without_article=("jeans",), as_written=("Place",),
        forms={"mountain": "mountains"}, default=("in the {word}",),
    )  # fmt: skip
    color = templates.prompts("Color", ["Orange", "red"])
    assert sorted(color) == [
        ("a red apple", "red"), ("a red hat", "red"), ("an orange apple", "orange"),
        ("an orange hat", "orange"), ("orange jeans", "orange"), ("red jeans", "red"),
    ]  # fmt: skip
    assert {color[0].word, color[1].word} == {"orange", "red"}
    time = templates.prompts("Time", ["night", "morning"])
    assert {p.prompt for p in time if p.word == "morning"} == {
        "a hat in the morning", "jeans in the morning", "an apple in the morning",
    }  # fmt: skip
    assert templates.prompts("Place", ["Rome", "mountain"])[0].word in ("Rome", "mountains")
    assert fill("a {word}", {"word": "hour"}) == "a hour"


@pytest.mark.parametrize("name", ["emoji", "paper34"])
def test_packaged_templates_say_every_concepts_words(name):
    concepts, templates = ConceptSet.load(name), Templates.load(name)
    for concept in concepts:
        prompts = templates.prompts(concept, concepts.words(concept))
        assert all(word in prompt for prompt, word in prompts)
        assert len({word for _, word in prompts}) == len(concepts.words(concept))


def test_words_are_looked_for_in_prompts_and_what_lacks_them_is_refused(tmp_path):
    pipe, concepts = sd(), ConceptSet(CONCEPTS)
    file = tmp_path / "prompts.txt"
    file.write_text("a Red dog\na cat\n")
    found = word_prompts(concepts, None, file, pipe)
    assert found == {
        "Color": [WordPrompt("a Red dog", "Red")],
        "Animals": [WordPrompt("a Red dog", "dog"), WordPrompt("a cat", "cat")],
    }
    with pytest.raises(UnreadablePrompts, match="No prompt contains a word of 'Color'"):
        word_prompts(concepts, None, ["a cat"], pipe)
    mine = tmp_path / "mine.toml"
    mine.write_text('[concepts]\nColor = ["red"]\n[templates]\nColor = ["{word} sky"]\n')
    assert word_prompts(ConceptSet.load(mine), mine, None, pipe) == {"Color": [("red sky", "red")]}


def test_the_public_name():
    assert hw.measure_effect is measure_effect
