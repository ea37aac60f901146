"""Explaining an image: it stays the same, shares are the probe's, and maps are those of muting by hand."""

import json

import numpy as np
import pytest
import torch

import headwise as hw
from conftest import BUILD, TRANSFORMERS, ddim, tiny_sd
from headwise.errors import HeadwiseError, WordNotInPrompt
from headwise.measuring.effect import EffectProbe
from headwise.measuring.explain import explain
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.pipelines import watched
from headwise.model.words import content_words
from headwise.steering.steer import Steer
from helpers import size_of

PROMPT = "a red dog"
FAMILIES = {name: (BUILD | TRANSFORMERS)[name] for name in ("sd1", "sdxl", "pixart", "sd3", "flux-dev")}
JOINT = ("sd3", "flux-dev")
RECENT = ("z-image", "lumina2", "lumina-next", "krea2", "ernie-image")


def options_of(pipe, **options):
    if "resolution_binning" in str(type(pipe).__call__.__doc__):
        options |= {"use_resolution_binning": False, "height": 32, "width": 32}
    return {"num_inference_steps": 3, "output_type": "latent"} | options


class Inputs:
    """The inputs of each call of the denoiser, as the pipeline makes them."""

    def __init__(self, pipe):
        self.calls = []
        self.handle = denoiser_of(pipe).register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, module, args, kwargs):
        self.calls.append((args, kwargs))


def conditional(value, rows):
    """The last row, which is the one with the prompt."""
    if isinstance(value, dict):
        return {name: conditional(item, rows) for name, item in value.items()}
    return value[-1:] if isinstance(value, torch.Tensor) and value.ndim and len(value) == rows else value


def outputs(pipe, inputs, positions, factors):
    """The denoiser's output at each call with the word's tokens steered, without any pipeline around it."""
    found = []
    for args, kwargs in inputs:
        rows = len(args[0] if args else kwargs["hidden_states"])
        args, kwargs = [conditional(a, rows) for a in args], conditional(kwargs, rows)
        with torch.no_grad(), hooked(denoiser_of(pipe), Steer(factors[None], positions)):
            output = denoiser_of(pipe)(*args, **kwargs)
        found.append(output[0] if isinstance(output, tuple) else output.sample)
    return torch.cat(found)


@pytest.mark.parametrize("name", [*FAMILIES, *(name for name in RECENT if name in TRANSFORMERS)])
@pytest.mark.filterwarnings("ignore:.*clean_caption.*", "ignore:Mismatch dtype")
def test_the_image_stays_the_same_and_the_shares_are_the_probes(name):
    pipe = (BUILD | TRANSFORMERS)[name](dtype=torch.float64)
    options = options_of(pipe, **size_of(pipe))
    plain, probe = generate(pipe, [PROMPT], 3, [2], **options), EffectProbe([("red", "dog")], 2)
    with hooked(pipe, probe):
        generate(pipe, [PROMPT], 3, [2], **options)
    effect = probe.take()
    explanation = explain(pipe, PROMPT, seed=3, picture=2, points=2, **options)
    assert torch.equal(explanation.image, plain[0]) and explanation.words == ("red", "dog")
    assert np.array_equal(explanation.shares, effect.shares)
    assert explanation.completeness == pytest.approx(1, rel=0.1)
    assert np.allclose(explanation.by_layer.sum(1), explanation.completeness)
    assert np.allclose(explanation.by_step[1, 2], effect.through[0, 2, 1] / effect.whole[0, 2, 1])
    whole = effect.whole.sum((0, 1))
    assert np.allclose(explanation.strengths, np.sqrt(whole / whole.max()))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
def test_maps_are_those_of_muting_one_head_by_hand(name):
    """On the latents of the plain image: |D(1) − D(0 at h)| over channels, averaged over calls."""
    pipe = FAMILIES[name](dtype=torch.float64)
    options, head_map = options_of(pipe), HeadMap.of(pipe)
    inputs = Inputs(pipe)
    generate(pipe, [PROMPT], 0, [0], **options)
    inputs.handle.remove()
    explanation = explain(pipe, PROMPT, "red", calls=3, maps_of=2, **options)
    measured = [inputs.calls[step] for step in explanation.steps]
    assert len(measured) == 3
    positions = {"sd1": (2,), "sdxl": (2,), "pixart": (1,), "sd3": (2, 24 + 1), "flux-dev": (1,)}[name]
    ones = np.ones(head_map.all_heads)
    plain = outputs(pipe, measured, positions, ones)
    of_steps = [*explanation.maps_by_step[0], explanation.word_maps_by_step[0]]
    for head, by_step in zip((*explanation.heads[0].tolist(), None), of_steps, strict=True):
        muted = np.zeros_like(ones) if head is None else np.where(np.arange(len(ones)) == head, 0.0, 1.0)
        change = (outputs(pipe, measured, positions, muted) - plain).abs()
        change = change.sum(1) if change.ndim == 4 else change.sum(-1).unflatten(1, (4, 4))
        assert np.allclose(by_step, change.numpy(), rtol=1e-6, atol=1e-12)
        expected = change.mean(0).numpy()
        assert expected.max() > 0
        assert np.allclose(explanation.map_of("red", head), expected, rtol=1e-6, atol=1e-12)


def test_a_head_that_hands_on_nothing_has_no_share_and_an_empty_map():
    pipe = tiny_sd(dtype=torch.float64, scheduler=ddim())
    head_map = HeadMap.of(pipe)
    layer = dict(pipe.unet.named_modules())[head_map.layers[1].address]
    width = layer.to_v.weight.shape[0] // layer.heads
    with torch.no_grad():
        layer.to_v.weight[:width] = 0
    explanation = explain(pipe, PROMPT, maps_of=head_map.all_heads, **options_of(pipe))
    silent = head_map.slices[1][0]
    assert (explanation.shares[:, silent] == 0).all()
    assert (np.delete(explanation.shares, silent, 1) != 0).all()
    for word in explanation.words:
        assert explanation.map_of(word, silent).max() < 1e-14  # another batch, another rounding
        assert explanation.map_of(word, int(explanation.heads[0, 0])).max() > 1e-6


class Rows:
    """Counts the rows of the latents that pass the denoiser, in whatever way they come to it."""

    def __init__(self, pipe):
        self.count, self.with_gradient = 0, 0
        first = denoiser_of(pipe).get_submodule(HeadMap.of(pipe).layers[0].address)
        self.handle = first.register_forward_pre_hook(self.passing)

    def passing(self, module, inputs):
        self.count += len(inputs[0])
        self.with_gradient += len(inputs[0]) * torch.is_grad_enabled()


def test_the_cost_is_what_it_is_said_to_be():
    """At 50 guided steps and three words at most six plain images, a backward pass taken as two rows."""
    pipe = tiny_sd(scheduler=ddim())
    rows, options = Rows(pipe), {"num_inference_steps": 50, "output_type": "latent"}
    generate(pipe, ["a red car in color"], 0, [0], **options)
    plain, rows.count = rows.count, 0
    assert plain == 100
    explain(pipe, "a red car in color", **options)
    words, calls, points, maps = 3, 10, 1, 4
    more = words * calls * (2 + points) + calls * (1 + words * (maps + 1))
    assert rows.count == plain + more and rows.with_gradient == words * calls * points
    assert rows.count + 2 * rows.with_gradient <= 6 * plain


def test_words_are_chosen_by_what_they_are_and_refused_if_they_are_not_there():
    assert content_words("A red car of the red Dog".split()) == ("red", "car", "Dog")
    pipe = tiny_sd(scheduler=ddim())
    calls = []
    with watched(pipe, lambda: calls.append(1)):
        with pytest.raises(WordNotInPrompt, match="Its words are: a, red, dog"):
            explain(pipe, PROMPT, ["red", "blue"])
        with pytest.raises(WordNotInPrompt, match="has no word to explain"):
            explain(pipe, " ")
        with pytest.raises(HeadwiseError, match="maps_of=-1"):
            explain(pipe, PROMPT, maps_of=-1)
    assert not calls
    explanation = explain(pipe, "of a", num_inference_steps=1, output_type="latent")
    assert explanation.words == ("of", "a")


def test_what_an_explanation_says_of_its_words(tmp_path):
    pipe = tiny_sd(scheduler=ddim())
    explanation = hw.explain(pipe, PROMPT, maps_of=2, num_inference_steps=2)
    best, second = explanation.top("Red", 2)
    assert explanation.heads[0].tolist() == [best.head, second.head]
    assert best.address == HeadMap.of(pipe).address(best.head) and abs(best.share) >= abs(second.share)
    with pytest.raises(HeadwiseError, match="'car' was not explained; red, dog were"):
        explanation.top("car")
    other = next(h for h in range(8) if h not in explanation.heads[1])
    with pytest.raises(HeadwiseError, match=f"Head {other} has no map of 'dog'"):
        explanation.map_of("dog", other)
    explanation.save(tmp_path / "explanation.json")
    saved = json.loads((tmp_path / "explanation.json").read_text())
    assert [word["word"] for word in saved["words"]] == ["red", "dog"]
    assert saved["words"][0]["top"][0]["address"] == best.address
    assert np.allclose(saved["words"][0]["shares"], explanation.shares[0], rtol=1e-5)
    assert np.allclose(saved["words"][1]["maps"][1]["map"], explanation.maps[1, 1], rtol=1e-5)
    assert saved["settings"]["num_inference_steps"] == 2
