"""The commands that act and that try claims, on a tiny pipeline with a judge of its own."""

import json

import numpy as np
import pytest
from PIL import Image

from cli_helpers import CASES, FAST, SENSES
from headwise.pictures import settings_in


@pytest.fixture
def workspace(workspace):
    """With files of cases."""
    (workspace / "cases.toml").write_text(CASES)
    (workspace / "senses.toml").write_text(SENSES)
    return workspace


def test_generate_draws_side_by_side_and_says_how(run, workspace):
    line = ("generate", "a red dog", "-m", "./tiny", "--strengthen", "red:Color*2", "-n", 2, *FAST)
    code, out, err = run(*line)
    assert code == 0 and out.strip() == "runs/generate/grid.png" and "4/4" in err
    files = sorted(file.name for file in (workspace / "runs" / "generate").iterdir())
    assert files == ["000-plain.png", "000-steered.png", "001-plain.png", "001-steered.png", "grid.png"]
    said = settings_in(workspace / "runs" / "generate" / "001-steered.png")
    assert said["prompt"] == "a red dog" and json.loads(said["steering"]) == ["red:Color*2"]
    assert (said["seed"], said["picture"], said["num_inference_steps"]) == ("0", "1", "2")
    first = (workspace / "runs" / "generate" / "000-steered.png").read_bytes()
    run(*line)
    assert (workspace / "runs" / "generate" / "000-steered.png").read_bytes() == first


def test_generate_with_a_row_of_strengths(run, workspace):
    line = ("generate", "a red dog", "-m", "./tiny", "--adjust", "red:Color-Animals", "-n", 1, *FAST)
    code, out, _ = run(*line, "--strengths", "0,1", "--json", "--out", "row")
    assert code == 0 and [file.split("/")[1] for file in json.loads(out)["files"]] == [
        "000-strength-0.png",
        "000-strength-1.png",
    ]
    plain = ("generate", "a red dog", "-m", "./tiny", "-n", 1, *FAST, "--out", "plain")
    run(*plain)
    pixels = [
        np.asarray(Image.open(f))
        for f in (workspace / "row/000-strength-0.png", workspace / "plain/000-plain.png")
    ]
    assert np.array_equal(*pixels)


def test_generate_suggests(run, workspace):
    code, out, _ = run("generate", "a red dog", "-m", "./tiny", "--suggest", "dog", *FAST, "--json")
    assert code == 0 and {one["concept"] for one in json.loads(out)["concepts"]} == {"Color", "Animals"}
    code, out, _ = run("generate", "a red dog", "-m", "./tiny", "--suggest", "dog", *FAST)
    assert "Animals" in out


def test_explain_prints_heads_and_writes_the_picture_the_numbers_and_a_figure(run, workspace):
    line = ("explain", "a red dog", "-m", "./tiny", "--word", "red", "--maps", 2, *FAST)
    code, out, err = run(*line)
    assert code == 0 and out.splitlines()[-1] == "runs/explain/explanation.png"
    header, first = out.splitlines()[:2]
    assert header.split() == ["word", "strength", "share", "head", "address"]
    name, strength, share, head, address = first.split()
    assert (name, strength, share[0] in "+-") == ("red", "1.00", True)
    folder = workspace / "runs" / "explain"
    numbers = json.loads((folder / "explanation.json").read_text())
    top = numbers["words"][0]["top"][0]
    assert (str(top["head"]), top["address"]) == (head, address) and f"{top['share']:+.3f}" == share
    assert settings_in(folder / "picture.png")["prompt"] == "a red dog"
    run("generate", "a red dog", "-m", "./tiny", "-n", 1, *FAST)
    pictures = [
        Image.open(workspace / "runs" / name) for name in ("explain/picture.png", "generate/000-plain.png")
    ]
    assert np.array_equal(*map(np.asarray, pictures))
    code, out, _ = run(*line, "--json")
    assert code == 0 and json.loads(out)["words"][0]["top"][0] == top


def test_explain_refuses_a_word_that_is_not_there(run, workspace):
    code, out, err = run("explain", "a red dog", "-m", "./tiny", "--word", "car", *FAST)
    assert (code, out) == (2, "") and "'car' is not a word" in err and "Its words are: a, red, dog" in err


def test_weaken(run, workspace, judged):
    line = ("weaken", "Color", "-m", "./tiny", "--cases", "cases.toml", *FAST, "--random-orders", 1)
    code, out, _ = run(*line)
    assert (
        code == 0 and "least minus most relevant first" in out and "Open runs/weaken-color/index.html" in out
    )
    found = json.loads(run(*line, "--json")[1])
    assert set(found) >= {"area", "low", "high", "random_area", "layer_area"}
    assert found["low"] <= found["area"] <= found["high"]


def test_weaken_by_several_factors(run, workspace, judged):
    line = (
        "weaken",
        "Color",
        "-m",
        "./tiny",
        "--cases",
        "cases.toml",
        *FAST,
        "--random-orders",
        1,
        "--ks",
        "0,8",
    )
    found = json.loads(run(*line, "--factors", "-2,0.5", "--json")[1])
    assert set(found["factors"]) == {"-2", "0.5"} and found["page"] == "runs/weaken-color/index.html"
    out = run(*line, "--factors", "-2,0.5")[1]
    assert "Color, × -2" in out and "Color, × 0.5" in out


def test_benchmark_weakening(run, workspace, judged):
    line = ("benchmark", "weakening", "-m", "./tiny", "--cases", "cases.toml", *FAST)
    found = json.loads(run(*line, "--json")[1])
    assert set(found["concepts"]) == {"Color"} and 0 <= found["share_positive"] <= 1
    code, out, _ = run(*line)
    assert code == 0 and "of 1 concepts" in out
    page = (workspace / "runs/benchmark-weakening/index.html").read_text()
    assert "The first prompt of each weakening." in page and "k = 0" in page


def test_benchmark_polysemy(run, workspace, judged):
    line = ("benchmark", "polysemy", "-m", "./tiny", "--senses", "senses.toml", "--seeds", "0,1", *FAST)
    code, out, err = run(*line, "--json")
    assert code == 0, err
    found = json.loads(out)["methods"]
    assert set(found) == {
        "plain", "rewording", "uniform", "random_heads", "layer_means", "adjust", "span", "neighbours",
    }  # fmt: skip
    assert all(one["n"] == 4 and one["low"] <= one["misread"] <= one["high"] for one in found.values())
    code, out, _ = run(*line)
    assert code == 0 and "4 images per method." in out


def test_what_benchmark_polysemy_says_besides(run, workspace, judged):
    sense = (
        '[[senses]]\nword = "{}"\ntoward = "Color"\naway = "Animals"\nprompts = ["a {{word}} {{thing}}"]\n'
        'reworded = "a {{thing}} in {{word}} color"\n'
        'texts = ["a {{thing}} in {{word}} color", "a {{word}}"]\n'
        'things = ["dog", "cat"]\n'
    )
    (workspace / "senses.toml").write_text("\n".join(map(sense.format, ("red", "orange", "lavender"))))
    line = ("benchmark", "polysemy", "-m", "./tiny", "--senses", "senses.toml", "--seeds", "0", *FAST)
    line += ("--method", "plain", "--method", "layer means", "--method", "adjust")
    found = json.loads(run(*line, "--json")[1])
    assert set(found) == {"page", "methods", "against", "words"}
    assert set(found["methods"]["adjust"]) == {
        "misread", "low", "high", "n", "thing", "kept", "difference_to_plain",
    }  # fmt: skip
    for method, numbers in found["methods"].items():
        for mean in (numbers["thing"], numbers["kept"], *numbers["difference_to_plain"].values()):
            assert mean["low"] <= mean["mean"] <= mean["high"], method
        assert set(numbers["difference_to_plain"]) == {"misread", "thing"}
    assert found["methods"]["plain"]["difference_to_plain"]["misread"] == {"mean": 0, "low": 0, "high": 0}
    assert set(found["against"]) == {"adjust"}
    assert set(found["against"]["adjust"]) == {"plain", "layer_means"}
    adjust, plain = (found["methods"][method]["misread"] for method in ("adjust", "plain"))
    assert found["against"]["adjust"]["plain"]["mean"] == pytest.approx(adjust - plain)
    assert set(found["words"]) == {"red", "orange", "lavender"}
    by_word = [numbers["adjust"] for numbers in found["words"].values()]
    assert np.mean(by_word) == pytest.approx(adjust)
    out = run(*line)[1]
    assert "misread − plain (95 %)" in out and "of 2 other methods" in out and "kept" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "a dog", "--strengthen", "red:Color"), "'red' is not a word of"),
        (("generate", "a red dog", "--strengthen", "red:Colour"), "Did you mean 'Color'?"),
        (("generate", "a red dog", "--strengthen", "red:Color*nan"), "A strength of nan"),
        (("generate", "a red dog", "--strengthen", "red"), "is not a steering"),
        (("generate", "a red dog", "--strengths", "0,1"), "--strengths needs something to strengthen"),
        (
            ("generate", "a red dog", "--strengthen", "red:Color", "--strengths", "0,x"),
            "comma-separated numbers",
        ),
        (("generate", "a red dog", "--relevance", "nowhere"), "nowhere does not exist"),
        (("weaken", "Weather", "--cases", "cases.toml"), "Weather"),
        (("weaken", "Color", "--cases", "cases.toml", "--ks", "3,1"), "increasing numbers of heads"),
        (("benchmark", "weakening", "--cases", "none.toml"), "cannot be read"),
    ],
)
def test_refusals_leave_nothing_behind(run, workspace, judged, arguments, said):
    before = set(workspace.rglob("*"))
    code, out, err = run(*arguments, "-m", "./tiny", *FAST)
    assert (code, out) == (2, "") and said in err and err.count("error: ") == 1
    assert not [
        file
        for file in set(workspace.rglob("*")) - before
        if file.suffix in (".png", ".html", ".safetensors")
    ]


@pytest.mark.parametrize(
    "command", [("generate",), ("weaken",), ("benchmark", "weakening"), ("benchmark", "polysemy")]
)
def test_help_shows_an_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0 and f"headwise {' '.join(command)}" in out.split("Example")[1]
