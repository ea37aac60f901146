"""The benchmark of atoms on a tiny pipeline: every method and seed, what it steers by, and the command."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from headwise.benchmarks.atoms_benchmark import METHODS, METRICS, _Steering, _steers, benchmark_atoms
from headwise.benchmarks.method_results import Atoms
from headwise.benchmarks.prompts.atoms import Atom, AtomPrompt
from headwise.benchmarks.results import kind_of, kind_of_scores
from headwise.errors import HeadwiseError, RunMismatch
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from headwise.steering.dose import amplify
from headwise.steering.steer import strengthen
from helpers import Stub, relevance_for

FAST = {"seeds": (0, 1), "num_inference_steps": 2, "batch_size": 4, "progress": False}


def color(word, thing):
    return Atom("color", word, tuple(f"a {each} {thing}" for each in dict.fromkeys((word, "red", "orange"))))


def thing(word, *others):
    return Atom("thing", word, tuple(f"a {each}" for each in (word, *others)))


PROMPTS = [
    AtomPrompt("a red dog", (color("red", "dog"), thing("dog", "cat", "frog")), "one"),
    AtomPrompt("a orange cat", (color("orange", "cat"), thing("cat", "dog")), "one"),
    AtomPrompt("a red dog and a orange vase", (color("red", "dog"), color("orange", "vase")), "two"),
]


def effect_for(pipe):
    votes = relevance_for(pipe)
    values = np.random.default_rng(1).normal(1, 1.5, votes.values.shape)  # some heads act against a word
    return replace(votes, values=values / values.mean(1, keepdims=True), settings={"by": "effect"})


@pytest.fixture
def given(sd):
    return {"effect": effect_for(sd), "relevance": relevance_for(sd), "kind": "color", "concept": "Color"}


@pytest.mark.filterwarnings("ignore")
def test_every_method_generates_every_prompt_from_every_seed(sd, given, tmp_path):
    found = benchmark_atoms(sd, PROMPTS, Stub(), out=tmp_path, keep_prompts=1, **given, **FAST)
    values = found.scores.values
    assert found.methods == METHODS and values.shape == (5, 3, 2, 3) and np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all() and (values[:, 1] <= values[:, 0] + 1e-9).all()
    plain = values[found.methods.index("plain"), METRICS.index("gm")]
    assert found.of("plain", "gm").value == pytest.approx(plain.mean())
    assert found.of("plain", "gm", "two").value == pytest.approx(plain[:, 2].mean())
    assert found.gain("plain", "gm").value == 0
    votes = values[found.methods.index("votes"), METRICS.index("am")]
    assert found.gain("votes", "am", "one").value == pytest.approx(
        (votes - values[0, METRICS.index("am")])[:, :2].mean()
    )
    kept = {file.stem for file in (tmp_path / "pictures").glob("*.png")}
    assert kept == {f"000 {method}" for method in METHODS} and kind_of(tmp_path) == "atoms"
    page = report(tmp_path).read_text()
    assert "Does the image show everything" in page and "random heads" in page and "color, by Color" in page
    again = Stub()
    benchmark_atoms(sd, PROMPTS, again, out=tmp_path, **given, **FAST)
    assert again.looked == 0
    with pytest.raises(RunMismatch, match="dial"):
        benchmark_atoms(sd, PROMPTS, again, out=tmp_path, dial=0.5, **given, **FAST)


def test_a_dial_of_zero_changes_no_score(sd, given):
    found = benchmark_atoms(sd, PROMPTS, Stub(), dial=0, **given, **FAST)
    for method in METHODS:
        assert np.array_equal(found.scores.values[found.methods.index(method)], found.scores.values[0])


def test_each_method_has_its_own_factors(sd, given):
    effect, votes = given["effect"], given["relevance"]
    steers = _steers(METHODS, effect, votes, "Color", 0.5)
    assert set(steers) == set(METHODS) - {"plain"}
    by_effect = amplify(effect, "red", "Color", 0.5).factors
    assert np.array_equal(steers["effect"].factors, by_effect)
    assert np.array_equal(np.sort(steers["random heads"].factors), np.sort(by_effect))
    assert not np.array_equal(steers["random heads"].factors, by_effect)
    assert np.array_equal(steers["votes"].factors, strengthen(votes, "red", "Color", 0.5).factors)
    assert (steers["all heads"].factors == 1.5).all()


def test_every_word_of_the_kind_is_turned_up_once(sd, given):
    steers = _steers(METHODS, given["effect"], None, "Color", 1.0)
    steering = _Steering("color", {}, steers)
    assert steering.hooks("plain", PROMPTS) == []
    first, second = steering.hooks("effect", PROMPTS)
    assert first.word == ["red", "orange", "red"] and second.word == [None, None, "orange"]
    twice = PROMPTS[0]._replace(atoms=PROMPTS[0].atoms * 2)
    assert [hook.word for hook in steering.hooks("all heads", [twice])] == [["red"]]


def test_methods_need_what_they_steer_by(sd, given):
    votes = given | {"effect": None}
    found = benchmark_atoms(sd, PROMPTS[:1], Stub(), **votes, **FAST | {"seeds": (0,)})
    assert found.methods == ("plain", "votes", "all heads")
    with pytest.raises(HeadwiseError, match="The method 'effect' needs `effect`, which was not given"):
        benchmark_atoms(sd, PROMPTS, Stub(), methods=["effect"], **votes, **FAST)
    with pytest.raises(HeadwiseError, match="Neither `effect` nor `relevance` was given"):
        benchmark_atoms(sd, PROMPTS, Stub(), kind="color", concept="Color", **FAST)
    with pytest.raises(HeadwiseError, match='No word of "a red dog" states an atom of the kind .count.'):
        benchmark_atoms(sd, PROMPTS, Stub(), **given | {"kind": "count"}, **FAST)
    with pytest.raises(HeadwiseError, match="'magic' is not a method"):
        benchmark_atoms(sd, PROMPTS, Stub(), methods=["magic"], **given, **FAST)


def test_it_is_shared_by_prompts(sd, given):
    once = FAST | {"seeds": (0,), "methods": ("plain", "effect")}
    one = benchmark_atoms(sd, PROMPTS, Stub(), **given, **once).scores
    parts = [
        benchmark_atoms(sd, PROMPTS, Stub(), numbers=numbers, **given, **once).scores
        for numbers in (range(0, 1), range(1, 3))
    ]
    assert np.allclose((parts[0] + parts[1]).values, one.values, atol=1e-5)
    steering = _Steering("color", {}, _steers(METHODS, given["effect"], None, "Color", 1.0))
    sent = pickle.loads(pickle.dumps((PROMPTS, steering)))  # as workers get them
    assert sent[0] == PROMPTS and sent[1].hooks("effect", PROMPTS)[0].word == ["red", "orange", "red"]


def test_gains_are_paired_by_prompt(all_resamples):
    axes = {"method": ("plain", "effect"), "measure": METRICS, "seed": (0,), "prompt": tuple(range(20))}
    scores = Scores.empty(axes, {})
    scores.values[0] = np.random.default_rng(0).random((3, 1, 20)) * 0.9
    scores.values[1] = scores.values[0] + 0.1
    found = Atoms(scores, ("a",) * 20)
    gain, plain = found.gain("effect", "gm"), found.of("plain", "gm")
    assert gain == pytest.approx((0.1, 0.1, 0.1)) and plain.high - plain.low > 0.1
    assert kind_of_scores(scores) == "atoms"


TEMPLATES = """[colored]
prompts = ["a {color} {thing}"]
colors = ["red", "color"]
things = ["dog", "cat"]
texts = { color = "a {color} {thing}", thing = "a {thing}" }
"""


@pytest.mark.filterwarnings("ignore:A dial of")
def test_the_command(run, workspace, sd, monkeypatch):
    monkeypatch.setattr("headwise.benchmarks.clip_scorer.CLIPScorer.load", lambda name: Stub())
    (workspace / "own.toml").write_text(TEMPLATES)
    effect_for(sd).save(workspace / "effect.safetensors")
    line = ("benchmark", "atoms", "-m", "./tiny", "--num-inference-steps", 2, "--seeds", 0, "--out", "b")
    line += (
        "--prompts",
        "own.toml",
        "--kind",
        "color",
        "--concept",
        "color",
        "--effect",
        "effect.safetensors",
    )
    code, out, err = run(*line, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["groups"]["colored"]) == set(METHODS) and set(found["gm_gains"]) == set(METHODS[1:])
    assert 0 <= found["groups"]["colored"]["plain"]["gm"]["mean"] <= 1
    code, out, _ = run(*line)
    assert code == 0 and "over plain" in out and "4 prompts." in out and "Open b/index.html" in out
    code, out, _ = run(*line[:-2], "--method", "votes", "--out", "v")
    assert code == 0 and "over plain" not in out
    code, out, err = run(*line[:10], *line[10:12], "--kind", "count", "--concept", "Color")
    assert (code, out) == (2, "") and "No prompt has a word that states a 'count'" in err


def test_relevance_by_effect_alone_is_taken_by_the_command(run, workspace, sd, monkeypatch):
    monkeypatch.setattr("headwise.benchmarks.clip_scorer.CLIPScorer.load", lambda name: Stub())
    (workspace / "own.toml").write_text(TEMPLATES)
    effect_for(sd).save(workspace / "effect.safetensors")
    code, out, err = run(
        "benchmark", "atoms", "-m", "./tiny", "--num-inference-steps", 2, "--seeds", 0, "--json",
        "--count", 1, "--prompts", "own.toml", "--kind", "color", "--concept", "Color",
        "--relevance", "effect.safetensors",
    )  # fmt: skip
    assert code == 0, err
    assert set(json.loads(out)["groups"]["colored"]) == set(METHODS) - {"votes"}
