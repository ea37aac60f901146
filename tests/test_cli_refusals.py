"""What a stranger tries first: each is refused in one sentence with exit code 2, or does what was meant."""

import json
import socket

import pytest
import torch

import headwise as hw
from cli_helpers import CASES, FAST
from headwise.steering.steer import strengthen
from helpers import relevance_for

MODEL = ("--model", "tiny")


@pytest.fixture
def refused(run, workspace):
    """The sentence with which a command leaves."""

    def refused(*command):
        code, out, err = run(*command)
        assert code == 2 and not out
        return err.strip().splitlines()[-1]

    return refused


@pytest.mark.parametrize(
    "command", [("doctor",), ("measure",), ("plan",), ("generate", "a dog")], ids=lambda words: words[0]
)
def test_sizes_that_no_pipeline_generates(refused, command):
    assert "Only one of --height and --width was given. Give --width too" in refused(
        *command, *MODEL, "--height", 64
    )
    said = refused(*command, *MODEL, "--height", 100, "--width", 60)
    assert "expected multiples of 8 for StableDiffusionPipeline, such as 96 and 64" in said


@pytest.mark.parametrize("device", ["cuda:99", "cuda", "mps", "meta"])
def test_devices_that_are_not_here(refused, device):
    if (device == "cuda" and torch.cuda.is_available()) or (device == "mps" and torch.mps.is_available()):
        pytest.skip("it is here")
    said = refused("doctor", *MODEL, "--device", device)
    assert said.startswith(f"error: --device {device} was given, but this machine has none. Give cpu")


@pytest.mark.parametrize("name", ["x.xyz", "x", "x.jpg"])
def test_figures_of_other_formats_are_refused_before_anything_is_read(refused, name):
    assert "expected a name that ends in .svg, .png, .pdf" in refused(
        "compare", "runs/tiny", "runs/tiny", "--figure", name
    )


def test_a_text_is_not_called_damaged(refused, workspace):
    (workspace / "notes.txt").write_text("These are notes.\n" * 9)
    for command in (("show", "notes.txt"), ("compare", "notes.txt", "notes.txt")):
        assert "notes.txt was not written by Headwise." in refused(*command)


def test_only_concept_sets_are_offered(refused):
    assert refused("measure", *MODEL, "--concepts", "nope").endswith("or one of: emoji, paper34.")


def test_a_model_that_nobody_measured_says_how_to_measure_it(refused, workspace):
    (workspace / "runs" / "tiny" / "relevance.safetensors").unlink()
    (workspace / "runs" / "tiny").rmdir()
    said = refused("generate", "a dog", *MODEL, *FAST)
    assert "Measure it with `headwise measure --model tiny`" in said


@pytest.mark.parametrize("scale", ["clamp x", "nope"])
def test_scales_that_there_are_not(refused, scale):
    said = refused("benchmark", "scales", *MODEL, "--scorer", "emoji", "--scale", scale)
    assert "scale" in said and "sum" in said


def test_guidance_is_a_number(refused):
    assert "--guidance-scale" in refused("generate", "a dog", *MODEL, *FAST, "--guidance-scale", "nan")


def test_concepts_are_named_in_any_case(run, workspace):
    _, lower, _ = run("show", "runs/tiny", "--concept", "color", "--json")
    _, proper, _ = run("show", "runs/tiny", "--concept", "Color", "--json")
    assert lower == proper and list(json.loads(lower)["concepts"]) == ["Color"]


def test_weakening_says_what_will_be_generated_and_claims_no_interval_of_one_prompt(run, workspace):
    (workspace / "cases.toml").write_text(CASES)
    options = ("--cases", "cases.toml", "--count", 1, "--scorer", "emoji", "--ks", "0,2,8", "--json")
    code, out, err = run("weaken", "color", *MODEL, *options, *FAST, "--random-orders", 1)
    numbers = json.loads(out)
    assert code == 0 and numbers["low"] is None and numbers["high"] is None
    assert "images of 2 steps, about 1 min here." in err
    assert "no interval" in (workspace / "runs" / "weaken-color" / "index.html").read_text()


def test_serving_a_model_that_is_not_there_says_so_in_the_terminal(capsys):
    from headwise.cli.options import Measured
    from headwise.cli.serve import _load

    with pytest.raises(hw.HeadwiseError):
        _load(Measured("typo"))
    assert "error: The folder typo does not exist." in capsys.readouterr().err


def test_hooks_show_themselves_in_a_few_words(sd):
    steer = strengthen(relevance_for(sd), "red", "Color")
    assert repr(steer).startswith("Steer('red', ") and len(repr(steer)) < 80
    assert repr(hw.Excite([["dog"]])) == "Excite" and repr(hw.PromptToPrompt()) == "PromptToPrompt"
    with pytest.raises(hw.HeadwiseError) as refused, hw.hooked(sd, steer, steer):
        pass
    assert len(str(refused.value)) < 300


def test_a_cluster_that_does_not_answer_is_refused_at_once(run, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # where nobody listens
        code, _, err = run("measure", "-m", "emoji", "--ray", address, "-n", 2, "-o", tmp_path / "run")
    assert code == 2 and f"No Ray cluster answers at '{address}'" in err
