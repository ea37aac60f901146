r"""Partial correlations over subsets of heads, of predicted and true losses given the size of the subset.

With a and b the residuals of predictions and losses after a regression on (1, k), for subsets of k heads,

    partial correlation  ρ = ⟨a, b⟩ / |a| |b|        0 if all heads have the same value
    split-half           ρ between the losses of two halves of the prompts, averaged over halvings: r
    reliability          2r / (1 + r)                of the losses of all prompts (Spearman-Brown)
    ceiling              √reliability                what the true losses without noise would reach

Intervals are by bootstrap over subsets. A correlation needs only means of products, so these are resampled.

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

HALVINGS = 100  # at most; four prompts have three
TINY = 1e-12  # below this, the variance of a variable scaled to variance 1 is rounding
FEWEST = 6  # the fewest subsets of which one half can be fitted


def partial_correlation(
    predicted: Float[np.ndarray, " subsets"],
    loss: Float[np.ndarray, " subsets"],
    size: Int[np.ndarray, " subsets"],
    degree: int = 1,
    given: Float[np.ndarray, "subsets columns"] | None = None,
) -> Interval:
    """The correlation of predicted and true loss given the size; 0 if the size determines one of them.

    Args:
        predicted: The predicted loss of each subset, in any unit.
        loss: The true loss of each subset.
        size: The number of heads of each subset.
        degree: The highest power of the size to control for.
        given: Further variables to control for, such as the losses of other concepts.

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
    """The median of `partial_correlation` over concepts, which share their subsets, resampled together.

    Args:
        predicted, loss: The predicted and true losses of each concept.
        size, degree, given: As in `partial_correlation`.
        minus: Other predictions of each concept, whose correlations are subtracted before the median.
    """
    columns = [predicted, loss] if minus is None else [predicted, loss, minus]
    variables = [
        np.concatenate([_scaled(each[:, None]) for each in concept_columns], 1)
        for concept_columns in zip(*columns, strict=True)
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
    """The partial correlation between the losses of two halves of the prompts, averaged over halvings.

    Args:
        loss: The loss of each subset for each prompt.
        size, degree, given: As in `partial_correlation`.

    Returns:
        The mean over all halvings, or over 100 random ones if there are more; NaN for a single prompt.
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
    """The reliability of the losses of all prompts, from the agreement of two halves (Spearman-Brown)."""
    return _each(split_half, lambda r: -math.inf if r == -1 else 2 * r / (1 + r))


def ceiling_of(split_half: Interval) -> Interval:
    """The correlation of noise-free losses with the noisy ones: √reliability, or 0 if that is negative."""
    return _each(reliability_of(split_half), lambda r: 0.0 if r <= 0 else math.sqrt(r))


def require_enough(subsets: np.ndarray) -> None:
    """Refuse too few subsets to score predictions on.

    Args:
        subsets: An array with a row for each subset.

    Raises:
        HeadwiseError: There are fewer than 6 rows.
    """
    if len(subsets) < FEWEST:
        raise HeadwiseError(
            f"There are losses of {len(subsets)} subsets; expected {FEWEST} or more to score predictions on. "
            "Weaken more subsets."
        )


def _each(interval: Interval, of: Callable[[float], float]) -> Interval:
    """An increasing function applied to a number and to the ends of its interval."""
    return Interval(of(interval.value), of(interval.low), of(interval.high), interval.n)


def _scaled(values: Float[np.ndarray, "subsets variables"]) -> Float[np.ndarray, "subsets variables"]:
    """The variables with mean 0 and variance 1, pooled over all of them, so that rounding is small."""
    centred = values - values.mean(0)
    return centred / (centred.std() or 1.0)


def _known(
    size: Int[np.ndarray, " subsets"], degree: int, given: Float[np.ndarray, "subsets columns"] | None
) -> Float[np.ndarray, "subsets known"]:
    """The powers of the size and the other given variables, each with mean 0 and variance 1."""
    require_enough(size)
    scaled = _scaled(size[:, None].astype(float))
    columns = [scaled**power for power in range(1, degree + 1)]
    columns += [] if given is None else list(given.T[:, :, None])
    return np.concatenate([_scaled(column) for column in columns], 1)


def _moments(
    variables: Float[np.ndarray, "subsets variables"], known: Float[np.ndarray, "subsets known"]
) -> Float[np.ndarray, "subsets moments moments"]:
    """The products of 1, the variables and the known ones; correlations need only their means."""
    x = np.concatenate([np.ones((len(known), 1)), variables, known], 1)
    return x[:, :, None] * x[:, None, :]


def _left_over(
    mean: Float[np.ndarray, "moments moments"], variables: int
) -> Float[np.ndarray, "variables variables"]:
    """The covariance of the variables' residuals after a regression on the known variables."""
    covariance = mean[1:, 1:] - np.outer(mean[0, 1:], mean[0, 1:])
    across = covariance[:variables, variables:]
    inverse = np.linalg.pinv(covariance[variables:, variables:], rcond=TINY, hermitian=True)
    return covariance[:variables, :variables] - across @ inverse @ across.T


def _correlation(
    covariance: Float[np.ndarray, "variables variables"],
    a: Float[np.ndarray, " variables"],
    b: Float[np.ndarray, " variables"],
) -> float:
    """The correlation of two weighted sums of variables; 0 if one of them is constant."""
    squares = a @ covariance @ a, b @ covariance @ b
    return float(a @ covariance @ b / math.sqrt(squares[0] * squares[1])) if min(squares) > TINY else 0.0


def _halves(prompts: int) -> list[Float[np.ndarray, " prompts"]]:
    """One half of the prompts per halving, as 1 and 0: all halvings, or random ones if there are many."""
    size, odd = prompts // 2, prompts % 2
    if math.comb(prompts, size) // (1 if odd else 2) <= HALVINGS:
        chosen = [half for half in itertools.combinations(range(prompts), size) if odd or 0 in half]
    else:
        generator = np.random.Generator(np.random.Philox(0))
        chosen = [tuple(generator.permutation(prompts)[:size]) for _ in range(HALVINGS)]
    return [np.isin(np.arange(prompts), half).astype(float) for half in chosen]
