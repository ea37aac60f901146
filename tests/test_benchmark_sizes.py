"""Benchmarks at another size than the model's own: every method generates it, and another size is refused."""

import json
from functools import partial, wraps

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from cli_helpers import CASES, SENSES
from conftest import TRANSFORMERS
from headwise.benchmarks.atoms_benchmark import METHODS as ATOMS
from headwise.benchmarks.attribution.benchmark import benchmark_attribution, standard_estimators
from headwise.benchmarks.attribution.subset_losses import SubsetLosses, random_subsets
from headwise.benchmarks.attribution.subsets import measure_subsets
from headwise.benchmarks.attribution.tuning import Sampling, Truth, Tuning
from headwise.benchmarks.clip_scorer import scoring
from headwise.benchmarks.editing import EDITING, benchmark_editing
from headwise.benchmarks.multi_concept import COMPOSING
from headwise.benchmarks.polysemy import METHODS as POLYSEMY
from headwise.benchmarks.prompts.edit_pairs import edit_pairs
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.questions.answers import benchmark_questions
from headwise.benchmarks.questions.estimators import Setting, benchmark_estimators
from headwise.errors import RunMismatch
from headwise.measuring.concepts import ConceptSet
from headwise.model.heads import HeadMap
from headwise.runs.scores import Scores
from helpers import PAIRS, Stub, relevance_for
from test_atoms_benchmark import TEMPLATES, effect_for
from test_cli_editing import PAIRS as PAIRS_FILE
from test_cli_editing import SEVERAL

SIZE = {"height": 24, "width": 32}  # the tiny model's own is 16 × 16
OTHER = {"height": 32, "width": 24}
TRIAL = (4, 4)  # of the call in which hooks find the layers, whatever the size of the images
IN_PIXELS, IN_LATENTS = (32, 24), (12, 16)  # width and height; height and width
WORDS = ConceptSet({"Color": ("red", "blue", "aquamarine stone"), "Animals": ("dog", "cat", "frog")})
COLORS = [EvalPrompt(prompt, (prompt, "a dog")) for prompt in ("a red dog", "a red cat")]

COMMANDS = {
    "weakening": ("--cases", "cases.toml", "--ks", "0,2,8"),
    "polysemy": ("--senses", "senses.toml", "--seeds", 0, "--effect", "effect.safetensors"),
    "editing": ("--pairs", "pairs.toml", "--seeds", 0, "--count", 2),
    "multi-concept": ("--prompts", "several.toml", "--seeds", 0),
    "atoms": (
        "--prompts", "own.toml", "--kind", "color", "--concept", "Color", "--seeds", 0, "--count", 2,
        "--effect", "effect.safetensors",
    ),
    "scales": (
        "--cases", "cases.toml", "--senses", "senses.toml", "--pairs", "pairs.toml", "--seeds", 0,
        "--count", 2, "--scale", "sum", "--scale", "clamp 2",
    ),
    "attribution": (
        "--truth", "losses.json", "--prompts", "prompts.txt", "--count", 2, "--areas", 1,
        "--cases", "cases.toml", "--estimator", "value norm",
    ),
}  # fmt: skip
METHODS = {"polysemy": POLYSEMY, "editing": EDITING, "multi-concept": COMPOSING, "atoms": ATOMS}


class Sized(Stub):
    """A scorer that keeps the sizes of the images it scores."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def embed_images(self, pictures):
        self.sizes |= {picture.size for picture in pictures}
        return super().embed_images(pictures)


@pytest.fixture
def scorer():
    return Sized()


@pytest.fixture
def grids(monkeypatch):
    """The heights and widths of all latents that a denoiser of the SD shape reads, trial calls left out."""
    grids, forward = set(), UNet2DConditionModel.forward

    @wraps(forward)
    def watched(self, sample, *inputs, **options):
        grids.update({tuple(sample.shape[-2:])} - {TRIAL})
        return forward(self, sample, *inputs, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    return grids


def losses(all_heads):
    """As if subsets of heads had been weakened for one prompt."""
    subsets = random_subsets(all_heads, 8)
    return SubsetLosses(subsets, 1.0 * subsets.sum(1)[:, None] + subsets[:, :1], np.ones(1))


@pytest.fixture
def workspace(workspace, sd, scorer, monkeypatch):
    """With the prompts of all benchmarks, relevance by effect, losses of subsets, and the scorer."""
    texts = {"cases": CASES, "senses": SENSES, "pairs": PAIRS_FILE, "several": SEVERAL, "own": TEMPLATES}
    for name, text in texts.items():
        (workspace / f"{name}.toml").write_text(text)
    (workspace / "prompts.txt").write_text("a red car\na red vase\n")
    effect_for(sd).save(workspace / "effect.safetensors")
    content = losses(HeadMap.of(sd).all_heads).as_json()
    concept = {"prompts": ["a red dog"], "plain": content.pop("plain"), "loss": content.pop("loss")}
    (workspace / "losses.json").write_text(json.dumps(content | {"concepts": {"Color": concept}}))
    monkeypatch.setattr("headwise.benchmarks.clip_scorer.CLIPScorer.load", lambda name: scorer)
    return workspace


def sides(size):
    return [word for side, pixels in size.items() for word in (f"--{side}", pixels)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_method_generates_the_size_and_another_size_is_refused(run, workspace, scorer, grids, name):
    line = ("benchmark", name, *COMMANDS[name], "-m", "./tiny", "--num-inference-steps", 2)
    line += ("--out", "b", "--json")
    code, out, err = run(*line, *sides(SIZE))
    assert code == 0, err
    assert scorer.sizes == {IN_PIXELS} and grids == {IN_LATENTS}
    if name in METHODS:
        scores = Scores.load(workspace / "b/scores.safetensors")
        assert scores.axes["method"] == tuple(METHODS[name]) and np.isfinite(scores.values).all()
    looked = scorer.looked
    assert run(*line, *sides(SIZE))[:2] == (0, out) and scorer.looked == looked
    for other in (OTHER, {}):
        code, out, err = run(*line, *sides(other))
        assert (code, out) == (2, "") and "Give another folder, or the same settings" in err, (other, err)
        assert "height" in err and "24" in err and str(other.get("height")) in err
    assert scorer.looked == looked


@pytest.mark.parametrize("name", [*COMMANDS, "estimators", "questions"])
def test_sizes_that_are_not_generated_are_refused_by_every_benchmark(run, workspace, scorer, name):
    line = ("benchmark", name, *COMMANDS.get(name, ()), "-m", "./tiny", "--out", "b")
    code, out, err = run(*line, "--height", 24)
    assert (code, out) == (2, "") and "Only one of --height and --width was given. Give --width too" in err
    code, out, err = run(*line, "--height", 100, "--width", 60)
    assert (code, out) == (2, "") and "expected multiples of 8" in err and "such as 96 and 64" in err
    assert scorer.looked == 0 and not (workspace / "b").exists()


def test_given_images_keep_the_size_of_the_model(run, workspace):
    line = ("benchmark", "editing", "-m", "./tiny", "--pictures", "emoji", "--out", "b")
    code, out, err = run(*line, *sides(SIZE))
    assert (code, out) == (2, "") and not (workspace / "b").exists()
    assert "--pictures and --height 24 --width 32 were given, but given images are scaled to the" in err


@pytest.mark.parametrize(
    ("name", "function"),
    [("estimators", "estimators.benchmark_estimators"), ("questions", "answers.benchmark_questions")],
)
def test_the_longest_benchmarks_are_given_the_size(run, workspace, monkeypatch, name, function):
    given = {}

    def called(*values, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"headwise.benchmarks.questions.{function}", called)
    run("benchmark", name, "-m", "./tiny", "--concepts", "emoji", *sides(SIZE))
    assert {side: given[side] for side in SIZE} == SIZE


@pytest.mark.filterwarnings("ignore")
def test_all_measurements_and_interventions_of_the_questions_have_the_size(
    sd, scorer, grids, tmp_path, monkeypatch
):
    monkeypatch.setattr("headwise.benchmarks.questions.answers.SUBSETS", 1)
    pairs = [pair._replace(attribute="Color") for pair in edit_pairs("emoji", 1)[:1]]
    options = {"others": {"itself": sd}, "pictures": 2, "whole": 32, "batch_size": 8, "seeds": (0,)}
    options |= {"progress": False}
    ask = partial(benchmark_questions, sd, WORDS, pairs, scorer, tmp_path, **options)
    answers = ask(**SIZE)
    assert all(answer.values for answer in answers.values())
    assert scorer.sizes == {IN_PIXELS} and grids == {IN_LATENTS}
    assert json.loads((tmp_path / "questions.json").read_text())["settings"].items() >= SIZE.items()
    for file in tmp_path.glob("*/run.json"):
        settings = json.loads(file.read_text())["settings"]
        assert {side: settings.get(side) for side in SIZE} == SIZE, file
    for other in (OTHER, {}):
        with pytest.raises(RunMismatch, match="height is 24 there"):
            ask(**other)


def test_the_long_run_and_all_settings_have_the_size(sd, grids, tmp_path):
    options = {"long": 16, "settings": (Setting(3, 1.0, 16),), "batch_size": 16, "progress": False}
    benchmark_estimators(sd, WORDS, tmp_path, **options, **SIZE)
    assert grids == {IN_LATENTS}
    for other in (OTHER, {}):
        with pytest.raises(RunMismatch, match="height is 24 there"):
            benchmark_estimators(sd, WORDS, tmp_path, **options, **other)


@pytest.mark.filterwarnings("ignore")
def test_every_estimator_of_what_heads_do_generates_the_size(sd, grids, tmp_path):
    all_heads = HeadMap.of(sd).all_heads
    estimators = standard_estimators(WORDS, None, Sampling(1, batch_size=4, **SIZE))
    tuning = {"Color": Tuning("Color", ("a red car", "a blue vase"), ("red", "blue"))}
    truth = {"Color": Truth(losses(all_heads), ("a red dog",))}
    for name, estimator in estimators.items():
        grids.clear()
        folder = tmp_path / name
        compare = partial(benchmark_attribution, sd, truth, tuning, {name: estimator}, folder, progress=False)
        compare(**SIZE)
        assert grids == (set() if name == "random" else {IN_LATENTS}), name
        for other in (OTHER, {}) if name != "random" else ():
            with pytest.raises(RunMismatch, match="'height': 24"):
                compare(**other)


def test_subsets_of_heads_are_weakened_at_the_size(sd, scorer, tmp_path):
    score = scoring(scorer, "similarity")
    weaken = partial(measure_subsets, sd, COLORS, score, count=6, out=tmp_path, progress=False)
    weaken(num_inference_steps=1, **SIZE)
    assert scorer.sizes == {IN_PIXELS}
    for other in (OTHER, {}):
        with pytest.raises(RunMismatch, match="height is 24 there"):
            weaken(num_inference_steps=1, **other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["sd3", "sd3.5", "flux-dev"])
def test_pipelines_that_scale_images_to_their_own_size_edit_them_at_the_size(scorer, name):
    """In these, SDEdit is a pipeline that is told the size of the images."""
    pipe = TRANSFORMERS[name]()
    options = {"seeds": (0,), "num_inference_steps": 2, "batch_size": 4, "progress": False}
    found = benchmark_editing(pipe, relevance_for(pipe), PAIRS[:1], scorer, **options, **SIZE)
    assert scorer.sizes == {IN_PIXELS} and {"sdedit 0.5", "prompt-to-prompt"} <= set(found.methods)
