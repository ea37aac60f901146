"""Every baseline against a naive twin of its own equations: float64, one image at a time, every map made."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ddim, tiny_sd
from headwise.editing.baselines.composable import compose
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.baselines.table import BASELINES, OFFERED
from headwise.editing.groups import generate_edits
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys, generator_for, start_of
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook

STEPS, GUIDANCE = 4, 5.0
FAST = {"num_inference_steps": STEPS, "output_type": "latent"}
GROUPS = [
    ("a red dog", "a lavender dog", "a red cat on the beach"),
    ("a dog on the beach", "a cat on the beach", "a red dog on the beach"),
]


class Twin(Hook):
    """Self-attention by its maps, row by row: `rule(site)` says what a target takes from its source."""

    kinds = ("self",)

    def __init__(self, rule, group=3):
        self.rule, self.group = rule, group

    def __call__(self, attend, site, q, k, v):
        takes, out = self.rule(site), []
        for row in range(len(q)):
            picture = row % site.call.pictures
            source = row - picture + picture // self.group * self.group
            of_map, of_key, of_value = {
                "nothing": (row, row, row), "map": (source, source, row), "content": (row, source, source)
            }[takes]  # fmt: skip
            weights = torch.exp(q[of_map] @ k[of_key].transpose(-1, -2) / math.sqrt(q.shape[-1]))
            out.append(weights / weights.sum(-1, keepdim=True) @ v[of_value])
        return torch.stack(out)


def edits(pipe, *hooks, **options):
    rows = generate_edits(pipe, GROUPS, hooks, seeds=[0, 1], **FAST | options)
    return torch.stack([torch.stack(list(row)) for row in rows])


def assert_twins(pipe, ours, twin, guidance):
    by_hook, by_hand = (edits(pipe, hook, guidance_scale=guidance) for hook in (ours, twin))
    assert (by_hook - by_hand).abs().max() < 1e-11 * by_hand.abs().max()
    plain = edits(pipe, guidance_scale=guidance)
    assert not torch.allclose(by_hook[:, 1:], plain[:, 1:], atol=1e-6)  # something was edited at all


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_free_prompt_exchanges_maps_in_the_middle_layers_and_first_calls(exact_pipe, guidance):
    layers = len(HeadMap.of(exact_pipe))

    def rule(site):
        early = site.step * 2 < site.call.steps
        return "map" if early and layers / 4 <= site.layer < layers * 7 / 8 else "nothing"

    assert_twins(exact_pipe, FreePrompt(targets=2), Twin(rule), guidance)


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_masactrl_attends_to_the_source_in_late_layers_and_calls(exact_pipe, guidance):
    layers = len(HeadMap.of(exact_pipe))

    def rule(site):
        late = site.step >= 0.5 * site.call.steps
        return "content" if late and site.layer >= layers / 2 else "nothing"

    assert_twins(exact_pipe, MasaCtrl(targets=2, start=0.5, first_layer=0.5), Twin(rule), guidance)


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_plug_and_play_exchanges_features_and_upward_maps(exact_pipe, guidance):
    block = next(
        name
        for name, module in exact_pipe.unet.named_modules()
        if name.startswith("up_blocks") and type(module).__name__ == "ResnetBlock2D"
    )

    class PlugAndPlayTwin(Twin):
        """The features by hand, too."""

        features = (block,)

        def prepare(self, call):
            self.call = call

        def feature(self, output):
            if self.call.step >= 0.75 * self.call.steps:
                return output
            pictures = self.call.pictures
            return torch.stack([output[row - row % pictures % 3] for row in range(len(output))])

    def rule(site):
        early = site.step < 0.5 * site.call.steps
        return "map" if early and "up_blocks" in site.address else "nothing"

    ours = PlugAndPlay(targets=2, features_until=0.75, attention_until=0.5, block=block)
    assert_twins(exact_pipe, ours, PlugAndPlayTwin(rule), guidance)
    only_features = PlugAndPlay(targets=2, features_until=0.75, attention_until=0, block=block)
    assert not torch.equal(edits(exact_pipe, only_features), edits(exact_pipe))


def ddim_step(pipe, x, noise, t, steps=STEPS):
    """x_{t−1} = √ᾱ_{t−1} (x_t − √(1−ᾱ_t) ε)/√ᾱ_t + √(1−ᾱ_{t−1}) ε"""
    before = t - 1000 // steps
    now = float(pipe.scheduler.alphas_cumprod[t])
    then = float(pipe.scheduler.alphas_cumprod[before]) if before >= 0 else 1.0
    clean = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
    return math.sqrt(then) * clean + math.sqrt(1 - then) * noise


def near(a, b):
    """Equal but for the scheduler's ᾱ, and pixels, which are prepared in float32."""
    return (a - b).abs().max() < 1e-6 * b.abs().max()


def embedding(pipe, prompt):
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0]


@torch.no_grad()
def naive_composition(pipe, parts, seed, sign=1):
    """ε = ε_∅ + Σ w (ε_i − ε_∅), one prediction at a time."""
    w = GUIDANCE / math.sqrt(len(parts))
    pipe.scheduler.set_timesteps(STEPS)
    x = torch.randn(4, 8, 8, generator=generator_for(seed, 0))[None].double()
    for t in pipe.scheduler.timesteps.tolist():
        empty = pipe.unet(x, t, encoder_hidden_states=embedding(pipe, "")).sample
        total = empty
        for prompt in parts:
            alone = pipe.unet(x, t, encoder_hidden_states=embedding(pipe, prompt)).sample
            total = total + sign * w * (alone - empty)
        x = ddim_step(pipe, x, total, t)
    return x[0]


def test_composition_adds_up_the_predictions():
    pipe, parts = tiny_sd(dtype=torch.float64, scheduler=ddim()), ["a red dog", "a cat", "a vase"]
    found = compose(pipe, parts, seeds=[5, 6], guidance_scale=GUIDANCE, **FAST)
    for image, seed in zip(found, [5, 6], strict=True):
        assert near(image, naive_composition(pipe, parts, seed))
        assert not near(image, naive_composition(pipe, parts, seed, sign=-1))


def test_composition_of_one_part_is_the_pipeline():
    pipe = tiny_sd(dtype=torch.float64)
    alone = compose(pipe, ["a red dog"], seeds=[5], guidance_scale=GUIDANCE, **FAST)[0]
    stock = generate_keys(pipe, ["a red dog"], [5], guidance_scale=GUIDANCE, **FAST)[0]
    assert torch.allclose(alone, stock, atol=1e-9)


@torch.no_grad()
def naive_sdedit(pipe, image, target, seed, strength):
    """√ᾱ x_0 + √(1−ᾱ) ε at the share `strength` of the schedule, then denoised under the target's prompt."""
    generator = generator_for(seed, 0)
    encoded = pipe.vae.encode(pipe.image_processor.preprocess(image).double()).latent_dist
    draw = lambda: torch.randn(encoded.mean.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    clean = (encoded.mean + encoded.std * draw()) * pipe.vae.config.scaling_factor
    pipe.scheduler.set_timesteps(STEPS)
    timesteps = pipe.scheduler.timesteps.tolist()[STEPS - int(strength * STEPS) :]
    alpha = float(pipe.scheduler.alphas_cumprod[timesteps[0]])
    x = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * draw()
    for t in timesteps:
        empty, told = (
            pipe.unet(x, t, encoder_hidden_states=embedding(pipe, text)).sample for text in ("", target)
        )
        x = ddim_step(pipe, x, empty + GUIDANCE * (told - empty), t)
    return x[0]


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_sdedit_noises_and_denoises(strength):
    pipe = tiny_sd(dtype=torch.float64, scheduler=ddim())
    levels = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    images, targets = [Image.fromarray(image) for image in levels], ["a red dog", "a cat"]
    options = FAST | {"guidance_scale": GUIDANCE, "strength": strength}
    found = sdedit(pipe, images, targets, seeds=[3, 4], **options)
    for n, seed in enumerate((3, 4)):
        wanted = naive_sdedit(pipe, images[n], targets[n], seed, strength)
        assert near(found[n], wanted)
        other = naive_sdedit(pipe, images[n], targets[1 - n], seed, strength)
        assert not near(found[n], other)


@pytest.mark.parametrize("name", BASELINES)
def test_the_table_makes_every_baseline(name):
    pipe, images = tiny_sd(), [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    baseline = BASELINES[name]
    sources, targets = ["a red dog", "a cat"], ["a red cat", "a vase"]
    found = baseline.edit(pipe, sources, targets, images, seeds=[1, 2], num_inference_steps=2)
    assert [image.size for image in found] == [(16, 16)] * 2
    if baseline.is_hook:
        groups, hook = list(zip(sources, targets, strict=True)), baseline.object(**baseline.options)
        rows = generate_edits(pipe, groups, [hook], seeds=[1, 2], num_inference_steps=2)
        assert all(np.array_equal(a, row[1]) for a, row in zip(found, rows, strict=True))


def test_composition_generates_an_image_per_seed():
    found = compose(tiny_sd(), ["a red dog", "a cat"], seeds=[0, (1, 3)], num_inference_steps=2)
    assert [image.size for image in found] == [(16, 16)] * 2


def test_each_method_is_offered_once_and_the_hooks_first():
    assert list(OFFERED) == ["prompt-to-prompt", "plug-and-play", "masactrl", "free-prompt", "sdedit"]
    assert OFFERED["sdedit"].options == {"strength": 0.5}


def test_a_key_is_a_seed_and_a_picture(sd):
    """The same key is the same image in each way to generate."""
    options = FAST | {"guidance_scale": GUIDANCE}
    keyed = generate_keys(sd, ["a red dog", "a cat"], [(5, 3), (5, 0)], **options)
    latents, generators = start_of(sd, [(5, 3), 5])
    with hooked(sd, Hook()):
        stock = sd(["a red dog", "a cat"], latents=latents, generator=generators, **options).images
    assert torch.equal(keyed, stock)
    edited = generate_edits(sd, [["a red dog"], ["a cat"]], [], seeds=[(5, 3), 5], **options)
    assert torch.equal(torch.stack([row[0] for row in edited]), keyed)


def test_plug_and_play_finds_the_block_of_its_paper_or_one_like_it():
    resnets = [f"up_blocks.{b}.resnets.{r}" for b in range(4) for r in range(3)]
    assert PlugAndPlay().features_among(["conv_in", *resnets]) == ("up_blocks.1.resnets.1",)
    one_level = [f"up_blocks.0.resnets.{r}" for r in range(6)]
    assert PlugAndPlay().features_among(one_level) == ("up_blocks.0.resnets.2",)
    assert PlugAndPlay(block="mid_block.resnets.0").features_among(one_level) == ("mid_block.resnets.0",)
