r"""Results of comparisons of methods: means over prompts, with intervals. Nothing here needs torch.

Prompts with the same two-sense word are not independent, so intervals of `Polysemy` are by bootstrap over
words. With x_m(p) the score of image p by the method m, and P_w the images of the word w,

    difference(m, n) = Σ_w Σ_{p ∈ P_w} (x_m(p) − x_n(p)) / Σ_w |P_w|

with the sums over words resampled with replacement, each with all its images.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap_interval, mean, wilson
from headwise.runs.scores import Scores

__all__ = ["TARGET_ONLY", "Atoms", "Editing", "MultiConcept", "Polysemy", "Segmentation"]

TARGET_ONLY = "target alone"  # its name in files: the target generated from its prompt, without an edit


class _ByMethod:
    """Scores with an axis of methods."""

    scores: Scores

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that were compared."""
        return self.scores.axes["method"]  # type: ignore[return-value]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were scored; folders of earlier versions may have fewer."""
        return self.scores.axes["measure"]  # type: ignore[return-value]

    def _mean(self, method: str, metric: int, chosen: list[bool]) -> Interval:
        """The mean over the chosen prompts and all seeds, with its bootstrap interval over prompts."""
        values = self.scores.values[self.methods.index(method), metric][:, chosen].T
        return bootstrap_interval(values.mean(1, keepdims=True), lambda mean: mean[0])


@dataclass(frozen=True)
class Editing(_ByMethod):
    """The scores of every method for every pair of prompts.

    Args:
        scores: Along the axes method, measure (`METRICS`), seed and pair.
        attributes: The attribute that each pair changes.
    """

    METRICS: ClassVar = ("alignment", "accuracy", "preservation", "identity")
    scores: Scores
    attributes: tuple[str, ...]

    def of(self, method: str, metric: str, attribute: str | None = None) -> Interval:
        """The mean over pairs (of one attribute, if given) and seeds, with its interval over pairs."""
        chosen = [attribute in (None, each) for each in self.attributes]
        return self._mean(method, self.METRICS.index(metric), chosen)


@dataclass(frozen=True)
class MultiConcept(_ByMethod):
    """The scores of every method for every prompt with several subjects.

    Args:
        scores: Along the axes method, measure (`METRICS`), seed and prompt.
        types: The type of each prompt: "type1" for two objects, "type2" for two coloured ones.
    """

    METRICS: ClassVar = ("full", "minimum", "caption", "am", "gm")
    scores: Scores
    types: tuple[str, ...]

    def of(self, method: str, metric: str, kind: str) -> Interval:
        """The mean over prompts of one type and seeds, with its interval over prompts."""
        return self._mean(method, self.metrics.index(metric), [kind == each for each in self.types])


@dataclass(frozen=True)
class Segmentation(_ByMethod):
    """How well every method's map of every word agrees with the word's mask.

    Args:
        scores: Along the axes method, measure (`METRICS`), seed and word.
        kinds: The kind of each word, such as "thing".
        images: The image of each word; words of one image count as one case.
    """

    THRESHOLDS: ClassVar = tuple(round(0.05 * n, 2) for n in range(1, 20))
    METRICS: ClassVar = ("precision", *(f"IoU at {threshold}" for threshold in THRESHOLDS))
    scores: Scores
    kinds: tuple[str, ...]
    images: tuple[str, ...]

    def precision(self, method: str, kind: str | None = None) -> Interval:
        """The mean average precision over words (of one kind, if given) and seeds, with its interval."""
        return self._over_images(self._precision(method), kind)

    def iou(self, method: str, kind: str | None = None) -> Interval:
        """The mean IoU at the threshold that is best on the other half of the images, with its interval."""
        return self._over_images(self._iou(method), kind)

    def iou_above(self, method: str, other: str, kind: str | None = None) -> Interval:
        """The mean IoU of a method minus that of another on the same images, with its interval."""
        return self._over_images(self._iou(method) - self._iou(other), kind)

    def _precision(self, method: str) -> Float[np.ndarray, " words"]:
        return self.scores.values[self.methods.index(method), 0].mean(0)

    def _iou(self, method: str) -> Float[np.ndarray, " words"]:
        """The IoU of each word; images alternate between two halves, each using the other's threshold."""
        ious = self.scores.values[self.methods.index(method), 1:].mean(1)
        order = {image: n for n, image in enumerate(dict.fromkeys(self.images))}
        half = np.array([order[image] % 2 for image in self.images])
        chosen = np.full(len(half), np.nan)
        for this, other in ((0, 1), (1, 0)):
            if (half == other).any():
                chosen[half == this] = ious[ious[:, half == other].mean(1).argmax()][half == this]
        return chosen

    def _over_images(self, values: Float[np.ndarray, " words"], kind: str | None) -> Interval:
        """The mean over images of the mean of their words, with its interval over images."""
        by_image: dict[str, list[float]] = {}
        for value, image, each in zip(values, self.images, self.kinds, strict=True):
            if kind in (None, each):
                by_image.setdefault(image, []).append(value)
        return mean(np.array([np.mean(group) for group in by_image.values()]))


@dataclass(frozen=True)
class Atoms(_ByMethod):
    """How much of every prompt the images of every method show.

    Args:
        scores: Along the axes method, measure (`METRICS`), seed and prompt.
        groups: The group of each prompt.
    """

    METRICS: ClassVar = ("am", "gm", "accuracy")
    scores: Scores
    groups: tuple[str, ...]

    def of(self, method: str, metric: str, group: str | None = None) -> Interval:
        """The mean over prompts (of one group, if given) and seeds, with its interval over prompts."""
        return self._mean(method, self.METRICS.index(metric), self._chosen(group))

    def gain(self, method: str, metric: str, group: str | None = None, over: str = "plain") -> Interval:
        """The mean of a method minus that of another on the same prompts, with its interval over prompts."""
        chosen, metrics = self._chosen(group), self.METRICS.index(metric)
        more, less = (self.scores.values[self.methods.index(name), metrics] for name in (method, over))
        return mean((more - less)[:, chosen].mean(0))

    def _chosen(self, group: str | None) -> list[bool]:
        return [group in (None, each) for each in self.groups]


@dataclass(frozen=True)
class Polysemy:
    """Which sense of a two-sense word images show, and what else a method changes.

    Args:
        scores: Along the axes method, measure (`METRICS`), seed and prompt.
        words: The two-sense word of each prompt.
        things: The number of objects that the scorer chose among for each prompt; 0 if there was no choice.
    """

    METRICS: ClassVar = ("misread", "thing", "kept")
    scores: Scores
    words: tuple[str, ...]
    things: tuple[int, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that were compared."""
        return self.scores.axes["method"]  # type: ignore[return-value]

    @classmethod
    def of_scores(cls, scores: Scores) -> "Polysemy":
        """The results from the scores of a folder; old folders have only `misread` and no axis of metrics."""
        words = tuple(scores.settings["words"])
        if "measure" not in scores.axes:
            method, *other_axes = scores.axes.items()
            axes = dict([method, ("measure", ("misread",)), *other_axes])
            scores = Scores(scores.values[:, None], axes, scores.settings)
        return cls(scores, words, tuple(scores.settings.get("things", [0] * len(words))))

    def values(self, method: str, metric: str) -> Float[np.ndarray, "seeds prompts"]:
        """The scores of each image; NaN if it was not scored, or had no objects to choose among."""
        if method not in self.methods:
            raise HeadwiseError(f"{method!r} was not measured. The methods are: {', '.join(self.methods)}.")
        if metric not in self.METRICS:
            raise HeadwiseError(f"{metric!r} is not a metric. The metrics are: {', '.join(self.METRICS)}.")
        measured = self.scores.axes["measure"]
        if metric not in measured:
            return np.full((len(self.scores.axes["seed"]), len(self.words)), np.nan)
        values = self.scores.values[self.methods.index(method), measured.index(metric)]
        return np.where(np.array(self.things) > 0, values, np.nan) if metric == "thing" else values

    def rate(self, method: str, word: str | None = None) -> Interval:
        """The fraction of misread images (of one word's prompts, if given), with its Wilson interval."""
        values = self.values(method, "misread")
        if word is not None:
            values = values[:, [w == word for w in self.words]]
        scored = values[np.isfinite(values)]
        return wilson(int(scored.sum()), len(scored))

    def of(self, method: str, metric: str) -> Interval:
        """The mean over images, with its bootstrap interval over words."""
        return self._mean_by_words(self.values(method, metric))

    def difference(self, method: str, other: str = "plain", metric: str = "misread") -> Interval:
        """The mean of a method minus that of another on the same images, with its interval as in `of`."""
        return self._mean_by_words(self.values(method, metric) - self.values(other, metric))

    def against_others(self, method: str) -> dict[str, Interval]:
        """The misread rate of a method minus that of each other method: below 0, it is misread less."""
        return {other: self.difference(method, other) for other in self.methods if other != method}

    def _mean_by_words(self, values: Float[np.ndarray, "seeds prompts"]) -> Interval:
        """The mean over scored images, with its bootstrap interval over words."""
        words, scored = np.array(self.words), np.isfinite(values)
        chosen = [words == word for word in dict.fromkeys(self.words)]
        cases = [[values[:, of][scored[:, of]].sum(), scored[:, of].sum()] for of in chosen]
        cases = [case for case in cases if case[1]]
        if not cases:
            return Interval(np.nan, np.nan, np.nan, 0)
        return bootstrap_interval(np.array(cases, float), lambda mean: mean[0] / mean[1])
