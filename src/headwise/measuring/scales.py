r"""Other scales of relevance, which bound or smooth the largest values.

With 1300 heads single values reach 66 where the average is 1, and steering by them breaks images. For
concept c, with R its relevance (a row that sums to H),

    sum         R                                        as measured
    clamp       min(R, limit)                            the paper's choice for SDXL, limit 9
    rank        H · rank(R) / Σ ranks, from 0            keeps only the order
    softmax     H · softmax(R^½ / temperature)           smooth; the largest value grows with H
    maximum     R / max R                                at most 1
    shrink      1 + (R − 1) · (1 − se² / (R − 1)²)₊      removes what noise could explain

References:
    | Estimation with Quadratic Loss (James and Stein, 1961), for "shrink"
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from headwise.errors import BadStrength
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import ranks

__all__ = ["SCALES", "rescaled"]

Values = Float[np.ndarray, "concepts all_heads"]


def rescaled(relevance: Relevance, scale: str, parameter: float | int | None = None) -> Relevance:
    """The relevance on another scale; standard errors and split-half stay those of the measurement.

    Args:
        relevance: The relevance as it was measured.
        scale: The name of a scale, one of `SCALES`.
        parameter: The limit of "clamp" or the temperature of "softmax"; None takes 9 or 1.

    Raises:
        BadStrength: The scale is unknown, the parameter is not above 0, or "softmax" was chosen although
            values are negative, as by effect.
    """
    if scale not in SCALES or not (parameter is None or parameter > 0):
        raise BadStrength(
            f"scale={scale!r}, parameter={parameter} was given; expected one of {', '.join(SCALES)}, and a "
            "parameter above 0."
        )
    if scale == "softmax" and (relevance.values < 0).any():
        raise BadStrength(
            "Some heads have negative relevance, and softmax takes its square root. Choose another scale for "
            "relevance by effect, such as rank or shrink."
        )
    values = SCALES[scale](relevance, parameter)
    return replace(relevance, values=values, settings=relevance.settings | {"scale": [scale, parameter]})


def _clamp(relevance: Relevance, limit: float | int | None) -> Values:
    return np.minimum(relevance.values, limit or 9.0)


def _rank(relevance: Relevance, parameter: float | int | None) -> Values:
    order = ranks(relevance.values)
    return order.shape[-1] * order / np.maximum(order.sum(-1, keepdims=True), 1)


def _softmax(relevance: Relevance, temperature: float | int | None) -> Values:
    logits = np.sqrt(relevance.values) / (temperature or 1.0)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares.shape[-1] * shares / shares.sum(-1, keepdims=True)


def _maximum(relevance: Relevance, parameter: float | int | None) -> Values:
    maximum = relevance.values.max(-1, keepdims=True)
    return np.divide(relevance.values, maximum, out=np.zeros(relevance.values.shape), where=maximum > 0)


def _shrink(relevance: Relevance, parameter: float | int | None) -> Values:
    excess, se = relevance.values - 1, np.nan_to_num(relevance.standard_errors)
    factor = 1 - np.divide(se**2, excess**2, out=np.full(excess.shape, np.inf), where=excess != 0)
    return 1 + excess * np.clip(factor, 0, 1)


SCALES: dict[str, Callable[[Relevance, float | int | None], Values]] = {
    "sum": lambda relevance, parameter: relevance.values.copy(),
    "clamp": _clamp,
    "rank": _rank,
    "softmax": _softmax,
    "maximum": _maximum,
    "shrink": _shrink,
}
