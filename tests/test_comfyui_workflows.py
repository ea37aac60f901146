"""The example workflows for ComfyUI fit the nodes that they name."""

import json

import pytest

import comfyui_standin as comfyui


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    with comfyui.loaded_nodes(tmp_path, monkeypatch) as package:
        yield package


CORE = {  # inputs that are linked or set in ComfyUI's own nodes, and how many values they keep
    "CheckpointLoaderSimple": 1,
    "PrimitiveStringMultiline": 1,
    "CLIPTextEncode": 1,
    "EmptyLatentImage": 3,
    "KSampler": 7,
    "VAEDecode": 0,
    "PreviewImage": 0,
}


@pytest.mark.parametrize(
    "file", sorted((comfyui.HERE / "example_workflows").glob("*.json")), ids=lambda f: f.stem
)
def test_example_workflows_fit_the_nodes(nodes, file):
    found, workflow = comfyui.listed(nodes), json.loads(file.read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert len(by_id) == len(workflow["nodes"]) and max(by_id) == workflow["last_node_id"]
    for node in by_id.values():
        if node["type"] not in found:
            assert len(node.get("widgets_values", ())) == CORE[node["type"]], node["type"]
            continue
        schema = found[node["type"]].define_schema()
        widgets = [
            given for given in schema.inputs if given.io_type not in ("MODEL", "CLIP", nodes_type(nodes))
        ]
        assert len(node["widgets_values"]) == len(widgets)
        assert {given["name"]: given["type"] for given in node["inputs"]}.items() <= {
            (given.id, given.io_type) for given in schema.inputs
        }
        assert [out["type"] for out in node["outputs"]] == [out.io_type for out in schema.outputs]
    for number, origin, slot, target, place, kind in workflow["links"]:
        out, given = by_id[origin]["outputs"][slot], by_id[target]["inputs"][place]
        assert out["type"] == given["type"] == kind
        assert given["link"] == number and number in out["links"]
    assert {number for number, *_ in workflow["links"]} == {
        given["link"] for node in by_id.values() for given in node.get("inputs", ()) if given["link"]
    }


def nodes_type(nodes):
    return nodes.inputs.RelevanceFile.Input.io_type
