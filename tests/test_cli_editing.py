"""The commands that edit, compose and compare with rivals, on a tiny pipeline with a judge of bytes."""

import json

import numpy as np
import pytest
from PIL import Image

from conftest import TRANSFORMERS, flow
from headwise.editing.support import METHODS
from headwise.pictures import read_picture, settings_in
from helpers import Stub, relevance_for

FAST = ("-m", "./tiny", "--num-inference-steps", 2)
PAIRS = """["Color"]
prompts = ["a {word} {thing}"]
words = ["red", "color"]
things = ["dog", "cat"]
box = [0.25, 0.25, 0.75, 0.75]
edits = "object"
"""
SEVERAL = """[type1]
prompt = "a {a} and a {b}"
concept = "Animals"
things = ["dog", "cat"]
"""


@pytest.fixture
def workspace(workspace, monkeypatch):
    """With files of pairs and of prompts, a photo, and a judge."""
    (workspace / "pairs.toml").write_text(PAIRS)
    (workspace / "several.toml").write_text(SEVERAL)
    Image.effect_noise((50, 40), 60).convert("RGB").save(workspace / "photo.png")
    monkeypatch.setattr("headwise.benchmarks.clip_scorer.CLIPScorer.load", lambda name: Stub())
    return workspace


def pixels(file):
    return np.asarray(Image.open(file))


def test_edit_draws_a_source_and_its_edits(run, workspace):
    line = ("edit", "-s", "a red dog", "-t", "a color dog", "-t", "a red cat", *FAST, "--seeds", "3,4")
    code, out, err = run(*line, "--strengthen", "color:Color", "--weight", "cat*2", "--blend")
    assert (code, out.strip()) == (0, "runs/edit/grid.png")
    assert len(list((workspace / "runs/edit").iterdir())) == 7
    said = settings_in(workspace / "runs/edit/001-a-red-cat.png")
    assert said["source"] == "a red dog" and json.loads(said["strengthen"]) == {"color": "Color"}
    assert json.loads(said["seeds"]) == [3, 4] and said["picture"] == "1"
    made = {key: json.loads(said[key]) for key in ("weight", "cross", "self_attention", "blend", "strengths")}
    assert made == {
        "weight": {"cat": 2.0},
        "cross": 0.8,
        "self_attention": 0.9,
        "blend": True,
        "strengths": {"color": 1.0},
    }


def test_edit_of_a_photo_says_what_the_inversion_lost(run, workspace):
    line = ("edit", "--image", "photo.png", "-s", "a red dog", "-t", "a red cat", *FAST, "--out", "e")
    code, out, err = run(*line, "--json")
    assert code == 0 and "dB" in err and "warning: The image is reconstructed poorly" in err
    assert json.loads(out)["files"] == ["e/000-source.png", "e/000-a-red-cat.png"]
    code, _, err = run(*line, "--inversion", "ddim", "--skip", 0)
    assert code == 0 and "dB" in err
    assert settings_in(workspace / "e/000-a-red-cat.png")["skip"] == "0.0"


@pytest.mark.parametrize("shape", [(9, 31), (31, 9), (16, 16), (250, 90)])
def test_photos_of_any_size_are_scaled_and_what_is_cropped_is_said(run, workspace, shape):
    Image.new("RGB", shape, "orange").save("odd.png")
    line = ("edit", "--image", "odd.png", "-s", "a red dog", "-t", "a red cat", *FAST, "--json")
    code, out, err = run(*line, "--out", "odd")
    assert code == 0 and read_picture(json.loads(out)["files"][1]).size == (16, 16)
    assert ("Only the middle" in err) == ("To keep its shape, give --height" in err) == (shape != (16, 16))
    code, out, err = run(*line, "--out", "wide", "--height", 16, "--width", 32)
    assert code == 0 and read_picture(json.loads(out)["files"][1]).size == (32, 16)
    assert "In its own shape" not in err


def test_edit_strengthens_by_its_strength(run, workspace):
    line = ("edit", "-s", "a red dog", "-t", "a color dog", "--strengthen", "color:Color", *FAST)
    drawn = []
    for strength in (1, 1.0, 5):
        run(*line, "--seeds", 3, "--strength", strength, "--out", f"s{len(drawn)}")
        drawn.append(pixels(workspace / f"s{len(drawn)}" / "000-a-color-dog.png"))
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    run(*line[:6], "color:color*5", *FAST, "--seeds", 3, "--out", "star")
    assert np.array_equal(drawn[2], pixels(workspace / "star/000-a-color-dog.png"))


def test_excite_draws_plain_and_excited(run, workspace):
    line = ("excite", "a dog and a cat", "-w", "dog", "-w", "cat", *FAST, "--seeds", "1", "--json")
    code, out, _ = run(*line, "--concept", "dog:Animals", "--concept", "cat:Animals")
    assert code == 0
    names = [file.split("/")[-1] for file in json.loads(out)["files"]]
    methods = ("plain", "attend-and-excite", "relevance", "neglected")
    assert names == [f"000-{method}.png" for method in methods]
    plain, *others = (pixels(workspace / "runs/excite" / name) for name in names)
    assert not any(np.array_equal(plain, other) for other in others)
    run("generate", "a dog and a cat", *FAST, "--seed", 1, "-n", 1, "--out", "stock")
    assert np.array_equal(plain, pixels(workspace / "stock/000-plain.png"))


def test_excite_turns_up_the_neglected_subject_where_no_gradient_is_supported(run, workspace, monkeypatch):
    unets = METHODS["Excite"]._replace(families=METHODS["compose"].families)
    monkeypatch.setitem(METHODS, "Excite", unets)  # as on families that are tested without weights
    line = ("excite", "a dog and a cat", "-w", "dog", "-w", "cat", "--model", "emoji-dit", "--seeds", "1")
    options = ("--num-inference-steps", "2", "--json")
    code, out, _ = run(*line, *options, "--concept", "dog:Animals", "--concept", "cat:Animals")
    assert code == 0
    names = [file.split("/")[-1] for file in json.loads(out)["files"]]
    assert names == ["000-plain.png", "000-neglected.png"]
    code, _, err = run(*line, *options)
    assert code == 2 and "Attend-and-Excite works on" in err


def test_edit_and_excite_work_on_the_built_in_transformer(run, workspace):
    options = ("--model", "emoji-dit", "--seeds", "1", "--num-inference-steps", "2", "--json")
    code, out, _ = run("edit", "--source", "a red car", "--target", "a blue car", *options)
    assert code == 0 and len(json.loads(out)["files"]) == 2
    subjects = ("-w", "dog", "-w", "cat", "--concept", "dog:Animals", "--concept", "cat:Animals")
    code, out, _ = run("excite", "a dog and a cat", *subjects, *options)
    names = [file.split("/")[-1].removesuffix(".png") for file in json.loads(out)["files"]]
    assert names == ["000-plain", "000-attend-and-excite", "000-relevance", "000-neglected"]


@pytest.mark.filterwarnings("ignore:.*clean_caption.*")
@pytest.mark.parametrize("name", ["sd3", "flux-dev", "sana"])
def test_edit_and_excite_accept_transformers_of_flow_matching(run, workspace, monkeypatch, name):
    pipe = TRANSFORMERS[name](scheduler=flow())
    if name == "sana":  # whose pipeline knows four sizes of models
        pipe.transformer.register_to_config(sample_size=16)
        monkeypatch.setattr(f"{type(pipe).__module__}.ASPECT_RATIO_512_BIN", {"1.0": [32.0, 32.0]})
    monkeypatch.setattr("headwise.cli.options.Model.load", lambda self: pipe)
    relevance_for(pipe).save("relevance.safetensors")
    options = ("--relevance", "relevance.safetensors", "--num-inference-steps", 2, "--json")
    line = ("edit", "-s", "a red dog", "-t", "a red cat", "--strengthen", "cat:Animals", "--blend", *options)
    for image in ((), ("--image", "photo.png"), ("--image", "photo.png", "--inversion", "ddim")):
        code, out, err = run(*line, *image, "--seeds", "1")
        assert code == 0, err
        source, edited = (pixels(workspace / file) for file in json.loads(out)["files"])
        assert not np.array_equal(source, edited)
    subjects = ("-w", "dog", "-w", "cat", "--concept", "dog:Animals", "--concept", "cat:Animals")
    code, out, err = run("excite", "a dog and a cat", *subjects, *options, "--seeds", "1")
    assert code == 0, err
    names = [file.split("/")[-1].removesuffix(".png") for file in json.loads(out)["files"]]
    assert names == ["000-plain", "000-attend-and-excite", "000-relevance", "000-neglected"]


def test_benchmark_editing(run, workspace):
    line = ("benchmark", "editing", *FAST, "--pairs", "pairs.toml", "--seeds", "0", "--out", "b")
    own = (*line, "--method", "prompt-to-prompt", "--method", "relevance", "--count", 2)
    found = json.loads(run(*own, "--json")[1])["attributes"]["Color"]
    assert set(found) == {"prompt-to-prompt", "relevance"} and found["relevance"]["n"] == 2
    for measure in ("alignment", "preservation", "accuracy", "identity"):
        one = found["relevance"][measure]
        assert 0 <= one["mean"] <= 1 and one["low"] is one["high"] is None  # two pairs give no interval
    code, out, _ = run(*own)
    assert code == 0 and "prompt-to-prompt" in out and "Open b/index.html" in out
    page = (workspace / "b/index.html").read_text()
    assert "a color dog" in page and "svg" in page


def test_benchmark_multi_concept(run, workspace):
    line = ("benchmark", "multi-concept", *FAST, "--prompts", "several.toml", "--seeds", "0", "--out", "b")
    found = json.loads(run(*line, "--json")[1])["types"]["type1"]
    assert {"plain", "attend-and-excite", "relevance"} <= set(found)
    code, out, _ = run(*line)
    assert code == 0 and "attend-and-excite" in out and "Open b/index.html" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("edit", "-s", "a red dog", "-t", "a red dog"), "nothing to edit"),
        (("edit", "-s", "a dog", "-t", "blue cars"), "no word"),
        (("edit", "-s", "a dog", "-t", "a cat", "--strengthen", "red:Color"), "'red' is not a word of"),
        (("edit", "-s", "a dog", "-t", "a cat", "--strengthen", "cat"), "Write WORD:CONCEPT"),
        (("edit", "-s", "a dog", "-t", "a cat", "--strengthen", "cat:Color-Animals"), "names two concepts"),
        (("excite", "a dog", "-w", "dog", "--concept", "dog:Animals*2"), "expected WORD:CONCEPT without one"),
        (("edit", "-s", "a dog", "-t", "a cat", "--weight", "cat*much"), "comma-separated numbers"),
        (("edit", "-s", "a dog", "-t", "a cat", "--image", "pairs.toml"), "is not an image"),
        (("edit", "-s", "a dog", "-t", "a cat", "--image", "none.png"), "No such file"),
        (("excite", "a dog", "-w", "cat"), "'cat' is not a word of"),
        (("excite", "a dog", "-w", "dog", "--concept", "dog:Dogs"), "Dogs"),
        (("benchmark", "editing", "--pairs", "none.toml"), "cannot be read"),
        (("benchmark", "editing", "--pairs", "pairs.toml", "--method", "magic"), "magic"),
        (("benchmark", "multi-concept", "--prompts", "pairs.toml"), "lacks or misspells"),
    ],
)
def test_refusals_leave_nothing_behind(run, workspace, arguments, said):
    before = set(workspace.rglob("*"))
    code, out, err = run(*arguments, *FAST)
    assert (code, out) == (2, "") and said in err and err.count("error: ") == 1
    new = set(workspace.rglob("*")) - before
    assert not [file for file in new if file.suffix in (".png", ".html", ".safetensors")]


@pytest.mark.parametrize(
    "command", [("edit",), ("excite",), ("benchmark", "editing"), ("benchmark", "multi-concept")]
)
def test_help_shows_an_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0 and f"headwise {' '.join(command)}" in out.split("Example")[1]
