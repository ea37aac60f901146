r"""How often is a word with two senses misread, plain and adjusted, and what else does a method change?

An image is scored by

    misread    1 if another text of its prompt fits better than the one that describes the intended sense
    thing      1 if the scorer chooses the prompt's object among the other objects of that word
    kept       the similarity with the plain image of the same prompt and seed; 1 for "plain"

The methods are

    plain, rewording         no steering; the prompt reworded without the ambiguity
    adjust                   `headwise.adjust`, by votes
    uniform, random heads, layer means
                             its controls, without the relevance of individual heads (`Steer.control`)
    gate                     `headwise.gate`, by effect
    gate, uniform    gate, random heads    gate, layer means
                             its controls
    contrast                 `headwise.contrast`, by effect
    contrast, uniform    contrast, random heads    contrast, layer means
                             its controls
    span, neighbours         words of the intended concept in place of the word, in all heads
                             (`steering.word_mixture`)

Images of different methods start from the same latents. Whether an image shows both senses is not scored:
a text that names both contains the words of each, and CLIP hardly distinguishes which word belongs to which
object. People can (`headwise study`).

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Unpack

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.comparison import (
    Comparison,
    given_options,
    keep_methods,
    known_methods,
    spread_evenly,
)
from headwise.benchmarks.method_results import Polysemy
from headwise.benchmarks.prompts.evaluation import PolysemyPrompt
from headwise.benchmarks.sweep import Call, RunOptions, Sweep, run_sweep
from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.hooks import Hook
from headwise.model.pipelines import settings_of_pictures
from headwise.steering.dose import contrast, gate
from headwise.steering.steer import Steer, adjust
from headwise.steering.word_mixture import MIXTURES, mixed_words

__all__ = ["BY_HEADS", "METHODS", "METRICS", "Polysemy", "benchmark_polysemy", "sense_scores"]

METRICS = Polysemy.METRICS
CONTROLS = ("uniform", "random heads", "layer means")
BY_VOTES = (*CONTROLS, "adjust")
BY_EFFECT = tuple(
    name for each in ("gate", "contrast") for name in (*(f"{each}, {c}" for c in CONTROLS), each)
)
BY_HEADS = ("adjust", "gate", "contrast")  # the other methods are their baselines and controls
METHODS = ("plain", "rewording", *BY_VOTES, *BY_EFFECT, *MIXTURES)


def benchmark_polysemy(
    pipe: Any,
    relevance: Relevance,
    prompts: Sequence[PolysemyPrompt],
    scorer: CLIPScorer,
    *,
    effect: Relevance | None = None,
    concepts: ConceptSet | None = None,
    methods: Sequence[str] | None = None,
    strength: float | int = 1.0,
    clamp: float | int | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    batch_size: int = 16,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    **run: Unpack[RunOptions],
) -> Polysemy:
    """Generate every prompt by every method from every seed, and score what each image shows.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the prompts (runs/ray.py).
        relevance: Relevance by votes, measured on this model, with its head map.
        prompts: Prompts with a two-sense word, and texts that describe the senses an image may show.
        scorer: A CLIP model that compares images with texts and with each other.
        effect: Relevance by effect, for "gate", "contrast" and their controls.
        concepts: The words of the concepts, for "span" and "neighbours".
        methods: Some of `METHODS`; if None, all whose arguments are given.
        strength, clamp: Options of `headwise.adjust`; gates and contrast have a strength of at most 1.
        seeds: Each prompt is generated once from each seed.
        keep_prompts: The number of prompts, evenly spaced, whose images of the first seed are saved in
            `out`/pictures.
        batch_size: Images per pipeline call. Plain images are generated for comparison even if "plain" is
            not among the methods.
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.

    Raises:
        HeadwiseError: A method is unknown or lacks an argument, or `relevance` is not by votes.
    """
    lacking = {method: "effect" for method in BY_EFFECT if effect is None}
    lacking |= {method: "concepts" for method in MIXTURES if concepts is None}
    known = known_methods(methods, METHODS, prompts, "prompt with a two-sense word", lacking)
    if relevance.kind != "votes" and set(known) & set(BY_VOTES):
        raise HeadwiseError(
            f"Relevance by {relevance.kind} was given, but words are adjusted by votes. Give this relevance "
            "as `effect` (--effect), and relevance by votes as `relevance`."
        )
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width
    )
    comparison = Comparison(
        relevance, tuple(prompts), known, tuple(seeds), batch_size, keep_prompts,
        passed,
    )  # fmt: skip
    steering = _Steering(relevance, effect, concepts, float(strength), clamp)
    sweep = partial(_sweep, comparison, scorer, steering)
    return Polysemy.of_scores(run_sweep(pipe, sweep, kind="polysemy", together=batch_size, **run))


class _Steering(NamedTuple):
    """The steering of all methods; arguments as in `benchmark_polysemy`."""

    relevance: Relevance
    effect: Relevance | None
    concepts: ConceptSet | None
    strength: float
    clamp: float | int | None

    def hooks(self, pipe: Any, method: str, prompts: list[PolysemyPrompt]) -> list[Hook]:
        """A method's hooks for one batch, with a word and factors for each row."""
        words = [prompt.word for prompt in prompts]
        if method in ("plain", "rewording"):
            return []
        if method in MIXTURES:
            assert self.concepts is not None
            meant = [self.concepts.words(prompt.toward) for prompt in prompts]
            return [mixed_words(pipe, method, words, meant, 1 - self.strength, self.strength)]  # type: ignore[arg-type]
        steers = [self._steer(method, prompt) for prompt in prompts]
        factors = np.concatenate([steer.factors for steer in steers])
        steer = Steer(factors, words, head_map=self.relevance.head_map)
        control = method.split(", ")[-1]
        return [steer.control(control) if control in CONTROLS else steer]  # type: ignore[arg-type]

    def _steer(self, method: str, prompt: PolysemyPrompt) -> Steer:
        senses = (prompt.word, prompt.toward, prompt.away)
        if method not in BY_EFFECT:
            return adjust(self.relevance, *senses, self.strength, clamp=self.clamp)
        assert self.effect is not None
        turn = gate if method.startswith("gate") else contrast
        return turn(self.effect, *senses, min(1.0, self.strength))


def _sweep(comparison: Comparison, scorer: CLIPScorer, steering: _Steering, pipe: Any) -> Sweep:
    """The sweep over methods, seeds and prompts."""
    prompts, passed = comparison.prompts, comparison.passed
    plain, reworded = [prompt.case.prompt for prompt in prompts], [prompt.reworded for prompt in prompts]
    texts = {method: reworded if method == "rewording" else plain for method in comparison.methods}
    settings = settings_of_pictures(pipe, plain + reworded) | passed
    settings |= {"measures": METRICS, "strength": steering.strength, "clamp": steering.clamp}
    settings |= {"scorer": scorer.weights, "relevance": steering.relevance.settings.get("weights")}
    if steering.effect is not None:
        settings |= {"effect": steering.effect.settings.get("weights")}
    settings |= {"words": [prompt.word for prompt in prompts]}
    settings |= {"things": [len(prompt.things) for prompt in prompts]}
    kept = spread_evenly(comparison.keep_prompts, len(prompts))

    def images(texts: Sequence[str], seed: int, numbers: Sequence[int], *hooks: Hook) -> Sequence[Any]:
        with hooked(pipe, *hooks):
            return generate(pipe, texts, seed, numbers, output_type="pil", **passed)

    @lru_cache(1)  # the plain images of a call's prompts are generated once for all methods
    def generate_plain(seed: int, numbers: tuple[int, ...]) -> Sequence[Any]:
        return images(plain, seed, numbers)

    def plain_images(call: Call) -> Sequence[Any]:
        return generate_plain(call.label("seed"), tuple(call.numbers))

    def generated(call: Call) -> Sequence[Any]:
        method = call.label("method")
        if method == "plain":
            return plain_images(call)
        hooks = steering.hooks(pipe, method, comparison.of(call))
        return images(texts[method], call.label("seed"), call.numbers, *hooks)

    return Sweep(
        {
            "method": comparison.methods,
            "measure": METRICS,
            "seed": comparison.seeds,
            "prompt": range(len(prompts)),
        },
        settings,
        loops=("seed", "prompt", "method"),
        batch_size=comparison.batch_size,
        generate=generated,
        score=lambda call, images: sense_scores(scorer, comparison.of(call), plain_images(call), images),
        keep=lambda call, images: keep_methods(texts[call.label("method")], kept)(call, images),
    )


def sense_scores(
    scorer: CLIPScorer, prompts: Sequence[PolysemyPrompt], plain: Sequence[Any], images: Sequence[Any]
) -> Float[np.ndarray, "metrics prompts"]:
    """The three metrics of each image; the object counts as shown if the prompt lists no others.

    Args:
        scorer: A CLIP model that compares images with texts and with each other.
        prompts: The prompt of each image.
        plain: The plain image of each prompt.
        images: The images.
    """
    misread = scorer.choose(images, [prompt.case.texts for prompt in prompts]) != 0
    thing = scorer.choose(images, [prompt.things or prompt.case.texts[:1] for prompt in prompts]) == 0
    return np.stack([misread, thing, scorer.image_similarity(plain, images)]).astype(np.float64)
