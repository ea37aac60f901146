"""Doses: they are met exactly with the least change of factors, and what bounds forbid is said."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from headwise.errors import BadStrength, HeadMapMismatch, HeadwiseError, UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap, Layer
from headwise.steering.dose import amplify, contrast, gate, least_change, reachable
from headwise.steering.spelling import parse_steering
from helpers import call, relevance_for

HEADS = HeadMap((Layer("a", 3), Layer("b", 2)))
VALUES = np.array([[4.0, 1.0, 0.0, -0.5, 0.5], [0.0, 1.0, 0.0, 3.0, 1.0]])


def by_effect(values=VALUES, names=("Color", "Plants"), head_map=HEADS):
    unknown = np.full(values.shape, np.nan)
    return Relevance(values, unknown, unknown[:, 0].copy(), names, head_map, {"by": "effect"})


@st.composite
def shares_of_heads(draw):
    parts = draw(st.lists(st.integers(-20, 60), min_size=1, max_size=24))
    assume(sum(parts) > 0)
    return np.array(parts) / sum(parts)


bounds_of_factors = st.tuples(st.floats(-3, 1), st.floats(1, 6))
dials = st.floats(-6, 6)


def dose(shares, factors):
    return shares @ (factors - 1)


def by_bisection(shares, dial, bounds, weights):
    """The same factors in another way: clip(1 + λ e / w), with λ halved in on until the dose is the dial."""

    def factors(length):
        upper = np.where(shares > 0, bounds[1], 1.0)
        return np.clip(1 + length * shares / weights, bounds[0], upper)

    low, high = (0.0, 1e6) if dial > 0 else (-1e6, 0.0)
    for _ in range(300):
        middle = (low + high) / 2
        low, high = (middle, high) if dose(shares, factors(middle)) < dial else (low, middle)
    return factors((low + high) / 2)


@given(shares_of_heads(), dials, bounds_of_factors)
def test_the_dose_is_the_dial_or_the_nearest_that_bounds_reach(shares, dial, bounds):
    factors, (low, high) = least_change(shares, dial, bounds), reachable(shares, bounds)
    assert dose(shares, factors) == pytest.approx(np.clip(dial, low, high), abs=1e-9)
    assert (factors >= bounds[0]).all() and (factors <= bounds[1]).all()
    assert (factors[shares <= 0] <= 1).all()


@given(shares_of_heads(), dials, bounds_of_factors, st.integers(0, 2**32))
def test_it_agrees_with_bisection(shares, dial, bounds, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 1, len(shares))
    for w in (weights, np.ones_like(shares)):
        factors = least_change(shares, dial, bounds, w)
        assert np.allclose(factors, by_bisection(shares, dial, bounds, w), atol=1e-7)
    assert np.array_equal(least_change(shares, dial, bounds), factors)


@given(shares_of_heads(), dials, bounds_of_factors, st.integers(0, 2**32))
def test_no_other_factors_of_this_dose_are_nearer_to_one(shares, dial, bounds, seed):
    drawn = np.random.default_rng(seed)
    weights = drawn.uniform(0.1, 1, len(shares))
    factors = least_change(shares, dial, bounds, weights)
    upper = np.where(shares > 0, bounds[1], 1.0)
    a, wanted = drawn.uniform(bounds[0], upper), dose(shares, factors)
    most = np.where(shares > 0, upper, bounds[0])
    b = most if dose(shares, a) < wanted else bounds[0] + upper - most
    # between a random point and the extreme on the other side there is one with the same dose
    way = dose(shares, b) - dose(shares, a)
    other = a + (b - a) * ((wanted - dose(shares, a)) / way if way else 0)
    assert dose(shares, other) == pytest.approx(wanted, abs=1e-9)
    assert weights @ np.square(other - 1) >= weights @ np.square(factors - 1) - 1e-9


@given(shares_of_heads(), dials, dials, bounds_of_factors)
def test_a_higher_dial_raises_every_head_that_acts_and_no_other(shares, one, other, bounds):
    low, high = (least_change(shares, dial, bounds) for dial in sorted((one, other)))
    assert (high[shares > 0] >= low[shares > 0] - 1e-12).all()
    assert dose(shares, high) >= dose(shares, low) - 1e-12


@given(shares_of_heads(), dials)
def test_doses_add_up_over_heads(shares, dial):
    everywhere = np.ones_like(shares)
    assert dose(shares, everywhere * (1 + dial)) == pytest.approx(dial, abs=1e-9)
    assert dose(shares, 0 * everywhere) == pytest.approx(-1, abs=1e-9)
    assert np.array_equal(least_change(shares, 0.0), everywhere)


def test_heads_that_do_next_to_nothing_are_left():
    values = np.array([[4.0, 1e-3, -1e-3, -1.0]])
    factors = amplify(by_effect(values, ("Color",), None), "red", "Color", 0.5).factors[0]
    assert np.allclose(factors[1:3], 1, atol=0.02) and factors[0] - 1 == pytest.approx(1 - factors[3])


def test_without_bounds_that_matter_the_change_goes_with_the_share():
    shares = np.array([0.5, 0.3, 0.2])
    assert np.allclose(least_change(shares, 0.1), 1 + 0.1 * shares / (shares @ shares))


def test_the_dial_of_amplify_is_the_dose_whatever_the_values_sum_to():
    for times in (1, 0.4):
        factors = amplify(by_effect(times * VALUES), "red", "Color", 0.5).factors[0]
        assert dose(VALUES[0] / 5, factors) == pytest.approx(0.5)
    assert factors[0] == factors[1] == factors[4] > 1 == factors[2] > factors[3]


def test_what_bounds_do_not_reach_is_said():
    said = "A dial of 5 was given for 'Color'; .* doses reach from -1.1 to 2.3, so 2.3 is used"
    with pytest.warns(UserWarning, match=said):
        steer = amplify(by_effect(), "red", "Color", 5)
    assert np.array_equal(steer.factors[0], [3, 3, 1, 0, 3])


def test_dial_zero_changes_no_bit(pipe):
    head_map, stock = HeadMap.of(pipe), call(pipe)
    values = np.random.default_rng(0).normal(2, 2, (2, head_map.all_heads))
    relevance = by_effect(values, head_map=head_map)
    still = amplify(relevance, "red", "Color", 0), gate(relevance, "dog", "Color", "Plants", 0)
    still += (contrast(relevance, "dog", "Plants", "Color", 0),)
    with hooked(pipe, *still):
        assert torch.equal(call(pipe), stock)
    with hooked(pipe, amplify(relevance, "red", "Color", 0.5)):
        assert not torch.equal(call(pipe), stock)


def test_gates_pass_what_is_meant_and_shut_what_is_not():
    assert np.allclose(gate(by_effect(), "rose", "Color", "Plants").factors[0], [1, 0.5, 1, 0, 1 / 3])
    half = gate(by_effect(), "rose", "Color", "Plants", 0.5).factors[0]
    assert np.allclose(half, [1, 0.75, 1, 0.5, 2 / 3])


def test_contrast_raises_what_is_meant_and_lowers_what_is_not():
    assert np.allclose(contrast(by_effect(), "rose", "Color", "Plants").factors[0], [1.5, 1, 1, 0.5, 5 / 6])
    whole = contrast(by_effect(), "rose", "Color", "Plants", 2).factors[0]
    back = contrast(by_effect(), "rose", "Plants", "Color", 2).factors[0]
    assert np.allclose(whole, [2, 1, 1, 0, 2 / 3]) and np.allclose(whole + back, 2)


def test_doses_have_the_controls_of_every_steering():
    steer = amplify(by_effect(), "red", "Color", 0.5)
    assert sorted(steer.control("random heads").factors[0]) == sorted(steer.factors[0])
    means = steer.control("layer means").factors[0]
    assert np.allclose(means, [steer.factors[0, :3].mean()] * 3 + [steer.factors[0, 3:].mean()] * 2)
    uniform = steer.control("uniform").factors
    assert np.allclose(uniform, np.sqrt(np.square(steer.factors).mean()))


def test_one_line_means_a_dose_where_relevance_is_by_effect():
    relevance = by_effect()
    for text, meant in [
        ("red#2:Color*0.5", amplify(relevance, "red", "Color", 0.5, occurrence=2)),
        ("rose:Color-Plants", contrast(relevance, "rose", "Color", "Plants")),
    ]:
        steer = parse_steering(text, relevance)
        assert np.array_equal(steer.factors, meant.factors)
        assert (steer.word, steer.occurrence) == (meant.word, meant.occurrence)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"dial": float("nan")}, BadStrength, "A dial of nan was given; expected a number from -100 to 100"),
        ({"bounds": (1.5, 3)}, BadStrength, r"bounds=\(1.5, 3\) was given; .* lo ≤ 1 ≤ hi"),
        ({"steps": (0.5, 0.5)}, BadStrength, "expected a start below an end"),
        ({"concept": "Colour"}, UnknownConcept, "Did you mean 'Color'"),
    ],
)
def test_refusals_say_what_to_do(given, error, said):
    with pytest.raises(error, match=said):
        amplify(by_effect(), "red", **{"concept": "Color"} | given)


def test_votes_and_words_that_do_nothing_are_refused(pipe):
    with pytest.raises(HeadwiseError, match="measured by votes, which are not shares of a word's effect"):
        amplify(relevance_for(pipe), "red", "Color")
    with pytest.raises(UnknownConcept, match="sum to 0 or less"):
        amplify(by_effect(-VALUES), "red", "Color")
    with pytest.raises(BadStrength, match="A strength of 2 was given; expected a number from 0 to 1"):
        gate(by_effect(), "rose", "Color", "Plants", 2)
    with pytest.raises(BadStrength, match="A strength of nan was given; expected a number from 0 to 2"):
        contrast(by_effect(), "rose", "Color", "Plants", float("nan"))
    with pytest.raises(HeadMapMismatch), hooked(pipe, amplify(by_effect(), "red", "Color")):
        call(pipe)
