"""The ComfyUI nodes: what they list, load and lay on a clone."""

import inspect

import numpy as np
import pytest
import torch

import comfyui_standin as comfyui
from headwise.model.heads import HeadMap
from headwise.steering.dose import amplify, contrast
from headwise.steering.steer import Steer, adjust, strengthen, weaken
from helpers import loaded, published

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


def test_the_entry_point_lists_nodes_whose_inputs_are_their_arguments(nodes):
    found = comfyui.listed(nodes)
    assert set(found) == {
        "HeadwiseLoadRelevance",
        "HeadwiseStrengthen",
        "HeadwiseAdjust",
        "HeadwiseWeakenHeads",
        "HeadwiseRecordAttention",
        "HeadwiseShowAttention",
    }
    for node in found.values():
        schema = node.define_schema()
        assert schema.category == "headwise" and schema.description and schema.outputs
        assert all(given.tooltip for given in schema.inputs)
        assert [given.id for given in schema.inputs] == list(inspect.signature(node.execute).parameters)


def test_files_are_listed_loaded_and_read_again_when_they_change(nodes, tmp_path):
    load = comfyui.listed(nodes)["HeadwiseLoadRelevance"]
    (tmp_path / "headwise").mkdir()
    (tmp_path / "headwise" / "notes.txt").touch()
    assert load.define_schema().inputs[0].options == []
    relevance = comfyui.relevance_of(HeadMap.of(published("sd1")))
    relevance.save(tmp_path / "headwise" / "sd.safetensors")
    assert load.define_schema().inputs[0].options == ["sd.safetensors"]
    loaded_relevance, concepts, about = load.execute("sd.safetensors").result
    assert (loaded_relevance, concepts) == (relevance, "Color\nAnimals")
    assert about.startswith("Relevance by votes, measured on a model that the file does not name: 128 heads")
    before = load.fingerprint_inputs("sd.safetensors")
    assert load.fingerprint_inputs("sd.safetensors") == before
    comfyui.relevance_of(HeadMap.of(published("sd1")), seed=1).save(tmp_path / "headwise" / "sd.safetensors")
    assert load.fingerprint_inputs("sd.safetensors") != before


GIVEN = {"text": "a red vase", "start": 0.0, "stop": 0.5}


@pytest.mark.parametrize(
    ("node", "more", "same"),
    [
        (
            "Strengthen",
            {"word": "red", "occurrence": 0, "concept": "Color", "strength": 1.5},
            lambda r: strengthen(r, "red", "Color", 1.5),
        ),
        (
            "Adjust",
            {"word": "red", "occurrence": 1, "toward": "Color", "away": "Animals", "strength": 2.0},
            lambda r: adjust(r, "red", "Color", "Animals", 2.0),
        ),
        (
            "WeakenHeads",
            {"concept": "Color", "order": "most relevant", "heads": 5, "factor": -2.0},
            lambda r: weaken(r.head_map, [rank.index for rank in r.top("Color", 5)]),
        ),
        (
            "WeakenHeads",
            {"concept": "Color", "order": "least relevant", "heads": 128, "factor": 0.0},
            lambda r: weaken(r.head_map, range(128), factor=0.0),
        ),
    ],
)
def test_nodes_lay_the_librarys_factors_on_a_clone(nodes, node, more, same):
    recorded = comfyui.Recorded("sd1")
    relevance, model = comfyui.relevance_of(recorded.head_map), recorded.model()
    run = comfyui.listed(nodes)[f"Headwise{node}"].execute
    (clone,) = run(model=model, clip=comfyui.clip(), relevance=relevance, **GIVEN, **more).result
    patches = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    factors = [patches[nodes.blocks.block_of(layer.address)].action.factors for layer in recorded.head_map]
    wanted: Steer = same(relevance)
    assert np.array_equal(np.concatenate(factors), wanted.factors[0])
    patch = patches["middle", 0, 0].action
    assert patch.steps == (0.0, 0.5)
    assert patch.word.positions == ((1, 2, 3) if wanted.every else (2,))
    assert model.model_options == {"transformer_options": {}}


def steered_heads(nodes, node, relevance, **more):
    """The factors that a node lays on the heads of a clone."""
    recorded = comfyui.Recorded("sd1")
    run = comfyui.listed(nodes)[f"Headwise{node}"].execute
    (clone,) = run(model=recorded.model(), clip=comfyui.clip(), relevance=relevance, **GIVEN, **more).result
    patches = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    factors = [patches[nodes.blocks.block_of(layer.address)].action.factors for layer in recorded.head_map]
    return np.concatenate(factors)


@pytest.mark.parametrize(
    ("node", "more", "same"),
    [
        ("Strengthen", {"concept": "Color"}, lambda r: amplify(r, "red", "Color", 0.5)),
        (
            "Adjust",
            {"toward": "Color", "away": "Animals"},
            lambda r: contrast(r, "red", "Color", "Animals", 0.5),
        ),
    ],
)
def test_relevance_by_effect_steers_by_the_librarys_rule_for_it(nodes, tmp_path, node, more, same):
    """From a file, in which some heads are below 0."""
    (tmp_path / "headwise").mkdir()
    comfyui.effect_of(HeadMap.of(published("sd1"))).save(tmp_path / "headwise" / "effect.safetensors")
    relevance, _, about = comfyui.listed(nodes)["HeadwiseLoadRelevance"].execute("effect.safetensors").result
    assert about.startswith("Relevance by effect, measured on tiny: 128 heads in 16 layers")
    factors = steered_heads(nodes, node, relevance, word="red", occurrence=0, strength=0.5, **more)
    assert np.array_equal(factors, same(relevance).factors[0])
    against = relevance["Color"] < 0
    assert against.any() and (factors[against] <= 1).all() and (factors != 1).any()


def test_by_effect_heads_that_work_against_a_concept_are_weakened_first_of_the_least(nodes):
    relevance = comfyui.effect_of(HeadMap.of(published("sd1")))
    against = relevance["Color"] < 0
    chosen = {"concept": "Color", "order": "least relevant", "heads": int(against.sum()), "factor": 0.0}
    assert np.array_equal(
        steered_heads(nodes, "WeakenHeads", relevance, **chosen), np.where(against, 0.0, 1.0)
    )


def test_comfyui_needs_no_package_that_it_has_not():
    """Of Headwise's requirements only jaxtyping is not ComfyUI's own: the README installs it without them."""
    names = "headwise.measuring.relevance, headwise.steering.spelling, headwise.benchmarks.weakening"
    names += ", headwise.measuring.attention_maps"
    assert loaded(
        f"import sys; sys.modules |= dict.fromkeys(['diffusers', 'transformers']); import {names}"
    ) == [
        "diffusers",
        "transformers",
        "torch",
    ], "None in sys.modules forbids an import"
