"""Ordered weakening: areas of known curves, resumption, sharing of ends, the same as one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_sd
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.results import Weakening
from headwise.benchmarks.weakening import grid, measure_weakening, orders_of
from headwise.errors import HeadMapMismatch, HeadwiseError, RunMismatch, UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import latents_for
from headwise.model.heads import HeadMap, Layer
from headwise.runs.scores import Scores
from headwise.steering.steer import weaken
from helpers import relevance_for

CASES = [EvalPrompt("a red dog", ("red",)), EvalPrompt("a red vase", ("red",)), EvalPrompt("a cat", ("cat",))]


def weakening_of(values, orders, ks):
    axes = {"order": orders, "k": ks, "seed": range(values.shape[2]), "prompt": range(values.shape[3])}
    return Weakening(Scores(values, {name: tuple(labels) for name, labels in axes.items()}))


def mean_of_pixels(pictures, cases):
    return np.array([np.asarray(picture).mean() / 255 for picture in pictures])


def run(pipe, relevance, **options):
    options = {"ks": (0, 2, 4), "seeds": (1, 2), "num_inference_steps": 2, "random_orders": 2} | options
    options = {"progress": False, "batch_size": 5} | options
    whole = options.pop("ks")
    ks = (*whole[:-1], HeadMap.of(pipe).all_heads)
    return measure_weakening(pipe, relevance, "Color", CASES, mean_of_pixels, ks=ks, **options)


def test_every_score_is_that_of_its_picture_alone(sd):
    relevance = relevance_for(sd)
    found = run(sd, relevance)
    orders = orders_of(relevance, "Color", 2)
    assert found.orders == tuple(orders) and not np.isnan(found.scores.values).any()
    for name in ("most relevant", "random 1", "least relevant layers"):
        for k, count in enumerate(found.ks):
            noise = latents_for(sd, 2, 1)[None]
            with hooked(sd, weaken(HeadMap.of(sd), orders[name][:count])):
                picture = sd("a red vase", latents=noise, num_inference_steps=2).images
            alone = mean_of_pixels(picture, CASES[:1])[0]
            assert found.scores.values[found.orders.index(name), k, 1, 1] == pytest.approx(alone, abs=2e-3)


def test_orders_share_their_ends_and_differ_between(sd):
    scores = run(sd, relevance_for(sd)).scores.values
    assert (scores[:, [0, -1]] == scores[:1, [0, -1]]).all()
    assert (scores[0, 1] != scores[1, 1]).any()


def test_a_run_goes_on_where_it_ended(sd, tmp_path):
    relevance, calls = relevance_for(sd), []
    whole = run(sd, relevance)

    def stops(pictures, cases):
        calls.append(len(pictures))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return mean_of_pixels(pictures, cases)

    stops.__name__ = mean_of_pixels.__name__
    options = {"ks": (0, 2, HeadMap.of(sd).all_heads), "seeds": (1, 2), "num_inference_steps": 2}
    options |= {"random_orders": 2, "progress": False, "batch_size": 5, "checkpoint_every": 0}
    with pytest.raises(KeyboardInterrupt):
        measure_weakening(sd, relevance, "Color", CASES, stops, out=tmp_path, **options)
    assert 0 < len(Scores.load(tmp_path / "scores.safetensors")) < whole.scores.values.size
    again = run(sd, relevance, ks=(0, 2, 4), out=tmp_path)
    assert np.array_equal(again.scores.values, whole.scores.values)
    with pytest.raises(RunMismatch, match="factor is -2.0 there and -1.0 here"):
        run(sd, relevance, out=tmp_path, factor=-1.0)


def test_pictures_are_kept_for_eyes(sd, tmp_path):
    run(sd, relevance_for(sd), out=tmp_path, keep_prompts=1, random_orders=1)
    names = sorted(file.stem for file in (tmp_path / "pictures").glob("*.png"))
    heads = HeadMap.of(sd).all_heads
    assert f"000 most relevant {heads:04d}" in names and "000 random 0 0002" in names
    assert len(names) == 5 + 2  # one k between in every order, and the two ends once


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_area_is_the_difference_of_heights_and_changes_sign_with_the_orders(data):
    ks = (0, *sorted(data.draw(st.sets(st.integers(1, 9), min_size=1))), 10)
    seed = data.draw(st.integers(0, 1000))
    scores = np.random.default_rng(seed).normal(size=(3, len(ks), 2, 6))
    found = weakening_of(scores, ("most relevant", "least relevant", "random 0"), ks)
    heights = [np.trapezoid(row.mean((1, 2)), ks) / 10 for row in scores]
    area = found.area()
    assert area.value == pytest.approx(heights[1] - heights[0])
    assert area.low <= area.value <= area.high
    assert found.area("least relevant", "most relevant").value == pytest.approx(-area.value)
    assert found.random().value == pytest.approx(heights[2] - heights[0])
    assert found.height("random 0").value == pytest.approx(heights[2])


def test_known_curves():
    """Losing everything at the first head, or only at the last."""
    ks, prompts = (0, 1, 9, 10), 8
    scores = np.zeros((2, 4, 1, prompts))
    scores[0, 0], scores[1, :3] = 1.0, 1.0
    found = weakening_of(scores, ("most relevant", "least relevant"), ks)
    assert found.area() == pytest.approx((0.9, 0.9, 0.9))
    assert found.half_drop("most relevant") == pytest.approx(0.5)
    assert found.half_drop("least relevant") == pytest.approx(9.5)
    flat = weakening_of(np.ones((1, 4, 1, 2)), ("most relevant",), ks)
    assert np.isnan(flat.half_drop("most relevant"))


def test_the_papers_grid():
    assert grid(128) == (0, 1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111, 121, 128)
    for heads in (2, 8, 100, 1300):
        ks = grid(heads)
        assert ks[0] == 0 and ks[-1] == heads and list(ks) == sorted(set(ks)) and len(ks) <= 20


def test_orders_are_permutations_and_layers_stay_together():
    head_map = HeadMap((Layer("a", 2), Layer("b", 3)))
    relevance = Relevance.from_votes(np.array([[5, 1, 3, 3, 9]]), ("Color",), head_map)
    orders = orders_of(relevance, "Color", 2)
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders.values())
    assert orders["most relevant"].tolist() == [4, 0, 2, 3, 1]
    assert orders["most relevant layers"].tolist() == [2, 3, 4, 0, 1]
    assert orders["random 0"].tolist() != orders["random 1"].tolist()


def test_refusals(sd):
    relevance = relevance_for(sd)
    with pytest.raises(HeadwiseError, match="increasing numbers of heads from 0 to all"):
        measure_weakening(sd, relevance, "Color", CASES, mean_of_pixels, ks=(0, 3, 2))
    with pytest.raises(HeadwiseError, match="No prompt was given"):
        measure_weakening(sd, relevance, "Color", [], mean_of_pixels)
    with pytest.raises(UnknownConcept):
        measure_weakening(sd, relevance, "Weather", CASES, mean_of_pixels)
    strange = Relevance.from_votes(np.ones((1, 3), int), ("Color",), HeadMap((Layer("x", 3),)))
    with pytest.raises(HeadMapMismatch, match="The relevance has"):
        measure_weakening(sd, strange, "Color", CASES, mean_of_pixels)


def test_the_pipeline_is_left_as_it_was(sd):
    options = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 2, "output_type": "np"}
    before = sd("a dog", **options).images
    run(sd, relevance_for(sd), seeds=(1,))
    options["generator"].manual_seed(0)
    assert np.array_equal(sd("a dog", **options).images, before)
    assert type(sd) is type(tiny_sd())
