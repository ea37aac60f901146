r"""Alignment at equal preservation: how well an editing method can show the target for a given preservation.

Every setting of a method is a point (p, a) of mean preservation and mean alignment; the unedited source is
the point (1, a₀) of every method. By choosing among settings at random, a method reaches all their mixtures,

    best(p) = max Σ λ_s a_s    subject to    Σ λ_s p_s ≥ p,   λ ≥ 0,   Σ λ_s = 1,

which is the upper concave and non-increasing hull of the points: at p = 1 at least a₀, since doing nothing
preserves everything. A method is scored by

    area = mean of best(p) − a₀ over p from 0.8 to 1
    at p = best(p)

Intervals are by bootstrap over pairs: means and hull are recomputed from the resampled pairs.

References:
    | Robust Classification for Imprecise Environments: ROC convex hulls (Provost and Fawcett, 2001)
    | https://doi.org/10.1023/A:1007601015854
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.method_results import Editing
from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap_interval
from headwise.runs.scores import Scores

__all__ = ["SOURCE", "GivenEditing", "area", "best", "hull", "method_of"]

SOURCE = "source"  # its name in files: the given image, unedited
RANGE = (0.8, 1.0)  # of preservation, over which the area is taken
Points = Float[np.ndarray, "points 2"]
Corners = list[tuple[float, float]]


def hull(points: Points) -> Corners:
    """The corners of the upper concave, non-increasing hull of points, from left to right.

    Args:
        points: Preservation and alignment of each point.
    """
    corners: Corners = []
    for p, a in sorted(points.tolist(), reverse=True):  # the most preserving first
        if corners and a <= corners[-1][1]:
            continue  # another point preserves as much and is as well aligned
        while len(corners) > 1 and _below(corners[-2], corners[-1], (p, a)):
            corners.pop()
        corners.append((p, a))
    return corners[::-1]


def _below(right: tuple[float, float], middle: tuple[float, float], left: tuple[float, float]) -> bool:
    """Whether the middle of three points is on or below the line between the other two."""
    rise, run = left[1] - right[1], left[0] - right[0]
    return (middle[1] - right[1]) * run >= rise * (middle[0] - right[0])


def best(points: Points, preservation: float | int) -> float:
    """The largest alignment that mixtures of points reach at this preservation or more; NaN if none does.

    Args:
        points: Preservation and alignment of each point, including the source.
        preservation: The preservation p, up to 1.
    """
    return _at(hull(points), preservation)


def _at(corners: Corners, preservation: float | int) -> float:
    if preservation > corners[-1][0] + 1e-9:  # resampled means of ones may be slightly below 1
        return float("nan")
    for (p, a), (q, b) in zip(corners, corners[1:], strict=False):
        if p < preservation < q:
            return a + (b - a) * (preservation - p) / (q - p)
    return next((a for p, a in corners if p >= preservation), corners[-1][1])


def area(points: Points, source: float | int) -> float:
    """The mean of best(p) − a₀ over preservations from 0.8 to 1.

    Args:
        points: Preservation and alignment of each point, including the source.
        source: The alignment a₀ of the source.
    """
    corners, (low, high) = hull(points), RANGE
    at = [low, *(p for p, _ in corners if low < p < high), high]  # between these, best is linear
    heights = [_at(corners, p) - source for p in at]
    steps = zip(at, at[1:], heights, heights[1:], strict=False)
    return sum((q - p) * (a + b) / 2 for p, q, a, b in steps) / (high - low)


def method_of(setting: str) -> str:
    """The method of a setting: "votes" of "votes, 0.5"."""
    return re.sub(r", -?[\d.]+$", "", setting)


@dataclass(frozen=True)
class GivenEditing:
    """The scores of every setting of every method for every given image.

    Args:
        scores: Along the axes setting, measure (`METRICS`), seed and pair; the first setting is `SOURCE`.
        attributes: The attribute that each pair changes.
    """

    METRICS: ClassVar = Editing.METRICS
    scores: Scores
    attributes: tuple[str, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings, such as "votes, 0.5", the source first."""
        return self.scores.axes["setting"]  # type: ignore[return-value]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that were compared."""
        return tuple(dict.fromkeys(method_of(s) for s in self.settings if s != SOURCE))

    def points(self, method: str, attribute: str | None = None) -> dict[str, tuple[float, float]]:
        """Mean preservation and alignment of each of a method's settings, over pairs and seeds.

        Args:
            method: The name of the method.
            attribute: Only pairs that change this attribute; None for all.
        """
        means = self._cases([method], attribute).mean(0)
        return {name: (float(p), float(a)) for name, (p, a) in zip(self._of(method), means, strict=True)}

    def area(self, method: str, attribute: str | None = None) -> Interval:
        """The area under the hull, above the source, with its interval; arguments as in `points`."""
        return self._interval([method], attribute, lambda points: area(points, points[0, 1]))

    def at(self, method: str, preservation: float | int, attribute: str | None = None) -> Interval:
        """best(p) at a preservation, with its interval over pairs; other arguments as in `points`."""
        return self._interval([method], attribute, lambda points: best(points, preservation))

    def area_above(self, method: str, other: str, attribute: str | None = None) -> Interval:
        """The area of a method minus another's on the same pairs, with its interval."""
        cut = len(self._of(method))

        def difference(points: Points) -> float:
            return area(points[:cut], points[0, 1]) - area(points[cut:], points[cut, 1])

        return self._interval([method, other], attribute, difference)

    def _of(self, method: str) -> list[str]:
        """The source and the settings of a method."""
        if method not in self.methods:
            raise HeadwiseError(f"{method!r} was not compared. The methods are: {', '.join(self.methods)}.")
        return [SOURCE, *(s for s in self.settings if s != SOURCE and method_of(s) == method)]

    def _cases(self, methods: Sequence[str], attribute: str | None) -> Float[np.ndarray, "pairs points 2"]:
        """Preservation and alignment of each pair at each of the settings, averaged over seeds."""
        rows = [self.settings.index(setting) for method in methods for setting in self._of(method)]
        columns = [self.METRICS.index(metric) for metric in ("preservation", "alignment")]
        chosen = [attribute in (None, each) for each in self.attributes]
        values = self.scores.values[np.ix_(rows, columns)].mean(2)[..., chosen]
        values[:, 0] = np.minimum(values[:, 0], 1)  # a float32 cosine may exceed 1
        values[[setting == self.settings.index(SOURCE) for setting in rows], 0] = 1
        return np.moveaxis(values, -1, 0)

    def _interval(
        self, methods: Sequence[str], attribute: str | None, statistic: Callable[[Points], float]
    ) -> Interval:
        return bootstrap_interval(self._cases(methods, attribute), statistic)
