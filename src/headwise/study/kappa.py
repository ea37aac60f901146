r"""Fleiss' kappa: how much more often raters agree than by chance.

With n[i, j] raters of item i who gave answer j, and n[i] raters in all,

    P[i] = Σ_j n[i, j] (n[i, j] − 1) / (n[i] (n[i] − 1))     share of pairs of raters of item i that agree
    p[j] = mean over items of n[i, j] / n[i]                 how often answer j is given
    κ    = (mean P − Σ_j p[j]²) / (1 − Σ_j p[j]²)

If all items have equally many raters this is Fleiss' kappa; otherwise its generalisation by Gwet. Items with
one rater carry no information on agreement and are left out. The interval is a bootstrap over items, whose
coverage is better than that of the asymptotic one (Zapf et al.).

References:
    | Measuring nominal scale agreement among many raters (Fleiss, 1971)
    | https://doi.org/10.1037/h0031619
    | Handbook of Inter-Rater Reliability (Gwet, 4th edition, 2014)
    | Measuring inter-rater reliability for nominal data: which coefficients and confidence intervals are
      appropriate? (Zapf, Castell, Morawietz and Karch, 2016)
    | https://doi.org/10.1186/s12874-016-0200-9
"""

import numpy as np
from jaxtyping import Float, Int

from headwise.intervals import Interval, bootstrap_interval

__all__ = ["fleiss_kappa"]


def fleiss_kappa(counts: Int[np.ndarray, "items answers"], seed: int = 0) -> Interval:
    """Kappa with its interval: 1 is perfect agreement, 0 the agreement of chance.

    Args:
        counts: How many raters gave each answer to each item.
        seed: The seed of the bootstrap.

    Returns:
        All nan if no item has two raters, or if only one answer was ever given, so that chance agreement is
        perfect too.
    """
    rated = counts[counts.sum(1) >= 2].astype(np.float64)
    if len(rated) == 0 or (rated.sum(0) > 0).sum() < 2:
        return Interval(None, None, None)
    raters = rated.sum(1, keepdims=True)
    agreeing = (rated * (rated - 1)).sum(1, keepdims=True) / (raters * (raters - 1))
    return bootstrap_interval(np.hstack([agreeing, rated / raters]), _kappa, seed)


def _kappa(means: Float[np.ndarray, " agreeing_and_shares"]) -> float:
    agreeing, shares = means[0], means[1:]
    chance = (shares**2).sum()
    # a bootstrap sample of items may have only one answer; then all raters agree
    return float((agreeing - chance) / (1 - chance)) if chance < 1 - 1e-12 else 1.0
