"""Measuring by effect on the command line: what is printed, what is refused, what comes out of it."""

import inspect
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from headwise.benchmarks.weakening import LEAST, orders_of
from headwise.cli.commands import app
from headwise.emoji import RELEVANCE
from headwise.errors import BadStrength
from headwise.measuring.measure_effect import BATCH_SIZE, PICTURES_OF_CONCEPT, STEPS, measure_effect
from headwise.measuring.relevance import Relevance
from headwise.measuring.scales import rescaled
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.pipelines import load_pipeline
from headwise.steering.steer import adjust, strengthen, weaken
from headwise.web.run_store import RunStore
from headwise.web.service import Service
from headwise.web.session import ModelSession

CONCEPTS = """[concepts]
Color = ["red", "blue"]
Animals = ["dog", "cat"]
[templates]
Color = ["a {word} car"]
Animals = ["a photo of a {word}"]
"""
LINE = ("measure", "--by", "effect", "--num-inference-steps", 2, "-n", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run by effect, and its concepts."""
    folder = tmp_path_factory.mktemp("effect")
    (folder / "mine.toml").write_text(CONCEPTS)
    arguments = [*LINE, "-c", folder / "mine.toml", "-o", folder / "run", "--keep-pictures", 1, "--json"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    (folder / "measured.json").write_text(result.stdout)
    return folder


def test_it_is_the_measurement_of_the_library(folder):
    printed = json.loads((folder / "measured.json").read_text())
    relevance = Relevance.load(printed["file"])
    assert printed.keys() >= {"file", "pictures", "seconds", "resumed_from", "split_half_median"}
    assert (printed["by"], printed["pictures"], printed["resumed_from"]) == ("effect", 4, 0)
    expected = measure_effect(
        load_pipeline("emoji"), str(folder / "mine.toml"), pictures=2, num_inference_steps=2, progress=False
    )
    assert np.allclose(relevance.values, expected.values, rtol=1e-4, atol=1e-5)
    assert printed["completeness"]["concepts"] == pytest.approx(relevance.completeness)
    assert printed["completeness"]["median"] == pytest.approx(np.median(relevance.values.mean(1)))
    assert relevance.settings["prompts"].startswith("4 prompts")  # which the templates make


def test_a_run_goes_on_and_a_shard_measures_its_share(run, folder, tmp_path):
    line = (*LINE, "-c", folder / "mine.toml", "-o", tmp_path)
    code, out, err = run(*line, "--shard", "1/2", "--json")
    assert code == 0 and json.loads(out)["pictures"] == 2 and "2/2" in err
    run(*line, "--shard", "0/2")
    assert run("merge", tmp_path, "-o", tmp_path)[0] == 0
    code, out, _ = run(*line)
    assert code == 0 and "resumed_from" in out and "completeness" in out and "images per concept" in out
    merged = Relevance.of(tmp_path)
    assert np.allclose(merged.values, Relevance.of(folder / "run").values, rtol=1e-4, atol=1e-5)


def test_words_are_looked_for_in_prompts_of_a_part_of_the_steps(run, folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red dog\na blue cat\n")
    more = ("--prompts", prompts, "--window", 0, 0.5, "--against", "sibling", "--points", 2)
    code, _, _ = run(*LINE[:-1], 1, "-c", folder / "mine.toml", "-o", tmp_path / "run", *more)
    settings = Relevance.of(tmp_path / "run").settings
    assert code == 0 and settings["window"] == [0, 0.5] and settings["against"] == "sibling"
    assert settings["points"] == 2 and settings["by"] == "effect"


@pytest.mark.parametrize(
    ("by", "option"),
    [("effect", ("--estimator", "paper")), ("effect", ("--beside", "none")), ("votes", ("--points", 3)),
     ("votes", ("--against", "sibling")), ("votes", ("--window", 0, 0.3))],
)  # fmt: skip
def test_options_of_the_other_way_are_refused(run, by, option):
    other = {"votes": "effect", "effect": "votes"}[by]
    code, out, err = run("measure", "--by", by, *option)
    assert (code, out) == (2, "")
    assert f"error: {option[0]} was given with --by {by}; only --by {other} takes it." in err


def test_the_help_says_the_defaults_of_the_library(run):
    """They depend on --by, so that typer cannot print them."""
    out = " ".join(run("measure", "--help")[1].replace("│", " ").split())
    defaults = inspect.signature(measure_effect).parameters
    assert defaults["pictures"].default == PICTURES_OF_CONCEPT
    assert f"by effect, {PICTURES_OF_CONCEPT} per concept" in out
    assert f"by effect, {STEPS}." in out and f"by effect, {BATCH_SIZE}." in out


def test_it_is_shown_with_what_heads_account_for(run, folder):
    code, out, _ = run("show", folder / "run", "--json", "--top", 2)
    shown = json.loads(out)
    relevance = Relevance.of(folder / "run")
    assert code == 0 and shown["kind"] == "effect"
    color = shown["concepts"]["Color"]
    assert color["completeness"] == pytest.approx(relevance["Color"].mean())
    assert [head["index"] for head in color["top"]] == [rank.index for rank in relevance.top("Color", 2)]
    for head in color["against"]:
        assert head["relevance"] + 1.96 * head["se"] < 0
    code, out, _ = run("show", folder / "run")
    assert code == 0 and "relevance by effect" in out and "completeness" in out


def test_the_page_says_what_effect_is_and_the_list_of_runs_has_it(run, folder):
    assert run("report", folder / "run")[0] == 0
    page = (folder / "run" / "index.html").read_text()
    assert "works against the word" in page and "Blue cells" in page and "completeness" in page
    assert "voted" not in page and "images per concept" in page
    listed = RunStore(folder).all()
    assert [(each.name, each.kind, each.counted) for each in listed] == [("run", "measurement", 4)]
    service = Service(ModelSession("emoji", load_pipeline), RunStore(folder))
    assert service.split_half(listed[0]) == pytest.approx(Relevance.of(folder / "run").split_half_median)


def test_it_is_compared_with_votes(run, folder):
    code, out, _ = run("compare", folder / "run", folder / "run", "--json")
    assert code == 0 and json.loads(out)["kinds"] == ["effect", "effect"]
    assert json.loads(out)["median"] == pytest.approx(1) and json.loads(out)["differences"] == []
    code, out, _ = run("compare", folder / "run", RELEVANCE)
    assert code == 0 and "The first was measured by effect, what heads do with the words;" in out
    assert "eads could choose" not in out and "background" not in out


def test_relevance_of_either_kind_steers(folder):
    relevance, pipe = Relevance.of(folder / "run"), load_pipeline("emoji")
    options = {"num_inference_steps": 1, "output_type": "latent"}
    plain = generate_keys(pipe, ["a red car"], [0], **options)
    for hook in (
        strengthen(relevance, "red", "Color", strength=0.1),
        adjust(relevance, "red", "Color", "Animals", strength=0.1),
        weaken(relevance.head_map, relevance.top("Color", 3)),
    ):
        with hooked(pipe, hook):
            steered = generate_keys(pipe, ["a red car"], [0], **options)
        assert torch.isfinite(steered).all() and not torch.equal(steered, plain)
    order = orders_of(relevance, "Color")[LEAST]
    assert (np.diff(relevance["Color"][order]) >= 0).all()
    with pytest.raises(BadStrength, match="negative relevance, and softmax"):
        rescaled(relevance, "softmax")
