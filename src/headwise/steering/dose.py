r"""Doses: how much to change a word, in units of its effect, by relevance measured by effect.

Scaling a word's values by f[h] in head h is, to first order, a dose of

    dose(f) = Σ_h e[h] (f[h] − 1)        e = R / Σ R, the share of the word's effect through head h

in units of the word's whole effect on the denoiser's output: 0 leaves it as it is, −1 removes it, and
f = 1 + δ in every head is a dose of δ. Two settings of the same dose have about the same effect. How large it
is above 0 depends on the model: e is the mean slope of the path from the muted word to the plain one, and
beyond that a denoiser may saturate, as the predecessor of the built-in UNet did (docs/evidence.md).

Relevance by effect reaches 30 at single heads, so `strengthen`'s 1 + s (R − 1) is a dose of s (H Σ e² − 1),
several times the intended one, in a few heads. `amplify` reaches a dose by the smallest change of factors
within bounds lo ≤ f ≤ hi, with heads weighted by how much they act,

    minimise Σ_h w[h] (f[h] − 1)²   subject to   dose(f) = dial,   lo ≤ f ≤ hi,   f[h] ≤ 1 where e[h] ≤ 0
    w = max(|e|, max |e| / 100)

whose solution is f = clip(1 + λ e / w): all heads that act for the word are raised equally, those that act
against it are lowered, and heads that do next to nothing are left. With w = 1 it would be f = clip(1 + λ e),
a large change of few heads; on the built-in model that changes more of the image for the same effect. The
dose is a piecewise linear, monotone function of λ, with a corner where a head reaches its bound, so λ is
found exactly by sorting the corners.

`gate` turns a misread word from one concept toward another by closing heads, with E = max(e, 0):

    f = 1 + s (E[toward] / (E[toward] + E[away]) − 1)        between 0 and 1 for s between 0 and 1

`contrast` also raises heads,

    f = 1 + s/2 (E[toward] − E[away]) / (E[toward] + E[away])    between 1 − s/2 and 1 + s/2

References:
    | Axiomatic Attribution for Deep Networks (Sundararajan et al., 2017), whose completeness is Σ e = 1
    | https://arxiv.org/abs/1703.01365
    | Convex Optimization, example 5.2: water-filling (Boyd and Vandenberghe, 2004)
    | https://web.stanford.edu/~boyd/cvxbook/
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from headwise.errors import BadStrength, HeadwiseError, UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.steering.steer import LARGEST, Steer, Steps, WordSpec

__all__ = ["acting", "amplify", "contrast", "gate", "least_change", "reachable"]

Bounds = tuple[float | int, float | int]


def amplify(
    relevance: Relevance | str | Path, word: WordSpec | Sequence[WordSpec], concept: str,
    dial: float | int = 1.0, *, bounds: Bounds = (0.0, 3.0), occurrence: int | None = None,
    steps: Steps = (0.0, 1.0),
) -> Steer:  # fmt: skip
    """Change the effect of a word by a dose, equally in all heads that act for it.

    A dial of δ has about the effect of scaling the word's values by 1 + δ in every head, the same dose.

        relevance = hw.measure_effect(pipe, {"Color": ["red", "blue"]})
        with hw.hooked(pipe, hw.amplify(relevance, "red", "Color", dial=0.5)):
            pipe("a red car")     # as much as red × 1.5 in every head

    Args:
        relevance: Relevance measured by effect on a model with the same heads (`measure_effect`), or the path
            of its file or run.
        word: The word of the prompt, as in `strengthen`.
        concept: The concept of the relevance to which the word belongs.
        dial: The dose, −100 … 100: 0 leaves the image as it is, bit for bit, −1 mutes the word, and more
            than 0 strengthens it.
        bounds: The smallest and the largest factor of a head, −100 ≤ lo ≤ 1 ≤ hi ≤ 100. If they do not
            allow the dose, a warning gives the nearest one that they do, which is used instead.
        occurrence, steps: As in `strengthen`.

    Raises:
        HeadwiseError: The relevance was counted by votes.
        UnknownConcept: The concept was not measured, or its words had no effect.
        BadStrength: The dial, the bounds or the steps are out of range.
        WordNotInPrompt, HeadMapMismatch: When the pipeline runs, as in `strengthen`.
    """
    relevance = Relevance.of(relevance)
    shares = _shares(relevance, concept)
    factors = least_change(shares, dial, bounds, acting(shares))
    dose = float(shares @ (factors - 1))
    if abs(dose - dial) > 1e-6 * max(1.0, abs(dial)):
        low, high = reachable(shares, bounds)
        warnings.warn(
            f"A dial of {dial:g} was given for {concept!r}; with factors from {bounds[0]:g} to {bounds[1]:g} "
            f"doses reach from {low:.3g} to {high:.3g}, so {dose:.3g} is used. Widen the bounds for more.",
            stacklevel=2,
        )
    return Steer(factors[None], word, occurrence=occurrence, steps=steps, head_map=relevance.head_map)


def gate(
    relevance: Relevance | str | Path, word: WordSpec | Sequence[WordSpec], toward: str, away: str,
    strength: float | int = 1.0, *, occurrence: int | None = None, steps: Steps = (0.0, 1.0),
) -> Steer:  # fmt: skip
    """Turn a misread word from one concept toward another by closing the heads of the concept it is read as.

    f = 1 + s (E[toward] / (E[toward] + E[away]) − 1) with E = max(e, 0) and e = R / Σ R; a head that
    serves neither concept keeps the factor 1.

    Args:
        relevance: As in `amplify`.
        word: The misread word, as in `strengthen`.
        toward, away: The concept that is meant, and the one that is generated instead.
        strength: The strength s, 0 … 1; 0 changes nothing, bit for bit.
        occurrence, steps: As in `strengthen`.

    Raises:
        HeadwiseError, UnknownConcept: As in `amplify`.
        BadStrength: The strength or the steps are out of range.
    """
    relevance = Relevance.of(relevance)
    between, acts = _contrast(relevance, toward, away)
    factors = 1 + _strength(strength, 1) * np.where(acts, (between - 1) / 2, 0)
    return Steer(factors[None], word, occurrence=occurrence, steps=steps, head_map=relevance.head_map)


def contrast(
    relevance: Relevance | str | Path, word: WordSpec | Sequence[WordSpec], toward: str, away: str,
    strength: float | int = 1.0, *, occurrence: int | None = None, steps: Steps = (0.0, 1.0),
) -> Steer:  # fmt: skip
    """Turn a misread word from one concept toward another: raise the heads of one, lower those of the other.

    f = 1 + s/2 (E[toward] − E[away]) / (E[toward] + E[away]) with E = max(e, 0) and e = R / Σ R; a head that
    serves both concepts equally, or neither, keeps the factor 1.

    Args:
        relevance: As in `amplify`.
        word: The misread word, as in `strengthen`.
        toward, away: The concept that is meant, and the one that is generated instead.
        strength: The strength s, 0 … 2; 0 changes nothing, bit for bit. On the built-in model, 2 corrects
            less than 1 and changes more of the image.
        occurrence, steps: As in `strengthen`.

    Raises:
        HeadwiseError, UnknownConcept, BadStrength: As in `gate`.
    """
    relevance = Relevance.of(relevance)
    factors = 1 + _strength(strength, 2) / 2 * _contrast(relevance, toward, away)[0]
    return Steer(factors[None], word, occurrence=occurrence, steps=steps, head_map=relevance.head_map)


def _contrast(
    relevance: Relevance, toward: str, away: str
) -> tuple[Float[np.ndarray, " all_heads"], Bool[np.ndarray, " all_heads"]]:
    """How much each head favours `toward` over `away`, −1 … 1, and whether it serves either."""
    meant, misread = (np.maximum(_shares(relevance, concept), 0) for concept in (toward, away))
    total = meant + misread
    between = np.divide(meant - misread, total, out=np.zeros_like(total), where=total > 0)
    return between, total > 0


def _strength(strength: float | int, most: int) -> float:
    """The strength, if it is a number from 0 to `most`; else BadStrength."""
    if not 0 <= strength <= most:
        raise BadStrength(f"A strength of {strength} was given; expected a number from 0 to {most}.")
    return float(strength)


def least_change(
    shares: Float[np.ndarray, " all_heads"],
    dial: float | int,
    bounds: Bounds = (0.0, 3.0),
    weights: Float[np.ndarray, " all_heads"] | None = None,
) -> Float[np.ndarray, " all_heads"]:
    """The factors nearest to 1 whose dose is the dial, or the nearest dose that the bounds allow.

    They minimise Σ w (f − 1)².

    Args:
        shares: The share e of each head in the word's effect; negative for a head that works against it.
        dial: The dose, −100 … 100.
        bounds: The smallest and the largest factor; no head with e ≤ 0 gets more than 1.
        weights: The weight w of each head, above 0 where e is not 0; 1 if None.

    Raises:
        BadStrength: The dial or the bounds are out of range.
    """
    if not abs(dial) <= LARGEST:  # which refuses NaN too
        raise BadStrength(
            f"A dial of {dial} was given; expected a number from {-LARGEST:.0f} to {LARGEST:.0f}. "
            "0 changes nothing, −1 mutes the word, more than 0 strengthens it."
        )
    weights = np.ones_like(shares) if weights is None else weights
    direction = np.sign(dial) * np.divide(shares, weights, out=np.zeros_like(shares), where=shares != 0)
    furthest = _furthest(shares, direction, bounds)
    moving = furthest * direction > 0
    if not moving.any():
        return np.ones_like(shares)
    corners = np.full(len(shares), 0.0)
    corners[moving] = furthest[moving] / direction[moving]
    order = np.argsort(corners, kind="stable")
    # The dose at the k-th corner is Σ_{i ≤ k} e_i furthest_i + corner_k Σ_{i > k} e_i² / w_i, over heads
    # that move.
    slopes = np.where(moving, np.abs(shares * direction), 0.0)[order]
    saturated = np.cumsum(slopes * corners[order])
    still_rising = np.cumsum(slopes[::-1])[::-1] - slopes
    doses = saturated + corners[order] * still_rising
    k = int(np.searchsorted(doses, abs(dial)))
    if k == len(doses):
        return np.clip(1 + np.where(moving, furthest, 0.0), *bounds)
    before = saturated[k - 1] if k else 0.0
    length = (abs(dial) - before) / (slopes[k] + still_rising[k])
    change = np.where(corners <= length, furthest, length * direction)
    # clipped once more, as 1 + (lo − 1) may round to less than lo
    return np.clip(1 + np.where(moving, change, 0.0), *bounds)


def acting(shares: Float[np.ndarray, " all_heads"]) -> Float[np.ndarray, " all_heads"]:
    """The weight of each head's change, by how much the head acts: w = max(|e|, max |e| / 100)."""
    acts = np.abs(shares)
    return np.maximum(acts, acts.max() / 100)


def reachable(shares: Float[np.ndarray, " all_heads"], bounds: Bounds = (0.0, 3.0)) -> tuple[float, float]:
    """The smallest and the largest dose that the bounds allow; arguments as in `least_change`."""
    low, high = (float(shares @ _furthest(shares, sign * shares, bounds)) for sign in (-1, 1))
    return low, high


def _furthest(shares: np.ndarray, direction: np.ndarray, bounds: Bounds) -> np.ndarray:
    """How far from 1 each head's factor may move in its direction."""
    low, high = bounds
    if not -LARGEST <= low <= 1 <= high <= LARGEST:
        raise BadStrength(
            f"bounds={bounds} was given; expected the smallest and the largest factor, "
            f"{-LARGEST:.0f} ≤ lo ≤ 1 ≤ hi ≤ {LARGEST:.0f}, such as (0, 3)."
        )
    up = np.where(shares > 0, float(high) - 1, 0.0)
    return np.where(direction > 0, up, np.where(direction < 0, float(low) - 1, 0.0))


def _shares(relevance: Relevance, concept: str) -> Float[np.ndarray, " all_heads"]:
    """The shares e of a concept's heads, normalised to sum to 1 whatever the quadrature missed."""
    if relevance.kind != "effect":
        raise HeadwiseError(
            f"This relevance was measured by {relevance.kind}, which are not shares of a word's effect. "
            "Measure it with `measure_effect`, or use `strengthen` and `adjust`."
        )
    values = relevance[concept]
    if not values.sum() > 0:
        raise UnknownConcept(
            f"The shares of all heads for {concept!r} sum to 0 or less, so no dose can be set. "
            "Measure more images, or more points."
        )
    return values / values.sum()
