r"""Random subsets: what heads do together, measured by weakening many random subsets of them.

The loss of one weakened head is mostly noise; the losses of many random subsets, of many heads each, show
what every head contributes. With H heads, subset i has k heads, sampled without replacement, and

    k = ⌊exp(u)⌉,   u uniform on log 0.05 H … log 0.5 H
    loss = score(plain image) − score(image with these heads weakened)

All doublings of the size are equally frequent, because the loss saturates: the larger a subset, the less it
matters which heads it has. Subsets depend only on (seed, H): all concepts of a model have the same, and a
larger count adds subsets after the same first ones. Subset losses (subset_losses.py) are the truth that
estimators of what heads do are compared with.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from headwise.benchmarks.attribution.subset_losses import SubsetLosses, random_subsets
from headwise.benchmarks.comparison import given_options
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.sweep import Call, Sweep, run_sweep
from headwise.benchmarks.weakening import Score
from headwise.benchmarks.weakening_sweeps import folder_of
from headwise.errors import HeadwiseError
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import digest_of, settings_of_pictures
from headwise.runs.folder import ProgressCallback
from headwise.runs.scores import Axes
from headwise.runs.shards import Shard
from headwise.steering.steer import weaken

__all__ = ["benchmark_subsets", "measure_subsets"]


def benchmark_subsets(
    pipe: Any,
    prompts: Mapping[str, Sequence[EvalPrompt]],
    score: Score,
    out: str | Path,
    shard: Shard | None = None,
    *,
    count: int = 200,
    **options: Any,
) -> dict[str, SubsetLosses]:
    """Weaken the same random subsets of heads for several concepts, each in a folder under `out`.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the subsets (runs/ray.py).
        prompts: By concept, the prompts to generate.
        score: From images and their prompts to numbers, such as `clip_scorer.scoring` returns.
        out: The folder in which the concepts' folders are created.
        shard: Which part of the subsets to weaken, if other processes weaken the rest.
        count: The number of subsets.
        options: Passed to `measure_subsets`.
    """
    if shard is not None:
        options["numbers"] = shard.of(count + 1)
    return {
        name: measure_subsets(pipe, concept_prompts, score, count=count, out=folder_of(out, name), **options)
        for name, concept_prompts in prompts.items()
    }


def measure_subsets(
    pipe: Any,
    prompts: Sequence[EvalPrompt],
    score: Score,
    *,
    count: int = 200,
    subset_seed: int = 0,
    factor: float | int = -2.0,
    seed: int = 10,
    numbers: range | None = None,
    out: str | Path | None = None,
    batch_size: int = 40,
    num_inference_steps: int = 5,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    checkpoint_every: float | int = 10,
    progress: ProgressCallback = True,
) -> SubsetLosses:
    """Weaken random subsets of heads and score the images; resumes with the same `out`.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the subsets (runs/ray.py).
        prompts: Prompts, and the texts that their images are compared with.
        score: From images and their prompts to numbers, such as `clip_scorer.scoring` returns.
        count: The number of subsets.
        subset_seed: The seed of the subsets.
        factor: The factor on the heads' attention to the prompt's words, −100 … 100.
        seed: The seed of the images; all subsets share the latents of a prompt.
        numbers: Which subsets to weaken here, such as `range(0, 101)`, if other processes or a later call
            weaken the rest. They are numbered from 1; number 0 is the plain image.
        out: Folder for checkpoint and scores; None writes nothing to disk.
        batch_size: Images per pipeline call, which may mix subsets and prompts.
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
        checkpoint_every: Seconds between checkpoints.
        progress: Whether to show a bar on stderr, or a progress function like that of `measure`.

    Returns:
        The losses of the subsets weakened so far.

    Raises:
        HeadwiseError: No prompt was given, or `count` is below 1.
        RunMismatch: `out` holds another run.
    """
    if not prompts or count < 1:
        raise HeadwiseError(
            f"{len(prompts)} prompts and {count} subsets were given. Give one or more of both."
        )
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width
    )
    sweep = partial(
        _sweep, tuple(prompts), (count, subset_seed), float(factor), seed, batch_size, passed, score
    )
    scores = run_sweep(
        pipe, sweep, kind="subsets", numbers=numbers, out=out, together=max(1, batch_size // len(prompts)),
        checkpoint_every=checkpoint_every, progress=progress,
    )  # fmt: skip
    return SubsetLosses.of(scores)


def _sweep(
    prompts: tuple[EvalPrompt, ...],
    count_and_seed: tuple[int, int],
    factor: float,
    seed: int,
    batch_size: int,
    passed: dict[str, Any],
    score: Score,
    pipe: Any,
) -> Sweep:
    """The sweep over prompts and subsets; subset 0 is empty, so that its images are the plain ones."""
    head_map, texts = HeadMap.of(pipe), [prompt.prompt for prompt in prompts]
    count, subset_seed = count_and_seed
    subsets = random_subsets(head_map.all_heads, count, subset_seed)
    weakened: Bool[np.ndarray, "subsets all_heads"] = np.concatenate([np.zeros_like(subsets[:1]), subsets])
    axes: Axes = {"seed": (seed,), "prompt": range(len(texts)), "subset": range(count + 1)}
    settings = settings_of_pictures(pipe, texts) | passed | {
        "factor": factor,
        "score": getattr(score, "__name__", type(score).__name__),
        "all_heads": head_map.all_heads,
        "subset_seed": subset_seed,
        "subsets": f"{count} subsets, {digest_of(subsets.tobytes())}",
    }  # fmt: skip

    def generated(call: Call) -> Sequence[Any]:
        with hooked(pipe, weaken(head_map, weakened[call.numbers], factor=factor)):
            return generate(pipe, texts, seed, call.index("prompt"), output_type="pil", **passed)

    return Sweep(
        axes,
        settings,
        loops=("seed",),
        batch_size=batch_size,
        generate=generated,
        score=lambda call, images: score(images, [prompts[i] for i in call.index("prompt")]),
    )
