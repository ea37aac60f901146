r"""Ordered weakening: if these heads carry a concept, weakening them first must lose it first.

The first k heads of an order are weakened (steer.py) and what the picture still shows of the concept is
scored; k goes from none to all heads. With m_o(k) the mean score over pictures,

    height(o) = ∫ m_o(k) dk / H
    area      = height(least relevant first) − height(most relevant first)

A relevance that means something has an area above 0, with the random orders between its two curves. The
orders by mean relevance of a *layer* say how much of that is heads. All k of a picture share their latents
and, as factors belong to rows of the batch, their batches. Intervals are by bootstrap over prompts.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from headwise.benchmarks.prompts import EvalPrompt
from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.runs.folder import Progress, ProgressCallback, RunFolder
from headwise.runs.scores import Axes, Scores
from headwise.runs.shards import subrange
from headwise.runs.workers import shared
from headwise.steering.steer import weaken

__all__ = ["Weakening", "grid", "measure_weakening", "orders_of"]

MOST, LEAST = "most relevant", "least relevant"
MOST_LAYERS, LEAST_LAYERS = "most relevant layers", "least relevant layers"


Score = Callable[[Sequence[Any], Sequence[EvalPrompt]], Float[np.ndarray, " pictures"]]


@dataclass(frozen=True, eq=False)
class Weakening:
    """What pictures still show of a concept when the first k heads of an order are weakened.

    Args:
        scores: Along the axes order, k (how many heads are weakened), seed and prompt.
    """

    scores: Scores

    @property
    def orders(self) -> tuple[str, ...]:
        """The orders' names."""
        return self.scores.axes["order"]  # type: ignore[return-value]

    @property
    def ks(self) -> tuple[int, ...]:
        """How many heads are weakened."""
        return self.scores.axes["k"]  # type: ignore[return-value]

    def curve(self, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean score at every k, and the ends of its interval."""
        return bootstrap(self._of(order), lambda mean: mean)

    def height(self, order: str) -> Interval:
        """The mean of the curve over k from 0 to all heads."""
        return _interval(self._of(order), self._height)

    def area(self, lower: str = MOST, upper: str = LEAST) -> Interval:
        """Height of the upper order less that of the lower."""
        both = np.stack([self._of(upper), self._of(lower)], 1)
        return _interval(both, lambda mean: self._height(mean[0]) - self._height(mean[1]))

    def random(self) -> Interval:
        """Height of the mean of the random orders less that of the most relevant first."""
        randoms = [self._of(order) for order in self.orders if order.startswith("random")]
        if not randoms:
            return Interval(np.nan, np.nan, np.nan)
        between = np.mean(randoms, axis=0)
        both = np.stack([between, self._of(MOST)], 1)
        return _interval(both, lambda mean: self._height(mean[0]) - self._height(mean[1]))

    def half_drop(self, order: str) -> float:
        """The k at which half of the whole drop is first reached; nan where the score does not drop."""
        mean = self._of(order).mean(0)
        half = (mean[0] + mean[-1]) / 2
        if not mean[-1] < mean[0]:
            return float("nan")
        i = int(np.argmax(mean <= half))
        share = (mean[i - 1] - half) / (mean[i - 1] - mean[i])
        return float(self.ks[i - 1] + share * (self.ks[i] - self.ks[i - 1]))

    def _of(self, order: str) -> Float[np.ndarray, "prompts ks"]:
        if order not in self.orders:
            raise HeadwiseError(f"{order!r} was not measured. The orders are: {', '.join(self.orders)}.")
        return self.scores.values[self.orders.index(order)].mean(1).T

    def _height(self, mean: Float[np.ndarray, " ks"]) -> float:
        return float(np.trapezoid(mean, self.ks) / self.ks[-1])


def grid(all_heads: int, points: int = 15) -> tuple[int, ...]:
    """Numbers of heads to weaken: 0, 1, 11, …, 121, 128 as in the paper, and alike for other models."""
    stride = max(1, round(all_heads / (points - 2) / 10) * 10 if all_heads > 64 else all_heads // points)
    return (0, *range(1, all_heads, stride), all_heads)


def orders_of(
    relevance: Relevance, concept: str, random_orders: int = 3
) -> dict[str, Int[np.ndarray, " all_heads"]]:
    """The orders in which heads are weakened; equal relevance by head index.

    Args:
        random_orders: How many draws of a random order, seeded 0, 1, …
    """
    r, head_map = relevance[concept], relevance.head_map
    if head_map is None:
        raise HeadwiseError(
            "This relevance came without a head map. Use a file written by `headwise measure`."
        )
    by_layer = np.concatenate(
        [np.full(stop - start, r[start:stop].mean()) for start, stop in head_map.slices]
    )
    orders = {
        MOST: np.argsort(-r, kind="stable"),
        LEAST: np.argsort(r, kind="stable"),
        MOST_LAYERS: np.argsort(-by_layer, kind="stable"),
        LEAST_LAYERS: np.argsort(by_layer, kind="stable"),
    }
    draws = (np.random.Generator(np.random.Philox(seed)) for seed in range(random_orders))
    return orders | {f"random {i}": draw.permutation(len(r)) for i, draw in enumerate(draws)}


@shared("cases")
def measure_weakening(
    pipe: Any,
    relevance: Relevance,
    concept: str,
    cases: Sequence[EvalPrompt],
    score: Score,
    *,
    ks: Sequence[int] | None = None,
    orders: Sequence[str] | None = None,
    random_orders: int = 3,
    factor: float | int = -2.0,
    seeds: Sequence[int] = (10, 20, 30),
    numbers: range | None = None,
    out: str | Path | None = None,
    batch_size: int = 15,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    checkpoint_every: float | int = 10,
    progress: ProgressCallback = True,
) -> Weakening:
    """Weaken the heads of a concept in several orders and score the pictures; with the same `out` it goes on.

    Args:
        pipe: The user's pipeline, which is left as it was; or workers who share the prompts (cluster.py).
        relevance, concept: Whose order of heads is on trial.
        cases: Prompts and the texts their pictures are compared with.
        score: From pictures and their cases to numbers, such as `metrics.scoring` gives.
        ks: How many heads to weaken, from 0 to all; `grid` of the number of heads if None.
        orders: Some of the orders by name, such as "most relevant"; all if None.
        random_orders: How many draws of a random order.
        factor: What the heads' attention to the prompt's words is multiplied by.
        seeds: Each prompt is drawn once from each seed.
        numbers: Which prompts to draw here, such as `range(0, 8)`, where others draw the rest.
        out: Folder for checkpoint, result and pictures; None keeps nothing on disk.
        batch_size: Pictures per pipeline call, of whatever k and order.
        keep_prompts: Save the pictures of the first so many prompts, first seed, in `out`/pictures.
        num_inference_steps, guidance_scale: Passed to the pipeline.
        checkpoint_every: Seconds between checkpoints.
        progress: Show a bar on stderr, or a callable that is told, as in `measure`.
    """
    head_map = HeadMap.of(pipe)
    by_name = _chosen(orders_of(relevance, concept, random_orders), orders)
    relevance.head_map.require(head_map, "The relevance", "the pipeline")
    ks = _checked(grid(head_map.all_heads) if ks is None else ks, head_map.all_heads, cases)
    prompts = [case.prompt for case in cases]
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    settings = settings_of_pictures(pipe, prompts) | passed
    settings |= {"concept": concept, "factor": float(factor), "seeds": list(seeds), "score": _name(score)}
    settings |= {
        "relevance": relevance.settings.get("weights"),
        "order": np.argsort(-relevance[concept], kind="stable").tolist(),
    }
    axes: Axes = {"order": tuple(by_name), "k": ks, "seed": tuple(seeds), "prompt": range(len(cases))}
    masks = np.stack(
        [[np.isin(np.arange(head_map.all_heads), order[:k]) for k in ks] for order in by_name.values()]
    )
    wanted = subrange(numbers, len(cases))
    with (
        RunFolder(out, settings, Scores.empty(axes, settings), "scores") as folder,
        quiet(pipe),
        Progress(folder, folder.so_far.values[..., wanted].size, checkpoint_every, progress) as done,
    ):
        for seed, rows in _batches(done.so_far.values, ks, batch_size, wanted):
            drawn = [row.prompt for row in rows]
            steer = weaken(head_map, np.stack([masks[row.order, row.k] for row in rows]), factor=factor)
            with hooked(pipe, steer):
                images = generate(pipe, prompts, seeds[seed], drawn, output_type="pil", **passed)
            for row, image in zip(rows, images, strict=True):
                if seed == 0 and row.prompt < keep_prompts and out is not None:
                    folder.keep(_file_name(row, tuple(by_name), ks), image, prompts[row.prompt])
            found = score(images, [cases[n] for n in drawn])
            done(_scored(done.so_far, seed, rows, found))
    return Weakening(folder.so_far)


def _chosen(known: dict[str, np.ndarray], names: Sequence[str] | None) -> dict[str, np.ndarray]:
    unknown = [name for name in names or () if name not in known]
    if unknown or (names is not None and not names):
        raise HeadwiseError(f"orders={list(names or ())} was given; expected some of: {', '.join(known)}.")
    return known if names is None else {name: known[name] for name in names}


class _Row(NamedTuple):
    """One picture of a batch."""

    order: int
    k: int
    prompt: int


def _batches(
    scores: Float[np.ndarray, "order k seed prompt"], ks: tuple[int, ...], batch_size: int, wanted: range
) -> Iterator[tuple[int, list[_Row]]]:
    """The pictures still to be made, by seed; with none or all heads weakened the order does not matter."""
    todo = np.isnan(scores)
    todo[1:, [i for i, k in enumerate(ks) if k in (0, ks[-1])]] = False
    for seed in range(scores.shape[2]):
        of_seed = todo[:, :, seed, wanted].transpose(2, 0, 1)  # a prompt's pictures side by side
        rows = [_Row(int(order), int(k), wanted[prompt]) for prompt, order, k in np.argwhere(of_seed)]
        for start in range(0, len(rows), batch_size):
            yield seed, rows[start : start + batch_size]


def _scored(before: Scores, seed: int, rows: list[_Row], found: np.ndarray) -> Scores:
    """One batch of scores, those of the shared ends in every order."""
    part = Scores.empty(before.axes, before.settings)
    last = len(before.axes["k"]) - 1
    for row, score in zip(rows, found, strict=True):
        part.values[slice(None) if row.k in (0, last) else row.order, row.k, seed, row.prompt] = score
    return part


def _interval(cases: np.ndarray, statistic: Callable[[np.ndarray], float]) -> Interval:
    return Interval(*(float(end) for end in bootstrap(cases, statistic)))


def _checked(ks: Sequence[int], all_heads: int, cases: Sequence[EvalPrompt]) -> tuple[int, ...]:
    if not cases:
        raise HeadwiseError("No prompt was given to weaken. Give one or more cases.")
    if len(ks) < 2 or list(ks) != sorted(set(ks)) or ks[0] != 0 or ks[-1] != all_heads:
        raise HeadwiseError(
            f"ks={list(ks)} was given; expected growing numbers of heads from 0 to all {all_heads}."
        )
    return tuple(int(k) for k in ks)


def _name(score: Score) -> str:
    return getattr(score, "__name__", type(score).__name__)


def _file_name(row: _Row, orders: tuple[str, ...], ks: tuple[int, ...]) -> str:
    return f"{row.prompt:03d} {orders[row.order]} {ks[row.k]:04d}"
