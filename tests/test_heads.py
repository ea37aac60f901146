"""Head order and counts of the published architectures, on the meta device."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)

from headwise.errors import HeadMapMismatch, ModelNotLoaded
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, Layer
from helpers import published

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = Path(__file__).parents[2] / "shared/reference"


@pytest.mark.parametrize(
    ("name", "layers", "heads"), [("sd1", 16, 128), ("sd2", 16, 195), ("sdxl", 70, 1300)]
)
def test_published_configurations_have_the_published_heads(name, layers, heads):
    head_map = HeadMap.of(published(name))
    assert (len(head_map), head_map.all_heads) == (layers, heads)
    golden = json.loads((GOLDEN / f"heads_{name}.json").read_text())
    assert [[layer.address, layer.heads] for layer in head_map] == golden


PIXART = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "cross_attention_dim": 1152}
SD3_MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64}
FLUX = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128}


@pytest.mark.parametrize(
    ("kind", "configuration", "layers", "heads"),
    [
        (PixArtTransformer2DModel, PIXART, 28, 448),
        (SD3Transformer2DModel, SD3_MEDIUM, 24, 576),
        (FluxTransformer2DModel, FLUX, 57, 1368),
    ],
)
def test_published_transformers_have_the_published_heads(kind, configuration, layers, heads):
    with torch.device("meta"):
        head_map = HeadMap.of(kind(**configuration))
    assert (len(head_map), head_map.all_heads) == (layers, heads)


def test_a_class_that_nobody_listed_works(sd):
    class Mine(UNet2DConditionModel):
        pass

    asked = (sd, ["a red dog"], 0, [0])
    before, head_map = generate(*asked, num_inference_steps=2, output_type="latent"), HeadMap.of(sd)
    mine = Mine.from_config(sd.unet.config)
    mine.load_state_dict(sd.unet.state_dict())
    sd.unet = mine.eval()
    assert HeadMap.of(sd) == head_map
    with hooked(sd, lambda attend, site, q, k, v: attend(q, k, v)):
        after = generate(*asked, num_inference_steps=2, output_type="latent")
    assert torch.equal(before, after)


@pytest.mark.parametrize(("name", "tag"), [("sd1", "sd_v1_4"), ("sdxl", "sd_xl_base_1_0")])
def test_order_is_that_of_the_published_arrays(name, tag):
    path = (
        REFERENCE / f"head_index_epoch_1_to_1_neg_prompt_False_merged_340_final_text_descriptions_{tag}.npy"
    )
    if not path.exists():
        pytest.skip("the published arrays are not here")
    ours = []
    for layer in HeadMap.of(published(name)):
        ours += [(layer.address.split("_")[0], head) for head in range(layer.heads)]
    theirs = [(text.split(",")[0], int(text.split(" ")[-1])) for text in np.load(path)]
    assert ours == theirs


def test_mid_comes_before_up_although_diffusers_lists_it_last(pipe):
    places = [layer.address.split("_")[0] for layer in HeadMap.of(pipe)]
    assert places == sorted(places, key=["down", "mid", "up"].index)
    assert [n for n, _ in pipe.unet.named_children() if "block" in n] == [
        "down_blocks",
        "up_blocks",
        "mid_block",
    ]


def test_heads_differ_per_level():
    assert {layer.heads for layer in HeadMap.of(published("sd2"))} == {5, 10, 20}


def test_a_pipeline_and_its_denoiser_have_one_head_map(pipe):
    assert HeadMap.of(pipe) == HeadMap.of(pipe.unet)


def test_transformers_with_cross_attention_have_heads_too():
    with torch.device("meta"):
        model = PixArtTransformer2DModel(
            num_layers=3, sample_size=8, num_attention_heads=4, cross_attention_dim=288
        )
    assert HeadMap.of(model).all_heads == 12
    assert all(layer.address.endswith("attn2") for layer in HeadMap.of(model))


def test_index_and_address_are_inverse(pipe):
    head_map = HeadMap.of(pipe)
    for i in range(head_map.all_heads):
        address, head = head_map.address(i)[:-1].split("[")
        assert head_map.index(address, int(head)) == i
    assert head_map.slices[0][0] == 0
    assert head_map.slices[-1][1] == head_map.all_heads


def test_json_round_trip(pipe):
    head_map = HeadMap.of(pipe)
    assert HeadMap.from_json(head_map.to_json()) == head_map


def test_unequal_maps_are_refused_with_both_names():
    one, two = HeadMap((Layer("down.attn2", 8),)), HeadMap((Layer("down.attn2", 4),))
    one.require(one, "a", "b")
    with pytest.raises(HeadMapMismatch, match=r"run A has 8 heads .* run B has 4 heads"):
        one.require(two, "run A", "run B")


def test_what_is_outside_is_refused(sd):
    head_map = HeadMap.of(sd)
    with pytest.raises(HeadMapMismatch, match="There are 8 heads, 0 to 7; 8 was asked for"):
        head_map.address(8)
    with pytest.raises(HeadMapMismatch, match="has heads 0 to 1; 2 was asked for"):
        head_map.index(head_map.layers[0].address, 2)
    with pytest.raises(HeadMapMismatch, match="is not a layer of this head map"):
        head_map.index("nowhere", 0)


def test_models_without_text_are_refused(sd):
    with pytest.raises(ModelNotLoaded, match="AutoencoderKL has no attention layer known to read text"):
        HeadMap.of(sd.vae)
    with pytest.raises(ModelNotLoaded, match="neither a `unet` nor a `transformer`"):
        HeadMap.of("a string")
