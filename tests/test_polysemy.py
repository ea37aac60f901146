"""Two-sense words: each metric on images made to be known, differences by a second way, folders."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from headwise.benchmarks import polysemy
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.method_results import Polysemy
from headwise.benchmarks.polysemy import METHODS, METRICS, benchmark_polysemy, sense_scores
from headwise.benchmarks.prompts.evaluation import EvalPrompt, PolysemyPrompt, polysemy_prompts
from headwise.benchmarks.results import kind_of
from headwise.errors import HeadwiseError, RunMismatch, VotesMismatch
from headwise.intervals import RESAMPLES
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from helpers import ROOT, SENSES, Stub, blocks, relevance_for

CAR, FRUIT, SOFA = "a car in orange color", "an orange", "a sofa in orange color"
ORANGE = PolysemyPrompt(
    "orange", "Color", "Food", EvalPrompt("an orange car", (CAR, FRUIT)), CAR, (CAR, SOFA)
)
LISTED = [replace(sense, things=(sense.case.texts[0], "a cat")) for sense in SENSES]


class Channels(CLIPScorer):
    """A scorer for which red is a car of the right colour, green an orange, and blue such a sofa."""

    def __init__(self):
        pass

    def embed_images(self, pictures):
        colors = torch.tensor([picture.getpixel((0, 0)) for picture in pictures], dtype=torch.float32)
        return torch.nn.functional.normalize(colors, dim=-1)

    def embed_texts(self, texts):
        return torch.eye(3)[[(CAR, FRUIT, SOFA).index(text) for text in texts]]


def picture(*color):
    return Image.new("RGB", (8, 8), color)


def test_each_metric_on_pictures_that_are_known():
    car, fruit, sofa = picture(200, 10, 0), picture(10, 200, 0), picture(0, 10, 200)
    both = picture(150, 200, 0)  # an orange, with the car still in it
    shown = [car, fruit, sofa, both]
    scores = sense_scores(Channels(), [ORANGE] * 4, [car] * 4, shown)
    expected = {"misread": [0, 1, 1, 1], "thing": [1, 1, 0, 1]}
    for metric, values in expected.items():
        assert scores[METRICS.index(metric)].tolist() == values, metric
    vectors = np.array([image.getpixel((0, 0)) for image in shown], float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(scores[METRICS.index("kept")], vectors @ vectors[0], atol=1e-6)


def test_a_prompt_without_other_things_has_no_say_on_the_thing():
    values = np.ones((1, 3, 1, 2))
    axes = {"method": ("plain",), "measure": METRICS, "seed": (0,), "prompt": (0, 1)}
    found = Polysemy(Scores(values, axes), ("orange", "bat"), (2, 0))
    assert np.isnan(found.values("plain", "thing")).tolist() == [[False, True]]
    assert np.isfinite(found.values("plain", "kept")).all()
    assert found.of("plain", "thing").n == 1 and found.of("plain", "kept").n == 2
    alone = Polysemy(Scores(values, axes), ("orange", "bat"), (0, 0))
    assert np.isnan(alone.of("plain", "thing").value)


def made_up(seed=0, words=("a", "a", "b", "c", "c", "c", "d"), things=None):
    """Made-up scores of two methods, on words of unlike numbers of prompts."""
    rng = np.random.default_rng(seed)
    axes = {"method": ("plain", "gate"), "measure": METRICS, "seed": (0, 1), "prompt": range(len(words))}
    values = rng.integers(0, 2, (2, 3, 2, len(words))).astype(float)
    values[:, 2] = rng.random((2, 2, len(words)))
    axes = {name: tuple(labels) for name, labels in axes.items()}
    return Polysemy(Scores(values, axes), words, things or (2,) * len(words))


def twin(found, method, other, metric):
    """The difference and its interval in plain numpy: words resampled, each with all its images."""
    measure, methods = METRICS.index(metric), found.methods
    values = found.scores.values[:, measure]
    differences = values[methods.index(method)] - values[methods.index(other)]
    if metric == "thing":
        differences = np.where(np.array(found.things) > 0, differences, np.nan)
    of_word = {w: [] for w in found.words}
    for word, column in zip(found.words, differences.T, strict=True):
        of_word[word] += [difference for difference in column if not np.isnan(difference)]
    pictures = [differences for differences in of_word.values() if differences]
    rng = np.random.Generator(np.random.Philox(0))
    means = []
    for times in rng.multinomial(len(pictures), np.full(len(pictures), 1 / len(pictures)), RESAMPLES):
        resampled = [d for some, count in zip(pictures, times, strict=True) for d in some * int(count)]
        means.append(np.mean(resampled))
    return np.mean(np.concatenate(pictures)), *np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("metric", METRICS)
def test_differences_are_those_of_a_second_way(metric):
    found = made_up(things=(2, 2, 0, 2, 0, 2, 2))
    assert found.difference("gate", "plain", metric) == pytest.approx(twin(found, "gate", "plain", metric))


def test_words_are_what_is_resampled():
    """Many prompts of one word say no more than one: what matters is how much words differ."""
    words = tuple(word for word in "abcd" for _ in range(30))
    found = made_up(words=words)
    values = found.scores.values.copy()
    values[:, 0] = np.repeat([[[1, 1, 1, 1]], [[0, 1, 0, 1]]], 30, axis=-1).reshape(2, 1, 120)
    same_within = Polysemy(Scores(values, found.scores.axes), words, found.things)
    low, high = same_within.difference("gate")[1:]
    assert (low, high) == (-1, 0)  # over 240 images it would be -0.5 ± 0.06
    two = Polysemy(Scores(values[..., :60], found.scores.axes), words[:60], found.things[:60])
    assert np.isnan(two.difference("gate").low) and two.difference("gate").n == 2


grids = arrays(float, (2, 3, 2, 7), elements=st.sampled_from([0.0, 1.0, np.nan]))


@given(grids)
@settings(max_examples=25, deadline=None)
def test_differences_turn_with_the_methods(values):
    found = replace(made_up(), scores=Scores(values, made_up().scores.axes))
    there, back = found.difference("gate", "plain"), found.difference("plain", "gate")
    assert np.allclose(
        [there.value, there.low, there.high], [-back.value, -back.high, -back.low], equal_nan=True
    )
    itself = found.difference("gate", "gate")
    assert np.nan_to_num([itself.value, itself.low, itself.high]).tolist() == [0, 0, 0]
    if np.isfinite(values[:, 0]).all():
        assert there.value == pytest.approx(found.rate("gate").value - found.rate("plain").value)


@given(grids)
@settings(max_examples=25, deadline=None)
def test_the_mean_is_that_of_the_pictures(values):
    found = replace(made_up(), scores=Scores(values, made_up().scores.axes))
    for metric in METRICS:
        mean, scored = found.of("gate", metric), values[1, METRICS.index(metric)]
        assert mean.value == pytest.approx(
            np.nanmean(scored) if np.isfinite(scored).any() else np.nan, nan_ok=True
        )
        assert np.isnan(mean.low) or mean.low <= mean.value <= mean.high


def test_what_was_not_measured_is_refused():
    with pytest.raises(HeadwiseError, match="'magic' was not measured. The methods are: plain, gate"):
        made_up().difference("magic")
    with pytest.raises(
        HeadwiseError, match="'beauty' is not a metric. The metrics are: misread, thing, kept"
    ):
        made_up().of("plain", "beauty")


def run(pipe, prompts=LISTED, **options):
    options = {"seeds": (0, 1), "num_inference_steps": 2, "batch_size": 2, "progress": False} | options
    options = {"methods": ("plain", "rewording", "adjust")} | options
    return benchmark_polysemy(pipe, relevance_for(pipe), prompts, options.pop("judge", Stub()), **options)


def test_plain_pictures_are_generated_once_and_kept_whole(sd, monkeypatch):
    calls = []

    def counted(pipe, texts, seed, numbers, **options):
        calls.append((seed, tuple(numbers)))
        return generate(pipe, texts, seed, numbers, **options)

    generate = polysemy.generate
    monkeypatch.setattr(polysemy, "generate", counted)
    found = run(sd)
    assert len(calls) == 2 * 3 and set(calls) == {(0, (0, 1)), (1, (0, 1))}
    assert found.of("plain", "kept").value == pytest.approx(1)
    assert found.of("adjust", "kept").value < 1 and found.of("rewording", "kept").value < 1
    alone = run(sd, methods=("adjust",))  # compared with plain images all the same
    assert np.allclose(alone.values("adjust", "kept"), found.values("adjust", "kept"), atol=1e-5)


def test_a_run_goes_on_where_it_stopped(sd, tmp_path):
    whole = run(sd)
    run(sd, out=tmp_path, numbers=range(0, 1))
    judge = Stub()
    rest = run(sd, out=tmp_path, judge=judge)
    assert judge.looked == 4 * 3 * 2  # of one prompt: chosen twice and compared with the plain image
    assert np.allclose(rest.scores.values, whole.scores.values, atol=1e-5)


def as_before(folder):
    """The folder as a version wrote it that scored misreading alone."""
    scores = Scores.load(folder / "scores.safetensors")
    axes = {name: labels for name, labels in scores.axes.items() if name != "measure"}
    described = json.loads((folder / "run.json").read_text())
    for of in (scores.settings, described["settings"]):
        del of["measures"], of["things"]
    Scores(scores.values[:, 0], axes, scores.settings).save(folder / "scores.safetensors")
    (folder / "run.json").write_text(json.dumps(described))


def test_a_folder_of_misreading_alone_is_refused_and_still_read(sd, tmp_path):
    found = run(sd, out=tmp_path, keep_prompts=1)
    as_before(tmp_path)
    before = (tmp_path / "scores.safetensors").read_bytes()
    with pytest.raises(RunMismatch, match=r"measures is None there and \['misread', 'thing', 'kept'\] here"):
        run(sd, out=tmp_path)
    earlier = Polysemy.of_scores(Scores.load(tmp_path / "scores.safetensors"))
    assert earlier.rate("adjust") == found.rate("adjust") and np.isnan(earlier.of("adjust", "kept").value)
    page = report(tmp_path).read_text()
    assert "misread − plain" in page and ">kept<" not in page
    (tmp_path / "run.json").unlink()
    with pytest.raises(VotesMismatch, match="different axes or settings"):
        run(sd, out=tmp_path)
    assert (tmp_path / "scores.safetensors").read_bytes() == before


def test_a_folder_that_does_not_say_its_kind_is_known_by_its_measures(sd, tmp_path):
    run(sd, out=tmp_path, seeds=(0,), num_inference_steps=1, methods=("plain",))
    (tmp_path / "run.json").unlink()
    assert kind_of(tmp_path) == "polysemy"


def test_the_other_things_of_a_word_are_told_apart_by_its_first_text(tmp_path):
    file = tmp_path / "senses.toml"
    file.write_text(
        '[[senses]]\nword = "rose"\ntoward = "Color"\naway = "Plants"\nprompts = ["a {word} {thing}"]\n'
        'reworded = "a pink {thing}"\ntexts = ["a pink {thing}", "a {word}"]\n'
        'things = ["car", "axe", "sofa"]\n'
    )
    car, axe, _ = polysemy_prompts(file)
    assert car.things == ("a pink car", "a pink axe", "a pink sofa")
    assert axe.things == ("a pink axe", "a pink car", "a pink sofa")
    file.write_text(file.read_text().replace('texts = ["a pink {thing}"', 'texts = ["pink"'))
    assert polysemy_prompts(file)[0].things == ()  # the text says no thing
    assert all(prompt.things == () for prompt in polysemy_prompts("paper"))
    emoji = polysemy_prompts("emoji")
    assert {prompt.word for prompt in emoji if not prompt.things} == {"bat", "mouse"}
    assert all(prompt.things[0] == prompt.case.texts[0] for prompt in emoji if prompt.things)


def test_words_are_split_into_tuning_and_reporting():
    every = polysemy_prompts("emoji")
    halves = [polysemy_prompts("emoji", half=half) for half in ("tuning", "reporting")]
    tuning, reporting = ({prompt.word for prompt in half} for half in halves)
    assert not tuning & reporting and abs(len(tuning) - len(reporting)) <= 1
    assert sorted(map(repr, sum(halves, []))) == sorted(map(repr, every))


def test_the_page_is_true(tmp_path, monkeypatch, capsys):
    """Its list is read, with every key that it explains, and its program runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CLIPScorer, "load", lambda name: Stub())
    page = ROOT / "docs" / "polysemy.md"
    (written,) = blocks(page, "toml")
    explained = re.findall(r"^\| `(\w+)` \|", page.read_text().split("| key |")[1].split("\n\n")[0], re.M)
    assert set(explained) == tomllib.loads(written)["senses"][0].keys()
    assert set(re.findall(r"^\| `(\w+)` \|", page.read_text().split("| key |")[0], re.M)) == set(METRICS)
    for method in METHODS:
        assert method.split(", ")[-1] in page.read_text(), method
    Path("mine.toml").write_text(written)
    Path("known").mkdir()
    picture(200, 100, 0).save("known/0.png")
    exec(compile(*blocks(page, "python"), str(page), "exec"), {})
    assert re.search(r"misread: \d+%; car recognised: \d+%", capsys.readouterr().out)
    emoji = polysemy_prompts("emoji")
    assert f"{len(emoji)} prompts of {len({case.word for case in emoji})} words" in page.read_text()
