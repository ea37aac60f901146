r"""Does an image show everything that its prompt says, and does it help to strengthen words in their heads?

The words of one kind of atom, such as counts, are strengthened in the heads of their concept:

    plain           no steering
    effect          `headwise.amplify`, by effect: a dose of `dial`
    votes           `headwise.strengthen`, by votes: a strength of `dial`
    random heads    the factors of "effect", permuted over all heads
    all heads       the factor 1 + dial in every head, which is the same dose

Every image is scored by the means of `atoms.soft_tifa` over all atoms of its prompt, and by the fraction of
the atoms of that kind that hold. Images of different methods start from the same latents.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple, Unpack
from zlib import crc32

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.atoms import counted, score_atoms, soft_tifa
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.comparison import (
    Comparison,
    given_options,
    keep_methods,
    known_methods,
    spread_evenly,
)
from headwise.benchmarks.method_results import Atoms
from headwise.benchmarks.prompts.atoms import AtomPrompt
from headwise.benchmarks.sweep import Call, RunOptions, Sweep, run_sweep
from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.hooks import Hook
from headwise.model.pipelines import settings_of_pictures
from headwise.steering.dose import amplify
from headwise.steering.steer import Steer, strengthen

__all__ = ["METHODS", "METRICS", "Atoms", "atom_scores", "benchmark_atoms"]

METRICS = Atoms.METRICS
METHODS = ("plain", "effect", "votes", "random heads", "all heads")
NEEDS = {"effect": "effect", "random heads": "effect", "votes": "relevance"}


def benchmark_atoms(
    pipe: Any,
    prompts: Sequence[AtomPrompt],
    scorer: CLIPScorer,
    *,
    kind: str = "count",
    concept: str = "Counting",
    effect: Relevance | None = None,
    relevance: Relevance | None = None,
    dial: float | int = 1.0,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    batch_size: int = 16,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    **run: Unpack[RunOptions],
) -> Atoms:
    """Generate every prompt by every method from every seed, and score which of its atoms the image shows.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the prompts (runs/ray.py).
        prompts: Prompts with their atoms, each with a word of the kind, as `prompts_with` selects them.
        scorer: A CLIP model that compares images with texts.
        kind: The kind of atoms whose words are strengthened.
        concept: The concept of these words.
        effect: Relevance by effect, for "effect" and "random heads".
        relevance: Relevance by votes, for "votes". One of the two is needed.
        dial: How much the words are strengthened; 0 leaves images unchanged.
        methods: Some of `METHODS`; if None, all whose arguments are given.
        seeds: Each prompt is generated once from each seed.
        batch_size: Images per pipeline call.
        keep_prompts: The number of prompts, evenly spaced, whose images of the first seed are saved in
            `out`/pictures.
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.

    Raises:
        HeadwiseError: A method is unknown or lacks an argument, or a prompt has no word of the kind.
    """
    if (measured := relevance if effect is None else effect) is None:
        raise HeadwiseError("Neither `effect` nor `relevance` was given. Give one or both.")
    given = {"effect": effect, "relevance": relevance}
    lacking = {method: name for method, name in NEEDS.items() if given[name] is None}
    known = known_methods(methods, METHODS, prompts, "prompt with atoms", lacking)
    _require_words(prompts, kind)
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width
    )
    compared = (measured, tuple(prompts), known, tuple(seeds), batch_size, keep_prompts, passed)
    steers = _steers(known, effect, relevance, concept, float(dial))
    weights = {name: each.settings.get("weights") for name, each in given.items() if each is not None}
    steering = _Steering(kind, {"concept": concept, "dial": float(dial)} | weights, steers)
    sweep = partial(_sweep, Comparison(*compared), scorer, steering)
    scores = run_sweep(pipe, sweep, kind="atoms", together=batch_size, **run)
    return Atoms(scores, tuple(prompt.group for prompt in prompts))


def _require_words(prompts: Sequence[AtomPrompt], kind: str) -> None:
    """HeadwiseError at a prompt without a word of this kind."""
    wordless = [prompt.prompt for prompt in prompts if not prompt.words(kind)]
    if wordless:
        raise HeadwiseError(
            f'No word of "{wordless[0]}" states an atom of the kind {kind!r}. Give prompts that have one, '
            f"such as `prompts_with(prompts, {kind!r})`."
        )


class _Steering(NamedTuple):
    """How the words are strengthened.

    Args:
        kind: The kind of atoms whose words are strengthened.
        settings: The settings that determine the scores.
        steers: The steering of each method, without its words.
    """

    kind: str
    settings: dict[str, Any]
    steers: dict[str, Steer]

    def hooks(self, method: str, prompts: Sequence[AtomPrompt]) -> list[Hook]:
        """A method's hooks for one batch: one for the first word of each prompt, one for the second …"""
        if method not in self.steers:
            return []
        words = zip_longest(*(prompt.words(self.kind) for prompt in prompts))
        return [replace(self.steers[method], word=list(each)) for each in words]


def _steers(
    methods: Sequence[str],
    effect: Relevance | None,
    relevance: Relevance | None,
    concept: str,
    dial: float,
) -> dict[str, Steer]:
    """The steering of each of these methods, not yet of a word."""
    steers: dict[str, Steer] = {}
    if effect is not None and {"effect", "random heads"} & set(methods):
        by_effect = amplify(effect, None, concept, dial)
        steers = {"effect": by_effect, "random heads": by_effect.control("random heads")}
    if relevance is not None and "votes" in methods:
        steers["votes"] = strengthen(relevance, None, concept, dial)
    measured = effect if effect is not None else relevance
    if measured is not None:
        factors = np.full((1, measured.values.shape[1]), 1 + dial)
        steers["all heads"] = Steer(factors, head_map=measured.head_map)
    return {method: steer for method, steer in steers.items() if method in methods}


def _sweep(comparison: Comparison, scorer: CLIPScorer, steering: _Steering, pipe: Any) -> Sweep:
    """The sweep over methods, seeds and prompts."""
    prompts, passed = comparison.prompts, comparison.passed
    texts = [prompt.prompt for prompt in prompts]
    settings = settings_of_pictures(pipe, texts) | passed | {"noise": "seed"}
    settings |= {"scorer": scorer.weights, "kind": steering.kind} | steering.settings
    settings |= {"groups": [prompt.group for prompt in prompts]}
    settings |= {"atoms": f"{crc32(repr([prompt.atoms for prompt in prompts]).encode()):08x}"}

    def generated(call: Call) -> Sequence[Any]:
        hooks = steering.hooks(call.label("method"), comparison.of(call))
        with hooked(pipe, *hooks):
            return generate(pipe, texts, call.label("seed"), call.numbers, **passed | {"output_type": "pil"})

    return Sweep(
        {
            "method": comparison.methods,
            "measure": METRICS,
            "seed": comparison.seeds,
            "prompt": range(len(texts)),
        },
        settings,
        loops=("method", "seed"),
        batch_size=comparison.batch_size,
        generate=generated,
        score=lambda call, images: atom_scores(scorer, images, comparison.of(call), steering.kind).T,
        keep=keep_methods(texts, spread_evenly(comparison.keep_prompts, len(texts))),
    )


def atom_scores(
    scorer: CLIPScorer, images: Sequence[Any], prompts: Sequence[AtomPrompt], kind: str
) -> Float[np.ndarray, "prompts metrics"]:
    """The three metrics of each image.

    Args:
        scorer: A CLIP model that compares images with texts.
        images: The images.
        prompts: The prompt of each image.
        kind: The kind of atoms whose accuracy is measured.
    """
    rows = []
    for prompt, (probabilities, holds) in zip(prompts, score_atoms(scorer, images, prompts), strict=True):
        means = soft_tifa(prompt.atoms, probabilities, holds)
        of_kind = np.array([atom.kind == kind for atom in prompt.atoms])
        right = (holds & counted(prompt.atoms, holds))[of_kind]
        rows.append([means.am, means.gm, float(right.mean())])
    return np.array(rows)
