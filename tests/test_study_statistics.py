"""Kappa and the sign test: textbook tables, second ways, laws."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.study.kappa import fleiss_kappa
from headwise.study.signs import holm, sign_test

# Table 1 of Fleiss (1971): 30 patients, 6 psychiatrists each, 5 diagnoses.
PATIENTS = """
    00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
    00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
DIAGNOSES = np.array([[int(count) for count in patient] for patient in PATIENTS.split()])
# The example of the Wikipedia article: 10 items, 14 raters, 5 answers.
TEN = np.array(
    [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
     [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
)  # fmt: skip

tables = st.integers(2, 4).flatmap(
    lambda answers: st.lists(
        st.lists(st.integers(0, 5), min_size=answers, max_size=answers), min_size=2, max_size=8
    ).map(np.array)
)


def by_pairs(counts):
    """Kappa the long way: every pair of raters of every item, in exact fractions."""
    rated = [[int(n) for n in row] for row in counts if sum(row) >= 2]
    agree = [Fraction(sum(n * (n - 1) for n in row), sum(row) * (sum(row) - 1)) for row in rated]
    share = [[Fraction(n, sum(row)) for n in row] for row in rated]
    chance = sum((sum(column) / len(rated)) ** 2 for column in zip(*share, strict=True))
    return (sum(agree) / len(rated) - chance) / (1 - chance)


def test_kappa_of_textbook_tables():
    """0.430 (Fleiss 1971; 0.4302445 by R's irr), 0.210 (Wikipedia), and two small ones worked out by hand."""
    assert DIAGNOSES.sum(0).tolist() == [26, 26, 30, 55, 43] and set(DIAGNOSES.sum(1)) == {6}
    assert fleiss_kappa(DIAGNOSES).value == pytest.approx(0.4302445, abs=5e-8)
    assert fleiss_kappa(TEN).value == pytest.approx(0.210, abs=5e-4)
    # P = (42 + 26) / 2 / 56, Σp² = (10² + 6²) / 16²
    assert fleiss_kappa(np.array([[7, 1], [3, 5]])).value == pytest.approx(0.161905, abs=1e-6)
    assert fleiss_kappa(np.array([[6, 1, 0], [0, 7, 0]])).value == pytest.approx(0.708333, abs=1e-6)


@given(tables)
def test_kappa_equals_the_count_of_all_pairs(counts):
    rated = counts[counts.sum(1) >= 2]
    found = fleiss_kappa(counts)
    if len(rated) == 0 or (rated.sum(0) > 0).sum() < 2:
        assert all(math.isnan(number) for number in found)
    else:
        assert found.value == pytest.approx(float(by_pairs(counts)), abs=1e-12)


@given(tables, st.randoms())
def test_kappa_does_not_care_how_answers_are_called_or_items_ordered(counts, random):
    answers, items = list(range(counts.shape[1])), list(range(len(counts)))
    random.shuffle(answers)
    random.shuffle(items)
    moved = fleiss_kappa(counts[items][:, answers]).value
    assert moved == pytest.approx(fleiss_kappa(counts).value, abs=1e-9, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(2, 9)), min_size=2, max_size=12))
def test_kappa_of_perfect_agreement_is_one(items):
    counts = np.zeros((len(items), 3), np.int64)
    for row, (answer, raters) in zip(counts, items, strict=True):
        row[answer] = raters
    found = fleiss_kappa(counts)
    if len({answer for answer, _ in items}) == 1:
        assert math.isnan(found.value), "one answer only: chance would agree as well"
    else:
        assert found.value == pytest.approx(1)
        assert found[1:] == pytest.approx((1, 1) if len(items) > 2 else (np.nan, np.nan), nan_ok=True)


def test_kappa_of_coins_is_about_nought():
    heads = np.random.default_rng(0).binomial(10, 0.5, 2000)
    found = fleiss_kappa(np.stack([heads, 10 - heads], 1))
    assert found.low < 0 < found.high and abs(found.value) < 0.02


@pytest.mark.usefixtures("all_resamples")
def test_the_interval_of_kappa_is_as_wide_as_the_jackknife_says():
    found = fleiss_kappa(DIAGNOSES)
    n = len(DIAGNOSES)
    without = np.array([float(by_pairs(np.delete(DIAGNOSES, i, 0))) for i in range(n)])
    error = math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


@pytest.mark.usefixtures("all_resamples")
def test_the_interval_of_kappa_covers_about_as_often_as_it_says():
    """Items that 9 of 10 call A, and as many that 9 of 10 call B: κ = (0.82 − 0.5) / (1 − 0.5) = 0.64."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        heads = rng.binomial(5, rng.choice([0.1, 0.9], 40))
        _, low, high = fleiss_kappa(np.stack([heads, 5 - heads], 1))
        inside += low <= 0.64 <= high
    assert 87 <= inside <= 100


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (8, 2, 112 / 1024),  # 2 (1 + 10 + 45) / 2¹⁰: the deer's legs of Zar's textbook, 0.109
        (9, 1, 22 / 1024),
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_sign_test_by_hand(wins, losses, p):
    assert sign_test(wins, losses) == p


@given(st.integers(0, 200), st.integers(0, 200))
def test_sign_test_is_symmetric_and_a_probability(wins, losses):
    p = sign_test(wins, losses)
    assert p == sign_test(losses, wins) and 0 < p <= 1
    assert sign_test(max(wins, losses) + 1, min(wins, losses)) <= p or wins == losses


@pytest.mark.parametrize("n", [1, 5, 12, 40])
def test_sign_test_is_wrong_no_more_often_than_it_says(n):
    for level in (0.01, 0.05, 0.2):
        wrong = sum(math.comb(n, k) for k in range(n + 1) if sign_test(k, n - k) <= level)
        assert wrong / 2**n <= level


def test_sign_test_of_very_many():
    assert sign_test(50_000, 50_000) == 1.0
    assert sign_test(5_100, 4_900) == pytest.approx(0.0466, abs=2e-4)  # z = 1.99, continuity-corrected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.6, 0.7]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    ranked = [c for _, c in sorted(zip(p_values, corrected, strict=True))]
    assert ranked == sorted(ranked)
