"""Editing given pictures: every method at every position of its dial, what is refused, the command."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from conftest import ddim, tiny_pixart, tiny_sd
from given_helpers import mapping_file, write_drawings
from headwise import emoji
from headwise.benchmarks.editing import METRICS
from headwise.benchmarks.given_editing import GIVEN_METHODS, GivenEdit, benchmark_given_editing
from headwise.benchmarks.prompts.given_pictures import given_pairs
from headwise.benchmarks.trade_off import SOURCE
from headwise.editing.inversion import invert, psnr
from headwise.errors import HeadwiseError, HookMisuse
from headwise.measuring.relevance import Relevance
from headwise.model.autoencoder import decoded, encoded
from headwise.model.generate import image_size
from headwise.pictures import fitted
from headwise.report.measurement import report
from helpers import Stub, relevance_for


@pytest.fixture
def drawings(tmp_path):
    return write_drawings(tmp_path)


def test_pie_bench_comes_through_the_same_door(sd, tmp_path):
    [pair] = given_pairs(mapping_file(tmp_path))
    options = {"methods": ["inversion", "votes"], "num_inference_steps": 3, "progress": False}
    found = benchmark_given_editing(sd, relevance_for(sd), [pair], Stub(), **options)
    assert np.isfinite(found.scores.values).all() and found.attributes == ("change color",)
    strange = pair._replace(attribute="change pose", concept=None)
    with pytest.raises(HeadwiseError, match="'votes' needs `relevance of change pose`"):
        benchmark_given_editing(sd, relevance_for(sd), [strange], Stub(), methods=["votes"])


def effect_for(pipe):
    votes = relevance_for(pipe)
    unknown = np.full(votes.values.shape, np.nan)
    return Relevance(
        votes.values, unknown, unknown[:, 0].copy(), votes.concepts, votes.head_map, {"by": "effect"}
    )


@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_every_method_edits_every_picture(sd, drawings, tmp_path):
    pairs, out = given_pairs(drawings), tmp_path / "run"
    options = {"num_inference_steps": 3, "progress": False, "effect": effect_for(sd), "out": out}
    found = benchmark_given_editing(sd, relevance_for(sd), pairs, Stub(), keep_pairs=1, **options)
    assert found.methods == tuple(GIVEN_METHODS) and found.settings[0] == SOURCE
    assert found.scores.values.shape == (len(found.settings), 4, 1, 2)
    assert np.isfinite(found.scores.values).all()
    preservation = found.scores.values[:, METRICS.index("preservation")]
    assert preservation[0] == pytest.approx(1)
    for name, method in GIVEN_METHODS.items():
        kept = [Image.open(out / "pictures" / f"000 {s}.png").tobytes() for s, _ in method.settings(name)]
        if name != "prompt-to-prompt":  # the tiny model has no layer as coarse as its window is for
            assert len(set(kept)) > (len(kept) > 1), f"the dial of {name} changes nothing"
    page = report(out).read_text()
    assert "at equal preservation" in page and page.count("<img") == len(found.settings)
    scorer = Stub()
    again = benchmark_given_editing(sd, relevance_for(sd), pairs, scorer, **options)
    assert scorer.looked == 0 and np.array_equal(again.scores.values, found.scores.values)


def test_a_run_goes_on_with_the_pairs_that_are_missing(sd, drawings, tmp_path):
    pairs, relevance = given_pairs(drawings), relevance_for(sd)
    options = {"methods": ["sdedit", "truth"], "num_inference_steps": 3, "progress": False}
    whole = benchmark_given_editing(sd, relevance, pairs, Stub(), **options)
    first = benchmark_given_editing(
        sd, relevance, pairs, Stub(), out=tmp_path / "run", numbers=range(1), **options
    )
    assert np.isnan(first.scores.values[..., 1]).all()
    rest = benchmark_given_editing(sd, relevance, pairs, Stub(), out=tmp_path / "run", **options)
    assert np.array_equal(rest.scores.values, whole.scores.values)


@pytest.mark.filterwarnings("ignore")
def test_inverted_without_a_change_of_prompt_the_picture_comes_back(drawings, tmp_path):
    """Up to what the autoencoder loses, which is what encoding and decoding alone loses."""
    pipe = tiny_sd(scheduler=ddim())
    pair = given_pairs(drawings)[0]
    same = pair._replace(target=pair.source)
    options = {"methods": ["inversion"], "num_inference_steps": 3, "progress": False, "keep_pairs": 1}
    benchmark_given_editing(pipe, relevance_for(pipe), [same], Stub(), out=tmp_path / "run", **options)
    regenerated = Image.open(tmp_path / "run" / "pictures" / "000 inversion, 0.png")
    picture = fitted(Image.open(pair.picture), image_size(pipe))
    assert psnr(regenerated, decoded(pipe, encoded(pipe, picture))[0]) > 40


def test_relevance_alike_in_all_heads_is_one_factor_in_all_heads(sd, drawings):
    relevance, pair = relevance_for(sd), given_pairs(drawings)[0]
    twice = Relevance(
        np.full_like(relevance.values, 2.0), relevance.standard_errors, relevance.split_half,
        relevance.concepts, relevance.head_map,
    )  # fmt: skip
    passed = {"num_inference_steps": 3, "guidance_scale": 7.5}
    inverted = invert(sd, pair.picture, pair.source, **passed)
    made = GivenEdit(sd, pair, inverted.picture, lambda: inverted, {"votes": twice}, 0, passed)
    by_votes, by_factor = GIVEN_METHODS["votes"].edit(made, 1.0), GIVEN_METHODS["all heads"].edit(made, 2.0)
    assert by_votes.tobytes() == by_factor.tobytes()
    assert by_votes.tobytes() != GIVEN_METHODS["all heads"].edit(made, 1.0).tobytes()


def test_what_does_not_fit_the_pipeline_is_left_out_or_refused(drawings, monkeypatch):
    pipe = tiny_pixart()  # which has no residual blocks
    pairs, relevance = given_pairs(drawings)[:1], relevance_for(pipe)
    options = {"num_inference_steps": 3, "progress": False}
    with pytest.raises(HookMisuse, match=r"up_blocks.1.resnets.1 as a feature"):
        benchmark_given_editing(pipe, relevance, pairs, Stub(), methods=["plug-and-play"], **options)
    few = {name: GIVEN_METHODS[name] for name in ("plug-and-play", "effect", "truth")}
    monkeypatch.setattr("headwise.benchmarks.given_editing.GIVEN_METHODS", few)
    with pytest.warns(UserWarning, match="plug-and-play is left out: .*up_blocks.1.resnets.1"):
        found = benchmark_given_editing(pipe, relevance, pairs, Stub(), **options)
    assert found.methods == ("truth",), "effect was not given either"


def test_what_is_missing_is_refused(sd, drawings):
    pairs, relevance = given_pairs(drawings), relevance_for(sd)
    with pytest.raises(HeadwiseError, match="'effect' needs `effect`"):
        benchmark_given_editing(sd, relevance, pairs, Stub(), methods=["effect"])
    with pytest.raises(HeadwiseError, match="'truth' needs `truth of every pair`"):
        without = [pairs[0], pairs[1]._replace(truth=None)]
        benchmark_given_editing(sd, relevance, without, Stub(), methods=["truth"])
    with pytest.raises(HeadwiseError, match="'magic' is not a method"):
        benchmark_given_editing(sd, relevance, pairs, Stub(), methods=["magic"])
    with pytest.raises(HeadwiseError, match='"a orange dog" has no image to edit'):
        without = [pairs[0]._replace(picture=None)]
        benchmark_given_editing(sd, relevance, without, Stub(), methods=["votes"])
    with pytest.raises(HeadwiseError, match="No pair with an image was given"):
        benchmark_given_editing(sd, relevance, [], Stub())


def test_the_built_in_model_edits_the_drawings_of_the_package(tmp_path):
    pipe, pairs = emoji.UNET.load(), given_pairs("emoji", 1)[:2]
    votes, effect = (Relevance.load(file) for file in (emoji.UNET.relevance, emoji.UNET.effect))
    methods = ["inversion", "prompt-to-prompt", "effect, random heads", "truth"]
    options = {"effect": effect, "methods": methods, "num_inference_steps": 6, "progress": False}
    found = benchmark_given_editing(pipe, votes, pairs, Stub(), keep_pairs=1, out=tmp_path, **options)
    kept = {file.read_bytes() for file in (tmp_path / "pictures").glob("000 prompt-to-prompt*.png")}
    assert len(kept) == 5, "each window has one of the four calls more"
    assert found.methods == tuple(methods) and np.isfinite(found.scores.values).all()
    assert pickle.loads(pickle.dumps(found)).attributes == found.attributes


@pytest.mark.filterwarnings("ignore")
def test_the_command_tells_every_method_of_every_attribute(run, workspace, drawings):
    command = ["benchmark", "editing", "--pictures", drawings, "--num-inference-steps", "3", "--seeds", "0"]
    command += ["--method", "inversion", "--method", "prompt-to-prompt", "--out", "given"]
    code, out, _ = run(*command, "--json")
    numbers = json.loads(out)
    assert code == 0 and set(numbers["attributes"]) == {"Color", "Animals"}
    inversion = numbers["attributes"]["Color"]["inversion"]
    assert set(inversion) == {"area", "at_0.9", "at_0.95", "area_above_prompt_to_prompt"}
    assert set(inversion["area"]) == {"mean", "low", "high", "n"} and inversion["area"]["n"] == 1
    assert numbers["settings"]["Color"]["source"]["preservation"] == 1
    assert "inversion, 0.6" in numbers["settings"]["Animals"]
    code, out, _ = run(*command)
    assert code == 0 and "gain" in out
    code, _, err = run(*command, "--pairs", "pairs.toml")
    assert code and "--pairs and --pictures were given" in err
