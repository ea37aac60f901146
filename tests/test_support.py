"""What a method does not work on is refused before anything is generated, wherever it is asked for."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import headwise as hw
from conftest import BUILD, TRANSFORMERS
from headwise.benchmarks.editing import EDITING
from headwise.benchmarks.multi_concept import COMPOSING
from headwise.editing.baselines.composable import compose
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.baselines.table import BASELINES
from headwise.editing.patch import Patch
from headwise.errors import Unsupported
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from helpers import PAIRS, SEVERAL, Stub

EVERY = BUILD | TRANSFORMERS
ONE_OF_A_KIND = ("pixart", "sana", "sd3", "flux-dev")
GROUP_HOOKS = (hw.PromptToPrompt, hw.LocalBlend, MasaCtrl, FreePrompt, PlugAndPlay)
SIZES = {"pixart": {"use_resolution_binning": False}, "sana": {"use_resolution_binning": False}}
PICTURE = Image.new("RGB", (16, 16), "red")


def never_called(pipe, monkeypatch):
    """The pipeline, whose denoiser may not be called."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    monkeypatch.setattr(denoiser, "forward", lambda *a, **k: pytest.fail("something was generated"))
    return pipe


def relevance_of(pipe):
    head_map = HeadMap.of(pipe)
    votes = np.random.default_rng(0).integers(1, 50, (2, head_map.all_heads))
    return Relevance.from_votes(votes, ("Color", "Animals"), head_map)


def benchmark_by_name(benchmark, pipe, prompts, method):
    return benchmark(pipe, relevance_of(pipe), prompts, Stub(), methods=[method], progress=False)


EVERYWHERE = {"PromptToPrompt", "LocalBlend", "Excite"}
WORKS = dict.fromkeys(ONE_OF_A_KIND, EVERYWHERE) | {"pixart": EVERYWHERE | {"MasaCtrl", "FreePrompt"}}


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_transformers_are_refused_before_anything_is_generated(name, monkeypatch):
    """What works on some of them, `WORKS`, is tested elsewhere."""
    pipe = never_called(TRANSFORMERS[name](), monkeypatch)
    options, works = {"seeds": [0], "num_inference_steps": 2}, WORKS.get(name, set())
    refused = [hook for hook in GROUP_HOOKS if hook.__name__ not in works]
    calls = [partial(hw.edit, pipe, "a red dog", ["a red cat"], hook(), **options) for hook in refused]
    calls += [
        partial(compose, pipe, ["a dog", "a cat"], **options),
        partial(benchmark_by_name, hw.benchmark_editing, pipe, PAIRS, "plug-and-play"),
        partial(benchmark_by_name, hw.benchmark_multi_concept, pipe, SEVERAL, "composable"),
    ]
    calls += [
        partial(baseline.edit, pipe, ["a red dog"], ["a red cat"], [PICTURE], **options)
        for baseline in BASELINES.values()
        if baseline.is_hook and baseline.object.__name__ not in works
    ]
    for call in calls:
        with pytest.raises(Unsupported, match=f"works on Stable Diffusion 1, 2.*{type(pipe).__name__}"):
            call()


@pytest.mark.parametrize("hook", [MasaCtrl, FreePrompt, PlugAndPlay], ids=repr)
@pytest.mark.parametrize("name", ["sd3", "sana"])
def test_hooks_are_refused_under_hooked_too(name, hook):
    pipe = TRANSFORMERS[name]()
    sizes = SIZES.get(name, {"height": 16, "width": 16})
    with pytest.raises(hw.HeadwiseError), hooked(pipe, hook()):
        pipe(["a red dog", "a red cat"], num_inference_steps=1, output_type="latent", **sizes)


@pytest.mark.parametrize("name", ["pixart", "sana"])
def test_patching_acts_on_transformers_with_cross_attention(name):
    pipe = TRANSFORMERS[name]()
    options = {"num_inference_steps": 1, "output_type": "latent", **SIZES[name]}

    def latents(*hooks):
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        with hooked(pipe, *hooks):
            return pipe(["a red dog", "a red cat"], generator=generators, **options).images

    plain, patched = latents(), latents(Patch(np.ones((1, HeadMap.of(pipe).all_heads), bool)))
    assert torch.equal(plain[0], patched[0]) and not torch.equal(plain[1], patched[1])


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_patching_is_refused_in_joint_attention(name):
    pipe = TRANSFORMERS[name]()
    with (
        pytest.raises(Unsupported, match=r"Patching works on"),
        hooked(pipe, Patch(np.ones((1, HeadMap.of(pipe).all_heads), bool))),
    ):
        pipe(["a dog", "a cat"], num_inference_steps=1, output_type="latent", height=16, width=16)


@pytest.mark.parametrize("name", ("sdxl", *ONE_OF_A_KIND))
def test_sdedit_works_wherever_diffusers_edits_images(name):
    pipe = EVERY[name]()
    edited = partial(
        sdedit, pipe, [PICTURE], ["a red cat"], seeds=[0], num_inference_steps=2, output_type="np"
    )
    if name in ("pixart", "sana"):
        with pytest.raises(
            Unsupported, match=r"SDEdit works on Stable Diffusion 1, 2, XL, Stable Diffusion 3, FLUX"
        ):
            edited()
    else:
        assert np.isfinite(edited()).all()


def test_composition_is_of_text_alone(monkeypatch):
    pipe = never_called(BUILD["sdxl"](), monkeypatch)
    with pytest.raises(Unsupported, match="Composable diffusion works on Stable Diffusion 1, 2, but not"):
        compose(pipe, ["a dog", "a cat"], seeds=[0])


@pytest.mark.parametrize("name", ["sd1"])
def test_hooks_of_ones_own_are_never_refused(name):
    pipe = BUILD[name]()
    look = lambda attend, site, query, key, value: attend(query, key, value)  # noqa: E731
    assert len(hw.edit(pipe, "a red dog", ["a red cat"], look, num_inference_steps=1, progress=False)[0]) == 2


def test_benchmarks_leave_out_what_does_not_work_on_a_transformer():
    pipe = hw.load_pipeline("emoji-dit")
    options = {"seeds": (0,), "num_inference_steps": 2, "progress": False}
    relevance, pairs = relevance_of(pipe), [pair._replace(attribute="Color") for pair in PAIRS]
    with pytest.warns(UserWarning) as noted:
        edited = hw.benchmark_editing(pipe, relevance, pairs, Stub(), **options)
        several = hw.benchmark_multi_concept(pipe, relevance, SEVERAL, Stub(), **options)
    left_out = {str(each.message).partition(" is left out: ")[0] for each in noted}
    assert left_out == {"plug-and-play", "sdedit 0.5", "sdedit 0.7", "composable"}
    assert set(edited.methods) == {*EDITING} - left_out
    assert set(several.methods) == {*COMPOSING} - left_out
    assert np.isfinite(edited.scores.values).all() and np.isfinite(several.scores.values).all()
