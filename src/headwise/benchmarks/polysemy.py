r"""How often is a word with two senses misread, plain and adjusted?

The controls are the adjustment without what is claimed for heads (`Steer.control`) and the prompt put more
plainly. Pictures of different methods start from the same latents.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np

from headwise.benchmarks.prompts import PolysemyPrompt
from headwise.benchmarks.results import Polysemy
from headwise.benchmarks.sweep import (
    Call,
    Comparison,
    RunOptions,
    Sweep,
    keep_methods,
    known_methods,
    run_sweep,
    spread_evenly,
)
from headwise.benchmarks.weakening import Score
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import settings_of_pictures
from headwise.steering.steer import Steer, adjust

__all__ = ["METHODS", "Polysemy", "benchmark_polysemy"]

METHODS = ("plain", "rewording", "uniform", "random heads", "layer means", "adjust")


def benchmark_polysemy(
    pipe: Any,
    relevance: Relevance,
    prompts: Sequence[PolysemyPrompt],
    score: Score,
    *,
    methods: Sequence[str] = METHODS,
    strength: float | int = 1.0,
    clamp: float | int | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    batch_size: int = 16,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    **run: Unpack[RunOptions],
) -> Polysemy:
    """Generate every prompt with every method from every seed, and score which sense each picture shows.

    Args:
        pipe: The user's pipeline, which is left as it was; or workers, which share the prompts (runs/ray.py).
        relevance: As measured on this model, with its head map.
        prompts: Prompts with a two-sense word, and the texts of the senses that pictures may show.
        score: 1 for pictures that show the first text of their prompt, 0 for the others:
            `clip_scorer.scoring` with "choice".
        methods: "plain", "rewording" (each prompt's plainer form), "adjust", and its controls "uniform",
            "random heads", "layer means".
        strength, clamp: Options of adjusting, see `headwise.adjust`.
        seeds: Each prompt is generated once from each seed.
        keep_prompts: How many prompts' pictures to save in `out`/pictures, spread evenly, first seed.
        batch_size: Pictures per pipeline call.
        num_inference_steps, guidance_scale: Passed to the pipeline.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.
    """
    comparison = Comparison(
        relevance, tuple(prompts), known_methods(methods, METHODS, prompts, "prompt with a two-sense word"),
        tuple(seeds), batch_size, keep_prompts,
        {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale},
    )  # fmt: skip
    sweep = partial(_sweep, comparison, score, strength, clamp)
    scores = run_sweep(pipe, sweep, kind="polysemy", together=batch_size, **run)
    return Polysemy(scores, tuple(prompt.word for prompt in prompts))


def _sweep(
    comparison: Comparison, score: Score, strength: float | int, clamp: float | int | None, pipe: Any
) -> Sweep:
    """The sweep over methods, seeds and prompts."""
    relevance, prompts = comparison.relevance, comparison.prompts
    plain, reworded = [prompt.case.prompt for prompt in prompts], [prompt.reworded for prompt in prompts]
    texts = {method: reworded if method == "rewording" else plain for method in comparison.methods}
    settings = settings_of_pictures(pipe, plain + reworded) | comparison.passed
    settings |= {"strength": float(strength), "clamp": clamp, "relevance": relevance.settings.get("weights")}
    settings |= {"words": [prompt.word for prompt in prompts]}
    kept = spread_evenly(comparison.keep_prompts, len(prompts))

    def hooks(method: str, prompts: list[PolysemyPrompt]) -> list[Steer]:
        """What a method puts into the pipeline for one batch: each row its own word and factors."""
        if method in ("plain", "rewording"):
            return []
        factors = [
            adjust(relevance, p.word, p.toward, p.away, strength, clamp=clamp).factors for p in prompts
        ]
        words = [prompt.word for prompt in prompts]
        steer = Steer(np.concatenate(factors), words, head_map=relevance.head_map)
        return [steer if method == "adjust" else steer.control(method)]  # type: ignore[arg-type]

    def generated(call: Call) -> Sequence[Any]:
        method, options = call.label("method"), comparison.passed | {"output_type": "pil"}
        with hooked(pipe, *hooks(method, comparison.of(call))):
            return generate(pipe, texts[method], call.label("seed"), call.numbers, **options)

    return Sweep(
        {"method": comparison.methods, "seed": comparison.seeds, "prompt": range(len(prompts))},
        settings,
        loops=("method", "seed"),
        batch_size=comparison.batch_size,
        generate=generated,
        score=lambda call, images: 1 - score(images, [prompt.case for prompt in comparison.of(call)]),
        keep=lambda call, images: keep_methods(texts[call.label("method")], kept)(call, images),
    )
