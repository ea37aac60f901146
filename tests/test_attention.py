"""The one door: it changes nothing of itself, tells hooks where they are, and leaves no trace."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from conftest import BUILD, SD2, ddim, tiny_sd
from headwise.errors import HookMisuse, LayerNotReached
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap


def identity(attend, site, q, k, v):
    return attend(q, k, v)


def call(pipe, prompt="a dog", **options):
    options = {"num_inference_steps": 3, "output_type": "np"} | options
    return torch.as_tensor(pipe(prompt, generator=torch.Generator().manual_seed(1), **options).images)


class Sites:
    """A hook that writes down where it was."""

    def __init__(self):
        self.seen = []

    def __call__(self, attend, site, q, k, v):
        self.seen.append((site, tuple(q.shape), tuple(k.shape)))
        return attend(q, k, v)


def traces(pipe):
    """Everything a door could leave behind."""
    modules = {name: (module, dict(module.__dict__)) for name, module in pipe.unet.named_modules()}
    kept = {
        name: (module, {k: v for k, v in d.items() if k[0] != "_"}) for name, (module, d) in modules.items()
    }
    hooks = [len(pipe.unet._forward_hooks), len(pipe.unet._forward_pre_hooks)]
    return type(pipe), set(pipe.__dict__), kept, dict(pipe.unet.attn_processors), hooks


def test_identity_is_bit_equal_inside_and_after(pipe):
    stock = call(pipe)
    before = traces(pipe)
    with hooked(pipe, identity):
        inside = call(pipe)
    assert torch.equal(inside, stock)
    assert traces(pipe) == before
    assert torch.equal(call(pipe), stock)


def test_an_exception_leaves_by_the_same_door(pipe):
    stock = call(pipe)
    before = traces(pipe)

    def burst(attend, site, q, k, v):
        if site.step == 1:
            raise ZeroDivisionError("mine")
        return attend(q, k, 2 * v)

    with pytest.raises(ZeroDivisionError, match="mine"), hooked(pipe, burst):
        call(pipe)
    assert traces(pipe) == before
    assert torch.equal(call(pipe), stock)


def test_a_hook_does_something(sd):
    stock = call(sd)
    with hooked(sd, lambda attend, site, q, k, v: attend(q, k, -2 * v)):
        assert not torch.equal(call(sd), stock)


def test_module_forwards_and_processors_are_the_very_same_objects(sd):
    processors = {id(p) for p in sd.unet.attn_processors.values()}
    with hooked(sd, identity):
        assert {id(p) for p in sd.unet.attn_processors.values()} == processors
    assert not any("forward" in module.__dict__ for module in sd.unet.modules())


def test_the_same_hook_is_not_entered_twice(sd):
    with hooked(sd, identity):
        with pytest.raises(HookMisuse, match="is already hooked into this pipeline"), hooked(sd, identity):
            pass
        call(sd)
    with pytest.raises(HookMisuse, match="is already hooked"), hooked(sd, identity, identity):
        pass
    with hooked(sd, identity):  # the refusals left nothing behind
        call(sd)


def test_hooks_nest_outermost_first(sd):
    order = []

    def named(name):
        def hook(attend, site, q, k, v):
            order.append(name)
            return attend(q, k, v)

        return hook

    with hooked(sd, named(1), named(2)):
        call(sd, num_inference_steps=1)
    assert order[:4] == [1, 2, 1, 2]
    order.clear()
    with hooked(sd, named(1)), hooked(sd, named(2)):
        call(sd, num_inference_steps=1)
    assert order[:4] == [1, 2, 1, 2]


def test_two_contexts_equal_one_with_two_hooks(sd):
    def double(attend, site, q, k, v):
        return attend(q, k, 2 * v)

    def shift(attend, site, q, k, v):
        return attend(q, k, v) + 0.25

    with hooked(sd, double, shift):
        together = call(sd)
    with hooked(sd, double), hooked(sd, shift):
        apart = call(sd)
    assert torch.equal(together, apart)


def test_scaling_values_is_scaling_maps():
    """The law that steering rests on: (A · diag r) V = A (diag r · V)."""
    pipe = tiny_sd(dtype=torch.float64)
    r = torch.linspace(-2, 3, 24, dtype=torch.float64)

    def by_values(attend, site, q, k, v):
        return attend(q, k, r[:, None] * v)

    def by_maps(attend, site, q, k, v):
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) * r @ v

    with hooked(pipe, by_values):
        one = call(pipe, output_type="latent")
    with hooked(pipe, by_maps):
        two = call(pipe, output_type="latent")
    assert (one - two).abs().max() < 1e-11


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
@pytest.mark.parametrize("prompt", ["a dog", ["a dog", "a cat", "a red car"]])
def test_rows_know_their_picture(sd, prompt, guidance_scale):
    sites, pictures = Sites(), 1 if isinstance(prompt, str) else len(prompt)
    negative = "red" if isinstance(prompt, str) else ["red"] * pictures
    with hooked(sd, sites):
        call(sd, prompt, guidance_scale=guidance_scale, negative_prompt=negative)
    rows = 2 * pictures if guidance_scale > 1 else pictures
    for site, query, _ in sites.seen:
        assert query[0] == rows
        assert site.conditional == slice(rows - pictures, rows)
        assert site.picture == tuple(range(pictures)) * (rows // pictures)
        assert site.prompts == ((prompt,) if isinstance(prompt, str) else tuple(prompt))


def test_conditional_rows_are_those_of_the_prompt(sd):
    """Said of the keys: rows called conditional have the same keys whatever the negative prompt is."""

    def keys_of(negative):
        kept = []

        def keep(attend, site, q, k, v):
            kept.append(k[site.conditional])
            return attend(q, k, v)

        with hooked(sd, keep):
            call(sd, negative_prompt=negative, num_inference_steps=1)
        return kept

    assert all(torch.equal(a, b) for a, b in zip(keys_of("red"), keys_of("a cat in a vase"), strict=True))


def test_several_pictures_of_a_prompt(sd):
    sites = Sites()
    with hooked(sd, sites):
        call(sd, ["a dog", "a cat"], num_images_per_prompt=2, num_inference_steps=1)
    assert sites.seen[0][0].prompts == ("a dog", "a dog", "a cat", "a cat")


def test_steps_are_counted_and_begin_anew_with_every_call(sd):
    sites = Sites()
    with hooked(sd, sites):
        call(sd, num_inference_steps=5)  # PNDM repeats a timestep: 6 calls
        call(sd, num_inference_steps=2)
        with pytest.raises(ZeroDivisionError):
            call(sd, callback_on_step_end=lambda *args: 1 / 0)
        call(sd, num_inference_steps=1)
    steps = [site.step for site, *_ in sites.seen if site.layer == 0]
    assert steps == [*range(6), *range(3), 0, 0]
    layers = [site.layer for site, *_ in sites.seen[:4]]
    assert sorted(layers) == [0, 1, 2, 3]


def test_a_denoiser_called_by_hand_has_only_conditional_rows(sd):
    """Also after a guided call, whose guidance scale is still in the pipeline."""
    sites = Sites()
    x, text = torch.randn(4, 4, 8, 8), torch.randn(4, 24, 32)
    with hooked(sd, sites):
        call(sd, num_inference_steps=1)
        sites.seen.clear()
        for _ in range(2):
            sd.unet(x, 5, encoder_hidden_states=text)
    assert all(site.conditional == slice(0, 4) for site, *_ in sites.seen)
    assert [site.step for site, *_ in sites.seen if site.layer == 0] == [0, 1]
    with hooked(sd.unet, Sites()):
        sd.unet(x, 5, encoder_hidden_states=text)


def test_guidance_may_end_midway(sd):
    def end(pipe, step, timestep, tensors):
        if step == 0:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        return tensors

    sd.scheduler, sites = ddim(), Sites()
    tensors = ["latents", "prompt_embeds"]
    with hooked(sd, sites):
        call(sd, callback_on_step_end=end, callback_on_step_end_tensor_inputs=tensors)
    assert [s.conditional for s, *_ in sites.seen if s.layer == 0] == [slice(1, 2), slice(0, 1), slice(0, 1)]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (7, 13), (5, 3), (1, 9)])
def test_the_grid_is_that_of_the_layer(height, width):
    unet, grids = tiny_sd(SD2).unet, {}

    def keep(attend, site, q, k, v):
        assert q.shape[-2] == site.height * site.width
        grids[site.address.split(".attentions")[0]] = (site.height, site.width)
        return attend(q, k, v)

    with hooked(unet, keep):
        unet(torch.randn(1, 4, height, width), 5, encoder_hidden_states=torch.randn(1, 24, 32))
    full, half = (height, width), ((height + 1) // 2, (width + 1) // 2)
    assert grids == {
        "down_blocks.0": full,
        "down_blocks.1": half,
        "mid_block": half,
        "up_blocks.0": half,
        "up_blocks.1": full,
    }


def test_the_grid_of_a_picture_that_is_not_square(sd):
    sites = Sites()
    with hooked(sd, sites):
        call(sd, height=16, width=24, num_inference_steps=1)
    assert {(site.height, site.width) for site, *_ in sites.seen} == {(8, 12), (4, 6)}


def test_a_site_reads_the_module(pipe):
    sites = Sites()
    with hooked(pipe, sites):
        call(pipe, num_inference_steps=1)
    head_map = HeadMap.of(pipe)
    for site, query, key in sites.seen:
        layer = head_map.layers[site.layer]
        assert (site.address, site.heads, site.kind) == (layer.address, layer.heads, layer.kind)
        assert site.module is pipe.unet.get_submodule(site.address)
        assert query[1] == site.heads
        assert site.text == slice(0, key[2])


def test_an_unreached_layer_is_named(sd):
    lost = HeadMap.of(sd).layers[1].address
    sd.unet.get_submodule(lost.rsplit(".", 1)[0]).attn2 = copy.deepcopy(sd.unet.get_submodule(lost))
    block = sd.unet.get_submodule(lost.rsplit(".", 1)[0])
    forward = block.forward
    block.forward = lambda hidden, *args, **kwargs: hidden
    with pytest.raises(LayerNotReached, match=f"{lost} was never called in 4 calls"), hooked(sd, identity):
        call(sd)
    with pytest.raises(ZeroDivisionError), hooked(sd, identity):  # an error under way is not masked
        call(sd)
        raise ZeroDivisionError
    with hooked(sd, identity):  # and without a call nothing can have been missed
        pass
    block.forward = forward
    with hooked(sd, identity):
        call(sd)


def test_a_processor_without_the_fused_kernel_is_refused(sd):
    sd.unet.set_attn_processor(AttnProcessor())
    with pytest.raises(LayerNotReached, match="is run by AttnProcessor, which does not call scaled_dot"):
        with hooked(sd, identity):
            call(sd)


class Loud(AttnProcessor2_0):
    """A processor of somebody's own, with an argument of its own."""

    def __call__(self, attn, hidden_states, *args, loudness=1.0, **kwargs):
        return loudness * super().__call__(attn, hidden_states, *args, **kwargs)


class Owned(torch.nn.Module):
    """A processor that owns weights."""

    def __init__(self):
        super().__init__()
        self.inner, self.gain = AttnProcessor2_0(), torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        return self.gain * self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def test_processors_keep_their_own_arguments(sd):
    sd.unet.set_attn_processor(Loud())
    loud = call(sd, cross_attention_kwargs={"loudness": 3.0})
    assert not torch.equal(loud, call(sd))
    with hooked(sd, identity):
        assert torch.equal(call(sd, cross_attention_kwargs={"loudness": 3.0}), loud)


def test_processors_that_are_modules_stay_modules(sd):
    sd.unet.set_attn_processor({name: Owned() for name in sd.unet.attn_processors})
    stock, keys = call(sd), list(sd.unet.state_dict())
    with hooked(sd, identity):
        assert torch.equal(call(sd), stock)
        assert list(sd.unet.state_dict()) == keys
    assert list(sd.unet.state_dict()) == keys


def test_processors_may_be_exchanged_inside(sd):
    sites = Sites()
    with hooked(sd, sites):
        call(sd)
        seen = len(sites.seen)
        sd.unet.set_attn_processor(Loud())
        call(sd)
    assert len(sites.seen) == 2 * seen
    assert all(isinstance(p, Loud) for p in sd.unet.attn_processors.values())


def test_somebody_else_at_the_door_is_named(sd):
    address = HeadMap.of(sd).layers[0].address
    module = sd.unet.get_submodule(address)
    with pytest.raises(HookMisuse, match=f"replaced the forward of {address}"), hooked(sd, identity):
        module.forward = lambda *args, **kwargs: None
    assert "forward" not in module.__dict__


def test_a_forgotten_return_is_named(sd):
    with pytest.raises(HookMisuse, match="returned NoneType at down_blocks.*Did it forget to return"):
        with hooked(sd, lambda attend, site, q, k, v: None):
            call(sd)


def test_an_attention_mask_reaches_the_kernel(sd):
    """`attend` is the caller's own kernel with the caller's own mask: two calls with it agree with stock."""
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 24, 32)
    mask = torch.arange(24)[None] < 5
    stock = sd.unet(x, 5, encoder_hidden_states=text, encoder_attention_mask=mask).sample
    with hooked(sd, identity):
        inside = sd.unet(x, 5, encoder_hidden_states=text, encoder_attention_mask=mask).sample
    assert torch.equal(stock, inside)
    assert not torch.equal(stock, sd.unet(x, 5, encoder_hidden_states=text).sample)


def test_gradients_pass_through(sd):
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    kept = []

    def keep(attend, site, q, k, v):
        kept.append((q @ k.transpose(-1, -2)).softmax(-1))
        return attend(q, k, v)

    with hooked(sd, keep):
        sd.unet(x, 5, encoder_hidden_states=torch.randn(1, 24, 32))
    kept[-1][..., 3].max().backward()
    assert x.grad.abs().max() > 0


def test_a_pipeline_in_the_context_is_what_it_is(sd):
    cls = type(sd)
    with hooked(sd, identity):
        assert isinstance(sd, cls)
        assert type(sd).__name__ == cls.__name__
        other = BUILD["sd1"]()
        assert torch.equal(call(other), call(other))
        call(sd)
    assert type(sd) is cls


COMPILED = """
import torch
from conftest import tiny_sd
from headwise.model.attention import hooked

def double(attend, site, q, k, v):
    return attend(q, k, 2 * v)

def call(steps):
    generator = torch.Generator().manual_seed(1)
    return pipe("a dog", generator=generator, num_inference_steps=steps, output_type="latent").images

pipe = tiny_sd()
with hooked(pipe, double):
    eager = call(6)
pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
with hooked(pipe, double):
    call(2)
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = call(6)
assert torch.allclose(compiled, eager, atol=1e-5)
"""


def test_a_compiled_denoiser_goes_through_the_same_door_in_one_graph():
    """In a process of its own: the shape checks of this test run are what torch.compile cannot read."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True, cwd=Path(__file__).parent)
