"""Attend-and-Excite: loss and gradient are those of the plain formula; thresholds of 0 ask nothing."""

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler

from conftest import BUILD, TRANSFORMERS, tiny_pixart
from headwise.editing.attend_and_excite import Excite, excite
from headwise.errors import BadStrength, HeadwiseError, HookMisuse, WordNotInPrompt
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook, as_hook
from headwise.model.tokens import readings, token_positions
from helpers import relevance_for

PROMPTS, WORDS = ["a red dog on the beach", "a cat on a vase"], [["dog", "beach"], ["cat"]]
FAST = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 5.0}


def smooth(image, sigma, reach):
    """One number after the other, edges continued."""
    weights = torch.tensor(
        [
            [math.exp(-(y * y + x * x) / (2 * sigma**2)) for x in range(-reach, reach + 1)]
            for y in range(-reach, reach + 1)
        ],
        dtype=image.dtype,
    )
    weights = weights / weights.sum()
    height, width = image.shape
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            value = 0.0
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    at = image[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                    value = value + weights[dy + reach, dx + reach] * at
            row.append(value)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def naive_loss(pipe, latents, timestep, text, prompt, words, weights):
    """All maps of all heads, kept; `weights` is words × heads, or None for coarse layers."""
    kept = {}

    def keep(attend, site, q, k, v):
        kept[site.layer] = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1).unflatten(
            -2, (site.height, site.width)
        )
        return attend(q, k, v)

    with hooked(pipe.unet, keep):
        pipe.unet(latents, timestep, **text)
    return loss_of_maps(pipe, latents, kept, prompt, words, weights)


def loss_of_maps(pipe, latents, kept, prompt, words, weights, start=1):
    """The loss from the maps of each layer; the words' first token is at `start`."""
    end = len(pipe.tokenizer(prompt).input_ids) - 1
    losses = []
    for n, word in enumerate(words):
        if weights is None:
            coarse = [m[0] for m in kept.values() if m.shape[2] == 8 or hasattr(pipe, "transformer")]
            total = torch.cat(coarse).mean(0).permute(2, 0, 1)
        else:
            total, h = 0.0, 0
            for layer in range(len(kept)):
                for head in kept[layer][0]:
                    maps = head.permute(2, 0, 1)
                    ratio = maps.shape[-2] / 8
                    if ratio > 1:
                        maps = torch.stack([smooth(m, ratio / 2, math.ceil(ratio)) for m in maps])
                    if ratio != 1:
                        goal = (8, round(8 * latents.shape[-1] / latents.shape[-2]))
                        maps = F.interpolate(maps[:, None], goal, mode="bilinear", align_corners=False)[:, 0]
                    total, h = total + weights[n][h] * maps, h + 1
        said = torch.softmax(100 * total[start:end], 0)
        token = token_positions(pipe.tokenizer, prompt, word)[-1]
        losses.append(1 - smooth(said[token - start], 0.5, 1).max())
    return torch.stack(losses).max().clamp(min=0)


def caught(pipe, prompt, **options):
    """What the pipeline gives its denoiser, rows with the prompt only."""
    found = {}

    def look(module, args, kwargs):
        rows = args[0].shape[0]
        pick = lambda v: v[rows // 2 :] if torch.is_tensor(v) and v.ndim and len(v) == rows else v  # noqa: E731
        found.update(text={"encoder_hidden_states": pick(kwargs["encoder_hidden_states"])}, timestep=args[1])
        if kwargs.get("added_cond_kwargs"):
            found["text"]["added_cond_kwargs"] = {k: pick(v) for k, v in kwargs["added_cond_kwargs"].items()}

    handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    pipe(prompt, num_inference_steps=1, output_type="latent", guidance_scale=5.0, **options)
    handle.remove()
    return found


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("form", ["plain", "relevance"])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_loss_and_gradient_are_those_of_the_formula(name, form, size):
    pipe = BUILD[name](dtype=torch.float64)
    prompt, words = PROMPTS[0], WORDS[0]
    relevance = relevance_for(pipe) if form == "relevance" else None
    concepts = {"dog": "Animals", "beach": "Food"} if relevance else None
    exciting = Excite([words], relevance=relevance, concepts=concepts)
    text = caught(pipe, prompt, height=size[0], width=size[1])
    latents = torch.randn(
        1, 4, size[0] // 2, size[1] // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    seen = {}

    def probe(pipe_, step, timestep, tensors):
        if step == 0:
            moving = latents.clone().requires_grad_(True)
            with torch.enable_grad():
                loss = exciting.loss(moving, text["timestep"])
                seen["ours"] = (loss.detach(), torch.autograd.grad(loss.sum(), moving)[0])
        return tensors

    with hooked(pipe, exciting):
        pipe(
            prompt,
            num_inference_steps=2,
            height=size[0],
            width=size[1],
            callback_on_step_end=probe,
            output_type="latent",
            guidance_scale=5.0,
        )
    weights = (
        None if relevance is None else [relevance[concepts[w]] / HeadMap.of(pipe).all_heads for w in words]
    )
    moving = latents.clone().requires_grad_(True)
    loss = naive_loss(pipe, moving, text["timestep"], text["text"], prompt, words, weights)
    gradient = torch.autograd.grad(loss, moving)[0]
    assert abs(seen["ours"][0][0] - loss) < 1e-12
    assert gradient.abs().max() > 0
    assert (seen["ours"][1] - gradient).abs().max() < 1e-10 * gradient.abs().max()


def plain(pipe, prompts, seeds):
    return torch.stack(
        list(excite(pipe, prompts, Excite([["dog"]], thresholds={0.0: 0.0}), seeds=seeds, **FAST))
    )


def test_thresholds_of_0_leave_the_picture_untouched(pipe):
    from headwise.model.generate import generator_for

    generator = generator_for(7, 0)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    stock = pipe("a red dog", latents=noise, generator=generator, **FAST).images
    assert torch.equal(plain(pipe, ["a red dog"], [7]), stock)


def test_subjects_are_attended_to_more(pipe):
    exciting = Excite(WORDS, step_size=5.0)
    losses = {}
    for name, hook in (("plain", Excite(WORDS, thresholds={0.0: 0.0})), ("excited", exciting)):
        seen = losses[name] = []
        move = hook._moved

        def watch(latents, step, call, hook=hook, move=move, seen=seen):
            moved = move(latents, step, call)
            with torch.no_grad():
                seen.append(hook.loss(moved, call.scheduler.timesteps[step]))
            return moved

        hook._moved = watch
        excite(pipe, PROMPTS, hook, seeds=[0, 1], **FAST)
    assert torch.stack(losses["excited"])[:2].mean() < torch.stack(losses["plain"])[:2].mean()


def test_heads_that_work_against_a_word_do_not_count(sd):
    relevance = relevance_for(sd)
    values = relevance.values.copy()
    values[:, ::3] *= -1
    signed = replace(relevance, values=values, settings={"by": "effect"})
    floored = replace(relevance, values=np.maximum(values, 0))
    latents = [
        excite(sd, ["a red dog"], Excite([["dog"]], relevance=r, concepts="Animals"), seeds=[0], **FAST)
        for r in (signed, floored, relevance)
    ]
    assert np.array_equal(latents[0][0], latents[1][0]) and not np.array_equal(latents[0][0], latents[2][0])


def test_pictures_of_a_batch_are_moved_as_if_alone(exact_pipe):
    together = excite(exact_pipe, PROMPTS, Excite(WORDS), seeds=[0, 1], **FAST)
    alone = excite(exact_pipe, PROMPTS[1:], Excite(WORDS[1:]), seeds=[1], **FAST)
    assert torch.allclose(together[1], alone[0], atol=1e-8)


def test_the_pipeline_is_left_as_it_was(sd):
    before = [parameter.clone() for parameter in sd.unet.parameters()]
    first = plain(sd, ["a red dog"], [1])
    excite(sd, ["a red dog"], Excite([["dog"]]), seeds=[1], **FAST)
    assert all(torch.equal(a, b) for a, b in zip(before, sd.unet.parameters(), strict=True))
    assert all(p.grad is None for p in sd.unet.parameters())
    assert torch.equal(plain(sd, ["a red dog"], [1]), first)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda p: Excite([]), HeadwiseError, "No subject"),
        (lambda p: Excite([["a"], []]), HeadwiseError, "No subject"),
        (lambda p: Excite([["a"]], concepts="Color"), HookMisuse, "go together"),
        (lambda p: Excite([["a"]], thresholds={0.0: 2.0}), BadStrength, "expected 0 to 1"),
        (lambda p: excite(p, ["a dog"], Excite([["cat"]]), seeds=[0], **FAST), WordNotInPrompt, "'cat'"),
        (
            lambda p: excite(p, ["a dog"], Excite([["dog"]] * 2), seeds=[0], **FAST),
            HookMisuse,
            "Subjects of 2",
        ),
        (
            lambda p: excite(
                p,
                ["a dog"],
                Excite([["dog"]], relevance=relevance_for(p), concepts={"cat": "Animals"}),
                seeds=[0],
                **FAST,
            ),
            HeadwiseError,
            "No concept was given for 'dog'",
        ),
    ],
)
def test_refusals(sd, call, error, said):
    with pytest.raises(error, match=said):
        call(sd)


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("form", ["plain", "relevance"])
def test_on_a_transformer_padding_is_masked_and_the_first_word_counts(form):
    """T5 says no start token; all layers have the latents' grid, and are read in the plain form, too."""
    pipe, prompt, words = tiny_pixart(dtype=torch.float64), "a dog on the beach", ("dog", "beach")
    relevance = relevance_for(pipe) if form == "relevance" else None
    concepts = {"dog": "Animals", "beach": "Food"} if relevance else None
    exciting, seen = Excite([words], relevance=relevance, concepts=concepts, thresholds={}), []
    length = len(pipe.tokenizer(prompt).input_ids)

    class Check(Hook):
        def after_step(self, latents, call):
            kept, timestep = {}, call.scheduler.timesteps[call.step]

            def keep(attend, site, q, k, v):
                scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
                scores[..., length:] = -10_000
                kept[site.layer] = torch.softmax(scores, -1).unflatten(-2, (site.height, site.width))
                return attend(q, k, v)

            call.rerun(as_hook(keep), latents, timestep)
            weights = None
            if relevance is not None:
                weights = [relevance[concepts[word]] / HeadMap.of(pipe).all_heads for word in words]
            naive = loss_of_maps(pipe, latents, kept, prompt, words, weights, start=0)
            seen.append((exciting.loss(latents, timestep)[0], naive))
            return latents

    options = {"num_inference_steps": 2, "output_type": "latent", "use_resolution_binning": False}
    with hooked(pipe, exciting, Check()):
        pipe(prompt, height=16, width=16, max_sequence_length=24, **options)
    assert len(seen) == 2 and all(abs(ours - naive) < 1e-12 for ours, naive in seen)
    plain, moved = (
        excite(pipe, [prompt], hook, seeds=[1], max_sequence_length=24, **options)
        for hook in (Excite([words], thresholds={}, until=0), Excite([words]))
    )
    assert not torch.equal(plain, moved)


FLOWING = ("sd3", "flux-dev", "sana")


def flowing(name, dtype=torch.float64):
    """A pipeline of flow matching, and the options of its call."""
    pipe = TRANSFORMERS[name](dtype=dtype, scheduler=FlowMatchEulerDiscreteScheduler())
    if name != "sana":
        return pipe, {"max_sequence_length": 24}
    own = {"complex_human_instruction": None, "max_sequence_length": 40, "use_resolution_binning": False}
    return pipe, own | {"height": 32, "width": 32}


def maps_of_text(call, latents, timestep):
    """The softmax over the keys of the text alone, of every layer."""
    kept = {}

    def keep(attend, site, q, k, v):
        scores = q @ k[..., site.text, :].transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores if site.mask is None else scores + site.mask
        kept[site.layer] = torch.softmax(scores, -1).unflatten(-2, (site.height, site.width))
        return attend(q, k, v)

    call.rerun(as_hook(keep), latents, timestep)
    return kept


def blurred(maps, sigma, reach):
    """What `smooth` says, in one convolution, as there are many of these maps."""
    at = torch.arange(-reach, reach + 1, dtype=maps.dtype)
    kernel = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    padded = F.pad(maps[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def loss_among_encoders(call, kept, words, weights, resized):
    """The loss from these maps; a subject has the last of its tokens in each encoder that reads it."""
    groups = readings(call.segments, call.prompts[0], 0, call.tokens)
    bounds = [side_by_side[0].bounds for side_by_side in groups]
    among, losses = [t for start, stop in bounds for t in range(start, stop)], []
    for n, word in enumerate(words):
        total, h = 0.0, 0
        for layer in range(len(kept)):
            for head in kept[layer][0]:
                maps, weight = head.permute(2, 0, 1), weights[n][h]
                ratio = maps.shape[-1] / 8
                if resized and ratio > 1:
                    maps = blurred(maps, ratio / 2, math.ceil(ratio))
                if resized:
                    maps = F.interpolate(maps[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
                total, h = total + weight * maps, h + 1
        said = torch.softmax(100 * total[among], 0)
        last = [max(t for t in call.positions(0, word) if a <= t < b) for a, b in bounds]
        losses.append(1 - smooth(sum(said[among.index(t)] for t in last), 0.5, 1).max())
    return torch.stack(losses).max().clamp(min=0)


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("name", FLOWING)
@pytest.mark.parametrize("form", ["plain", "relevance"])
def test_with_flow_matching_loss_and_gradient_are_those_of_the_formula(name, form):
    pipe, options = flowing(name)
    prompt, words, seen = "a red dog on the beach", ("dog", "beach"), []
    relevance = relevance_for(pipe) if form == "relevance" else None
    concepts = {"dog": "Animals", "beach": "Food"} if relevance else None
    heads = HeadMap.of(pipe).all_heads
    weights = [np.ones(heads) / heads if relevance is None else relevance[concepts[w]] / heads for w in words]
    exciting = Excite([words], relevance=relevance, concepts=concepts, thresholds={}, until=0)

    class Check(Hook):
        def after_step(self, latents, call):
            timestep, resized = call.scheduler.timesteps[call.step], relevance is not None
            with torch.inference_mode(False), torch.enable_grad():
                moving = [latents.detach().double().clone().requires_grad_(True) for _ in range(2)]
                kept = maps_of_text(call, moving[1], timestep)
                losses = (
                    exciting.loss(moving[0], timestep)[0],
                    loss_among_encoders(call, kept, words, weights, resized),
                )
                pairs = zip(losses, moving, strict=True)
                seen.append((losses, [torch.autograd.grad(loss, start)[0] for loss, start in pairs]))
            return latents

    with hooked(pipe, exciting, Check()):
        pipe(prompt, num_inference_steps=2, output_type="latent", **options)
    assert len(seen) == 2
    for (ours, naive), (gradient, expected) in seen:
        assert abs(ours - naive) < 1e-12 and expected.abs().max() > 0
        assert (gradient - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("name", FLOWING)
def test_with_flow_matching_latents_are_moved_until_subjects_are_attended_to(name):
    pipe, options = flowing(name, torch.bfloat16 if name == "sana" else torch.float32)
    prompts, subjects = ["a red dog", "a cat in a vase"], [["dog"], ["cat", "vase"]]
    options |= {"num_inference_steps": 2, "output_type": "latent"}
    nothing, some = (
        torch.stack(list(excite(pipe, prompts, hook, seeds=[0, 1], **options)))
        for hook in (Excite(subjects, thresholds={0.0: 0.0}), Excite(subjects, refinements=1))
    )
    stock = torch.stack(list(generate_keys(pipe, prompts, [0, 1], **options)))
    assert torch.equal(nothing, stock)
    assert some.isfinite().all() and not torch.equal(some, nothing)
    with (
        pytest.raises(HookMisuse, match="does not work in joint attention")
        if name != "sana"
        else nullcontext()
    ):
        excite(pipe, prompts, Excite(subjects, as_published=True, refinements=1), seeds=[0, 1], **options)
