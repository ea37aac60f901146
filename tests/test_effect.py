"""Effect: shares add up, agree with differences of outputs, and are 0 where a head is never heard."""

import numpy as np
import pytest
import torch

from conftest import BUILD, TRANSFORMERS, ddim, tiny_sd
from headwise.errors import HookMisuse, WordNotInPrompt
from headwise.measuring.effect import EffectProbe
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.steering.steer import Steer

PROMPTS = ["a red dog", "a photo of a cat"]
FAMILIES = BUILD | TRANSFORMERS


def draw(pipe, prompts=PROMPTS, steps=2, **options):
    if "resolution_binning" in str(type(pipe).__call__.__doc__):
        options |= {"use_resolution_binning": False, "height": 32, "width": 32}
    options = {"num_inference_steps": steps, "output_type": "latent"} | options
    return generate(pipe, prompts, 0, range(len(prompts)), **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
def test_shares_add_up_to_one_and_the_image_stays_the_same(name):
    pipe = FAMILIES[name](dtype=torch.float64)
    plain, probe = draw(pipe), EffectProbe(["red", "cat"], points=5)
    with hooked(pipe, probe):
        assert torch.equal(draw(pipe), plain)
    effect = probe.take()
    assert (effect.whole > 0).all()
    # Sana's linear attention jumps where all features of a query are 0, as they sometimes are at this width.
    within = 0.05 if name == "sana" else 0.02
    assert np.allclose(effect.through.sum(1), effect.whole, rtol=within)
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
    assert np.allclose(probe.take().through[0], outputs, rtol=1e-4, atol=1e-9)


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
    shares = probe.take().shares
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
    assert first.whole[1] == 0


def test_what_cannot_be_measured_is_refused(sd):
    with pytest.raises(HookMisuse, match="3 words were given for 2 images"):
        with hooked(sd, EffectProbe(["red", "cat", "dog"])):
            draw(sd)
    with pytest.raises(WordNotInPrompt, match="'blue' is not a word"):
        with hooked(sd, EffectProbe("blue")):
            draw(sd)
    with pytest.raises(HookMisuse, match="measured nothing"):
        EffectProbe("red").take()
