"""Alignment at equal preservation: the hull and its laws, and the numbers of made-up scores."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.benchmarks.editing import METRICS
from headwise.benchmarks.results import kind_of_scores
from headwise.benchmarks.trade_off import SOURCE, GivenEditing, area, best, method_of
from headwise.errors import HeadwiseError
from headwise.runs.scores import Scores

COORDINATE = st.integers(0, 50).map(lambda n: n / 50)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=5)


def with_source(points, source=0.3):
    return np.array([(1.0, source), *points])


def naive_best(points, preservation):
    """The best of all mixtures of two points that preserve enough, over a dense grid of shares."""
    shares = np.unique(np.append(np.linspace(0, 1, 401), _exact_shares(points, preservation)))
    reached = -np.inf
    for a, b in itertools.product(points, points):
        mixtures = shares[:, None] * a + (1 - shares[:, None]) * b
        enough = mixtures[:, 0] >= preservation - 1e-12
        reached = max(reached, mixtures[enough, 1].max(initial=-np.inf))
    return reached


def _exact_shares(points, preservation):
    """The shares at which a mixture of two points preserves just so much."""
    pairs = ((a[0], b[0]) for a, b in itertools.product(points, points) if a[0] != b[0])
    shares = ((preservation - b) / (a - b) for a, b in pairs)
    return [share for share in shares if 0 <= share <= 1]


@given(POINTS, COORDINATE)
def test_best_is_the_best_mixture(points, preservation):
    points = with_source(points)
    assert best(points, preservation) == pytest.approx(naive_best(points, preservation), abs=1e-9)


@given(POINTS, st.tuples(COORDINATE, COORDINATE), COORDINATE)
def test_another_point_never_lowers_what_is_reached(points, another, preservation):
    assert (
        best(with_source([*points, another]), preservation) >= best(with_source(points), preservation) - 1e-12
    )


@given(POINTS)
def test_what_is_reached_falls_with_what_is_kept_and_is_concave(points):
    reached = np.array([best(with_source(points), p) for p in np.linspace(0, 1, 41)])
    assert (np.diff(reached) <= 1e-12).all() and (np.diff(reached, 2) <= 1e-9).all()
    assert reached[-1] >= 0.3


def test_one_point_alone_gives_the_line_to_the_source():
    points = with_source([(0.6, 0.7)])
    assert best(points, 0.8) == pytest.approx(0.5) and best(points, 1) == 0.3 and best(points, 0.1) == 0.7
    assert area(points, 0.3) == pytest.approx(0.1)  # the mean of a line from 0.2 to 0


@given(POINTS)
def test_the_area_is_the_mean_over_a_fine_grid(points):
    points = with_source(points)
    heights = [best(points, p) - 0.3 for p in np.linspace(0.8, 1, 401)]
    assert area(points, 0.3) == pytest.approx(np.trapezoid(heights, dx=1 / 400), abs=1e-3)


def test_nothing_is_reached_beyond_what_any_point_keeps():
    assert np.isnan(best(np.array([(0.5, 0.5)]), 0.6))


def made_up(values, settings):
    """Scores by setting and pair: preservation and alignment of one seed."""
    axes = {"setting": settings, "measure": METRICS, "seed": (0,), "pair": range(len(values[0]))}
    scores = Scores.empty({**axes, "pair": tuple(axes["pair"])}, {})
    for n, of_setting in enumerate(values):
        scores.values[n, METRICS.index("preservation"), 0] = [p for p, _ in of_setting]
        scores.values[n, METRICS.index("alignment"), 0] = [a for _, a in of_setting]
    return scores


def test_the_result_takes_means_over_pairs_before_the_hull():
    source, low, high = [(1, 0.1)] * 4, [(0.9, 0.2), (0.7, 0.4)] * 2, [(0.8, 0.5)] * 4
    settings = (SOURCE, "votes, 0.5", "votes, 2", "truth")
    found = GivenEditing(made_up([source, low, high, high], settings), ("Color",) * 2 + ("Material",) * 2)
    assert found.methods == ("votes", "truth") and kind_of_scores(found.scores) == "given-editing"
    assert found.points("votes")["votes, 0.5"] == pytest.approx((0.8, 0.3))
    assert found.at("votes", 0.9).value == pytest.approx(0.3)  # halfway from (0.8, 0.5) to (1, 0.1)
    assert found.area("votes").value == pytest.approx(0.2) == found.area("truth", "Color").value
    difference = found.area_above("votes", "truth")
    assert (difference.value, difference.n) == (pytest.approx(0), 4)
    interval = found.area("votes")
    assert interval.low <= interval.value <= interval.high
    with pytest.raises(HeadwiseError, match="'magic' was not compared. The methods are: votes, truth."):
        found.area("magic")


@pytest.mark.parametrize(
    ("setting", "method"),
    [("votes, 0.5", "votes"), ("votes, random heads, 4", "votes, random heads"), ("truth", "truth")],
)
def test_a_setting_says_its_method(setting, method):
    assert method_of(setting) == method
