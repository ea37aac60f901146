r"""95 % confidence intervals: of a share by Wilson's formula, of other means of independent cases by
bootstrap.

    Wilson      (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n),     z = 1.96
    bootstrap   the 2.5 % and 97.5 % quantiles of the statistic over cases resampled with replacement

References:
    | Probable inference, the law of succession, and statistical inference (Wilson, 1927)
    | https://doi.org/10.1080/01621459.1927.10502953
    | Bootstrap methods: another look at the jackknife (Efron, 1979)
    | https://doi.org/10.1214/aos/1176344552
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["Interval", "bootstrap", "bootstrap_interval", "mean", "wilson"]

Z = 1.959963984540054
RESAMPLES = 2000
FEWEST = 3  # cases that give an interval


class _Ends(NamedTuple):
    value: float
    low: float
    high: float


class Interval(_Ends):
    """A value and its 95 % confidence interval.

    Args:
        value: The estimate.
        low: The lower end of the interval; nan if there is none.
        high: The upper end of the interval; nan if there is none.
        n: The number of independent cases, if known; not part of the tuple.
    """

    n: int | None

    def __new__(
        cls, value: float | None, low: float | None, high: float | None, n: int | None = None
    ) -> "Interval":
        """The tuple (value, low, high), with nan for None."""
        made = super().__new__(cls, *(np.nan if end is None else end for end in (value, low, high)))
        made.n = n
        return made

    def as_json(self) -> list[float | None]:
        """[value, low, high] for JSON, with None in place of nan."""
        return [float(end) if np.isfinite(end) else None for end in self]

    def __str__(self) -> str:
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if np.isfinite(self.low):
            return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"
        return f"{self.value:{spec}} ({'' if self.n is None else f'n = {self.n}, '}no interval)"


def wilson(hits: int, n: int) -> Interval:
    """The share hits / n with its interval; without cases it is nan, with the interval 0 … 1."""
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    share, scale = hits / n, 1 + Z * Z / n
    centre = (share + Z * Z / (2 * n)) / scale
    half = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / scale
    # a share of 0 or 1 is itself an end of its interval, which rounding must not change
    low, high = float(centre - half) if hits else 0.0, float(centre + half) if hits < n else 1.0
    return Interval(share, low, high, n)


def bootstrap(
    cases: Float[np.ndarray, "cases *rest"],
    statistic: Callable[[np.ndarray], np.ndarray | float],
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of cases and the two ends of its interval, each with the shape of the statistic.

    One or two cases give no interval, and its ends are nan: their resamples are too much alike.

    Args:
        cases: One row for each independent case.
        statistic: A function from the mean over cases to a number or an array.
        seed: The seed of the resampling.
    """
    value = np.asarray(statistic(cases.mean(0)))
    if len(cases) < FEWEST:
        return value, np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    generator = np.random.Generator(np.random.Philox(seed))
    weights = generator.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), RESAMPLES) / len(cases)
    means = (weights @ cases.reshape(len(cases), -1)).reshape(RESAMPLES, *cases.shape[1:])
    statistics = np.stack([statistic(mean) for mean in means])
    low, high = np.quantile(statistics, [0.025, 0.975], axis=0)
    return value, np.asarray(low), np.asarray(high)


def bootstrap_interval(
    cases: Float[np.ndarray, "cases *rest"],
    statistic: Callable[[np.ndarray], np.ndarray | float],
    seed: int = 0,
) -> Interval:
    """A statistic that is a single number, with its interval; arguments as in `bootstrap`."""
    value, low, high = map(float, bootstrap(cases, statistic, seed))
    return Interval(value, low, high, len(cases))


def mean(values: Float[np.ndarray, " cases"]) -> Interval:
    """The mean, with its interval by bootstrap over cases."""
    return bootstrap_interval(np.asarray(values, float), lambda mean: mean)
