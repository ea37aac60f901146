"""What the ComfyUI nodes record of a word's attention, and how they show it."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

import comfyui_standin as comfyui
from comfyui_joint import DIM, PIXELS, TEXT, block_inputs, flux, joint_block, patches_of, projections
from conftest import tiny_t5, tiny_tokenizer
from headwise.errors import HookMisuse, UnknownConcept
from headwise.measuring.attention_maps import WordMaps
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, Layer
from headwise.model.tokens import Word
from headwise.steering.steer import strengthen

PROMPT, SIGMAS = "a red vase", torch.tensor([14.6, 2.0, 0.0])
SMALL = {
    "sample_size": 8,
    "block_out_channels": (8, 8, 16, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    with comfyui.loaded_nodes(tmp_path, monkeypatch) as package:
        yield package


@pytest.fixture
def small():
    """A small model and its head map."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SMALL).double().eval()
    head_map = HeadMap.of(unet)  # before the layers are ComfyUI's
    return comfyui.ModelPatcher(comfyui.UNet(unet)), head_map


def sampled(model, pictures=2, order=(1, 0), calls=1, sigmas=SIGMAS, height=8, width=16):
    """One sampling: calls of the denoiser, with rows as ComfyUI stacks them."""
    made = torch.Generator().manual_seed(1)
    latents = torch.randn(pictures, 4, height, width, generator=made, dtype=torch.float64)
    texts = [torch.randn(1, 24, 16, generator=made, dtype=torch.float64) for _ in range(2)]
    text = torch.cat([texts[kind].expand(pictures, -1, -1) for kind in order])
    options = model.model_options["transformer_options"] | {"cond_or_uncond": list(order)}
    options |= {"sample_sigmas": sigmas}
    with torch.no_grad():
        for _ in range(calls):
            out = model.unet(latents.repeat(len(order), 1, 1, 1), torch.tensor([10]), text, options)
    return out


class Naive:
    """Every map of every layer, made in full where a kernel would be."""

    def __init__(self, monkeypatch):
        self.maps = {}
        monkeypatch.setattr(comfyui, "optimized_attention", self)

    def __call__(self, q, k, v, heads, transformer_options, **_):
        apart = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
        maps = (apart[0] @ apart[1].mT / apart[0].shape[-1] ** 0.5).softmax(-1)
        block = (*transformer_options["block"], transformer_options["block_index"])
        self.maps.setdefault(block, []).append(maps)
        return (maps @ apart[2]).transpose(1, 2).flatten(-2)


def test_recorded_maps_are_the_words_columns(nodes, small, monkeypatch):
    """Of each of two images, over two calls, in rows with the prompt alone."""
    model, head_map = small
    clone, recording = nodes.recording.recorded(
        model, comfyui.clip(), comfyui.effect_of(head_map), PROMPT, "red"
    )
    sampled(clone, calls=2)
    naive = Naive(monkeypatch)
    sampled(model)
    for picture in range(2):
        maps = recording.maps((8, 16), picture)
        assert maps.words[0].text == "red" and maps.words[0].positions == (2,)
        for layer, recorded in zip(head_map, maps.layers, strict=True):
            [wanted] = naive.maps[nodes.blocks.block_of(layer.address)]
            column = wanted[2 + picture, :, :, 2].numpy()
            assert np.allclose(recorded[..., 0].reshape(layer.heads, -1), column, rtol=0, atol=1e-6)
    assert [maps.shape[1:3] for maps in recording.maps((8, 16)).layers][:3] == [(8, 16), (8, 16), (4, 8)]


def test_recording_changes_no_bit(nodes, small):
    model, head_map = small
    clone, _ = nodes.recording.recorded(model, comfyui.clip(), comfyui.effect_of(head_map), PROMPT, "red")
    assert torch.equal(sampled(clone), sampled(model))
    assert model.model_options == {"transformer_options": {}}


def test_every_sampling_is_recorded_anew(nodes, small):
    model, head_map = small
    clone, recording = nodes.recording.recorded(
        model, comfyui.clip(), comfyui.effect_of(head_map), PROMPT, "red"
    )
    sampled(clone, pictures=1, sigmas=SIGMAS.clone(), height=16)
    sampled(clone, pictures=2, sigmas=SIGMAS.clone())
    assert recording.maps((8, 16), 1).layers[0].shape == (2, 8, 16, 1)
    with pytest.raises(HookMisuse, match="Record samplings in which no prompt has an area"):
        sampled(clone, pictures=1)
        sampled(clone, pictures=2)


def test_a_word_that_is_strengthened_has_a_stronger_map(nodes, small):
    model, relevance = small[0], comfyui.effect_of(small[1])
    steer = strengthen(relevance, "red", "Color", 0.5)
    steered = nodes.attention.steered(model, comfyui.clip(), PROMPT, steer)
    totals = []
    for source in (model, steered):
        clone, recording = nodes.recording.recorded(source, comfyui.clip(), relevance, PROMPT, "red")
        sampled(clone)
        totals.append(recording.maps((8, 16)).within()[:, 0])
    first = slice(*small[1].slices[0])  # where queries are the same, steered or not
    assert np.allclose(totals[1][first] / totals[0][first], steer.factors[0, first], atol=1e-5)


def test_in_joint_attention_what_pixels_attend_to_is_recorded(nodes):
    blocks = {"transformer_blocks.0.attn": ("double_block", 0)}
    blocks["single_transformer_blocks.0.attn"] = ("single_block", 0)
    head_map = HeadMap(tuple(Layer(address, 2, "joint") for address in blocks))
    t5 = comfyui.Clip(l=comfyui.Tokenizer(tiny_tokenizer()), t5xxl=comfyui.T5Tokenizer(tiny_t5()[0]))
    denoiser = flux(double=1, single=1)
    clone, recording = nodes.recording.recorded(denoiser, t5, comfyui.effect_of(head_map), PROMPT, "red")
    options, wanted = {"cond_or_uncond": [0]}, []
    for seed, block in enumerate(blocks.values()):
        query, key, value = projections(1, 2, TEXT + PIXELS, seed)
        given, run = block_inputs(block, 1, options), joint_block(2, True, (query, key, value))
        output = patches_of(clone)[block](given, run)["img"]
        assert torch.equal(output, run["original_block"](given)["img"])
        maps = (query @ key.mT / DIM**0.5).softmax(-1)
        wanted.append(maps[0, :, TEXT:, list(recording.tokens.positions)].sum(-1))
    for layer, maps in zip(recording.maps((4, 6)).layers, wanted, strict=True):
        assert layer.shape == (2, 2, 3, 1) and np.allclose(layer.reshape(2, -1), maps, atol=1e-6)


def test_nothing_recorded_and_other_latents_are_refused(nodes, small):
    model, relevance = small[0], comfyui.effect_of(small[1])
    clone, recording = nodes.recording.recorded(model, comfyui.clip(), relevance, PROMPT, "red")
    with pytest.raises(HookMisuse, match="Nothing was recorded. Give the model of Record attention"):
        recording.maps((8, 16))
    sampled(clone)
    with pytest.raises(HookMisuse, match=r"128 pixels was recorded, which latents of 9 × 9 do not have"):
        recording.maps((9, 9))


# ---------------------------------------------------------------------------------------------- images


def two_heads():
    """Two heads of one layer: one looks left, one looks right."""
    head_map = HeadMap((Layer("mid_block.attentions.0.transformer_blocks.0.attn2", 2),))
    left_right = np.zeros((2, 2, 2, 1), np.float32)
    left_right[0, :, 0], left_right[1, :, 1] = 0.3, 0.1
    maps = WordMaps((Word("red", 1, (), (2,)),), (left_right,), head_map)
    unknown = np.full((2, 2), np.nan)
    values = np.array([[3.0, -1.0], [0.5, 1.5]])
    return maps, Relevance(values, unknown, unknown[:, 0], comfyui.CONCEPTS, head_map, {"by": "effect"})


def test_the_map_is_where_the_concepts_heads_look(nodes):
    """Heads against the concept are left out; where no head looks, the image stays, in grey."""
    maps, relevance = two_heads()
    picture = torch.ones(8, 8, 3)
    weights = nodes.overlay.concept_weights(relevance, "Color")
    assert weights.tolist() == [3.0, 0.0] and nodes.overlay.concept_weights(relevance, "").tolist() == [1, 1]
    shown = nodes.overlay.overlay(maps, weights, picture)
    assert torch.allclose(shown[:, 0], torch.tensor(nodes.overlay.COLOUR), atol=0.1)
    assert torch.allclose(shown[:, -1], torch.ones(3), atol=0.1)
    assert (0 <= shown).all() and (shown <= 1).all()
    with pytest.raises(UnknownConcept):
        nodes.overlay.concept_weights(relevance, "Colour")


def test_the_table_lists_heads_by_their_share_of_the_map(nodes):
    maps, relevance = two_heads()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
    assert nodes.overlay.table(maps, relevance, "Animals", 1).splitlines() == [
        '"red" by the heads of Animals',
        "",
        "share  attention  relevance  head",
        f"50.0%     0.1500       0.50  {layer}[0]",
        "",
        "share  attention  layer",
        f"100.0%     0.1000  {layer}",
    ]
    assert '"red" by all heads alike' in nodes.overlay.table(maps, relevance, "")
    assert f"25.0%     0.0500        nan  {layer}[1]" in nodes.overlay.table(maps, relevance, "")


def test_the_nodes_record_and_then_show(nodes, small):
    model, relevance = small[0], comfyui.effect_of(small[1])
    listed = comfyui.listed(nodes)
    given = {"model": model, "clip": comfyui.clip(), "relevance": relevance, "text": PROMPT}
    clone, recording = listed["HeadwiseRecordAttention"].execute(**given, word="red", occurrence=0).result
    samples = {"samples": sampled(clone)[2:]}
    show = listed["HeadwiseShowAttention"].execute
    shown, text = show(recording, samples, "Color", 3).result
    assert shown.shape == (2, 64, 128, 3) and text.count('"red" by the heads of Color') == 2
    over, _ = show(recording, samples, "Color", 3, torch.rand(2, 32, 64, 4)).result
    assert over.shape == (2, 32, 64, 3)
    with pytest.raises(HookMisuse, match="1 images were given for 2 latents"):
        show(recording, samples, "Color", 3, torch.rand(1, 32, 64, 3))
