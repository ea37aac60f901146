"""The ComfyUI nodes: ComfyUI's blocks are our layers, its tokens our words, and its values scaled as ours."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

import comfyui_standin as comfyui
from headwise.errors import HeadMapMismatch, HookMisuse
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap, Layer
from headwise.model.sites import DenoiserCall, Site
from headwise.steering.steer import adjust, strengthen, weaken
from helpers import PUBLISHED, published

SMALL = {
    "sample_size": 8,
    "block_out_channels": (8, 8, 16, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    with comfyui.loaded_nodes(tmp_path, monkeypatch) as package:
        yield package


def small():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SMALL).double().eval()
    return unet, HeadMap.of(unet)


# ------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layer_is_where_the_converter_of_checkpoints_puts_it(nodes, name):
    unet = published(name)
    there = {
        address: comfyui.block_in(theirs) for address, theirs in comfyui.addresses(published(name)).items()
    }
    head_map = HeadMap.of(unet)
    assert {layer.address: nodes.blocks.block_of(layer.address) for layer in head_map} == there
    slices = nodes.blocks.slices_by_block(head_map, comfyui.UNet(unet))
    assert list(slices) == [there[layer.address] for layer in head_map]
    assert [(place.start, place.stop) for place in slices.values()] == list(head_map.slices)


def test_known_blocks_by_hand(nodes):
    def at(place, attention, transformer=0):
        return nodes.blocks.block_of(f"{place}.attentions.{attention}.transformer_blocks.{transformer}.attn2")

    assert at("down_blocks.0", 0) == ("input", 1, 0)
    assert at("down_blocks.2", 1, 9) == ("input", 8, 9)
    assert at("mid_block", 0, 3) == ("middle", 0, 3)
    assert at("up_blocks.0", 2, 5) == ("output", 2, 5)
    assert at("up_blocks.3", 2) == ("output", 11, 0)


def test_other_models_are_refused(nodes):
    of_sd1, of_sdxl = HeadMap.of(published("sd1")), comfyui.UNet(published("sdxl"))
    with pytest.raises(HeadMapMismatch, match=r"has 128 heads .* ComfyUI's model has 1300 heads in 70"):
        nodes.blocks.slices_by_block(of_sd1, of_sdxl)
    with pytest.raises(HeadMapMismatch, match="ComfyUI's model has 0 heads"):
        nodes.blocks.slices_by_block(of_sd1, nn.Linear(2, 2))
    flux = HeadMap((Layer("transformer_blocks.0.attn", 24, "joint"),))
    with pytest.raises(HeadMapMismatch, match="has 24 heads .* ComfyUI's model has 1300 heads"):
        nodes.blocks.slices_by_block(flux, of_sdxl)
    pixart = HeadMap((Layer("transformer_blocks.0.attn2", 16),))
    with pytest.raises(HeadMapMismatch, match="is not a layer of Stable Diffusion .* or of FLUX"):
        nodes.blocks.slices_by_block(pixart, of_sdxl)
    with pytest.raises(HeadMapMismatch, match="does not say which heads"):
        nodes.blocks.slices_by_block(None, of_sdxl)


# ---------------------------------------------------------------------------------------------- attention


def steers(head_map, positions):
    relevance = comfyui.relevance_of(head_map)
    yield lambda word: strengthen(relevance, word, "Color", 1.5), "red", positions
    yield lambda word: adjust(relevance, word, "Color", "Animals", -0.7), "red", positions
    yield lambda word: weaken(head_map, range(0, head_map.all_heads, 3), word), None, (1, 2, 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_every_layer_hears_what_steer_makes_it_hear(nodes, name, dtype):
    """On the same queries, keys and values, bit for bit: two images, negative prompts first."""
    recorded, tokens, dim = comfyui.Recorded(name), 24, 4
    head_map = recorded.head_map
    made = torch.Generator().manual_seed(0)
    for steer, word, positions in steers(head_map, (2,)):
        theirs = nodes.attention.steered(recorded.model(), comfyui.clip(), "a red vase", steer(word))
        patches = theirs.model_options["transformer_options"]["patches_replace"]["attn2"]
        assert len(patches) == len(head_map)
        ours = steer(positions)
        call = DenoiserCall(
            dtype=dtype,
            rows=4,
            pictures=2,
            picture=(0, 1, 0, 1),
            conditional=slice(2, 4),
            tokens=tokens,
            head_map=head_map,
        )
        ours.prepare(call)
        for index, layer in enumerate(head_map):
            q, k, v = (
                torch.randn(4, layer.heads, n, dim, generator=made, dtype=torch.float64).to(dtype)
                for n in (6, tokens, tokens)
            )
            text, picture = slice(0, tokens), (0, 1, 0, 1)
            where = (call.conditional, picture, 2, 3, nn.Identity(), call)
            site = Site(index, layer.address, layer.heads, "cross", text, *where)
            wanted = ours(F.scaled_dot_product_attention, site, q, k, v)
            beside = (x.transpose(1, 2).flatten(-2) for x in (q, k, v))
            options = {"n_heads": layer.heads, "cond_or_uncond": [1, 0]}
            found = patches[nodes.blocks.block_of(layer.address)](*beside, options)
            assert torch.equal(found, wanted.transpose(1, 2).flatten(-2))


def drawn(model, order, text, other, **options):
    """What a sampler gets: one call of the model, with rows in ComfyUI's order."""
    made = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=made, dtype=torch.float64).repeat(len(order), 1, 1, 1)
    given = model.model_options["transformer_options"] | {"cond_or_uncond": order} | options
    with torch.no_grad():
        return model.unet(latents, torch.tensor([10]), comfyui.batch(text, other, order), given)


def texts():
    made = torch.Generator().manual_seed(2)
    return [torch.randn(1, 24, 16, generator=made, dtype=torch.float64) for _ in range(2)]


def alone(unet, text, *hooks):
    made = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=made, dtype=torch.float64)
    with torch.no_grad(), hooked(unet, *hooks):
        return unet(latents, torch.tensor([10]), text).sample


@pytest.mark.parametrize("order", [[1, 0], [0, 1], [0], [0, 0, 1]])
def test_a_steered_clone_draws_what_a_hooked_pipeline_draws(nodes, order):
    unet, head_map = small()
    model = comfyui.ModelPatcher(comfyui.UNet(copy.deepcopy(unet)))
    text, other = texts()
    for steer, word, positions in steers(head_map, (2,)):
        clone = nodes.attention.steered(model, comfyui.clip(), "a red vase", steer(word))
        found = drawn(clone, order, text, other)
        wanted = {0: alone(unet, text, steer(positions)), 1: alone(unet, other)}
        assert not torch.allclose(wanted[0], alone(unet, text), rtol=0, atol=1e-6)
        for row, kind in zip(found, order, strict=True):
            assert torch.allclose(row[None], wanted[kind], rtol=0, atol=1e-12)


def test_the_model_stays_as_it_was_and_strength_zero_changes_no_bit(nodes):
    unet, head_map = small()
    model, relevance = comfyui.ModelPatcher(comfyui.UNet(unet)), comfyui.relevance_of(head_map)
    text, other = texts()
    stock = drawn(model, [1, 0], text, other)
    clone = nodes.attention.steered(
        model, comfyui.clip(), "a red vase", strengthen(relevance, "red", "Color", 0)
    )
    assert torch.equal(drawn(clone, [1, 0], text, other), stock)
    clone = nodes.attention.steered(
        model, comfyui.clip(), "a red vase", strengthen(relevance, "red", "Color")
    )
    assert not torch.equal(drawn(clone, [1, 0], text, other)[1], stock[1])
    assert torch.equal(drawn(clone, [1, 0], text, other)[0], stock[0]), "the row without the prompt"
    assert torch.equal(drawn(model, [1, 0], text, other), stock)
    assert model.model_options == {"transformer_options": {}}


def test_steerings_add_up_whatever_their_order(nodes):
    unet, head_map = small()
    model, relevance = comfyui.ModelPatcher(comfyui.UNet(copy.deepcopy(unet))), comfyui.relevance_of(head_map)
    text, other = texts()
    both = strengthen(relevance, "red", "Color"), strengthen(relevance, "vase", "Animals", 0.5)
    clone = model
    for steer in both:
        clone = nodes.attention.steered(clone, comfyui.clip(), "a red vase", steer)
    wanted = alone(
        unet,
        text,
        strengthen(relevance, (2,), "Color"),
        strengthen(relevance, (3,), "Animals", 0.5),
    )
    assert torch.allclose(drawn(clone, [0], text, other), wanted, rtol=0, atol=1e-12)


class Another:
    """A patch of another node: it notes the values it is given, can be moved, and has a model."""

    def __init__(self):
        self.values, self.moved = [], []

    def __call__(self, query, key, value, options):
        self.values.append(value)
        return comfyui.optimized_attention(query, key, value, options["n_heads"])

    def to(self, where):
        self.moved.append(where)
        return self

    def models(self):
        return ["a model"]


@pytest.mark.parametrize("block", [("middle", 0), ("middle", 0, 0)])
def test_what_another_node_put_there_goes_on_with_scaled_values(nodes, block):
    unet, head_map = small()
    model, before = comfyui.ModelPatcher(comfyui.UNet(unet)), Another()
    model.set_model_attn2_replace(before, *block)
    text, other = texts()
    drawn(model, [0], text, other)
    steer = strengthen(comfyui.relevance_of(head_map), "red", "Color")
    clone = nodes.attention.steered(model, comfyui.clip(), "a red vase", steer)
    drawn(clone, [0], text, other)
    plain, scaled = before.values
    changed = (plain != scaled).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2]
    patches = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    ours = patches["middle", 0, 0]
    assert ours.to("a device").before is before and before.moved == ["a device"]
    assert ours.models() == ["a model"]
    free = patches["input", 1, 0]
    assert free.to("a device") is free and free.models() == []


def test_the_attention_that_another_node_chose_is_used(nodes):
    unet, head_map = small()
    model = comfyui.ModelPatcher(comfyui.UNet(unet))
    model.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda attention, q, k, v, heads, **options: torch.zeros_like(q)
    )
    text, other = texts()
    steer = strengthen(comfyui.relevance_of(head_map), "red", "Color")
    clone = nodes.attention.steered(model, comfyui.clip(), "a red vase", steer)
    assert torch.equal(drawn(clone, [0], text, other), drawn(model, [0], text, other))


def scaled_by_two(nodes, positions=(1,), tokens=4, **options):
    return nodes.attention.Scaled((2.0,), nodes.words.WordTokens(positions, tokens), **options)


def called(nodes, value, kinds=(0,), **options):
    """A call of a layer whose one head has the values "rows tokens dim"."""
    call = nodes.layers.LayerCall(len(value), {"cond_or_uncond": list(kinds)} | options, value.shape[1])
    return value[:, None], call


def test_a_text_that_was_repeated_is_steered_in_every_copy_and_other_text_in_none(nodes):
    once, behind = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    values = torch.cat([once, once, behind], 1).half()
    factors = scaled_by_two(nodes).scaled(*called(nodes, values)) / values
    assert factors[0, 0, :, 0].round().tolist() == [1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1]


def test_another_text_than_the_models_is_refused(nodes):
    with pytest.raises(HookMisuse, match="is given 6 tokens, but the text makes 4. Give the node the text"):
        scaled_by_two(nodes).scaled(*called(nodes, torch.ones(1, 6, 3)))


def test_rows_are_counted_in_stretches(nodes):
    """Two images, three stretches: a prompt, the negative prompt, a second prompt of an area."""
    found = scaled_by_two(nodes).scaled(*called(nodes, torch.ones(6, 4, 3), [0, 1, 0]))
    assert found[:, 0, 1, 0].tolist() == [2, 2, 1, 1, 2, 2]
    assert found[:, 0, [0, 2, 3]].eq(1).all()


@pytest.mark.parametrize(
    ("steps", "steered"),
    [((0.0, 1.0), "xxxxx"), ((0.0, 0.4), "xx..."), ((0.4, 1.0), "..xxx"), ((0.6, 0.8), "...x.")],
)
def test_a_share_of_the_steps_is_that_of_the_samplers_sigmas(nodes, steps, steered):
    scaled, seen = scaled_by_two(nodes, steps=steps), ""
    sigmas = torch.tensor([14.6, 5.0, 2.0, 0.9, 0.3, 0.0])
    for sigma in sigmas[:-1]:
        options = {"sample_sigmas": sigmas, "sigmas": sigma.repeat(2)}
        found = scaled(lambda values: values, *called(nodes, torch.ones(2, 4, 3), **options))
        seen += "x" if found.max() == 2 else "."
    assert seen == steered


def test_a_share_of_the_steps_needs_a_sampler_that_tells_its_sigmas(nodes):
    with pytest.raises(HookMisuse, match="Use start 0 and stop 1"):
        scaled_by_two(nodes, steps=(0.0, 0.5))(lambda values: values, *called(nodes, torch.ones(1, 4, 3)))
