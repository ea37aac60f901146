"""Editing in transformers of flow matching, against whole maps in float64.

In SD 3 and FLUX text and pixels share one softmax; Sana has cross-attention, and linear self-attention.
"""

import math

import numpy as np
import pytest
import torch

from conftest import TRANSFORMERS, tiny_flux, tiny_sana
from headwise.editing.alignment import align
from headwise.editing.groups import generate_edits
from headwise.editing.local_blend import LocalBlend
from headwise.editing.prompt_to_prompt import PromptToPrompt, check_targets, edit
from headwise.errors import HookMisuse, LayerNotReached, Unsupported
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook, as_hook
from helpers import relevance_for

JOINT = ("sd3", "sd3.5", "flux-dev", "flux-schnell")
GROUPS = [
    ("a red dog", "a lavender dog", "a red cat on the beach"),
    ("a dog on the beach", "a cat on the beach", "a red dog on the beach"),
]
FAST = {"num_inference_steps": 4, "output_type": "latent"}


def draw(pipe, groups, *hooks, **options):
    options = {"max_sequence_length": 24} | FAST | options
    every = generate_edits(pipe, groups, hooks, seeds=range(len(groups)), **options)
    return torch.stack([torch.stack(group) for group in every])


class Explicit(Hook):
    """The naive twin: whole maps, one row, head and token at a time; each row of a joint map at 1."""

    kinds = ("cross", "joint", "self")

    def __init__(self, pipe, groups, cross, self_until, weights=None, factors=None):
        self.groups, self.cross, self.self_until = groups, cross, self_until
        self.weights, self.factors = weights or {}, factors or {}
        self.starts = [start for start, _ in HeadMap.of(pipe).slices]

    def __call__(self, attend, site, q, k, v):
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if site.mask is not None:
            hidden = site.mask.dtype == torch.bool
            scores = scores + (torch.where(site.mask, 0.0, -torch.inf) if hidden else site.mask)
        maps = torch.softmax(scores, -1)
        new, size = maps.clone(), len(self.groups[0])
        for picture in range(site.call.pictures):
            source, row = picture // size * size, site.conditional.start + picture
            if site.conditional.start == site.conditional.stop or picture == source:
                continue
            first = maps[site.conditional.start + source]
            layout = site.step / site.call.steps < self.self_until
            if site.kind == "self":
                new[row] = first if layout else maps[row]
            else:
                new[row] = self.columns(site, picture, source, first, maps[row], layout)
        return new @ v

    def columns(self, site, picture, source, first, own, layout):
        call, start = site.call, site.text.start
        done, prompts = site.step / call.steps, call.prompts
        found = align(call.segments, prompts[source], prompts[picture], call.tokens)
        spelled = {*self.cross, *self.weights, *self.factors} - {""}
        named = {w: call.positions(picture, w) for w in spelled if w in prompts[picture].split()}
        new, raised = (first if layout else own).clone(), torch.ones_like(own)
        for t in range(call.tokens):
            until = next((self.cross[w] for w in self.cross if t in named.get(w, ())), self.cross[""])
            concept = next((f for w, f in self.factors.items() if t in named.get(w, ())), None)
            new[..., start + t] = own[..., start + t]
            if done < until and concept is None and found.matrix[:, t].any():
                columns = (first[..., start + s] * found.matrix[s, t] for s in range(call.tokens))
                new[..., start + t] = sum(columns)
            elif done < until and concept is not None:
                for head in range(site.heads):
                    raised[head, :, start + t] *= concept[self.starts[site.layer] + head]
            for word, weight in self.weights.items():
                if t in named.get(word, ()):
                    raised[..., start + t] *= weight
        return (new / new.sum(-1, keepdim=True) if site.kind == "joint" else new) * raised


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_fused_attentions_are_the_joint_map_with_exchanged_columns(name, guidance):
    """Replace, refine, reweight and relevance, in windows of their own."""
    pipe = TRANSFORMERS[name](dtype=torch.float64)
    relevance = relevance_for(pipe)
    windows = {"cross": {"": 0.6, "dog": 0.3}, "weights": {"beach": 2.5}}
    ours = PromptToPrompt(
        targets=2,
        **windows,
        self_attention=0.5,
        relevance=relevance,
        concepts={"lavender": "Color", "cat": "Animals"},
        strength=1.5,
    )
    concepts = {"lavender": "Color", "cat": "Animals"}
    factors = {word: 1 + 1.5 * (relevance[concept] - 1) for word, concept in concepts.items()}
    twin = Explicit(pipe, GROUPS, windows["cross"], 0.5, windows["weights"], factors)
    options = {"guidance_scale": guidance}
    found, expected = (draw(pipe, GROUPS, hook, **options) for hook in (ours, twin))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    plain = draw(pipe, GROUPS, **options)
    assert torch.equal(found[:, 0], plain[:, 0])
    assert not torch.allclose(found[:, 1:], plain[:, 1:], atol=1e-6)


@pytest.mark.parametrize("windows", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_each_window_alone_and_both(windows):
    pipe, (cross, layout) = TRANSFORMERS["sd3"](dtype=torch.float64), windows
    ours = PromptToPrompt(targets=2, cross=cross, self_attention=layout)
    twin = Explicit(pipe, GROUPS, {"": cross}, layout)
    found, expected = (draw(pipe, GROUPS, hook) for hook in (ours, twin))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_where_the_rows_without_the_prompt_come_in_a_call_of_their_own():
    pipe = tiny_flux(dtype=torch.float64)
    options = {"true_cfg_scale": 3.0, "negative_prompt": "a vase", "guidance_scale": 2.0}
    ours = PromptToPrompt(targets=2, cross=0.6, self_attention=0.5)
    found = draw(pipe, GROUPS, ours, **options)
    expected = draw(pipe, GROUPS, Explicit(pipe, GROUPS, {"": 0.6}, 0.5), **options)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_keys_that_a_mask_hides_stay_hidden():
    """The rows of a group have masks of their own; what a row borrows is masked as the row it comes from."""
    pipe = tiny_flux(dtype=torch.float64)
    hidden = torch.ones(6, 1, 1, 24 + 16, dtype=torch.bool)
    for row in range(6):
        hidden[row, ..., 18 - row : 24] = False  # padding, the more the later the row
    ours = PromptToPrompt(targets=2, cross=0.6, self_attention=0.5)
    twin = Explicit(pipe, GROUPS, {"": 0.6}, 0.5)
    options = {"joint_attention_kwargs": {"attention_mask": hidden}}
    found, expected = (draw(pipe, GROUPS, hook, **options) for hook in (ours, twin))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    assert not torch.allclose(found, draw(pipe, GROUPS, ours), atol=1e-6)


@pytest.mark.parametrize("name", JOINT)
def test_nothing_is_exchanged_in_empty_windows_or_with_oneself(name):
    pipe = TRANSFORMERS[name]()
    plain = draw(pipe, GROUPS)
    assert torch.equal(draw(pipe, GROUPS, PromptToPrompt(targets=2, cross=0, self_attention=0)), plain)
    exact, same = TRANSFORMERS[name](dtype=torch.float64), [("a red dog", "a red dog")]
    found = draw(exact, same, PromptToPrompt(cross=1, self_attention=1))
    assert (found - draw(exact, same)).abs().max() < 1e-12


def test_a_hook_inside_that_raises_words_is_not_divided_away():
    """The sum of a row is that of its plain map."""
    pipe, group = TRANSFORMERS["sd3"](dtype=torch.float64), [("a red dog", "a red cat on the beach")]

    def double(attend, site, q, k, v):
        return attend(q, k, 2 * v)

    windows = {"cross": 0.6, "self_attention": 0.5}
    found = draw(pipe, group, PromptToPrompt(**windows), as_hook(double))
    expected = draw(pipe, group, as_hook(double), Explicit(pipe, group, {"": 0.6}, 0.5))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


class Beside(Hook):
    """Computes what two hooks make of the same layer, and goes on with the first."""

    kinds, once_per_step = ("cross", "self"), True

    def __init__(self, *hooks):
        self.hooks, self.apart = hooks, []

    def prepare(self, call):
        for hook in self.hooks:
            hook.prepare(call)

    def __call__(self, attend, site, q, k, v):
        ours, twins = (hook(attend, site, q, k, v) for hook in self.hooks)
        self.apart.append(float((ours - twins).abs().max() / twins.abs().max()))
        return ours


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
def test_in_sana_columns_are_exchanged_and_its_self_attention_has_none():
    """Layer by layer, since the pipeline rounds its latents to float32."""
    pipe = tiny_sana(dtype=torch.float64)
    relevance, groups = relevance_for(pipe), GROUPS[:1]
    windows = {"cross": {"": 0.7, "red": 0.3}, "weights": {"beach": 2.5}}
    concepts = {"lavender": "Color"}
    ours = PromptToPrompt(targets=2, **windows, relevance=relevance, concepts=concepts, strength=1.5)
    factors = {"lavender": 1 + 1.5 * (relevance["Color"] - 1)}
    beside = Beside(ours, Explicit(pipe, groups, windows["cross"], 0.0, windows["weights"], factors))
    options = {"use_resolution_binning": False, "complex_human_instruction": None, "max_sequence_length": 40}
    options |= {"num_inference_steps": 3, "guidance_scale": 5.0, "height": 32, "width": 32}
    found, plain = draw(pipe, groups, beside, **options), draw(pipe, groups, **options)
    assert len(beside.apart) == 3 * 2 and max(beside.apart) < 1e-12
    assert torch.equal(found[:, 0], plain[:, 0])
    assert not torch.allclose(found[:, 1:], plain[:, 1:], atol=1e-4)
    asked = PromptToPrompt(targets=2, self_attention=0.5)
    with pytest.raises(Unsupported, match="self-attention is linear.*Leave self_attention out"):
        draw(pipe, groups, asked, **options)
    with pytest.raises(Unsupported, match="self-attention is linear"), hooked(pipe, asked):
        pipe([*groups[0]], output_type="latent", **options)


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_local_blend_looks_at_columns_of_the_joint_map(name):
    """By hand; a hook inside, which changes what comes of attention, changes no map."""
    pipe, group = TRANSFORMERS[name](dtype=torch.float64), ("a red dog", "a red cat on the beach")
    changed = [["dog"], ["cat", "on", "the", "beach"]]
    naive = 0.0

    def look(attend, site, q, k, v):
        nonlocal naive
        maps = []
        for image in range(2):
            row = site.conditional.start + image
            shares = torch.softmax(q[row] @ k[row].transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
            tokens = [t for word in changed[image] for t in site.call.positions(image, word)]
            maps.append(shares[..., site.text][..., tokens].sum(-1).mean(0))
        naive = naive + torch.stack(maps).unflatten(-1, (site.height, site.width))
        return attend(q, k, v)

    blend, doubling = LocalBlend(threshold=0.0), as_hook(lambda attend, site, q, k, v: attend(q, k, 2 * v))
    draw(pipe, [group], blend, as_hook(look), doubling, num_inference_steps=1, guidance_scale=5.0)
    assert torch.allclose(blend._sum.double(), naive, atol=1e-6) and naive.std() > 1e-4


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "sana"])
def test_local_blend_keeps_the_source_outside_its_mask(name):
    pipe, group = TRANSFORMERS[name](), [("a red dog", "a red cat")]
    of_sana = {"use_resolution_binning": False, "height": 32, "width": 32}
    options, side = (of_sana, 16) if name == "sana" else ({}, 4 if name == "flux-dev" else 8)
    edited = draw(pipe, group, PromptToPrompt(), **options)
    everything = draw(pipe, group, PromptToPrompt(), LocalBlend(threshold=0.0, start=0.0), **options)
    assert torch.equal(everything, edited)
    nothing = draw(pipe, group, PromptToPrompt(), LocalBlend(threshold=1.0, start=0.0), **options)
    assert torch.equal(nothing[:, 1], nothing[:, 0])
    blend = LocalBlend(threshold=0.9, start=0.0)
    [[source, target]] = draw(pipe, group, PromptToPrompt(), blend, **options)
    size = (side, side)  # one mask for a patch of packed latents
    kept = (source == target).all(-1).unflatten(0, size) if source.ndim == 2 else (source == target).all(0)
    mask = blend.mask(size)
    assert torch.equal(kept, ~(mask[0] | mask[1])) and 0 < kept.sum() < kept.numel()


def test_a_hook_at_self_attention_alone_is_told_that_there_is_none():
    pipe, look = tiny_sana(), as_hook(lambda attend, site, q, k, v: attend(q, k, v), kinds=("self",))
    size = {"height": 32, "width": 32, "use_resolution_binning": False}
    with pytest.raises(LayerNotReached, match="Linear"), hooked(pipe, look):
        pipe("a dog", num_inference_steps=1, output_type="latent", **size)


def test_a_target_that_differs_in_its_last_token_is_another_where_no_end_token_is_said():
    check_targets(tiny_sana(), "a red dog", ["a red dot"])


def test_edit_draws_pictures_and_the_published_way_is_refused():
    pipe = TRANSFORMERS["flux-dev"]()
    options = {"num_inference_steps": 2, "progress": False}
    [row] = edit(pipe, "a red dog", ["a red cat"], **options)
    assert [picture.size for picture in row] == [(16, 16)] * 2
    assert not np.array_equal(*map(np.asarray, row))
    with pytest.raises(HookMisuse, match="does not work in joint attention. Leave as_published out"):
        edit(pipe, "a red dog", ["a red cat"], PromptToPrompt(as_published=True), **options)
