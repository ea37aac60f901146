r"""Partial correlations over subsets of heads, of what is predicted and what was lost, given the size.

With a and b what a regression on 1, k leaves of predictions and losses of subsets of k heads,

    partial correlation  ρ = ⟨a, b⟩ / |a| |b|        0 of heads that are all alike
    split-half           the same of the losses of two halves of the prompts, r, the mean over halvings
    reliability          2r / (1 + r)                of the losses of all prompts (Spearman-Brown)
    ceiling              √reliability                what the true losses without noise would reach

Intervals are by bootstrap over subsets. As a correlation needs only means of products, these are resampled.

References:
    | Correlation calculated from faulty data (Spearman, 1910)
    | https://doi.org/10.1111/j.2044-8295.1910.tb00206.x
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap_interval

__all__ = [
    "FEWEST", "ceiling_of", "median_correlation", "partial_correlation", "reliability_of", "require_enough",
    "split_half",
]  # fmt: skip

HALVINGS = 100  # at most; of four prompts there are three
TINY = 1e-12  # a variance that is rounding, of variables with variance 1
FEWEST = 6  # subsets, of which half can be fitted


def partial_correlation(
    predicted: Float[np.ndarray, " subsets"],
    loss: Float[np.ndarray, " subsets"],
    size: Int[np.ndarray, " subsets"],
    degree: int = 1,
    given: Float[np.ndarray, "subsets columns"] | None = None,
) -> Interval:
    """The correlation of predicted and true loss given the size; 0 where the size says all of one of them.

    Args:
        predicted: The predicted loss of each subset, in any unit.
        loss: The true one.
        size: The number of heads of each subset.
        degree: The highest power of the size that is given.
        given: What else is given, such as the losses of other concepts; what is left is this concept's alone.

    Raises:
        HeadwiseError: There are fewer than 6 subsets.
    """
    return median_correlation([predicted], [loss], size, degree, given=given)


def median_correlation(
    predicted: Sequence[Float[np.ndarray, " subsets"]],
    loss: Sequence[Float[np.ndarray, " subsets"]],
    size: Int[np.ndarray, " subsets"],
    degree: int = 1,
    *,
    minus: Sequence[Float[np.ndarray, " subsets"]] | None = None,
    given: Float[np.ndarray, "subsets columns"] | None = None,
) -> Interval:
    """The median over concepts of `partial_correlation`, whose subsets are the same and resampled together.

    Args:
        predicted, loss: Those of each concept.
        size, degree, given: As in `partial_correlation`.
        minus: Other predictions of each concept, whose correlations are subtracted before the median.
    """
    columns = [predicted, loss] if minus is None else [predicted, loss, minus]
    variables = [
        np.concatenate([_scaled(each[:, None]) for each in of_concept], 1)
        for of_concept in zip(*columns, strict=True)
    ]
    unit, signs = np.eye(len(columns)), {0: 1, 2: -1}

    def gain(mean: Float[np.ndarray, "moments moments"]) -> float:
        left = _left_over(mean, len(columns))
        return sum(sign * _correlation(left, unit[i], unit[1]) for i, sign in signs.items() if i < len(unit))

    known = _known(size, degree, given)
    cases = np.stack([_moments(each, known) for each in variables], 1)
    return bootstrap_interval(cases, lambda means: float(np.median([gain(mean) for mean in means])))


def split_half(
    loss: Float[np.ndarray, "subsets prompts"],
    size: Int[np.ndarray, " subsets"],
    degree: int = 1,
    given: Float[np.ndarray, "subsets columns"] | None = None,
) -> Interval:
    """The partial correlation of the losses of two halves of the prompts, the mean over halvings.

    Args:
        loss: The loss of each subset for each prompt.
        size, degree, given: As in `partial_correlation`.

    Returns:
        The mean over all halvings, or over 100 random ones where there are more; nan of a single prompt.
    """
    prompts = loss.shape[1]
    if prompts < 2:
        return Interval(math.nan, math.nan, math.nan, len(loss))
    halves = _halves(prompts)

    def statistic(mean: Float[np.ndarray, "moments moments"]) -> float:
        left = _left_over(mean, prompts)
        return float(np.mean([_correlation(left, half, 1 - half) for half in halves]))

    return bootstrap_interval(_moments(_scaled(loss), _known(size, degree, given)), statistic)


def reliability_of(split_half: Interval) -> Interval:
    """The reliability of the losses of all prompts, from how two halves of them agree (Spearman-Brown)."""
    return _each(split_half, lambda r: -math.inf if r == -1 else 2 * r / (1 + r))


def ceiling_of(split_half: Interval) -> Interval:
    """The agreement of the losses without noise with the noisy ones: √reliability, 0 where it is below 0."""
    return _each(reliability_of(split_half), lambda r: 0.0 if r <= 0 else math.sqrt(r))


def require_enough(subsets: np.ndarray) -> None:
    """HeadwiseError where there are too few subsets to score predictions on.

    Args:
        subsets: Whatever has a row for each of them.
    """
    if len(subsets) < FEWEST:
        raise HeadwiseError(
            f"There are losses of {len(subsets)} subsets; predictions are scored on {FEWEST} or more. Weaken "
            "more subsets."
        )


def _each(interval: Interval, of: Callable[[float], float]) -> Interval:
    """A growing function of a number, and of the ends of its interval."""
    return Interval(of(interval.value), of(interval.low), of(interval.high), interval.n)


def _scaled(values: Float[np.ndarray, "subsets variables"]) -> Float[np.ndarray, "subsets variables"]:
    """With mean 0 and, all variables together, variance 1, so that rounding is small."""
    centred = values - values.mean(0)
    return centred / (centred.std() or 1.0)


def _known(
    size: Int[np.ndarray, " subsets"], degree: int, given: Float[np.ndarray, "subsets columns"] | None
) -> Float[np.ndarray, "subsets known"]:
    """The powers of the size, and what else is given, each with mean 0 and variance 1."""
    require_enough(size)
    scaled = _scaled(size[:, None].astype(float))
    columns = [scaled**power for power in range(1, degree + 1)]
    columns += [] if given is None else list(given.T[:, :, None])
    return np.concatenate([_scaled(column) for column in columns], 1)


def _moments(
    variables: Float[np.ndarray, "subsets variables"], known: Float[np.ndarray, "subsets known"]
) -> Float[np.ndarray, "subsets moments moments"]:
    """The products of 1, the variables and what is known; correlations need only their mean."""
    x = np.concatenate([np.ones((len(known), 1)), variables, known], 1)
    return x[:, :, None] * x[:, None, :]


def _left_over(
    mean: Float[np.ndarray, "moments moments"], variables: int
) -> Float[np.ndarray, "variables variables"]:
    """The covariance of what a regression on what is known leaves of the variables."""
    covariance = mean[1:, 1:] - np.outer(mean[0, 1:], mean[0, 1:])
    across = covariance[:variables, variables:]
    inverse = np.linalg.pinv(covariance[variables:, variables:], rcond=TINY, hermitian=True)
    return covariance[:variables, :variables] - across @ inverse @ across.T


def _correlation(
    covariance: Float[np.ndarray, "variables variables"],
    a: Float[np.ndarray, " variables"],
    b: Float[np.ndarray, " variables"],
) -> float:
    """The correlation of two weighted sums of variables; 0 where one of them is constant."""
    squares = a @ covariance @ a, b @ covariance @ b
    return float(a @ covariance @ b / math.sqrt(squares[0] * squares[1])) if min(squares) > TINY else 0.0


def _halves(prompts: int) -> list[Float[np.ndarray, " prompts"]]:
    """One half of the prompts for each halving, as 1 and 0: all halvings, or random ones of many."""
    size, odd = prompts // 2, prompts % 2
    if math.comb(prompts, size) // (1 if odd else 2) <= HALVINGS:
        chosen = [half for half in itertools.combinations(range(prompts), size) if odd or 0 in half]
    else:
        generator = np.random.Generator(np.random.Philox(0))
        chosen = [tuple(generator.permutation(prompts)[:size]) for _ in range(HALVINGS)]
    return [np.isin(np.arange(prompts), half).astype(float) for half in chosen]
