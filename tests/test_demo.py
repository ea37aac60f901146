"""The demo: four stages in one folder, each going on where it was stopped, and their page in its order."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_sd
from headwise.benchmarks import demo as module
from headwise.benchmarks.demo import DIALS, TURNED, demo
from headwise.errors import RunMismatch
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.pictures import settings_in
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from headwise.steering.dose import amplify

CONCEPTS = ConceptSet({"Color": ["red", "blue"], "Nature Scenes": ["forest"], "Time of Day": ["night"]})
STAGES = ("measuring", "weakening", "generating", "turning")


def brightness(pictures, prompts):
    return np.array([np.asarray(picture, float).mean() / 255 for picture in pictures])


def show(out, **options):
    options = {"pictures": 2, "num_inference_steps": 2, "batch_size": 4, "progress": False} | options
    return demo(out, pipe=tiny_sd(), concepts=CONCEPTS, score=brightness, **options)


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    monkeypatch.setattr(module, "DRAWN", 6)
    monkeypatch.setattr(module, "PROMPTS", 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A demo that nothing interrupted: its folder, and what it returned."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "DRAWN", 6)
        patched.setattr(module, "PROMPTS", 3)
        out = tmp_path_factory.mktemp("demo")
        return out, show(out)


def results(folder):
    """What the stages left, by path: all but the pages and records of when they ran."""
    files = [*folder.rglob("*.png"), *folder.rglob("*.safetensors")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def stopped_in(stage, monkeypatch):
    """Have the demo interrupted after the first batch of a stage."""
    bar = module._bar

    @contextmanager
    def stopping(name, total, shown):
        with bar(name, total, shown) as told:

            def stop(done, of):
                told(done, of)
                if stage in name:
                    raise KeyboardInterrupt

            yield stop

    monkeypatch.setattr(module, "_bar", stopping)


def test_every_stage_leaves_its_results(whole):
    folder, shown = whole
    assert Relevance.load(folder / "relevance.safetensors").kind == "effect"
    assert shown.relevance.settings["pictures"] == 2 * len(CONCEPTS)
    drawn = [settings_in(file) for file in sorted((folder / "pictures").glob("*.png"))]
    assert [said["picture"] for said in drawn] == [str(n) for n in range(6)]
    turned = [settings_in(file) for file in (folder / "turned").glob("*.png")]
    assert sorted((said["prompt"], said["word"], float(said["dial"])) for said in turned) == sorted(
        (turn.prompt, turn.word, dial) for turn in TURNED for dial in DIALS
    )
    scores = Scores.load(folder / "weakening" / "scores.safetensors")
    assert np.isfinite(scores.values).all() and scores.settings["concept"] == "Color"
    assert scores.axes["order"] == ("most relevant", "least relevant", "random 0", "random 1")
    order = np.argsort(-shown.relevance["Color"], kind="stable")
    assert scores.settings["order"] == order.tolist(), "by the relevance that was just measured"


def test_a_turned_picture_is_that_of_amplify_alone(whole):
    folder, shown = whole
    pipe, turn = tiny_sd(), TURNED[0]
    for dial in (-1.0, 2.0):
        options = {"num_inference_steps": 2, "guidance_scale": 7.5, "output_type": "pil"}
        with hooked(pipe, amplify(shown.relevance, turn.word, turn.concept, dial)):
            (alone,) = generate_keys(pipe, [turn.prompt], [(0, 0)], **options)
        with Image.open(folder / "turned" / f"000 dial {dial:g}.png") as picture:
            difference = np.asarray(picture, int) - np.asarray(alone, int)
        assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_demo_that_was_stopped_goes_on(stage, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_in(stage, patched)
        with pytest.raises(KeyboardInterrupt):
            show(tmp_path)
    before = {file: file.stat().st_ino for file in tmp_path.rglob("*.png")}
    assert bool(before) == (stage != "measuring") and results(tmp_path) != results(whole[0])
    show(tmp_path)
    assert {file: file.stat().st_ino for file in before} == before, "what was drawn is not drawn again"
    counting = {"measuring": "run.json", "weakening": "weakening/run.json"}
    if stage in counting:
        first, second = json.loads((tmp_path / counting[stage]).read_text())["stretches"]
        assert 0 == first["from"] < first["to"] == second["from"] < second["to"]
    expected, there = results(whole[0]), results(tmp_path)
    assert there.keys() == expected.keys()
    assert [name for name in there if there[name] != expected[name]] == []


def test_a_finished_demo_generates_nothing(whole, monkeypatch):
    folder, shown = whole
    before = results(folder)
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.__call__", None)
    again = show(folder)
    assert results(folder) == before
    assert (again.relevance.values == shown.relevance.values).all()


def test_a_damaged_or_different_picture_is_made_again(whole, tmp_path):
    show(tmp_path)
    damaged, (first, second) = (
        tmp_path / "pictures" / "00002.png",
        sorted((tmp_path / "turned").iterdir())[:2],
    )
    damaged.write_bytes(damaged.read_bytes()[:200])
    first.unlink()
    second.write_bytes(damaged.read_bytes())
    show(tmp_path)
    assert results(tmp_path) == results(whole[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pictures": 3}, "begun with 2 images per concept, but pictures=3 was given"),
        (
            {"num_inference_steps": 3},
            "weakening holds another run: num_inference_steps is 2 there and 3 here",
        ),
    ],
)
def test_other_settings_are_refused_before_anything_is_changed(whole, options, said):
    before = results(whole[0])
    with pytest.raises(RunMismatch, match=said):
        show(whole[0], **options)
    assert results(whole[0]) == before


def test_the_folder_of_another_run_is_refused_before_anything_is_drawn(tmp_path):
    options = {"pictures": 4, "num_inference_steps": 2, "beside": None, "progress": False}
    measure(tiny_sd(), CONCEPTS, prompts=["a red dog"], out=tmp_path, **options)
    with pytest.raises(RunMismatch, match="holds another run: .*by is None there and 'effect' here"):
        show(tmp_path)
    assert list(tmp_path.rglob("*.png")) == []


def test_every_stage_has_a_bar_of_its_own(tmp_path, capfd):
    show(tmp_path, progress=True)
    bars = re.findall(r"(\d of 4: [^:]+): 100%\D+(\d+)/(\d+)", capfd.readouterr().err)
    assert {name for name, *_ in bars} == {
        "1 of 4: measuring heads", "2 of 4: weakening Color", "3 of 4: generating", "4 of 4: turning words",
    }  # fmt: skip


def test_the_page_tells_it_in_order(whole):
    page = report(whole[0]).read_text()
    headings = [
        "Images that this model generates", "One word, turned up and down", "Concept × head map",
        "Is Color lost when its heads are weakened?", "How reliable", "The heads of each concept", "By layer",
        "Concepts that share heads", "How it was made",
    ]  # fmt: skip
    assert re.findall(r"<h2>(.*?)</h2>", page) == headings
    alts = re.findall(r'alt="(dial [^:]+): a red car in the forest"', page)
    assert alts == [f"dial {dial}" for _ in range(2) for dial in ("−1", "−0.5", "0", "0.5", "1", "2")]
    assert "red, in the heads of Color" in page and "forest, in the heads of Nature Scenes" in page
    assert re.search(r"“[^”]+”, most relevant heads first</h3>", page) and "in random order</h3>" in page


def test_the_page_leaves_out_a_stage_that_is_missing_or_unfinished(whole, tmp_path):
    for name in ("relevance.safetensors", "effect.safetensors"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    scores = Scores.load(whole[0] / "weakening" / "scores.safetensors")
    (tmp_path / "weakening").mkdir()
    Scores.empty(scores.axes, scores.settings).save(tmp_path / "weakening" / "scores.safetensors")
    page = report(tmp_path).read_text()
    assert "Concept × head map" in page and "weakened?" not in page and "turned up" not in page
