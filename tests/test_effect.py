"""Effect: shares add up, agree with differences of outputs, and are 0 where a head's output is not read."""

import numpy as np
import pytest
import torch

from conftest import BUILD, TRANSFORMERS, ddim, tiny_sd
from headwise.errors import HeadwiseError, HookMisuse, WordNotInPrompt
from headwise.measuring.effect import EffectProbe
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.steering.steer import Steer
from helpers import size_of

PROMPTS = ["a red dog", "a photo of a cat"]
FAMILIES = BUILD | TRANSFORMERS


def draw(pipe, prompts=PROMPTS, steps=2, **options):
    if "resolution_binning" in str(type(pipe).__call__.__doc__):
        options |= {"use_resolution_binning": False, "height": 32, "width": 32}
    options = {"num_inference_steps": steps, "output_type": "latent"} | size_of(pipe) | options
    return generate(pipe, prompts, 0, range(len(prompts)), **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*clean_caption.*", "ignore:Mismatch dtype")
def test_shares_add_up_to_one_and_the_image_stays_the_same(name):
    pipe = FAMILIES[name](dtype=torch.float64)
    plain, probe = draw(pipe), EffectProbe(["red", "cat"], points=5)
    with hooked(pipe, probe):
        assert torch.equal(draw(pipe), plain)
    effect = probe.take()
    assert (effect.whole > 0).all()
    # Sana's linear attention jumps where all features of a query are 0, as they sometimes are at this width.
    within = 0.05 if name == "sana" else 0.02
    assert np.allclose(effect.through.sum(-1), effect.whole, rtol=within)
    assert effect.shares.sum() == pytest.approx(1, rel=within)


class Recorded(Hook):
    """The outputs of the denoiser's first call with a word's values scaled head by head, by hand."""

    def __init__(self, factors):
        self.factors = factors

    def __call__(self, attend, site, query, key, value):
        start, stop = site.call.head_map.slices[site.layer]
        value = value.clone()
        value[:, :, 2] *= torch.tensor(self.factors[start:stop])[None, :, None]
        return attend(query, key, value)


def test_one_point_is_the_slope_of_the_output_half_way():
    """Against finite differences: ⟨D(½ + δ at h) − D(½ − δ at h), d⟩ / 2δ."""
    pipe = tiny_sd(dtype=torch.float64, scheduler=ddim())
    heads, outputs = HeadMap.of(pipe).all_heads, []

    class Differences(Hook):
        def finish(self, call):
            def output(factors):
                with torch.no_grad():
                    return call.rerun(Recorded(factors))[0]

            d = output(np.ones(heads)) - output(np.zeros(heads))
            for h in range(heads):
                step = 1e-5 * (np.arange(heads) == h)
                slope = (output(0.5 + step) - output(0.5 - step)) / 2e-5
                outputs.append(float((slope * d).sum()))

    probe = EffectProbe("red")
    with hooked(pipe, probe, Differences()):
        draw(pipe, ["a red dog"], steps=1)
    assert np.allclose(probe.take().through[0, 0, 0], outputs, rtol=1e-4, atol=1e-9)


def test_a_head_whose_output_is_not_read_has_no_effect():
    pipe = tiny_sd(scheduler=ddim())
    head_map = HeadMap.of(pipe)
    layer = dict(pipe.unet.named_modules())[head_map.layers[1].address]
    width = layer.to_out[0].weight.shape[1] // layer.heads
    with torch.no_grad():
        layer.to_out[0].weight[:, :width] = 0
    probe, silent = EffectProbe("red"), head_map.slices[1][0]
    with hooked(pipe, probe):
        plain = draw(pipe, ["a red dog"])
    (shares,) = probe.take().shares
    assert shares[silent] == 0 and np.count_nonzero(shares) == head_map.all_heads - 1
    factors = np.where(np.arange(head_map.all_heads) == silent, 0.0, 1.0)[None]
    with hooked(pipe, Steer(factors, "red", head_map=head_map)):
        assert torch.equal(draw(pipe, ["a red dog"]), plain)


def test_images_are_measured_each_for_itself():
    """The effect in a batch is that of each image alone; an image without a word adds nothing."""
    pipe = tiny_sd(dtype=torch.float64, scheduler=ddim())
    both, first = EffectProbe(["red", "cat"]), EffectProbe(["red", None])
    for probe in (both, first):
        with hooked(pipe, probe):
            draw(pipe)
    both, first = both.take(), first.take()
    assert np.allclose(both.through[0], first.through[0]) and not first.through[1].any()
    assert not first.whole[1].any()


@pytest.mark.parametrize("name", ["sd1", "sdxl", "pixart", "sd3", "flux-dev"])
@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
def test_against_a_sibling_shares_add_up_too(name):
    """At factor 0 all heads attend to the sibling's prompt, so d is the difference of both outputs."""
    pipe, outputs = FAMILIES[name](dtype=torch.float64), []

    class Outputs(Hook):
        def finish(self, call):
            with torch.no_grad():
                for images in ([0, 0], [1, 1]):
                    output = call.rerun(Hook(), images=[0, 1], latents_of=images)[0]
                    outputs.append(float((output[0] - output[1]).square().sum()))

    prompts = ["a red dog", "a cat dog"]
    probe = EffectProbe(["red", "cat"], points=5, against="sibling")
    with hooked(pipe, probe, *([Outputs()] if name in ("sd1", "pixart") else [])):
        draw(pipe, prompts, steps=1)
    effect = probe.take()
    assert (effect.whole > 0).all()
    assert np.allclose(effect.through.sum(-1), effect.whole, rtol=0.02)
    if outputs:
        assert np.allclose(effect.whole.ravel(), outputs)


def test_each_word_of_an_image_is_measured_as_if_it_were_alone():
    pipe = tiny_sd(dtype=torch.float64, scheduler=ddim())
    several = EffectProbe([("red", "dog"), ("cat",)], batch_size=2)
    alone = [EffectProbe([word, None]) for word in ("red", "dog")]
    with hooked(pipe, several, *alone):
        draw(pipe)
    effect = several.take()
    assert effect.through.shape == (2, 2, 2, HeadMap.of(pipe).all_heads)
    for w, probe in enumerate(alone):
        assert np.allclose(effect.through[0, :, w], probe.take().through[0, :, 0])
    assert not effect.whole[1, :, 1].any() and effect.whole[1, :, 0].all()
    assert np.allclose(effect.shares[1], (effect.through[0, :, 1] / effect.whole[0, :, 1, None]).mean(0))


def test_which_calls_are_measured():
    pipe = tiny_sd(scheduler=ddim())
    kinds = ({}, {"window": (0, 0.5)}, {"calls": 3}, {"calls": 2, "phases": (0.0, 0.9)})
    probes = [EffectProbe(["red", "cat"], **kind) for kind in kinds]
    with hooked(pipe, *probes):
        draw(pipe, steps=10)
    every, early, few, each = (probe.take() for probe in probes)
    for effect, calls in ((early, [range(5)] * 2), (few, [[1, 5, 8]] * 2), (each, [[0, 5], [4, 9]])):
        for image in range(2):
            measured = np.isin(range(10), list(calls[image]))
            assert np.array_equal(effect.whole[image, :, 0] > 0, measured)
            assert np.allclose(effect.through[image][measured], every.through[image][measured], rtol=1e-4)
    assert np.allclose(few.shares.sum(1), 1, atol=0.2)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "pixart", "sd3", "flux-dev"])
@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
def test_activations_computed_again_give_the_same_effect(name):
    pipe = FAMILIES[name]()
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    kept, again = (
        EffectProbe(["red", "cat"], checkpointing=False),
        EffectProbe(["red", "cat"], checkpointing=True),
    )
    with hooked(pipe, kept, again):
        draw(pipe, steps=1)
    assert np.array_equal(kept.take().through, again.take().through)
    assert not denoiser.is_gradient_checkpointing and all(p.requires_grad for p in denoiser.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_same_effect_within_its_digits(dtype):
    exact, rough = EffectProbe("red", points=3), EffectProbe("red", points=3)
    for probe, kind in ((exact, torch.float32), (rough, dtype)):
        pipe = tiny_sd(dtype=torch.float32, scheduler=ddim()).to(kind)
        with hooked(pipe, probe):
            draw(pipe, ["a red dog"], steps=1)
    exact, rough = exact.take(), rough.take()
    assert np.isfinite(rough.through).all() and rough.whole == pytest.approx(exact.whole, rel=0.1)
    assert np.corrcoef(rough.shares[0], exact.shares[0])[0, 1] > 0.98


def test_along_another_path_the_shares_are_of_another_difference():
    """From 1 to −2, as weakening takes it: d is what weakening all heads changes."""
    pipe, lengths = tiny_sd(dtype=torch.float64, scheduler=ddim()), []

    class Weakened(Hook):
        def finish(self, call):
            with torch.no_grad():
                outputs = [call.rerun(Recorded(np.full(call.head_map.all_heads, f)))[0] for f in (1.0, -2.0)]
            lengths.append(float((outputs[0] - outputs[1]).square().sum()))

    probe = EffectProbe("red", points=9, path=(1.0, -2.0))
    with hooked(pipe, probe, Weakened()):
        draw(pipe, ["a red dog"], steps=1)
    effect = probe.take()
    assert effect.whole.item() == pytest.approx(lengths[0])
    assert effect.shares.sum() == pytest.approx(1, rel=0.02)


def test_what_cannot_be_measured_is_refused(sd):
    with pytest.raises(HookMisuse, match="3 words were given for 2 images"):
        with hooked(sd, EffectProbe(["red", "cat", "dog"])):
            draw(sd)
    with pytest.raises(WordNotInPrompt, match="'blue' is not a word"):
        with hooked(sd, EffectProbe("blue")):
            draw(sd)
    with pytest.raises(HookMisuse, match="expected pairs of images"):
        with hooked(sd, EffectProbe("red", against="sibling")):
            draw(sd, ["a red dog"])
    for wrong in ({"points": 0}, {"window": (0.5, 0.5)}, {"calls": 0}):
        with pytest.raises(HeadwiseError, match="expected"):
            EffectProbe("red", **wrong)
    with pytest.raises(HookMisuse, match="measured nothing"):
        EffectProbe("red").take()
