r"""The sign test of whether one method is preferred to another more often than by chance.

    p = min(1, 2 Σ_{k ≥ max(wins, losses)} C(n, k) / 2ⁿ),     n = wins + losses

It is exact and two-sided; ties are left out. With several tests, Holm's correction keeps the probability of
any false finding below the level: the i-th smallest of m values is multiplied by m − i + 1.

References:
    | The statistical sign test (Dixon and Mood, 1946)
    | https://doi.org/10.1080/01621459.1946.10501898
    | A simple sequentially rejective multiple test procedure (Holm, 1979)
"""

from collections.abc import Sequence
from fractions import Fraction

__all__ = ["holm", "sign_test"]


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p value of `wins` against `losses`; 1 if both are 0."""
    n, term, tail = wins + losses, 1, 0
    for k in range(min(wins, losses) + 1):  # the smaller tail: C(n, k) from C(n, k − 1)
        tail += term
        term = term * (n - k) // (k + 1)
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values with Holm's correction, in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = worst
    return corrected
