"""Benchmarks on a tiny pipeline: every method draws every prompt from every seed, and goes on."""

from dataclasses import replace

import numpy as np
import pytest

from headwise.benchmarks.polysemy import METHODS, METRICS, Polysemy, benchmark_polysemy
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.weakening_sweeps import benchmark_weakening, eighths, sweep_factors
from headwise.errors import HeadwiseError, UnknownConcept
from headwise.measuring.concepts import ConceptSet
from headwise.model.heads import HeadMap
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from helpers import SENSES, Bright, Stub, relevance_for

WORDS = ConceptSet({"Color": ["red", "blue"], "Animals": ["dog", "cat"]})


def run(sd, **options):
    options = {"seeds": (0, 1, 2), "num_inference_steps": 2, "batch_size": 2, "progress": False} | options
    judge = options.pop("judge", Stub())
    options = {"effect": effect_for(sd), "concepts": WORDS} | options
    return benchmark_polysemy(sd, relevance_for(sd), SENSES, judge, **options)


def effect_for(pipe):
    votes = relevance_for(pipe, seed=1)
    return replace(votes, settings=votes.settings | {"by": "effect"})


def test_every_method_every_seed_every_prompt(sd, tmp_path):
    found = run(sd, out=tmp_path, keep_prompts=1)
    assert found.scores.values.shape == (len(METHODS), len(METRICS), 3, 2)
    assert len(found.scores) == found.scores.values.size
    assert set(np.unique(found.scores.values[:, :2])) <= {0.0, 1.0}
    rate = found.rate("adjust")
    assert rate.low <= rate.value <= rate.high
    assert found.rate("plain", "red").value == found.scores.values[0, 0, :, 0].mean()
    names = sorted(file.stem for file in (tmp_path / "pictures").glob("*.png"))
    assert names == sorted(f"000 {method}" for method in METHODS)
    again = Stub()
    same = run(sd, judge=again, out=tmp_path)
    assert again.looked == 0 and np.array_equal(same.scores.values, found.scores.values)
    page = report(tmp_path).read_text()
    assert "Which sense does the image show?" in page and "random heads" in page and "a red dog" in page
    assert "misread − plain" in page


def test_one_row_of_a_batch_is_its_prompt_alone(sd):
    """Two words, two pairs of concepts, one batch: as each by itself."""
    both = run(sd, methods=("adjust",), seeds=(0,), batch_size=2)
    one_by_one = run(sd, methods=("adjust",), seeds=(0,), batch_size=1)
    assert np.allclose(both.scores.values, one_by_one.scores.values, atol=1e-5)


def test_known_rates():
    values = np.array([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, np.nan]]])
    axes = {"method": ("plain", "adjust"), "measure": ("misread",), "seed": (0, 1), "prompt": (0, 1)}
    found = Polysemy(Scores(values[:, None], axes), ("orange", "rose"), (0, 0))
    assert found.rate("plain").value == 0.75
    assert found.rate("plain", "rose").value == 0.5
    assert found.rate("adjust").value == 0 and found.rate("adjust").high == pytest.approx(0.5615, abs=1e-4)


def test_weakening_of_several_concepts(sd, tmp_path):
    cases = {"Color": [EvalPrompt("a red dog", ("red",))] * 2, "Animals": [EvalPrompt("a dog", ("dog",))] * 2}

    def brightness(pictures, cases):
        return np.array([np.asarray(p, float).mean() / 255 for p in pictures])

    options = {"ks": (0, 2, HeadMap.of(sd).all_heads), "seeds": (1,), "num_inference_steps": 2}
    options |= {"random_orders": 1, "keep_prompts": 1, "progress": False}
    found = benchmark_weakening(sd, relevance_for(sd), cases, brightness, tmp_path, **options)
    assert list(found) == ["Color", "Animals"] and (tmp_path / "color" / "scores.safetensors").is_file()
    page = report(tmp_path).read_text()
    assert "Is a concept lost" in page and page.count("<img") == 2 * 2 * 3
    assert "Is Color lost" in report(tmp_path / "color").read_text()
    with pytest.raises(UnknownConcept, match="'Weather' was not measured"):
        benchmark_weakening(sd, relevance_for(sd), {"Weather": []}, brightness, tmp_path)


def test_a_sweep_of_factors(sd, tmp_path):
    relevance = relevance_for(sd)
    cases = [SENSES[0].case]
    options = {
        "ks": (0, 4, 8),
        "random_orders": 1,
        "seeds": (0,),
        "num_inference_steps": 1,
        "progress": False,
    }
    found = sweep_factors(sd, relevance, "Color", cases, Bright(), tmp_path, (1, -2), **options)
    assert list(found) == [1.0, -2.0]
    assert [one.scores.settings["factor"] for one in found.values()] == [1.0, -2.0]
    assert np.ptp(found[1.0].scores.values) == 0  # nothing is changed, whatever the order
    page = report(tmp_path).read_text()
    assert "Color × 1" in page and "Color × -2" in page


def test_pictures_are_kept_of_prompts_far_apart(sd, tmp_path):
    many = [sense for sense in SENSES for _ in range(5)]
    options = {"seeds": (0,), "num_inference_steps": 1, "batch_size": 5, "progress": False}
    benchmark_polysemy(
        sd, relevance_for(sd), many, Stub(), methods=("plain",), out=tmp_path, keep_prompts=3, **options
    )
    assert sorted(f.stem for f in (tmp_path / "pictures").iterdir()) == [
        "000 plain",
        "004 plain",
        "008 plain",
    ]


@pytest.mark.parametrize(
    ("heads", "ks"), [(128, (0, 16, 32, 64, 96, 128)), (5, (0, 1, 2, 3, 5)), (1, (0, 1))]
)
def test_eighths(heads, ks):
    assert eighths(heads) == ks


def test_refusals(sd, tmp_path):
    with pytest.raises(HeadwiseError, match="'magic' is not a method. The methods are: plain"):
        run(sd, methods=("magic",))
    with pytest.raises(HeadwiseError, match="'gate' needs `effect`, which was not given"):
        run(sd, methods=("plain", "gate"), effect=None)
    with pytest.raises(HeadwiseError, match="'span' needs `concepts`, which was not given"):
        run(sd, methods=("span",), concepts=None)
    with pytest.raises(HeadwiseError, match="Relevance by effect was given, but words are adjusted by votes"):
        benchmark_polysemy(sd, effect_for(sd), SENSES, Stub())
    without = run(sd, effect=None, concepts=None, seeds=(0,), num_inference_steps=1)
    assert without.methods == ("plain", "rewording", "uniform", "random heads", "layer means", "adjust")
    with pytest.raises(HeadwiseError, match="No prompt with a two-sense word"):
        benchmark_polysemy(sd, relevance_for(sd), [], Stub())
    with pytest.raises(HeadwiseError, match="holds no run"):
        report(tmp_path)
