r"""What sweeps found: numbers over `Scores`, with intervals. Nothing here generates, and nothing needs torch.

With m_o(k) the mean score over images when the first k of H heads of the order o are weakened,

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
"""Denoiser rows, and the mean, lowest and highest agreement."""


@dataclass(frozen=True, eq=False)
class Weakening:
    """What images still show of a concept when the first k heads of an order are weakened.

    Args:
        scores: Along the axes order, k (how many heads are weakened), seed and prompt.
    """

    scores: Scores

    @property
    def orders(self) -> tuple[str, ...]:
        """The names of the orders in which heads are weakened."""
        return self.scores.axes["order"]  # type: ignore[return-value]

    @property
    def ks(self) -> tuple[int, ...]:
        """How many heads are weakened, from 0 to all."""
        return self.scores.axes["k"]  # type: ignore[return-value]

    def curve(self, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean score at every k, and the ends of its interval."""
        return bootstrap(self._curves(order), lambda mean: mean)

    def height(self, order: str) -> Interval:
        """The mean of the curve over k from 0 to all heads."""
        return bootstrap_interval(self._curves(order), self._height)

    def area(self, lower: str = MOST, upper: str = LEAST) -> Interval:
        """Height of the upper order less that of the lower."""
        both = np.stack([self._curves(upper), self._curves(lower)], 1)
        return bootstrap_interval(both, lambda mean: self._height(mean[0]) - self._height(mean[1]))

    def random(self) -> Interval:
        """Height of the mean of the random orders less that of the most relevant first."""
        randoms = [self._curves(order) for order in self.orders if order.startswith("random")]
        if not randoms:
            return Interval(np.nan, np.nan, np.nan)
        between = np.mean(randoms, axis=0)
        both = np.stack([between, self._curves(MOST)], 1)
        return bootstrap_interval(both, lambda mean: self._height(mean[0]) - self._height(mean[1]))

    def half_drop(self, order: str) -> float:
        """The k at which half of the drop is first reached; nan where the score does not drop."""
        mean = self._curves(order).mean(0)
        half = (mean[0] + mean[-1]) / 2
        if not mean[-1] < mean[0]:
            return float("nan")
        i = int(np.argmax(mean <= half))
        share = (mean[i - 1] - half) / (mean[i - 1] - mean[i])
        return float(self.ks[i - 1] + share * (self.ks[i] - self.ks[i - 1]))

    def rows(self) -> list[tuple[str, str, str]]:
        """Of each order its name, its mean score with its interval, and the k at half of the drop."""
        drops = {order: self.half_drop(order) for order in self.orders}
        return [
            (order_name(order), str(self.height(order)), "no drop" if np.isnan(k) else f"{k:.0f}")
            for order, k in drops.items()
        ]

    def _repr_html_(self) -> str:
        caption = f"{self.scores.settings.get('concept', '')}: area {self.area():+.3f} between the curves"
        columns = ("heads weakened", "mean score (95 %)", "half of the drop at k")
        return html_table(caption.removeprefix(": "), columns, self.rows())

    def _curves(self, order: str) -> Float[np.ndarray, "prompts ks"]:
        if order not in self.orders:
            raise HeadwiseError(f"{order!r} was not measured. The orders are: {', '.join(self.orders)}.")
        return self.scores.values[self.orders.index(order)].mean(1).T

    def _height(self, mean: Float[np.ndarray, " ks"]) -> float:
        return float(np.trapezoid(mean, self.ks) / self.ks[-1])


def order_name(order: str) -> str:
    """An order of weakening as figures and tables call it: "random 0" is "random order 1".

    Args:
        order: Its name in files: "most relevant", "least relevant layers", "random 0" and the like.
    """
    kind, _, number = order.partition(" ")
    return f"random order {int(number) + 1}" if kind == "random" else f"{order} first"


@dataclass(frozen=True)
class Scales:
    """What steering by relevance on every scale showed.

    Args:
        weakened: By scale, then by concept; a scale that keeps the order of heads has those of "sum".
        adjusted: By scale.
        strengthened: Its methods are "plain" and the scales.
        orders: By scale, the rank correlation of its order of heads with the order as measured.
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
    """Agreement with a long run over what it cost, by setting and way of voting.

    Args:
        curves: By "10 steps, 8 draws" and the like.
        settings: The model, and the long run.
    """

    curves: dict[str, Curve]
    settings: dict[str, Any]

    def rows_to(self, name: str, enough: float = ENOUGH) -> float | None:
        """Rows after which the mean correlation is enough, on a logarithmic scale; None where never."""
        curve = self.curves[name]
        for (x0, y0, *_), (x1, y1, *_) in zip(curve, curve[1:], strict=False):
            if y0 < enough <= y1:
                return float(x0 * (x1 / x0) ** ((enough - y0) / (y1 - y0)))
        return curve[0][0] if curve[0][1] >= enough else None

    def numbers(self) -> dict[str, Any]:
        """By estimator: rows to 0.95, that as a share of the paper's, and its curve."""
        name = estimator_name(PAPER.num_inference_steps, PAPER.samples_per_call)
        paper = self.rows_to(name) if name in self.curves else None
        numbers = {}
        for name, curve in self.curves.items():
            rows = self.rows_to(name)
            share = None if rows is None or paper is None else rows / paper
            numbers[name] = {"rows": rows, "share_of_paper": share, "curve": [list(point) for point in curve]}
        return numbers


def estimator_name(steps: int, samples: int) -> str:
    """An estimator as files and figures call it: "10 steps, 8 draws"."""
    return f"{steps} steps, {samples} {'draw' if samples == 1 else 'draws'}"


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        question: The question, in words.
        reading: What the rows are.
        measure: What the numbers are.
        values: The numbers, by row.
    """

    question: str
    reading: str
    measure: str
    values: dict[str, Interval]


def kind_of(folder: str | Path) -> str:
    """What kind of run lies in a folder; "" where there is none.

    Returns:
        "votes" or "effect" of a measurement; "weakening", "polysemy", "editing", "multi-concept",
        "given-editing", "segmentation", "atoms", "strengthening" or "interventions" of a sweep, or the name
        that a sweep of the user's gave itself; "scales", "estimators" or "questions"; "weakenings" of a
        folder whose folders hold runs of weakening.
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
    """What run.json says; "" where it says nothing but that there are scores, as in a merged folder."""
    try:
        kind = json.loads((folder / "run.json").read_bytes()).get("kind", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return kind if isinstance(kind, str) and kind != "scores" else ""


def kind_of_scores(scores: Scores) -> str:
    """The kind of a sweep by its axes, for folders written before run.json said it; "" where unknown."""
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
