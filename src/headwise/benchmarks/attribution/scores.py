r"""How well estimators of what heads do predict the losses when subsets of heads are weakened (benchmark.py).

The score is the partial correlation of predicted and true loss given the size of the subset, with an interval
by bootstrap over subsets. This interval is for the estimator's values. What uninformed values score by chance
is a separate question: if few heads do nearly everything, the random values at these heads decide. So the
score is accompanied by that of the same values permuted among all heads, and among the heads of each layer.
If heads act on any word, a concept's losses can be predicted from other concepts too: that score is the
control for claims about the concept.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from headwise.benchmarks.attribution.partial_correlation import ceiling_of, median_correlation
from headwise.benchmarks.attribution.subset_losses import SubsetLosses
from headwise.intervals import Interval
from headwise.model.heads import HeadMap
from headwise.model.row_count import RowCount

__all__ = ["RIDGE", "Attribution", "Estimate", "permuted_scores"]

RIDGE = "ridge on subsets"
PERMUTATIONS = 500
TINY = 1e-12  # below this, a length is rounding


class Estimate(NamedTuple):
    """An estimator's result for a concept.

    Args:
        values: A value for each head.
        rows: Its cost in denoiser rows.
    """

    values: Float[np.ndarray, " all_heads"]
    rows: RowCount


@dataclass(frozen=True, eq=False)
class Attribution:
    """How well estimators predict what heads do.

    Args:
        estimates: By concept and estimator.
        losses: By concept, for the same subsets.
        head_map: The heads.
        areas: By concept and estimator, the area of ordered weakening; empty if it was not measured.
        settings: The model, the prompts and the seed.
    """

    estimates: dict[str, dict[str, Estimate]]
    losses: dict[str, SubsetLosses]
    head_map: HeadMap
    areas: dict[str, dict[str, Interval]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def estimators(self) -> tuple[str, ...]:
        """The names of the estimators, with `RIDGE` last."""
        return (*next(iter(self.estimates.values())), RIDGE)

    def predicted(self, estimator: str, concept: str) -> Float[np.ndarray, " subsets"]:
        """The loss of each subset predicted by an estimator, in arbitrary units."""
        if estimator == RIDGE:
            return self.losses[concept].ridge()
        return self.losses[concept].subsets @ self.estimates[concept][estimator].values

    def score(
        self, estimator: str, concept: str | None = None, degree: int = 1, minus: str | None = None
    ) -> Interval:
        """The partial correlation of predicted and true loss, with its interval by bootstrap over subsets.

        Args:
            estimator: The name of an estimator.
            concept: One of the concepts; None for the median over all.
            degree: The highest power of the subsets' size to control for.
            minus: The name of another estimator, whose score is subtracted for each concept.
        """
        names = list(self.estimates) if concept is None else [concept]
        predicted = [self.predicted(estimator, name) for name in names]
        less = None if minus is None else [self.predicted(minus, name) for name in names]
        return self._median(names, predicted, degree, less)

    def others(self, estimator: str) -> Interval:
        """The control of `score`: each concept's losses predicted from the mean values of the other concepts.

        This score is not specific to the concept; it is due to heads that act on any word.

        Args:
            estimator: The name of an estimator, not `RIDGE`.

        Returns:
            The median over concepts; NaN if there is only one.
        """
        values = {name: by_estimator[estimator].values for name, by_estimator in self.estimates.items()}
        if len(values) < 2:
            return Interval(np.nan, np.nan, np.nan)
        total = np.sum(list(values.values()), 0)
        predicted = [self.losses[name].subsets @ (total - concept) for name, concept in values.items()]
        return self._median(list(values), predicted)

    def _median(
        self,
        names: list[str],
        predicted: list[np.ndarray],
        degree: int = 1,
        minus: list[np.ndarray] | None = None,
    ) -> Interval:
        losses = [self.losses[name] for name in names]
        return median_correlation(
            predicted, [each.mean for each in losses], losses[0].sizes, degree, minus=minus
        )

    @cached_property
    def ceilings(self) -> dict[str, Interval]:
        """By concept, the score that the losses without noise would reach (subset_losses.py)."""
        return {concept: ceiling_of(losses.split_half()) for concept, losses in self.losses.items()}

    def chance(self, estimator: str, concept: str | None = None, *, in_layers: bool = False) -> Interval:
        """The score by chance: with the estimator's values permuted among the heads.

        Args:
            estimator: The name of an estimator, not `RIDGE`.
            concept: One of the concepts; None for the median over all.
            in_layers: Whether values are permuted within each layer only, so that a higher score is due to
                individual heads and not only to layers.

        Returns:
            The mean of 500 permutations, the same for all concepts, and the interval that holds 95 % of them.
        """
        heads = np.arange(self.head_map.all_heads)
        generator = np.random.Generator(np.random.Philox(0))
        blocks = self.head_map.slices if in_layers else [(0, len(heads))]
        shuffles = [
            np.concatenate([generator.permutation(heads[a:b]) for a, b in blocks])
            for _ in range(PERMUTATIONS)
        ]
        names = list(self.estimates) if concept is None else [concept]
        scores = [
            permuted_scores(self.estimates[name][estimator].values, self.losses[name], np.stack(shuffles))
            for name in names
        ]
        medians = np.median(scores, 0)
        low, high = np.quantile(medians, [0.025, 0.975])
        return Interval(float(medians.mean()), float(low), float(high))

    def rows(self, estimator: str, concept: str | None = None) -> RowCount:
        """The cost of an estimator for a concept, or the mean over all; `RIDGE` needs only the losses."""
        if estimator == RIDGE:
            return RowCount()
        concepts = list(self.estimates) if concept is None else [concept]
        rows = [tuple(asdict(self.estimates[name][estimator].rows).values()) for name in concepts]
        return RowCount(*np.rint(np.mean(rows, 0)).astype(int).tolist())

    def numbers(self) -> dict[str, Any]:
        """By estimator: its score (also given powers of the size to 3) and rows, overall and by concept."""
        return self._numbers

    @cached_property
    def _numbers(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        for name in self.estimators:
            numbers[name] = self._scores(name) | asdict(self.rows(name))
            numbers[name]["concepts"] = {
                concept: self._scores(name, concept) | asdict(self.rows(name, concept))
                for concept in self.estimates
            }
            if name != RIDGE and len(self.estimates) > 1:
                numbers[name]["others"] = self.others(name).as_json()
            areas = {concept: areas[name] for concept, areas in self.areas.items() if name in areas}
            for concept, area in areas.items():
                numbers[name]["concepts"][concept]["area"] = area.as_json()
            if areas:
                numbers[name]["area"] = float(np.median([area.value for area in areas.values()]))
        return numbers

    def _scores(self, estimator: str, concept: str | None = None) -> dict[str, Any]:
        given = {"score": 1, "degree3": 3}
        scores = {key: self.score(estimator, concept, degree) for key, degree in given.items()}
        if estimator != RIDGE:
            scores["chance"] = self.chance(estimator, concept)
            scores["chance_in_layers"] = self.chance(estimator, concept, in_layers=True)
        return {key: score.as_json() for key, score in scores.items()}


def permuted_scores(
    values: Float[np.ndarray, " all_heads"],
    losses: SubsetLosses,
    shuffles: Int[np.ndarray, "permutations all_heads"],
) -> Float[np.ndarray, " permutations"]:
    """The partial correlation given the size for each permutation of the values among heads.

    Args:
        values: An estimator's value for each head.
        losses: The losses of subsets.
        shuffles: For each permutation, the head whose value each head gets.
    """
    of_size, _ = np.linalg.qr(np.stack([np.ones(len(losses.subsets)), losses.sizes], 1))

    def given_size(columns: Float[np.ndarray, "subsets n"]) -> Float[np.ndarray, "subsets n"]:
        return columns - of_size @ (of_size.T @ columns)

    predicted, loss = given_size(losses.subsets @ values[shuffles].T), given_size(losses.mean[:, None])
    spread = np.linalg.norm(predicted, axis=0) * np.linalg.norm(loss)
    products = (predicted * loss).sum(0)
    return np.divide(products, spread, out=np.zeros(len(shuffles)), where=spread > TINY)
