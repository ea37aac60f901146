"""What is beside the ComfyUI nodes: workflows that fit them, and what the registry asks for."""

import json
import re
import tomllib

import pytest

import comfyui_standin as comfyui
from helpers import ROOT


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    with comfyui.loaded_nodes(tmp_path, monkeypatch) as package:
        yield package


# Nodes that are not ours: what can be linked to them, how many values they keep, and what they give.
LATENT, MODEL, PROMPTS = ("latent_image", "LATENT"), ("model", "MODEL"), ("positive", "negative")
OTHERS = {
    "CheckpointLoaderSimple": ({}, 1, ["MODEL", "CLIP", "VAE"]),
    "PrimitiveStringMultiline": ({}, 1, ["STRING"]),
    "CLIPTextEncode": ({"clip": "CLIP", "text": "STRING"}, 1, ["CONDITIONING"]),
    "EmptyLatentImage": ({}, 3, ["LATENT"]),
    "KSampler": (dict([MODEL, LATENT]) | dict.fromkeys(PROMPTS, "CONDITIONING"), 7, ["LATENT"]),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, 0, ["IMAGE"]),
    "PreviewImage": ({"images": "IMAGE"}, 0, []),
    "PreviewAny": ({"source": "*"}, 0, []),
    "LoadImage": ({}, 2, ["IMAGE", "MASK"]),
    "LoraLoader": ({"model": "MODEL", "clip": "CLIP"}, 3, ["MODEL", "CLIP"]),
    "ControlNetLoader": ({}, 1, ["CONTROL_NET"]),
    "ControlNetApplyAdvanced": (
        dict.fromkeys(PROMPTS, "CONDITIONING")
        | {"control_net": "CONTROL_NET", "image": "IMAGE", "vae": "VAE"},
        3,
        ["CONDITIONING", "CONDITIONING"],
    ),
    # of ComfyUI_IPAdapter_plus
    "IPAdapterUnifiedLoader": ({"model": "MODEL", "ipadapter": "IPADAPTER"}, 1, ["MODEL", "IPADAPTER"]),
    "IPAdapter": (
        {"model": "MODEL", "ipadapter": "IPADAPTER", "image": "IMAGE", "attn_mask": "MASK"},
        4,
        ["MODEL"],
    ),
}
WIDGETS = ("STRING", "INT", "FLOAT", "COMBO")


def signature(node):
    """As in `OTHERS`."""
    schema = node.define_schema()
    values = [given for given in schema.inputs if given.io_type in WIDGETS]
    return (
        {given.id: given.io_type for given in schema.inputs},
        len(values),
        [o.io_type for o in schema.outputs],
    )


@pytest.mark.parametrize(
    "file", sorted((comfyui.HERE / "example_workflows").glob("*.json")), ids=lambda f: f.stem
)
def test_example_workflows_fit_the_nodes(nodes, file):
    known = OTHERS | {name: signature(node) for name, node in comfyui.listed(nodes).items()}
    workflow = json.loads(file.read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert len(by_id) == len(workflow["nodes"]) and max(by_id) == workflow["last_node_id"]
    for node in by_id.values():
        inputs, values, outputs = known[node["type"]]
        assert {given["name"]: given["type"] for given in node["inputs"]}.items() <= inputs.items()
        assert len(node.get("widgets_values", ())) == values
        assert [out["type"] for out in node["outputs"]] == outputs
    for number, origin, slot, target, place, kind in workflow["links"]:
        out, given = by_id[origin]["outputs"][slot], by_id[target]["inputs"][place]
        assert out["type"] == kind and given["type"] in (kind, "*")
        assert given["link"] == number and number in out["links"]
    assert {number for number, *_ in workflow["links"]} == {
        given["link"] for node in by_id.values() for given in node["inputs"] if given["link"]
    }


def test_there_are_workflows_for_what_is_often_beside(nodes):
    """Ours come after what changes the model, or else it would take ours away."""
    chains = {"lora": "LoraLoader", "ip_adapter": "IPAdapter", "controlnet": "CheckpointLoaderSimple"}
    for name, before in chains.items():
        workflow = json.loads((comfyui.HERE / "example_workflows" / f"{name}.json").read_text())
        by_id = {node["id"]: node for node in workflow["nodes"]}
        (ours,) = (node for node in by_id.values() if node["type"] == "HeadwiseAdjust")
        number = next(given["link"] for given in ours["inputs"] if given["name"] == "model")
        origin = next(link[1] for link in workflow["links"] if link[0] == number)
        assert by_id[origin]["type"] == before


def test_the_registry_is_told_what_it_asks_for():
    """A name that it takes, our own version, and the ComfyUI that the README names."""
    theirs = tomllib.loads((comfyui.HERE / "pyproject.toml").read_text())
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    project, registry = theirs["project"], theirs["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert (project["version"], project["requires-python"]) == (ours["version"], ours["requires-python"])
    assert project["license"] == {"text": ours["license"]}
    assert set(registry) == {"PublisherId", "DisplayName", "requires-comfyui"}
    assert (
        f"({registry['requires-comfyui'].removeprefix('>=')}) or newer"
        in (comfyui.HERE / "README.md").read_text()
    )
