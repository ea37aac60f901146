"""Scores add up like votes: in any order, exactly, and never two for one image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.errors import UnreadableFile, VotesMismatch
from headwise.runs.scores import Scores

AXES = {"method": ("plain", "adjust"), "seed": (1, 2, 3), "prompt": (0, 1, 2, 3)}


def whole(seed=0):
    return Scores(np.random.default_rng(seed).normal(size=(2, 3, 4)), AXES, {"model": "tiny"})


def part(scores, mask):
    return Scores(np.where(mask, scores.values, np.nan), scores.axes, scores.settings)


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1))
def test_parts_add_up_in_any_order(first, second):
    masks = [np.array([n >> i & 1 for i in range(24)], bool).reshape(2, 3, 4) for n in (first, second)]
    a, b = (part(whole(), mask) for mask in masks)
    assert np.array_equal((a + b).values, (b + a).values, equal_nan=True)
    assert len(a + b) == (masks[0] | masks[1]).sum()
    assert np.array_equal((a + Scores.empty(AXES, {"model": "tiny"})).values, a.values, equal_nan=True)


def test_other_scores_are_refused():
    with pytest.raises(VotesMismatch, match="scored the same images differently"):
        whole() + whole(1)
    with pytest.raises(VotesMismatch, match="different axes or settings"):
        whole() + Scores(whole().values, AXES, {"model": "other"})


def test_saved_and_read_again(tmp_path):
    scores = part(whole(), np.arange(24).reshape(2, 3, 4) % 2 == 0)
    scores.save(tmp_path / "scores.safetensors")
    again = Scores.load(tmp_path / "scores.safetensors")
    assert np.array_equal(again.values, scores.values, equal_nan=True)
    assert (dict(again.axes), again.settings) == (AXES, {"model": "tiny"})
    broken = Scores(scores.values[:1], AXES, {})
    broken.save(tmp_path / "broken.safetensors")
    with pytest.raises(UnreadableFile, match="is damaged"):
        Scores.load(tmp_path / "broken.safetensors")
