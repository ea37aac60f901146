"""Intervals hold what they should, as often as they should."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.intervals import Interval, bootstrap, bootstrap_interval, wilson


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_lies_around_its_share_and_mirrors(n, data):
    hits = data.draw(st.integers(0, n))
    found, mirrored = wilson(hits, n), wilson(n - hits, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_wilson_known_values():
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    assert wilson(81, 263)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20)[1:] == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0).low == 0 and wilson(0, 0).high == 1


@pytest.mark.usefixtures("all_resamples")
def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        _, low, high = bootstrap(rng.exponential(1.0, (40, 1)), lambda m: m, seed=trial)
        inside += bool(low[0] <= 1.0 <= high[0])
    assert 0.88 <= inside / 200 <= 0.98


@pytest.mark.usefixtures("all_resamples")
def test_bootstrap_is_seeded_and_takes_any_statistic_of_the_mean():
    cases = np.random.default_rng(1).normal(size=(30, 4, 5))
    value, low, high = bootstrap(cases, lambda mean: mean[0].sum() - mean[1].sum(), seed=3)
    assert value == pytest.approx((cases[:, 0] - cases[:, 1]).sum(-1).mean())
    again = bootstrap(cases, lambda mean: mean[0].sum() - mean[1].sum(), seed=3)
    assert (low, high) == (again[1], again[2]) and low < value < high


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_cases_have_no_interval_and_say_so(n):
    found = bootstrap_interval(np.full((n, 1), 0.639), lambda mean: mean[0])
    assert np.isnan(found.low) and np.isnan(found.high)
    assert str(found) == f"{found}" == f"0.639 (n = {n}, no interval)"
    assert f"{found:+.2f}" == f"+0.64 (n = {n}, no interval)"
    value, low, high = bootstrap(np.ones((n, 3)), lambda mean: mean)
    assert value.shape == low.shape == high.shape and np.isnan([low, high]).all()


def test_three_cases_have_an_interval():
    found = bootstrap_interval(np.array([[0.0], [0.5], [1.0]]), lambda mean: mean[0])
    assert found.n == 3 and str(found) == f"0.500 ({found.low:.3f} to {found.high:.3f})"
    assert found == (found.value, found.low, found.high) and str(Interval(*found)) == str(found)
    assert str(Interval(0.5, np.nan, np.nan)) == "0.500 (no interval)"
    assert pickle.loads(pickle.dumps(found)).n == 3
