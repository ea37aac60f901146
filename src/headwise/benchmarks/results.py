r"""Results of sweeps: numbers from `Scores`, with intervals. Nothing here generates images or needs torch.

With m_o(k) the mean score over images when the first k of H heads in the order o are weakened,

    height(o) = ∫ m_o(k) dk / H
    area      = height(least relevant first) − height(most relevant first)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.method_results import Atoms, Editing, Polysemy
from headwise.display import html_table
from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap, bootstrap_interval
from headwise.measuring.estimators import PAPER
from headwise.runs.scores import Scores

__all__ = [
    "ATTRIBUTION_FILE", "ENOUGH", "ESTIMATORS_FILE", "LEAST", "LEAST_LAYERS", "MOST", "MOST_LAYERS",
    "QUESTIONS_FILE", "SCALES_FILE", "Answer", "Curve", "Estimators", "Scales", "Weakening",
    "estimator_name", "kind_of", "kind_of_scores", "order_name",
]  # fmt: skip

MOST, LEAST = "most relevant", "least relevant"
MOST_LAYERS, LEAST_LAYERS = "most relevant layers", "least relevant layers"
SCALES_FILE, ESTIMATORS_FILE, QUESTIONS_FILE = "scales.json", "estimators.json", "questions.json"
ATTRIBUTION_FILE = "attribution.json"
ENOUGH = 0.95  # rank correlation over heads with a long run
Curve = list[tuple[float, float, float, float]]
"""Points of denoiser rows, and the mean, lowest and highest agreement."""


@dataclass(frozen=True, eq=False)
class Weakening:
    """How much images still show of a concept when the first k heads of an order are weakened.

    Args:
        scores: Along the axes order, k (the number of weakened heads), seed and prompt.
    """

    scores: Scores

    @property
    def orders(self) -> tuple[str, ...]:
        """The names of the orders in which heads are weakened."""
        return self.scores.axes["order"]  # type: ignore[return-value]

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers of weakened heads, from 0 to all."""
        return self.scores.axes["k"]  # type: ignore[return-value]

    def curve(self, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean score at every k, and the ends of its interval."""
        return bootstrap(self._curves(order), lambda mean: mean)

    def height(self, order: str) -> Interval:
        """The mean of the curve over k from 0 to all heads."""
        return bootstrap_interval(self._curves(order), self._height)

    def area(self, lower: str = MOST, upper: str = LEAST) -> Interval:
        """The height of the upper order minus that of the lower, with its interval."""
        both = np.stack([self._curves(upper), self._curves(lower)], 1)
        return bootstrap_interval(both, lambda mean: self._height(mean[0]) - self._height(mean[1]))

    def random(self) -> Interval:
        """The height of the mean of the random orders minus that of the most relevant first."""
        randoms = [self._curves(order) for order in self.orders if order.startswith("random")]
        if not randoms:
            return Interval(np.nan, np.nan, np.nan)
        between = np.mean(randoms, axis=0)
        both = np.stack([between, self._curves(MOST)], 1)
        return bootstrap_interval(both, lambda mean: self._height(mean[0]) - self._height(mean[1]))

    def half_drop(self, order: str) -> float:
        """The k at half drop: where half of the drop is first reached; NaN if the score does not drop."""
        mean = self._curves(order).mean(0)
        half = (mean[0] + mean[-1]) / 2
        if not mean[-1] < mean[0]:
            return float("nan")
        i = int(np.argmax(mean <= half))
        share = (mean[i - 1] - half) / (mean[i - 1] - mean[i])
        return float(self.ks[i - 1] + share * (self.ks[i] - self.ks[i - 1]))

    def rows(self) -> list[tuple[str, str, str]]:
        """The name, the mean score with its interval, and the k at half drop, for each order."""
        drops = {order: self.half_drop(order) for order in self.orders}
        return [
            (order_name(order), str(self.height(order)), "no drop" if np.isnan(k) else f"{k:.0f}")
            for order, k in drops.items()
        ]

    def _repr_html_(self) -> str:
        caption = f"{self.scores.settings.get('concept', '')}: area {self.area():+.3f} between the curves"
        columns = ("heads weakened", "mean score (95 %)", "k at half drop")
        return html_table(caption.removeprefix(": "), columns, self.rows())

    def _curves(self, order: str) -> Float[np.ndarray, "prompts ks"]:
        if order not in self.orders:
            raise HeadwiseError(f"{order!r} was not measured. The orders are: {', '.join(self.orders)}.")
        return self.scores.values[self.orders.index(order)].mean(1).T

    def _height(self, mean: Float[np.ndarray, " ks"]) -> float:
        return float(np.trapezoid(mean, self.ks) / self.ks[-1])


def order_name(order: str) -> str:
    """The name of an order of weakening in figures and tables: "random 0" is "random order 1".

    Args:
        order: Its name in files, such as "most relevant", "least relevant layers" or "random 0".
    """
    kind, _, number = order.partition(" ")
    return f"random order {int(number) + 1}" if kind == "random" else f"{order} first"


@dataclass(frozen=True)
class Scales:
    """Results of steering by relevance on every scale.

    Args:
        weakened: Weakening by scale, then by concept; a scale that keeps the order of heads has that of
            "sum".
        adjusted: Polysemy by scale.
        strengthened: Strengthening; its methods are "plain" and the scales.
        orders: By scale, the rank correlation of its order of heads with the measured order.
        largest: By scale, the largest relevance of any head.
    """

    weakened: dict[str, dict[str, Weakening]]
    adjusted: dict[str, Polysemy]
    strengthened: Editing
    orders: dict[str, float]
    largest: dict[str, float]

    def numbers(self) -> dict[str, dict[str, Any]]:
        """By scale: its properties, and each metric as mean, low and high."""
        numbers: dict[str, dict[str, Any]] = {}
        for name in ("plain", *self.orders):
            numbers[name] = {m: self.strengthened.of(name, m).as_json() for m in Editing.METRICS}
        for name, order in self.orders.items():
            areas = {
                concept: weakening.area().as_json() for concept, weakening in self.weakened[name].items()
            }
            numbers[name] |= {"order": order, "largest": self.largest[name], "areas": areas}
            numbers[name] |= {"misread": self.adjusted[name].rate("adjust").as_json()}
        return numbers


@dataclass(frozen=True)
class Estimators:
    """Agreement with a long run against cost, by setting and way of voting.

    Args:
        curves: By names such as "10 steps, 8 draws".
        settings: The model, and the long run.
    """

    curves: dict[str, Curve]
    settings: dict[str, Any]

    def rows_to(self, name: str, enough: float = ENOUGH) -> float | None:
        """Rows at which the mean correlation reaches `enough`, interpolated in log rows; None if never."""
        curve = self.curves[name]
        for (x0, y0, *_), (x1, y1, *_) in zip(curve, curve[1:], strict=False):
            if y0 < enough <= y1:
                return float(x0 * (x1 / x0) ** ((enough - y0) / (y1 - y0)))
        return curve[0][0] if curve[0][1] >= enough else None

    def numbers(self) -> dict[str, Any]:
        """By estimator: the rows to 0.95, their ratio to the paper's, and the curve."""
        name = estimator_name(PAPER.num_inference_steps, PAPER.samples_per_call)
        paper = self.rows_to(name) if name in self.curves else None
        numbers = {}
        for name, curve in self.curves.items():
            rows = self.rows_to(name)
            ratio = None if rows is None or paper is None else rows / paper
            numbers[name] = {"rows": rows, "share_of_paper": ratio, "curve": [list(point) for point in curve]}
        return numbers


def estimator_name(steps: int, samples: int) -> str:
    """The name of an estimator in files and figures, such as "10 steps, 8 draws"."""
    return f"{steps} steps, {samples} {'draw' if samples == 1 else 'draws'}"


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        question: The question, in words.
        reading: How to read the rows.
        measure: The quantity in the rows.
        values: Its values, by row.
    """

    question: str
    reading: str
    measure: str
    values: dict[str, Interval]


def kind_of(folder: str | Path) -> str:
    """The kind of run that a folder holds; "" if there is none.

    Returns:
        "votes" or "effect" for a measurement; "weakening", "polysemy", "editing", "multi-concept",
        "given-editing", "segmentation", "atoms", "strengthening" or "interventions" for a sweep, or the
        `kind` of the user's own sweep; "scales", "estimators", "questions" or "attribution"; "weakenings"
        for a folder of runs of weakening.
    """
    folder = Path(folder)
    for kind in ("votes", "effect"):
        if (folder / f"{kind}.safetensors").is_file():
            return kind
    if (folder / "scores.safetensors").is_file():
        return _kind_in_json(folder) or kind_of_scores(Scores.load(folder / "scores.safetensors"))
    for kind, name in (
        ("scales", SCALES_FILE),
        ("estimators", ESTIMATORS_FILE),
        ("questions", QUESTIONS_FILE),
        ("attribution", ATTRIBUTION_FILE),
    ):
        if (folder / name).is_file():
            return kind
    inner = sorted(folder.glob("*/scores.safetensors"))
    return "weakenings" if any(kind_of(file.parent) == "weakening" for file in inner) else ""


def _kind_in_json(folder: Path) -> str:
    """The kind in run.json; "" if it gives no more than that there are scores, as in a merged folder."""
    try:
        kind = json.loads((folder / "run.json").read_bytes()).get("kind", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return kind if isinstance(kind, str) and kind != "scores" else ""


def kind_of_scores(scores: Scores) -> str:
    """The kind of a sweep by its axes, for folders written before run.json had it; "" if unknown."""
    axes, settings = scores.axes, scores.settings
    if "misread" in axes.get("measure", ()):
        return "polysemy"
    if "setting" in axes and "pair" in axes:
        return "given-editing"
    if "pair" in axes:
        return "strengthening" if isinstance(settings.get("relevance"), dict) else "editing"
    if "measure" in axes:
        if "word" in axes:
            return "segmentation"
        return "atoms" if axes["measure"] == Atoms.METRICS else "multi-concept"
    if "method" in axes:
        return "polysemy"
    if "order" in axes:
        return "interventions" if "sweep" in settings else "weakening"
    return ""
