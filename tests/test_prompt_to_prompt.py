"""Prompt-to-prompt: a sum of two attentions is the map with exchanged columns; edits leave sources alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import BUILD, tiny_pixart, tiny_sd
from headwise.editing.alignment import align
from headwise.editing.baselines.composable import compose
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.groups import generate_edits
from headwise.editing.local_blend import LocalBlend
from headwise.editing.prompt_to_prompt import PromptToPrompt, check_targets, edit
from headwise.errors import BadStrength, HeadwiseError, HookMisuse, PromptsNotAlike, WordNotInPrompt
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook, as_hook
from headwise.model.tokens import TextSegment, token_positions
from headwise.steering.dose import amplify
from headwise.steering.steer import strengthen
from helpers import relevance_for

STEPS = 4
GROUPS = [
    ("a red dog", "a lavender dog", "a red cat on the beach"),
    ("a dog on the beach", "a cat on the beach", "a red dog on the beach"),
]
FAST = {"num_inference_steps": STEPS, "output_type": "latent"}


def draw(pipe, groups, *hooks, **options):
    return torch.stack(
        [
            torch.stack(g)
            for g in generate_edits(pipe, groups, hooks, seeds=range(len(groups)), **FAST | options)
        ]
    )


class Explicit(Hook):
    """The naive twin: whole maps, one image, head and token at a time, nothing kept from call to call."""

    kinds = ("cross", "self")

    def __init__(self, pipe, groups, cross, self_until, weights=None, factors=None):
        self.tokenizer, self.groups, self.cross, self.self_until = pipe.tokenizer, groups, cross, self_until
        self.weights, self.factors = weights or {}, factors or {}
        self.masked = hasattr(pipe, "transformer")  # whose padding is masked, and which has one grid
        self.starts = [start for start, _ in HeadMap.of(pipe).slices]

    def maps(self, site, q, k):
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.masked and site.kind == "cross":
            prompts = [p.lower() for group in self.groups for p in group]
            prompts = [""] * site.conditional.start + prompts  # negative prompts come first
            for row, prompt in zip(scores, prompts, strict=True):
                row[..., len(self.tokenizer(prompt).input_ids) :] = -10_000
        return torch.softmax(scores, -1)

    def __call__(self, attend, site, q, k, v):
        maps = self.maps(site, q, k)
        done, first = site.step / site.call.steps, site.conditional.start
        new = maps.clone()
        for g, group in enumerate(self.groups):
            source = first + g * len(group)
            for n, target in enumerate(group[1:], 1):
                if site.kind == "self":
                    coarse = site.height * site.width * 16 <= site.call.grid[0] * site.call.grid[1]
                    if done < self.self_until and (coarse or self.masked):
                        new[source + n] = maps[source]
                else:
                    new[source + n] = self.columns(
                        site, maps[source], maps[source + n], group[0], target, done
                    )
        return new @ v

    def columns(self, site, source, own, source_prompt, target_prompt, done):
        found = align((TextSegment(self.tokenizer),), source_prompt, target_prompt, own.shape[-1])
        named = {
            w: self.positions(target_prompt, w) for w in {*self.cross, *self.weights, *self.factors} - {""}
        }
        new = own.clone()
        for t in range(own.shape[-1]):
            until = next((self.cross[w] for w in self.cross if w and t in named[w]), self.cross[""])
            concept = next((f for w, f in self.factors.items() if t in named[w]), None)
            if done < until and concept is None and found.matrix[:, t].any():
                new[..., t] = sum(source[..., s] * found.matrix[s, t] for s in range(own.shape[-1]))
            elif done < until and concept is not None:
                for head in range(site.heads):
                    new[head, :, t] *= concept[self.starts[site.layer] + head]
            for word, weight in self.weights.items():
                if t in named[word]:
                    new[..., t] *= weight
        return new

    def positions(self, prompt, word):
        return token_positions(self.tokenizer, prompt, word) if word in prompt.split() else ()


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_two_attentions_are_the_map_with_exchanged_columns(exact_pipe, guidance):
    relevance = relevance_for(exact_pipe)
    ours = PromptToPrompt(
        targets=2,
        cross={"": 0.6, "dog": 0.3},
        self_attention=0.5,
        coarse=1 / 16,
        weights={"beach": 2.5},
        relevance=relevance,
        concepts={"lavender": "Color", "cat": "Animals"},
        strength=1.5,
    )
    factors = {w: 1 + 1.5 * (relevance[c] - 1) for w, c in (("lavender", "Color"), ("cat", "Animals"))}
    twin = Explicit(exact_pipe, GROUPS, {"": 0.6, "dog": 0.3}, 0.5, {"beach": 2.5}, factors)
    found, expected = (draw(exact_pipe, GROUPS, hook, guidance_scale=guidance) for hook in (ours, twin))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    plain = draw(exact_pipe, GROUPS, guidance_scale=guidance)
    assert not torch.allclose(found[:, 1:], plain[:, 1:], atol=1e-6)  # something was edited at all


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_two_attentions_are_the_map_in_transformers_too_whose_padding_is_masked(guidance):
    """Prompts of a group have other lengths, so that each row's keys are masked as those of its prompt."""
    pipe = tiny_pixart(dtype=torch.float64)
    relevance = relevance_for(pipe)
    windows = {"cross": {"": 0.6}, "self_attention": 0.5}
    ours = PromptToPrompt(
        targets=2, **windows, relevance=relevance, concepts={"cat": "Animals"}, strength=1.5
    )
    twin = Explicit(pipe, GROUPS, {"": 0.6}, 0.5, factors={"cat": 1 + 1.5 * (relevance["Animals"] - 1)})
    options = {"guidance_scale": guidance, "use_resolution_binning": False, "max_sequence_length": 24}
    found, expected = (draw(pipe, GROUPS, hook, **options) for hook in (ours, twin))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    plain = draw(pipe, GROUPS, **options)
    assert not torch.allclose(found[:, 1:], plain[:, 1:], atol=1e-6)
    assert torch.equal(found[:, 0], plain[:, 0])
    looking = as_hook(lambda attend, site, q, k, v: attend(q, k, v))
    for beside in ((looking, ours), (ours, looking)):
        assert torch.equal(draw(pipe, GROUPS, *beside, **options), found)


def test_a_word_is_strengthened_by_the_rule_of_the_relevance(sd):
    votes = relevance_for(sd)
    by_effect = replace(votes, settings={"by": "effect"})
    for relevance, rule in ((votes, strengthen), (by_effect, amplify)):
        edited = PromptToPrompt(relevance=relevance, concepts={"red": "Color"}, strength=0.5)
        assert np.array_equal(edited.factors["red"], rule(relevance, "red", "Color", 0.5).factors[0])


@pytest.mark.parametrize("name", BUILD)
def test_sources_are_left_alone(name):
    pipe = BUILD[name]()
    hooks = (PromptToPrompt(targets=2), FreePrompt(targets=2), MasaCtrl(targets=2))
    plain = draw(pipe, GROUPS)
    for hook in hooks:
        assert torch.equal(draw(pipe, GROUPS, hook)[:, 0], plain[:, 0]), hook


def test_empty_windows_change_no_bit(pipe):
    nothing = PromptToPrompt(targets=2, cross=0, self_attention=0)
    assert torch.equal(draw(pipe, GROUPS, nothing), draw(pipe, GROUPS))


def test_replacing_a_prompt_by_itself_is_the_identity():
    pipe, same = tiny_sd(dtype=torch.float64), [("a red dog", "a red dog")]
    found = draw(pipe, same, PromptToPrompt(cross=1, self_attention=1))
    assert (found[:, 1] - draw(pipe, same)[:, 1]).abs().max() < 1e-12


def test_whole_windows_keep_the_source_but_for_values(sd):
    """The longer the windows, the nearer a target is to its source."""
    group = [("a red dog", "a red cat")]

    def distance(share):
        pictures = draw(sd, group, PromptToPrompt(cross=share, self_attention=share, coarse=1))
        return float((pictures[0, 1] - pictures[0, 0]).abs().mean())

    assert distance(1) < distance(0)


def test_a_group_is_drawn_as_if_it_were_alone(exact_pipe):
    together = draw(exact_pipe, GROUPS, PromptToPrompt(targets=2))
    alone = generate_edits(exact_pipe, GROUPS[1:], [PromptToPrompt(targets=2)], seeds=[1], **FAST)
    assert torch.allclose(together[1], torch.stack(alone[0]), atol=1e-10)


def test_edit_draws_source_and_targets_of_every_seed(sd):
    before = sd.unet.conv_in.weight.clone()
    found = edit(
        sd,
        "a red dog",
        ["a red cat", "a lavender dog"],
        seeds=(3, 4, 5),
        progress=False,
        num_inference_steps=2,
    )
    assert [len(row) for row in found] == [3, 3, 3]
    assert all(isinstance(picture, Image.Image) for row in found for picture in row)
    one = edit(
        sd, "a red dog", ["a red cat", "a lavender dog"], seeds=(4,), progress=False, num_inference_steps=2
    )
    difference = np.abs(np.asarray(found[1][1], float) - np.asarray(one[0][1], float))
    assert difference.max() <= 1 and torch.equal(before, sd.unet.conv_in.weight)


def test_local_blend_keeps_the_source_outside_its_mask(sd):
    group = [("a red dog", "a red cat")]
    everything = draw(sd, group, PromptToPrompt(), LocalBlend(threshold=0.0, start=0.0))
    assert torch.equal(everything, draw(sd, group, PromptToPrompt()))
    nothing = draw(sd, group, PromptToPrompt(), LocalBlend(threshold=1.0, start=0.0))
    assert torch.equal(nothing[:, 1], nothing[:, 0])
    some = draw(sd, group, PromptToPrompt(), LocalBlend(threshold=0.9, start=0.0))[0]
    kept = (some[0] == some[1]).all(0)
    assert 0 < kept.sum() < kept.numel()


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
def test_local_blend_looks_at_plain_maps_whose_padding_is_masked():
    """By hand, on a transformer; a hook inside, which changes what comes of attention, changes no map."""
    pipe, group = tiny_pixart(dtype=torch.float64), ("a red dog", "a red cat on the beach")
    changed = [[2], [2, 3, 4, 5]]  # dog; cat on the beach
    naive, words = 0.0, [prompt.split() for prompt in group]

    def look(attend, site, q, k, v):
        nonlocal naive
        maps = []
        for image, prompt in enumerate(group):
            row = site.conditional.start + image
            scores = q[row] @ k[row].transpose(-1, -2) / math.sqrt(q.shape[-1])
            scores[..., len(pipe.tokenizer(prompt).input_ids) :] = -10_000
            tokens = [t for n in changed[image] for t in site.call.positions(image, words[image][n])]
            maps.append(torch.softmax(scores, -1)[..., tokens].sum(-1).mean(0))
        naive = naive + torch.stack(maps).unflatten(-1, (site.height, site.width))
        return attend(q, k, v)

    blend, doubling = LocalBlend(threshold=0.0), as_hook(lambda attend, site, q, k, v: attend(q, k, 2 * v))
    options = {"num_inference_steps": 1, "use_resolution_binning": False, "max_sequence_length": 24}
    draw(pipe, [group], blend, as_hook(look), doubling, **options, guidance_scale=5.0)
    assert torch.allclose(blend._sum.double(), naive, atol=1e-6)


def test_every_baseline_runs_on_every_pipeline(pipe):
    plain = draw(pipe, GROUPS)
    block = next(
        n
        for n, m in pipe.unet.named_modules()
        if n.startswith("up_blocks") and type(m).__name__ == "ResnetBlock2D"
    )
    for baseline in (
        FreePrompt(targets=2, layers=(0, 1)),
        MasaCtrl(targets=2),
        PlugAndPlay(targets=2, block=block),
    ):
        found = draw(pipe, GROUPS, baseline)
        assert torch.equal(found[:, 0], plain[:, 0]) and not torch.equal(found[:, 1], plain[:, 1]), baseline
        assert torch.equal(draw(pipe, GROUPS), plain)


def test_masactrl_from_the_start_in_all_layers_looks_only_at_the_source(sd):
    """With all features handed on too, nothing is left of a target's own self-attention."""
    seen = []

    def look(attend, site, q, k, v):
        seen.append((site.kind, float((k[1] - k[0]).abs().max())))
        return attend(q, k, v)

    look = as_hook(look, kinds=("self",))
    draw(sd, [("a red dog", "a red cat")], MasaCtrl(start=0, first_layer=0), look, guidance_scale=1.0)
    assert seen and all(kind == "self" and difference == 0 for kind, difference in seen)


def test_sdedit_and_composition_draw_pictures(sd):
    source = Image.new("RGB", (16, 16), "red")
    drawn = sdedit(sd, [source], ["a red dog"], strength=0.5, seeds=[0], num_inference_steps=4)
    assert drawn[0].size == source.size
    again = compose(sd, ["a red dog", "a cat"], seeds=[0, 1], num_inference_steps=2)
    assert len(again) == 2 and again[0].size == (16, 16)


def test_self_attention_hooks_meet_every_block_once(pipe):
    seen = []

    def look(attend, site, q, k, v):
        seen.append(site.address)
        assert site.kind == "self" and k.shape[-2] == q.shape[-2] == site.height * site.width
        return attend(q, k, v)

    with hooked(pipe, as_hook(look, kinds=("self",))):
        pipe("a dog", num_inference_steps=1, output_type="latent")
    head_map = HeadMap.of(pipe)
    assert sorted(seen) == sorted(layer.address for layer in head_map)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda p: edit(p, "a red dog", ["a  red dog"]), PromptsNotAlike, "nothing to edit"),
        (lambda p: edit(p, "red dog", ["blue vase"]), PromptsNotAlike, "no word in common"),
        (lambda p: edit(p, "a red dog", []), HeadwiseError, "No target"),
        (
            lambda p: edit(p, "a dog", ["a cat"], PromptToPrompt(weights={"vase": 2}), progress=False),
            WordNotInPrompt,
            "'vase'",
        ),
        (lambda p: PromptToPrompt(cross=1.5), BadStrength, "expected 0 to 1"),
        (lambda p: PromptToPrompt(concepts={"a": "Color"}), HookMisuse, "without relevance"),
        (lambda p: LocalBlend(threshold=2), BadStrength, "expected 0 to 1"),
        (
            lambda p: edit(p, "a dog", ["a cat"], PromptToPrompt(targets=2), progress=False),
            HookMisuse,
            "2 targets",
        ),
        (
            lambda p: edit(p, "a dog", ["a cat"], PlugAndPlay(block="nowhere"), progress=False),
            HookMisuse,
            "does not have",
        ),
    ],
)
def test_refusals(sd, call, error, said):
    with pytest.raises(error, match=said):
        call(sd)


LONG = "a photo of a red car in a vase " * 3  # longer than the tokenizer's 24


def test_targets_that_are_read_as_the_source_are_refused(sd):
    with pytest.raises(PromptsNotAlike, match="nothing to edit.*words beyond its length"):
        edit(sd, LONG + "dog", [LONG + "cat"], progress=False)
    with pytest.raises(PromptsNotAlike, match='reads "A red DOG" like the source'):
        edit(sd, "a red dog", ["A red DOG"], progress=False)


def test_targets_that_are_read_alike_are_warned_of(sd):
    with pytest.warns(UserWarning, match="alike, so their images will be the same"):
        check_targets(sd, "a photo of a dog", [LONG + "dog", LONG + "cat"])
    check_targets(sd, "a red dog", ["a red cat", "a red cat", "a red vase"])


def test_by_default_grids_of_eight_by_eight_are_coarse_on_small_latents_too(sd):
    """On latents of 8² and less a sixteenth of the positions would leave no layer to exchange."""
    group = [("a red dog", "a blue dog")]
    windows = {"cross": 0, "self_attention": 1}
    by_default = draw(sd, group, PromptToPrompt(**windows))
    assert torch.equal(by_default, draw(sd, group, PromptToPrompt(**windows, coarse=1)))
    assert not torch.equal(by_default, draw(sd, group, PromptToPrompt(**windows, coarse=0)))
