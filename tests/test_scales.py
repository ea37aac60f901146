"""Scales of relevance: laws of each, and the order of heads that none of them turns around."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headwise.errors import BadStrength
from headwise.measuring.relevance import Relevance
from headwise.measuring.scales import SCALES, rescaled

VOTES = arrays(np.int64, (2, 12), elements=st.integers(0, 1000)).filter(lambda v: v.any(1).all())


@given(VOTES, st.sampled_from(sorted(SCALES)))
def test_no_scale_turns_two_heads_around(votes, scale):
    measured = Relevance.from_votes(votes, ("Color", "Food"))
    before, after = measured["Color"], rescaled(measured, scale)["Color"]
    order = np.argsort(before, kind="stable")
    assert (np.diff(after[order]) >= -1e-9).all()


@given(VOTES)
def test_laws_of_the_scales(votes):
    measured = Relevance.from_votes(votes, ("Color", "Food"))
    assert np.array_equal(rescaled(measured, "sum").values, measured.values)
    assert rescaled(measured, "clamp", 2).values.max() <= 2
    assert rescaled(measured, "maximum").values.max() == 1
    for scale in ("softmax", "rank"):
        sums = rescaled(measured, scale).values.sum(-1)
        assert np.allclose(sums, 12) or (scale == "rank" and (sums == 0).any())


def test_shrinking_removes_what_noise_could_explain():
    measured = Relevance.from_votes(np.array([[1, 2, 3, 10]]), ("Color",))
    assert np.array_equal(rescaled(measured, "shrink").values, measured.values)  # errors unknown: nothing
    sure = replace(measured, standard_errors=np.zeros((1, 4)))
    assert np.allclose(rescaled(sure, "shrink").values, measured.values)
    unsure = replace(measured, standard_errors=np.full((1, 4), 100.0))
    assert np.allclose(rescaled(unsure, "shrink").values, 1)


def test_the_settings_say_the_scale_and_unknown_ones_are_refused():
    measured = Relevance.from_votes(np.array([[1, 2, 3, 10]]), ("Color",))
    assert rescaled(measured, "clamp", 2).settings["scale"] == ["clamp", 2]
    for scale, parameter in (("magic", None), ("clamp", 0), ("softmax", float("nan"))):
        with pytest.raises(BadStrength, match="expected one of sum, clamp"):
            rescaled(measured, scale, parameter)
