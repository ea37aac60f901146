r"""Ordered weakening: if heads carry a concept, weakening them first loses the concept first.

The first k heads of an order are weakened (steer.py), and images are scored by how much they still show of
the concept; k goes from none to all heads. With m_o(k) the mean score over images,

    height(o) = ∫ m_o(k) dk / H
    area      = height(least relevant first) − height(most relevant first)

If relevance is meaningful, the area is above 0, and the random orders lie between the two curves. Comparison
with the orders by mean relevance of a *layer* shows how much of the area is due to individual heads. All k of
an image share their latents and, since each row of a batch has its own factors, their batches. Intervals are
by bootstrap over prompts.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwise.benchmarks.comparison import Comparison, given_options
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.results import LEAST, LEAST_LAYERS, MOST, MOST_LAYERS, Weakening
from headwise.benchmarks.sweep import Call, KeptImage, Sweep, run_sweep
from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import settings_of_pictures
from headwise.runs.folder import ProgressCallback
from headwise.runs.image_names import ImageName
from headwise.runs.scores import Axes
from headwise.steering.steer import weaken

__all__ = ["LEAST", "MOST", "Weakening", "grid", "measure_weakening", "orders_of"]

Score = Callable[[Sequence[Any], Sequence[EvalPrompt]], Float[np.ndarray, " images"]]


def grid(all_heads: int, points: int = 15) -> tuple[int, ...]:
    """Numbers of heads to weaken: 0, 1, 11, …, 121, 128 as in the paper, and similar for other models.

    Args:
        all_heads: The number of heads of the model.
        points: About how many numbers to return.
    """
    stride = max(1, round(all_heads / (points - 2) / 10) * 10 if all_heads > 64 else all_heads // points)
    return (0, *range(1, all_heads, stride), all_heads)


def orders_of(
    relevance: Relevance, concept: str, random_orders: int = 3
) -> dict[str, Int[np.ndarray, " all_heads"]]:
    """The orders in which heads are weakened; heads of equal relevance are ordered by their index.

    Args:
        relevance: The measured relevance, with its head map.
        concept: One of its concepts.
        random_orders: The number of random orders, seeded 0, 1, …

    Raises:
        HeadwiseError: The relevance has no head map.
    """
    r, head_map = relevance[concept], relevance.head_map
    if head_map is None:
        raise HeadwiseError("This relevance has no head map. Use a file written by `headwise measure`.")
    by_layer = np.concatenate(
        [np.full(stop - start, r[start:stop].mean()) for start, stop in head_map.slices]
    )
    orders = {
        MOST: np.argsort(-r, kind="stable"),
        LEAST: np.argsort(r, kind="stable"),
        MOST_LAYERS: np.argsort(-by_layer, kind="stable"),
        LEAST_LAYERS: np.argsort(by_layer, kind="stable"),
    }
    generators = (np.random.Generator(np.random.Philox(seed)) for seed in range(random_orders))
    return orders | {f"random {i}": each.permutation(len(r)) for i, each in enumerate(generators)}


def measure_weakening(
    pipe: Any,
    relevance: Relevance,
    concept: str,
    prompts: Sequence[EvalPrompt],
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
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    checkpoint_every: float | int = 10,
    progress: ProgressCallback = True,
) -> Weakening:
    """Weaken a concept's heads in several orders and score the images; resumes with the same `out`.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the prompts (runs/ray.py).
        relevance: The measured relevance, with its head map.
        concept: The concept whose order of heads is tested.
        prompts: Prompts, and the texts that their images are compared with.
        score: From images and their prompts to numbers, such as `clip_scorer.scoring` returns.
        ks: The numbers of heads to weaken, from 0 to all; None for `grid` of the number of heads.
        orders: Some of the orders by name, such as "most relevant"; None for all.
        random_orders: The number of random orders to compare with.
        factor: The factor on the heads' attention to the prompt's words, −100 … 100.
        seeds: Each prompt is generated once from each seed.
        numbers: Which prompts to generate here, such as `range(0, 8)`, if other processes generate the rest.
        out: Folder for checkpoint, result and images; None writes nothing to disk.
        batch_size: Images per pipeline call, which may mix k and orders.
        keep_prompts: How many of the first prompts to save images of, in `out`/pictures; first seed only.
        num_inference_steps, guidance_scale, negative_prompt, height, width: Passed to the pipeline.
        checkpoint_every, progress: As in `measure`.

    Raises:
        HeadwiseError: No prompt was given, an order is unknown, or `ks` does not grow from 0 to all heads.
        HeadMapMismatch: The relevance was measured on different heads.
    """
    if not prompts:
        raise HeadwiseError("No prompt was given for the weakening. Give one or more.")
    by_name = _chosen(orders_of(relevance, concept, random_orders), orders)
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
        negative_prompt=negative_prompt, height=height, width=width,
    )  # fmt: skip
    compared = (relevance, tuple(prompts), tuple(by_name), tuple(seeds), batch_size, keep_prompts, passed)
    counts = None if ks is None else tuple(ks)
    sweep = partial(_sweep, Comparison(*compared), concept, by_name, counts, float(factor), score)
    run: dict[str, Any] = {"numbers": numbers, "checkpoint_every": checkpoint_every, "progress": progress}
    return Weakening(run_sweep(pipe, sweep, kind="weakening", out=out, **run))


def _sweep(
    comparison: Comparison,
    concept: str,
    orders: Mapping[str, Int[np.ndarray, " all_heads"]],
    ks: tuple[int, ...] | None,
    factor: float,
    score: Score,
    pipe: Any,
) -> Sweep:
    """The sweep over orders, numbers of heads, seeds and prompts."""
    relevance, passed, head_map = comparison.relevance, comparison.passed, HeadMap.of(pipe)
    relevance.require(head_map)
    ks = _checked(grid(head_map.all_heads) if ks is None else ks, head_map.all_heads)
    texts = [prompt.prompt for prompt in comparison.prompts]
    axes: Axes = {"order": tuple(orders), "k": ks, "seed": comparison.seeds, "prompt": range(len(texts))}
    first = np.stack(
        [[np.isin(np.arange(head_map.all_heads), order[:k]) for k in ks] for order in orders.values()]
    )
    settings = settings_of_pictures(pipe, texts) | passed | {
        "concept": concept,
        "factor": factor,
        "seeds": list(comparison.seeds),
        "score": getattr(score, "__name__", type(score).__name__),
        "relevance": relevance.settings.get("weights"),
        "order": np.argsort(-relevance[concept], kind="stable").tolist(),
    }  # fmt: skip

    def generated(call: Call) -> Sequence[Any]:
        steer = weaken(head_map, first[call.index("order"), call.index("k")], factor=factor)
        with hooked(pipe, steer):
            return generate(pipe, texts, call.label("seed"), call.numbers, output_type="pil", **passed)

    def keep(call: Call, images: Sequence[Any]) -> Iterator[KeptImage]:
        labels = (call.labels("order"), call.labels("k"), call.index("seed"))
        for number, order, k, seed, image in zip(call.numbers, *labels, images, strict=True):
            if seed == 0 and number < comparison.keep_prompts:
                yield KeptImage(ImageName(number, order, k), image, texts[number])

    return Sweep(
        axes,
        settings,
        loops=("seed",),
        batch_size=comparison.batch_size,
        generate=generated,
        score=lambda call, images: score(images, comparison.of(call)),
        keep=keep,
        same=_shared_ends([len(labels) for labels in axes.values()]),
    )


def _shared_ends(shape: Sequence[int]) -> Int[np.ndarray, "orders ks seeds prompts"]:
    """The entry whose score each one shares: with none or all heads weakened, the order does not matter."""
    same = np.arange(np.prod(shape)).reshape(shape)
    same[1:, [0, -1]] = same[:1, [0, -1]]
    return same


def _chosen(orders: dict[str, np.ndarray], names: Sequence[str] | None) -> dict[str, np.ndarray]:
    unknown = [name for name in names or () if name not in orders]
    if unknown or (names is not None and not names):
        raise HeadwiseError(f"orders={list(names or ())} was given; expected some of: {', '.join(orders)}.")
    return orders if names is None else {name: orders[name] for name in names}


def _checked(ks: Sequence[int], all_heads: int) -> tuple[int, ...]:
    if len(ks) < 2 or list(ks) != sorted(set(ks)) or ks[0] != 0 or ks[-1] != all_heads:
        raise HeadwiseError(
            f"ks={list(ks)} was given; expected increasing numbers of heads from 0 to all {all_heads}."
        )
    return tuple(int(k) for k in ks)
