"""Questions and estimators: their arithmetic in the naive way, and whole runs on a tiny model."""

import json
import runpy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from headwise.benchmarks.prompts.edit_pairs import edit_pairs
from headwise.benchmarks.questions.answers import benchmark_questions, other_schedulers
from headwise.benchmarks.questions.estimators import WAYS, Estimators, Setting, benchmark_estimators
from headwise.benchmarks.questions.interventions import Choices, unique_rows
from headwise.benchmarks.questions.pooling import pooled
from headwise.benchmarks.questions.prediction import left_out_error, predict_relevance
from headwise.errors import RunMismatch
from headwise.files import read_arrays
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.estimators import Estimator
from headwise.measuring.measure import measure
from headwise.measuring.votes import Votes
from headwise.measuring.word_samples import PackedWords
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from helpers import ROOT

WORDS = {
    "Color": ("red", "blue", "aquamarine stone"),
    "Animals": ("dog", "cat", "frog"),
    "Material": ("tree", "wood"),
    "Plants": ("moss", "tree"),
}


def test_eight_draws_are_counted_as_measured(sd, tmp_path):
    """On the same words: the way of 8 draws is what `measure` counts, block for block."""
    concepts, setting = ConceptSet(WORDS), Setting(3, 1.0, 16)
    settings = (setting, Setting(5, 7.5, 16))
    options = {"long": 16, "settings": settings, "batch_size": 5, "progress": False}
    found = benchmark_estimators(sd, concepts, tmp_path, **options)
    kept = {"beside": None, "pictures": 16, "batch_size": 4, "progress": False, "out": tmp_path / "measured"}
    measure(sd, concepts, estimator=Estimator(8, 3), guidance_scale=1.0, **kept)
    votes = Votes.load(tmp_path / "measured" / "votes.safetensors")
    ways, _ = read_arrays(tmp_path / f"{setting.name}.safetensors", "estimators", WAYS)
    assert np.array_equal(ways["8 draws"], votes.blocks.transpose(0, 2, 1))
    calls = len(votes.counts)
    assert [ways[f"{n}"].sum() for n in WAYS[:4]] == [
        16 * calls * n * votes.head_map.all_heads for n in (1, 2, 4, 8)
    ]
    assert np.allclose(ways["soft"].sum(), ways["8 draws"].sum())  # shares of one vote each
    assert ways["all words"].sum() == ways["1 draw"].sum()
    assert np.array_equal(ways["both halves"], ways["8 draws"])  # without guidance there is one half
    guided, _ = read_arrays(tmp_path / "5 steps.safetensors", "estimators", WAYS)
    assert guided["both halves"].sum() == 2 * guided["8 draws"].sum() > 2 * guided["early"].sum() > 0
    again = benchmark_estimators(sd, concepts, tmp_path, **options)
    assert again.numbers() == found.numbers()
    other = (Setting(3, 0.5, 16), *settings[1:])  # of the same name
    with pytest.raises(RunMismatch, match="steps, no guidance.* different run: .*: 1.0.*; expected .*: 0.5"):
        benchmark_estimators(sd, concepts, tmp_path, **options | {"settings": other})
    assert "How few denoiser rows" in report(tmp_path).read_text()


def test_rows_to_enough():
    curve = [(10.0, 0.5, 0.0, 1.0), (100.0, 0.9, 0.0, 1.0), (1000.0, 1.0, 0.0, 1.0)]
    found = Estimators({"50 steps, 1 draw": curve, "quick": [(5.0, 0.96, 0.0, 1.0)], "never": curve[:2]}, {})
    assert found.rows_to("50 steps, 1 draw") == pytest.approx(100 * 10**0.5)
    assert found.rows_to("quick") == 5
    numbers = found.numbers()
    assert numbers["never"]["rows"] is None and numbers["never"]["share_of_paper"] is None
    assert numbers["quick"]["share_of_paper"] == pytest.approx(5 / (100 * 10**0.5))


def test_attention_to_tokens_is_pooled():
    attention = torch.tensor([0.1, 0.3, 0.2, 0.4]).reshape(1, 1, 2, 2)
    share = torch.tensor([[[1 / 2, 1 / 2], [1.0, 0.0]]])  # a word of two tokens, a word of one
    shown = PackedWords(
        torch.zeros(1, 4, dtype=torch.long),
        torch.zeros(1, 4, dtype=torch.bool),
        torch.zeros(1, 2, 2, dtype=torch.long),
        share,
    )
    wanted = {"mean": [0.2, 0.2], "sum": [0.4, 0.2], "last": [0.3, 0.2], "best": [0.3, 0.2]}
    for pool, values in wanted.items():
        assert pooled(attention, shown, pool).flatten().tolist() == pytest.approx(values)


def test_leaving_one_out_in_closed_form():
    generator = np.random.default_rng(0)
    texts, known, ridge = generator.normal(size=(7, 3)), generator.normal(size=(7, 4)), 0.5
    kernel, centred = texts @ texts.T, known - known.mean(0)
    naive = 0.0
    for out in range(7):
        rest = np.delete(np.arange(7), out)
        weights = kernel[out, rest] @ np.linalg.inv(kernel[np.ix_(rest, rest)] + ridge * np.eye(6))
        naive += ((centred[out] - weights @ centred[rest]) ** 2).sum()
    assert left_out_error(kernel, known, ridge) == pytest.approx(naive)


def test_a_concept_that_follows_from_its_words_is_predicted():
    generator = np.random.default_rng(1)
    texts, map_ = generator.normal(size=(30, 5)), generator.normal(size=(5, 40))
    values = texts @ map_
    predicted = predict_relevance(texts @ texts.T / 5, values)
    permuted = predict_relevance((texts @ texts.T / 5)[::-1, ::-1].copy(), values)
    agree = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted, values, strict=True)]
    assert (
        np.mean(agree)
        > 0.95
        > 0.5
        > np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(permuted, values, strict=True)])
    )


def test_areas_between_curves():
    """Two pairs, two orders: a target seen until k = 2 in one order, never but at 0 in the other."""
    pairs = [pair._replace(texts=(pair.target, "x", pair.source)) for pair in edit_pairs("emoji", 2)[:2]]
    axes = {"order": ("a", "b"), "k": (0, 2, 4), "seed": (0,), "prompt": range(2)}
    chosen = Scores.empty(axes, {})
    chosen.values[0, :, 0] = [[0, 0], [0, 1], [2, 2]]  # k × pair
    chosen.values[1, :, 0] = [[0, 0], [1, 2], [2, 2]]
    found = Choices(chosen, pairs)
    assert found.area("b", "a").tolist() == [0.5, 0.0]
    assert found.area("a", "b").tolist() == [-0.5, 0.0]
    assert found.area("a", "b", "source").tolist() == [0.0, 0.5]


def test_what_is_the_same_for_all_orders_is_generated_once():
    rows = np.array([[[0, 0]], [[1, 0]], [[0, 0]], [[1, 1]]])
    unique, back = unique_rows(rows)
    assert len(unique) == 3 and np.array_equal(unique[back], rows)


def test_schedulers_to_compare_take_few_steps_and_leave_the_pipeline_its_own(sd):
    own = sd.scheduler
    sd.scheduler = DDIMScheduler.from_config(own.config, skip_prk_steps=False)
    others = other_schedulers(sd)
    assert isinstance(sd.scheduler, DDIMScheduler)
    assert list(others) == ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"]
    for scheduler in others.values():
        scheduler.set_timesteps(1)


def test_every_question_is_answered_and_measured_once(sd, stub_judge, tmp_path, monkeypatch):
    pairs = [pair._replace(attribute="Color") for pair in edit_pairs("emoji", 2)[:2]]
    options = {
        "schedulers": other_schedulers(sd), "others": {"itself": sd}, "pictures": 4, "whole": 32,
        "batch_size": 4, "seeds": (0,), "progress": False,
    }  # fmt: skip
    own = sd.scheduler
    found = benchmark_questions(sd, ConceptSet(WORDS), pairs, stub_judge, tmp_path, **options)
    assert sd.scheduler is own
    assert list(found) == [
        *("words", "choice", "pictures", "tokens", "novel", "transfer", "steps"),
        *("aware", "layers", "factor", "patching"),
    ]
    assert all(answer.values for answer in found.values())
    transfer = found["transfer"].values
    assert transfer["itself"] == transfer[f"{type(own).__name__}, its own"]
    assert len(transfer) >= 3
    said = json.loads((tmp_path / "questions.json").read_text())
    assert said["answers"]["steps"]["values"]["all calls, all calls"] == list(
        found["steps"].values["all calls, all calls"]
    )

    def forbidden(*args, **options):
        raise AssertionError("this was generated already")

    for module in ("benchmarks.questions.answers", "benchmarks.questions.interventions", "measuring.measure"):
        monkeypatch.setattr(f"headwise.{module}.generate", forbidden)
    monkeypatch.setattr("headwise.benchmarks.questions.interventions.generate_edits", forbidden)
    again = benchmark_questions(sd, ConceptSet(WORDS), pairs, stub_judge, tmp_path, **options)
    assert repr(again) == repr(found)
    page = report(tmp_path).read_text()
    assert all(answer.question.replace("'", "&#39;") in page for answer in found.values())
    assert page.count("<svg") == 11


def test_the_page_of_the_questions_is_written_from_their_results():
    making = runpy.run_path(str(ROOT / "docs" / "make_questions.py"))
    results = json.loads(making["QUESTIONS"].read_text())
    assert (ROOT / "docs" / "questions.md").read_text() == making["page"](results), (
        "run: docs/make_questions.py"
    )
    assert making["ANSWERS"].keys() == results["answers"].keys()
