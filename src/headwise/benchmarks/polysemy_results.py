r"""What the benchmark of two-sense words found: means, and differences between methods on the same pictures.

With x_m(p) the score of picture p by the method m, and P_w the pictures of the word w,

    difference(m, n) = Σ_w Σ_{p ∈ P_w} (x_m(p) − x_n(p)) / Σ_w |P_w|

Its interval is by bootstrap over words: the sums run over words resampled with replacement, each with all its
pictures, since prompts of one word are not independent.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap_interval, wilson
from headwise.runs.scores import Scores

__all__ = ["Polysemy"]


@dataclass(frozen=True)
class Polysemy:
    """Which sense of a two-sense word pictures showed, and what a method changed besides.

    Args:
        scores: Along the axes method, measure (`METRICS`), seed and prompt.
        words: The word with two senses of each prompt.
        things: How many things the scorer chose the prompt's among; 0 where there was no choice.
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
        """From the scores of a folder; earlier ones hold `misread` alone, without an axis of metrics."""
        words = tuple(scores.settings["words"])
        if "measure" not in scores.axes:
            method, *others = scores.axes.items()
            axes = dict([method, ("measure", ("misread",)), *others])
            scores = Scores(scores.values[:, None], axes, scores.settings)
        return cls(scores, words, tuple(scores.settings.get("things", [0] * len(words))))

    def values(self, method: str, metric: str) -> Float[np.ndarray, "seeds prompts"]:
        """The scores of each picture; nan where it is not scored, or had no things to choose among."""
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
        """The share of misread pictures, with its Wilson interval; of one word's prompts, if it is given."""
        values = self.values(method, "misread")
        if word is not None:
            values = values[:, [w == word for w in self.words]]
        scored = values[np.isfinite(values)]
        return wilson(int(scored.sum()), len(scored))

    def of(self, method: str, metric: str) -> Interval:
        """The mean over pictures, with its interval by bootstrap over words."""
        return self._mean_by_words(self.values(method, metric))

    def difference(self, method: str, other: str = "plain", metric: str = "misread") -> Interval:
        """The mean of a method less that of another on the same prompts and seeds; interval as in `of`."""
        return self._mean_by_words(self.values(method, metric) - self.values(other, metric))

    def against_others(self, method: str) -> dict[str, Interval]:
        """How much less or more a method is misread than each other: below 0 it is misread less."""
        return {other: self.difference(method, other) for other in self.methods if other != method}

    def _mean_by_words(self, values: Float[np.ndarray, "seeds prompts"]) -> Interval:
        """The mean over scored pictures, with its bootstrap interval over words."""
        words, scored = np.array(self.words), np.isfinite(values)
        chosen = [words == word for word in dict.fromkeys(self.words)]
        cases = [[values[:, of][scored[:, of]].sum(), scored[:, of].sum()] for of in chosen]
        cases = [case for case in cases if case[1]]
        if not cases:
            return Interval(np.nan, np.nan, np.nan, 0)
        return bootstrap_interval(np.array(cases, float), lambda mean: mean[0] / mean[1])
