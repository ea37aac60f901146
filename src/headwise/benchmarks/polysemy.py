r"""How often is a word with two senses misread, plain and adjusted?

The controls are the adjustment without what is claimed for heads (`Steer.control`) and the prompt put more
plainly. Pictures of different methods start from the same latents.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np

from headwise.benchmarks.prompts import PolysemyPrompt
from headwise.benchmarks.results import Polysemy
from headwise.benchmarks.sweep import Call, RunOptions, Sweep, keep_methods, run_sweep, spread_evenly
from headwise.benchmarks.weakening import Score
from headwise.errors import HeadwiseError
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
    _check(methods, prompts)
    adjusted = _Adjusted(
        relevance, tuple(prompts), score, tuple(methods), strength, clamp, tuple(seeds), batch_size,
        keep_prompts, {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale},
    )  # fmt: skip
    scores = run_sweep(pipe, adjusted, kind="polysemy", together=batch_size, **run)
    return Polysemy(scores, tuple(prompt.word for prompt in prompts))


@dataclass(frozen=True)
class _Adjusted:
    """From a pipeline to the sweep over methods, seeds and prompts."""

    relevance: Relevance
    prompts: tuple[PolysemyPrompt, ...]
    score: Score
    methods: tuple[str, ...]
    strength: float | int
    clamp: float | int | None
    seeds: tuple[int, ...]
    batch_size: int
    keep_prompts: int
    passed: dict[str, Any]

    def __call__(self, pipe: Any) -> Sweep:
        plain = [prompt.case.prompt for prompt in self.prompts]
        reworded = [prompt.reworded for prompt in self.prompts]
        settings = settings_of_pictures(pipe, plain + reworded) | self.passed
        settings |= {"strength": float(self.strength), "clamp": self.clamp}
        settings |= {"relevance": self.relevance.settings.get("weights")}
        settings |= {"words": [prompt.word for prompt in self.prompts]}
        keep = {
            method: keep_methods(
                reworded if method == "rewording" else plain, spread_evenly(self.keep_prompts, len(plain))
            )
            for method in self.methods
        }
        return Sweep(
            {"method": self.methods, "seed": self.seeds, "prompt": range(len(plain))},
            settings,
            loops=("method", "seed"),
            batch_size=self.batch_size,
            generate=partial(self._generate, pipe, plain, reworded),
            score=lambda call, images: 1 - self.score(images, [self.prompts[n].case for n in call.numbers]),
            keep=lambda call, images: keep[call.label("method")](call, images),
        )

    def _generate(self, pipe: Any, plain: list[str], reworded: list[str], call: Call) -> Sequence[Any]:
        method, texts = call.label("method"), plain
        if method == "rewording":
            texts = reworded
        with hooked(pipe, *self._hooks(method, [self.prompts[n] for n in call.numbers])):
            return generate(pipe, texts, call.label("seed"), call.numbers, output_type="pil", **self.passed)

    def _hooks(self, method: str, prompts: list[PolysemyPrompt]) -> list[Steer]:
        """What a method puts into the pipeline for one batch: each row its own word and factors."""
        if method in ("plain", "rewording"):
            return []
        factors = [
            adjust(self.relevance, p.word, p.toward, p.away, self.strength, clamp=self.clamp).factors
            for p in prompts
        ]
        words = [prompt.word for prompt in prompts]
        steer = Steer(np.concatenate(factors), words, head_map=self.relevance.head_map)
        return [steer if method == "adjust" else steer.control(method)]  # type: ignore[arg-type]


def _check(methods: Sequence[str], prompts: Sequence[PolysemyPrompt]) -> None:
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise HeadwiseError(f"{unknown[0]!r} is not a method. The methods are: {', '.join(METHODS)}.")
    if not prompts:
        raise HeadwiseError("No prompt with a two-sense word was given. Give one or more.")
