"""Hooks in a denoiser in which others have switched something on: right, or refused in a sentence."""

import subprocess
import sys
from pathlib import Path

import diffusers.hooks as caching
import pytest
import torch
from diffusers.hooks import apply_pyramid_attention_broadcast
from PIL import Image

from conftest import TRANSFORMERS, ddim, tiny_sd, tiny_sd3
from headwise.editing.attend_and_excite import Excite, excite
from headwise.editing.inversion import edit_picture, invert
from headwise.editing.prompt_to_prompt import PromptToPrompt, edit
from headwise.errors import HeadwiseError, HookMisuse, LayerNotReached
from headwise.measuring.attention_maps import AttentionMaps
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.pipelines import fingerprint
from headwise.steering.doctor import examine, features_of
from headwise.steering.steer import weaken
from helpers import relevance_for

SIZE = {"height": 16, "width": 16}
CONCEPTS = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "orange"]})


def call(pipe, steps=2, prompt="a red dog", **options):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        prompt, num_inference_steps=steps, output_type="latent", generator=generator, **options
    ).images


def under(pipe, hook, **options):
    with hooked(pipe, hook):
        return call(pipe, **options)


# Attention masks


TOKENS = 16
MASK = torch.ones(1, 1, TOKENS + 16, TOKENS + 16, dtype=torch.bool)
MASK[..., TOKENS:, 5] = False  # the pixels do not read token 5
MASKED = SIZE | {"max_sequence_length": TOKENS, "joint_attention_kwargs": {"attention_mask": MASK}}


class UnderMask(Hook):
    """Doubles a token's value, with the mask cut by hand."""

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, attend, site, query, key, value):
        value = value.clone()
        value[..., 1, :] *= 2
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)


@pytest.mark.parametrize("mask", [MASK, MASK[..., -1:, :]])
def test_pixels_keep_their_part_of_an_attention_mask(mask):
    pipe = TRANSFORMERS["flux-dev"]()
    options = MASKED | {"joint_attention_kwargs": {"attention_mask": mask}}
    head_map = HeadMap.of(pipe)
    steered = under(pipe, weaken(head_map, range(head_map.all_heads), (1,), factor=2), **options)
    assert torch.equal(steered, under(pipe, UnderMask(mask[..., -16:, :]), **options))
    assert not torch.equal(steered, call(pipe, **options))


def test_a_masked_token_has_no_map_and_words_pass_under_a_mask():
    pipe, maps = TRANSFORMERS["flux-dev"](), AttentionMaps()
    plain = call(pipe, prompt="a a a a a a", **MASKED)
    assert torch.equal(under(pipe, maps, prompt="a a a a a a", **MASKED), plain)
    assert [bool(w.any()) for w in maps.take().together().transpose(2, 0, 1)] == [True] * 5 + [False]
    probe = ConceptProbe(pipe, CONCEPTS)
    assert torch.equal(under(pipe, probe, prompt="a a a a a a", **MASKED), plain)
    assert probe.take().shape == (1, 2, 1, HeadMap.of(pipe).all_heads)


# Caches


EVERY = (-1, 1001)  # the timesteps in which a cache may skip

CACHES = {
    "FirstBlockCacheConfig": {"threshold": 0.5},
    "MagCacheConfig": {
        "threshold": 10.0, "num_inference_steps": 6, "retention_ratio": 0.1, "mag_ratios": [1.0] * 6
    },
    "PyramidAttentionBroadcastConfig": {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_timestep_skip_range": EVERY,
        "current_timestep_callback": lambda: 500,
    },
    "SeaCacheConfig": {},
    "TaylorSeerCacheConfig": {"cache_interval": 2, "disable_cache_before_step": 1},
    "TextKVCacheConfig": {},
}  # fmt: skip
NO_CACHES = {
    "FasterCacheConfig": "it reads outputs as videos have them",
    "LayerSkipConfig": "it keeps nothing from call to call",
    "SmoothedEnergyGuidanceConfig": "it keeps nothing from call to call",
}
THERE = [name for name in CACHES if hasattr(caching, name)]  # older diffusers has fewer


def test_every_cache_of_diffusers_is_tried():
    assert {name for name in vars(caching) if name.endswith("Config")} <= {*CACHES, *NO_CACHES}


@pytest.mark.parametrize("name", THERE)
@pytest.mark.filterwarnings("ignore")
def test_a_cache_is_left_alone_by_hooks_and_refused_by_the_probe(name):
    pipe = TRANSFORMERS["flux-dev"]()
    pipe.transformer.enable_cache(getattr(caching, name)(**CACHES[name]))
    plain, head_map = call(pipe, 6, **SIZE), HeadMap.of(pipe)
    assert torch.equal(under(pipe, lambda attend, site, *qkv: attend(*qkv), steps=6, **SIZE), plain)
    assert not torch.equal(under(pipe, weaken(head_map, [0, 1, 2], "red"), steps=6, **SIZE), plain)
    with pytest.raises(HookMisuse, match=r"has a cache .*pipe\.transformer\.disable_cache\(\)"):
        under(pipe, ConceptProbe(pipe, CONCEPTS), steps=6, **SIZE)
    assert torch.equal(call(pipe, 6, **SIZE), plain) and features_of(pipe) == ("caching",)
    pipe.transformer.disable_cache()
    assert features_of(pipe) == ()


def test_the_doctor_says_that_a_cache_is_to_be_switched_off():
    pipe = TRANSFORMERS["flux-dev"]()
    pipe.transformer.enable_cache(caching.FirstBlockCacheConfig(threshold=0.5))
    checkup = examine(pipe, **SIZE)
    assert checkup.bit_exact and checkup.steered and not checkup.covered
    assert "Switch off caching: pipe.transformer.disable_cache()." in checkup.error
    pipe.transformer.disable_cache()
    assert examine(pipe, **SIZE).covered


@pytest.mark.filterwarnings("ignore")
def test_a_cache_of_another_door_is_seen_too():
    pipe = tiny_sd3()
    settings = CACHES["PyramidAttentionBroadcastConfig"]
    apply_pyramid_attention_broadcast(pipe.transformer, caching.PyramidAttentionBroadcastConfig(**settings))
    plain = call(pipe)
    with pytest.raises(HookMisuse, match="has a cache .*load the pipeline again"):
        under(pipe, ConceptProbe(pipe, CONCEPTS))
    assert torch.equal(call(pipe), plain)


# Forwards that others have replaced


def kept_outputs(module):
    """A forward that computes at every other call and returns what it kept at the others."""
    original, kept = module.forward, []

    def forward(*args, **kwargs):
        if kept:
            return kept.pop()
        kept.append(original(*args, **kwargs))
        return kept[0]

    module.forward = forward


@pytest.mark.parametrize("where", ["", "mid_block", "up_blocks.1"])
def test_a_forward_that_keeps_outputs_is_not_called_for_the_words(where):
    pipe = tiny_sd(scheduler=ddim())
    kept_outputs(pipe.unet.get_submodule(where))
    plain, probe = call(pipe, 4), ConceptProbe(pipe, CONCEPTS)
    assert torch.equal(under(pipe, probe, steps=4), plain)
    with pytest.raises(LayerNotReached, match="Every call of the denoiser must run all its layers"):
        probe.take()
    assert torch.equal(call(pipe, 4), plain)


def test_a_forward_that_only_passes_on_is_no_hindrance():
    pipe = tiny_sd(scheduler=ddim())
    votes = ConceptProbe(pipe, CONCEPTS)
    plain = under(pipe, votes)
    for module in (pipe.unet, pipe.unet.mid_block):
        module.forward = lambda *args, original=module.forward, **kwargs: original(*args, **kwargs)
    again = ConceptProbe(pipe, CONCEPTS)
    assert torch.equal(under(pipe, again), plain)
    assert (again.take() == votes.take()).all()


# Weights that change


def read_anew(pipe, probe):
    """The keys that a probe of one's own reads, and those that this one has."""
    new = ConceptProbe(pipe, CONCEPTS)
    under(pipe, new)
    return [(new.keys[layer], probe.keys[layer]) for layer in new.keys]


def test_keys_are_read_anew_in_each_pipeline_call():
    pipe = tiny_sd(scheduler=ddim())
    probe = ConceptProbe(pipe, CONCEPTS)
    under(pipe, probe)
    for layer in HeadMap.of(pipe):
        pipe.unet.get_submodule(layer.address).to_k.weight.data *= 2
    probe.begin(None)
    under(pipe, probe)
    assert all(torch.equal(right, seen) for right, seen in read_anew(pipe, probe))


@pytest.mark.parametrize("change", ["in place", "new weights", "LoRA scale"])
def test_keys_are_read_anew_once_weights_change_within_a_call(change):
    pipe = tiny_sd(scheduler=ddim())
    attention = pipe.unet.get_submodule(HeadMap.of(pipe).layers[0].address)
    if change == "LoRA scale":
        peft = pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")
        pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    probe = ConceptProbe(pipe, CONCEPTS)

    def at_step_end(pipe, step, timestep, tensors):
        with torch.no_grad():
            if change == "LoRA scale":
                attention.to_k.scaling["default"] = 3.0
            elif step == 0 and change == "in place":
                attention.to_k.weight.mul_(2)
            elif step == 0:
                attention.to_k.weight = torch.nn.Parameter(2 * attention.to_k.weight)
        return tensors

    with hooked(pipe, probe):
        call(pipe, callback_on_step_end=at_step_end)
    assert all(torch.equal(right, seen) for right, seen in read_anew(pipe, probe))


# Gradients


def excited(pipe, **options):
    hook = Excite([["dog", "cat"]], relevance=relevance_for(pipe), concepts="Animals", refinements=1)
    asked = {"num_inference_steps": 2, "output_type": "latent"} | options
    return excite(pipe, ["a dog and a cat"], hook, seeds=[0], **asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_are_moved_inside_inference_mode(dtype):
    pipe = tiny_sd(scheduler=ddim(), dtype=dtype)
    plain = excited(pipe)
    with torch.inference_mode():
        assert torch.equal(excited(pipe), plain)


def test_gradient_checkpointing_is_put_aside():
    pipe = tiny_sd(scheduler=ddim())
    plain = excited(pipe)
    pipe.unet.enable_gradient_checkpointing()
    assert torch.equal(excited(pipe), plain)
    assert pipe.unet.is_gradient_checkpointing


def test_what_no_gradient_passes_is_refused():
    with torch.inference_mode():
        made = tiny_sd(scheduler=ddim())
    with pytest.raises(HookMisuse, match=r"loaded inside torch\.inference_mode"):
        excited(made)
    pipe = tiny_sd(scheduler=ddim())
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(HookMisuse, match="enable_layerwise_casting"):
        excited(pipe)
    assert torch.equal(under(pipe, ConceptProbe(pipe, CONCEPTS)), call(pipe))  # looking needs none


def test_steering_kept_from_inference_mode_takes_gradients():
    pipe = tiny_sd(scheduler=ddim(), dtype=torch.float64)
    head_map = HeadMap.of(pipe)
    steer = weaken(head_map, range(head_map.all_heads), "dog", factor=0.5)
    with torch.inference_mode():
        under(pipe, steer, prompt="a dog and a cat")
    with hooked(pipe, steer):
        assert torch.isfinite(excited(pipe)).all()


# A device without float64


@pytest.fixture
def no_float64(monkeypatch):
    """Moving a tensor of float64 raises what it raises on Apple's GPUs."""
    plain = torch.Tensor.to

    def to(self, *args, **options):
        moved = plain(self, *args, **options)
        to_device = any(isinstance(a, torch.device | str | torch.Tensor) for a in args) or "device" in options
        if to_device and moved.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return moved

    monkeypatch.setattr(torch.Tensor, "to", to)


def test_no_float64_reaches_the_device(no_float64):
    pipe, flux = tiny_sd(scheduler=ddim()), TRANSFORMERS["flux-dev"]()
    head_map, asked = HeadMap.of(pipe), {"num_inference_steps": 2, "output_type": "latent"}
    for one, options in ((pipe, {}), (flux, SIZE)):
        measure(one, CONCEPTS, pictures=1, num_inference_steps=1, progress=False, **options)
    under(pipe, weaken(head_map, [0, 1], "red"))
    hooks = (PromptToPrompt(relevance=relevance_for(pipe), concepts={"cat": "Animals"}),)
    edit(pipe, "a red dog", ["a red cat"], *hooks, progress=False, **asked)
    excited(pipe)
    for method in ("edit friendly", "ddim"):
        invert(pipe, Image.new("RGB", (16, 16), "gray"), "a dog", method=method, num_inference_steps=2)


def test_doubles_are_made_on_the_cpu(monkeypatch):
    order = []
    for name in ("cpu", "double"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, plain=plain, name=name: order.append(name) or plain(self)
        )
    fingerprint(tiny_sd())
    assert order[:2] == ["cpu", "double"]


# Settings that are kept


@pytest.mark.parametrize(
    "options", [{"generator": torch.Generator()}, {"num_images_per_prompt": 2}, {"return_dict": False}]
)
def test_options_that_keys_stand_in_place_of_are_refused(sd, options):
    (name,) = options
    with pytest.raises(HeadwiseError, match=f"{name} was given, but"):
        generate(sd, ["a dog"], 0, [0], **options)
    with pytest.raises(HeadwiseError, match=f"{name} was given, but"):
        edit(sd, "a red dog", ["a red cat"], progress=False, **options)


@pytest.mark.filterwarnings("ignore:The image is reconstructed poorly")
def test_a_callback_of_ones_own_is_called_by_everything(sd):
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append(step)
        return tensors

    asked = {"callback_on_step_end": note}
    found = invert(sd, Image.new("RGB", (16, 16), "gray"), "a red dog", num_inference_steps=2)
    for run in (
        lambda: generate(sd, ["a dog"], 0, [0], num_inference_steps=2, **asked),
        lambda: edit(sd, "a red dog", ["a red cat"], num_inference_steps=2, progress=False, **asked),
        lambda: excited(sd, **asked),
        lambda: edit_picture(sd, found, ["a red cat"], [PromptToPrompt()], **asked),
    ):
        seen.clear()
        run()
        assert seen[:2] == [0, 1]


# Compiling in place


COMPILED = """
import torch
from conftest import ddim, tiny_sd
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.concepts import ConceptSet
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.steering.steer import weaken

def call():
    generator = torch.Generator().manual_seed(1)
    return pipe("a red dog", generator=generator, num_inference_steps=1, output_type="latent").images

concepts = ConceptSet({"Animals": ["dog", "cat"], "Color": ["red", "orange"]})
for way in ("compile", "compile_repeated_blocks"):
    pipe = tiny_sd(scheduler=ddim())
    head_map = HeadMap.of(pipe)
    plain = call()
    with hooked(pipe, weaken(head_map, range(head_map.all_heads), "red")):
        eager = call()
    getattr(pipe.unet, way)(backend="eager", fullgraph=True)
    compiled = [module._compiled_call_impl for module in pipe.unet.modules()]
    with hooked(pipe, weaken(head_map, range(head_map.all_heads), "red")):
        assert torch.allclose(call(), eager, atol=1e-5)
    probe = ConceptProbe(pipe, concepts)
    with hooked(pipe, probe):
        assert torch.allclose(call(), plain, atol=1e-5)
    assert probe.take().shape == (1, 1, 1, head_map.all_heads)
    assert [module._compiled_call_impl for module in pipe.unet.modules()] == compiled
"""


def test_what_was_compiled_in_place_takes_hooks():
    """In a process of its own: the shape checks of this test run are what torch.compile cannot read."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True, cwd=Path(__file__).parent)
