"""The ComfyUI nodes in joint attention: FLUX.1 and Stable Diffusion 3, block by block."""

import re
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

import comfyui_standin as comfyui
from comfyui_joint import DIM, PIXELS, TEXT, block_inputs, flux, joint_block, patches_of, projections, sd3
from conftest import tiny_t5, tiny_tokenizer
from headwise.errors import HeadMapMismatch, HookMisuse, WordNotInPrompt
from headwise.model.heads import HeadMap, Layer
from headwise.model.tokens import token_positions
from headwise.steering.steer import strengthen


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    with comfyui.loaded_nodes(tmp_path, monkeypatch) as package:
        yield package


def flux_clip():
    return comfyui.Clip(l=comfyui.Tokenizer(tiny_tokenizer()), t5xxl=comfyui.T5Tokenizer(tiny_t5()[0]))


def sd3_clip(**missing):
    """Stable Diffusion 3's encoders, of which those that no file has are None."""
    clip = comfyui.Clip(
        g=comfyui.Tokenizer(tiny_tokenizer()),
        l=comfyui.Tokenizer(tiny_tokenizer()),
        t5xxl=comfyui.T5Tokenizer(tiny_t5()[0]),
    )
    clip.cond_stage_model = SimpleNamespace(**missing)
    return clip


def flux_map(heads=2):
    double = [Layer(f"transformer_blocks.{i}.attn", heads, "joint") for i in range(2)]
    return HeadMap(
        (*double, *(Layer(f"single_transformer_blocks.{i}.attn", heads, "joint") for i in range(3)))
    )


def sd3_map(heads=3):
    return HeadMap(tuple(Layer(f"transformer_blocks.{i}.attn", heads, "joint") for i in range(3)))


FAMILIES = {"flux": (flux, flux_map, flux_clip), "sd3": (sd3, sd3_map, sd3_clip)}


# ------------------------------------------------------------------------------------------------- blocks


class Checkpoint(dict):
    """Weights under their first names, made as they are taken: numbered rows, a million for each block."""

    def __init__(self, names, rows):
        super().__init__(dict.fromkeys(names, torch.zeros(6, 2)))
        self.rows = rows

    def pop(self, name, *default):
        block = re.search(r"_blocks\.(\d+)\.", name)
        rows = next((rows for part, rows in self.rows.items() if part in name), 6)
        first = 1e6 * int(block[1]) if block else 0.0
        return first + torch.arange(rows, dtype=torch.float64)[:, None].expand(-1, 2)


def values_by_converter(convert, names, rows):
    converted = convert(Checkpoint(names, rows))
    of_values = {key: weight[:, 0] for key, weight in converted.items() if key.endswith(".to_v.weight")}
    return {key.removesuffix(".to_v.weight"): weight for key, weight in of_values.items()}


def test_flux_blocks_and_heads_are_those_of_the_converter_of_checkpoints(nodes):
    """ComfyUI takes values to be the third part of `qkv`, heads one behind the other."""
    names = [f"double_blocks.{i}.img_attn.qkv.weight" for i in range(2)]
    names += [f"single_blocks.{i}.linear1.weight" for i in range(3)]
    width, heads = 3072, 24
    rows = {"qkv": 3 * width, "linear1": 3 * width + 4 * width}
    values = values_by_converter(convert_flux_transformer_checkpoint_to_diffusers, names, rows)
    head_map = flux_map(heads)
    assert set(values) == {layer.address for layer in head_map}
    for layer in head_map:
        _, number = nodes.blocks.block_of(layer.address)
        theirs = 1e6 * number + 2 * width + torch.arange(width).view(heads, -1)
        assert torch.equal(values[layer.address].view(heads, -1), theirs.double())
    assert nodes.blocks.block_of("transformer_blocks.18.attn") == ("double_block", 18)
    assert nodes.blocks.block_of("single_transformer_blocks.37.attn") == ("single_block", 37)
    places = nodes.blocks.slices_by_block(flux_map(), flux().unet)
    assert [(place.start, place.stop) for place in places.values()] == list(flux_map().slices)


def test_sd3_blocks_and_heads_are_those_of_the_converter_of_checkpoints(nodes):
    names = [f"joint_blocks.{i}.x_block.attn.qkv.weight" for i in range(3)]
    names.append("context_embedder.weight")
    values = values_by_converter(convert_sd3_transformer_checkpoint_to_diffusers, names, {"qkv": 36})
    assert set(values) == {layer.address for layer in sd3_map()}
    for address, rows in values.items():
        _, number = nodes.blocks.block_of(address)
        assert torch.equal(rows, 1e6 * number + 24 + torch.arange(12).double())
    places = nodes.blocks.slices_by_block(sd3_map(), sd3().unet)
    assert [(place.start, place.stop) for place in places.values()] == list(sd3_map().slices)


def test_transformers_of_other_depth_or_order_are_refused(nodes):
    with pytest.raises(HeadMapMismatch, match=r"has 10 heads .* ComfyUI's model has 8 heads in 4 layers"):
        nodes.blocks.slices_by_block(flux_map(), flux(double=1).unet)
    with pytest.raises(HeadMapMismatch, match="ComfyUI's model has 0 heads"):
        nodes.blocks.slices_by_block(flux_map(), flux(flipped_img_txt=True).unet)


# -------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("word", ["red", "vase", "lavender", "a red vase", "in lavender"])
@pytest.mark.parametrize("prompt", ["a red vase in lavender color", "in lavender, a red vase"])
def test_flux_reads_words_where_t5_puts_them(nodes, prompt, word):
    expected = token_positions(tiny_t5()[0], prompt, word)
    assert nodes.words.find(flux_clip(), prompt, word) == (expected, 24)


def test_t5_finds_whole_words_alone(nodes):
    assert nodes.words.find(flux_clip(), "a reddish car, (red:1.3) car", "red").positions != ()
    with pytest.raises(WordNotInPrompt, match="'red' is not a word"):
        nodes.words.find(flux_clip(), "a reddish car", "red")
    with pytest.raises(WordNotInPrompt, match="'ish' is not a word"):
        nodes.words.find(flux_clip(), "a reddish car", "ish")


def test_sd3_reads_t5_behind_clip(nodes):
    prompt = "a red vase"
    of_clip, of_t5 = (token_positions(t, prompt, "vase") for t in (tiny_tokenizer(), tiny_t5()[0]))
    behind = tuple(24 + position for position in of_t5)
    assert nodes.words.find(sd3_clip(), prompt, "vase") == (of_clip + behind, 48)
    assert nodes.words.find(sd3_clip(t5xxl=None), prompt, "vase") == (of_clip, 24)
    assert nodes.words.find(sd3_clip(clip_l=None), prompt, "vase") == (of_clip + behind, 48)
    assert nodes.words.find(sd3_clip(clip_l=None, clip_g=None), prompt, "vase") == (of_t5, 24)


def test_encoders_of_other_models_are_refused(nodes):
    with pytest.raises(HookMisuse, match="has the encoders qwen25_7b; expected l, g, h or t5xxl"):
        nodes.words.find(comfyui.Clip(qwen25_7b=comfyui.Tokenizer(tiny_tokenizer())), "a red vase", "red")


# ---------------------------------------------------------------------------------------------- attention


def naive(factors, positions, rows, text, query, key, value):
    """The map of every head, in which pixels attend to the word by the head's factor; the text does not."""
    maps = (query @ key.mT / DIM**0.5).softmax(-1)
    for row in rows:
        for head, factor in enumerate(factors):
            for position in positions:
                maps[row, head, text:, position] *= factor
    return (maps @ value).transpose(1, 2).flatten(-2)


def inputs(nodes, block, rows, order, text=TEXT, **options):
    """What a block is given once the text's length is told."""
    told = {nodes.layers.TEXT_TOKENS: text, "cond_or_uncond": order}
    return block_inputs(block, rows, told | options, text)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_attends_by_its_own_factors(nodes, family):
    model, head_map, clip = (make() for make in FAMILIES[family])
    steer = strengthen(comfyui.relevance_of(head_map), "red", "Color", 1.5)
    word = nodes.words.find(clip, "a red vase", "red")
    tokens = word.tokens
    clone = nodes.attention.steered(model, clip, "a red vase", steer)
    assert len(patches_of(clone)) == len(head_map) and model.model_options == {"transformer_options": {}}
    options = {"cond_or_uncond": [1, 0]}  # of one call: its first block says how long the text is
    for layer, (start, stop) in zip(head_map, head_map.slices, strict=True):
        block, factors = nodes.blocks.block_of(layer.address), steer.factors[0, start:stop]
        made = projections(4, layer.heads, tokens + PIXELS, seed=start)
        run = joint_block(layer.heads, family == "flux", made)
        output = patches_of(clone)[block](block_inputs(block, 4, options, tokens), run)["img"]
        wanted = naive(factors, word.positions, (2, 3), tokens, *made)
        plain = naive((), (), (), tokens, *made)
        assert torch.allclose(output, wanted, rtol=0, atol=1e-12)
        assert not torch.allclose(output, plain, rtol=0, atol=1e-3)
        assert torch.allclose(output[:2], plain[:2], rtol=0, atol=1e-12), "rows without the prompt"


def steered_flux(nodes, strength=1.5, model=None):
    steer = strengthen(comfyui.relevance_of(flux_map()), "red", "Color", strength)
    return nodes.attention.steered(model or flux(), flux_clip(), "a red vase", steer)


@pytest.mark.parametrize("block", [("double_block", 0), ("single_block", 2)])
def test_strength_zero_changes_no_bit(nodes, block):
    made = joint_block(2, True, projections(2, 2, TEXT + PIXELS))
    plain = made["original_block"](inputs(nodes, block, 2, [1, 0]))["img"]
    for strength, same in ((0, True), (1, False)):
        patch = patches_of(steered_flux(nodes, strength))[block]
        assert torch.equal(patch(inputs(nodes, block, 2, [1, 0]), made)["img"], plain) is same


def test_pixels_that_attend_to_pixels_once_more_are_left_alone(nodes):
    """As in some blocks of Stable Diffusion 3.5."""
    block = ("double_block", 1)
    again = projections(1, 2, PIXELS, seed=1)
    made = joint_block(2, True, projections(1, 2, TEXT + PIXELS), [again])
    plain, steered = (
        run(inputs(nodes, block, 1, [0]))
        for run in (made["original_block"], lambda given: patches_of(steered_flux(nodes))[block](given, made))
    )
    assert torch.equal(plain["more"][0], steered["more"][0])
    assert not torch.equal(plain["img"], steered["img"])


def test_what_other_nodes_put_there_goes_on(nodes):
    """A replaced block is given our attention to hand on, and a replaced attention our values."""
    block, blocks, values = ("double_block", 0), [], []

    def replaced(given, more):
        blocks.append(given)
        return more["original_block"](given)

    def override(kernel, query, key, value, heads, **more):
        values.append(value)
        return kernel(query, key, value, heads, **more)

    model = flux()
    model.set_model_patch_replace(replaced, "dit", *block)
    made = projections(1, 2, TEXT + PIXELS)
    patches_of(steered_flux(nodes, model=model))[block](
        inputs(nodes, block, 1, [0], optimized_attention_override=override), joint_block(2, True, made)
    )
    of_pixels, of_text = values
    assert len(blocks) == 1 and torch.equal(of_text, made[2])
    changed = (of_pixels != made[2]).any(-1).any(1)[0].nonzero().flatten().tolist()
    assert tuple(changed) == nodes.words.find(flux_clip(), "a red vase", "red").positions


@pytest.mark.parametrize("between", [False, True])
def test_steerings_of_two_words_add_up(nodes, between):
    """Whether or not another node stands between them."""
    block, made = ("single_block", 1), projections(1, 2, TEXT + PIXELS)
    model = steered_flux(nodes)
    if between:
        first = patches_of(model)[block]
        model.set_model_patch_replace(lambda given, more: first(given, more), "dit", *block)
    steer = strengthen(comfyui.relevance_of(flux_map()), "vase", "Animals", 0.5)
    twice = nodes.attention.steered(model, flux_clip(), "a red vase", steer)
    output = patches_of(twice)[block](inputs(nodes, block, 1, [0]), joint_block(2, True, made))["img"]
    place = slice(*flux_map().slices[3])
    of_red = strengthen(comfyui.relevance_of(flux_map()), "red", "Color", 1.5).factors[0, place]
    values = made[2].clone()
    for word, factors in (("red", of_red), ("vase", steer.factors[0, place])):
        for position in nodes.words.find(flux_clip(), "a red vase", word).positions:
            values[0, :, position] *= torch.tensor(factors)[:, None]
    wanted, plain = (naive((), (), (), TEXT, *made[:2], v) for v in (values, made[2]))
    assert torch.allclose(output[:, TEXT:], wanted[:, TEXT:], rtol=0, atol=1e-12)
    assert torch.allclose(output[:, :TEXT], plain[:, :TEXT], rtol=0, atol=1e-12)


def test_a_shorter_text_than_the_nodes_is_refused(nodes):
    block = ("double_block", 0)
    patch = patches_of(steered_flux(nodes))[block]
    given = inputs(nodes, block, 1, [0]) | {"txt": torch.zeros(1, 5, 1)}
    with pytest.raises(HookMisuse, match="is given 5 tokens, but the text makes 24"):
        patch(given, joint_block(2, True, projections(1, 2, 5 + PIXELS)))
    given["transformer_options"]["cond_or_uncond"] = [1]
    patch(given, joint_block(2, True, projections(1, 2, 5 + PIXELS)))


def test_a_comfyui_that_cannot_be_steered_is_refused(nodes):
    block = ("double_block", 0)
    patch = patches_of(steered_flux(nodes))[block]
    with pytest.raises(HookMisuse, match="Update ComfyUI to 0.3.59 or newer"):
        patch(inputs(nodes, block, 1, [0]), {"original_block": lambda given: {"img": given["img"]}})
