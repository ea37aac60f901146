r"""Are all subjects of a prompt there?

    full      cosine of the scorer between the picture and the whole prompt
    minimum   the smaller of the cosines with the two subjects alone
    caption   cosine between the prompt and the caption that fits the picture best, of all prompts of its type

A new method is one more row of `COMPOSING`.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.method_results import MultiConcept
from headwise.benchmarks.prompts import MultiSubjectPrompt
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
from headwise.editing.attend_and_excite import Excite, excite
from headwise.editing.baselines.composable import compose
from headwise.editing.support import require_support
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import settings_of_pictures

__all__ = ["COMPOSING", "METRICS", "MultiConcept", "benchmark_multi_concept", "subject_scores"]

METRICS = MultiConcept.METRICS


def benchmark_multi_concept(
    pipe: Any,
    relevance: Relevance,
    prompts: Sequence[MultiSubjectPrompt],
    scorer: CLIPScorer,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    batch_size: int = 16,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    **run: Unpack[RunOptions],
) -> MultiConcept:
    """Generate every prompt by every method from every seed.

    Args:
        pipe: The user's pipeline, which is left as it was; or workers, which share the prompts (runs/ray.py).
        relevance: As measured on this model, with its head map.
        prompts: Prompts with their subjects.
        scorer: A CLIP model that compares pictures with texts.
        methods: Some of `COMPOSING`; all if None.
        seeds: Each prompt is generated once from each seed, as `headwise excite --seeds` generates it.
        keep_prompts: How many prompts' pictures to save in `out`/pictures, spread evenly, first seed.
        batch_size: Pictures per pipeline call.
        num_inference_steps, guidance_scale: Passed to the pipeline.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.
    """
    comparison = Comparison(
        relevance, tuple(prompts), known_methods(methods, COMPOSING, prompts, "prompt with its subjects"),
        tuple(seeds), batch_size, keep_prompts,
        {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale},
    )  # fmt: skip
    sweep = partial(_sweep, comparison, scorer)
    scores = run_sweep(pipe, sweep, kind="multi-concept", together=batch_size, **run)
    return MultiConcept(scores, tuple(prompt.kind for prompt in prompts))


def _sweep(comparison: Comparison, scorer: CLIPScorer, pipe: Any) -> Sweep:
    """The sweep over methods, seeds and prompts."""
    relevance, prompts, passed = comparison.relevance, comparison.prompts, comparison.passed
    methods, seeds = comparison.methods, comparison.seeds
    texts, types = [prompt.prompt for prompt in prompts], [prompt.kind for prompt in prompts]
    require_support(pipe, *(compose if method == "composable" else Excite for method in methods))
    settings = settings_of_pictures(pipe, texts) | passed | {"noise": "seed"}
    settings |= {"relevance": relevance.settings.get("weights"), "types": types}
    captions = {kind: sorted({p.prompt for p in prompts if p.kind == kind}) for kind in types}

    def generate(call: Call) -> Sequence[Any]:
        batch = Composition(pipe, relevance, comparison.of(call), call.labels("seed"), passed)
        return COMPOSING[call.label("method")](batch)

    return Sweep(
        {"method": methods, "measure": METRICS, "seed": seeds, "prompt": range(len(texts))},
        settings,
        loops=("method", "seed"),
        batch_size=comparison.batch_size,
        generate=generate,
        score=lambda call, images: subject_scores(scorer, comparison.of(call), images, captions).T,
        keep=keep_methods(texts, spread_evenly(comparison.keep_prompts, len(texts))),
    )


def subject_scores(
    scorer: CLIPScorer,
    prompts: Sequence[MultiSubjectPrompt],
    images: Sequence[Any],
    captions: Mapping[str, Sequence[str]],
) -> Float[np.ndarray, "prompts metrics"]:
    """The three metrics of each picture.

    Args:
        scorer: A CLIP model that compares pictures with texts.
        prompts: The prompt of each picture.
        images: The pictures.
        captions: The captions to choose among, by the prompts' type.
    """
    rows = []
    for prompt, image in zip(prompts, scorer.embed_images(images), strict=True):
        texts = scorer.embed_texts([prompt.prompt, *prompt.subjects])
        full, *each_subject = (texts @ image).tolist()
        choices = captions[prompt.kind]
        best = choices[int((scorer.embed_texts(choices) @ image).argmax())]
        rows.append([full, min(each_subject), float(scorer.embed_texts([best])[0] @ texts[0])])
    return np.array(rows)


@dataclass(frozen=True)
class Composition:
    """What a method gets: prompts to generate in one call.

    Args:
        pipe: The pipeline.
        relevance: As measured, with its head map.
        prompts: Prompts with their subjects.
        seeds: The seed of each prompt's first latents.
        passed: Options of the pipeline call.
    """

    pipe: Any
    relevance: Relevance
    prompts: Sequence[MultiSubjectPrompt]
    seeds: Sequence[int]
    passed: Mapping[str, Any]

    def excited(self, **options: Any) -> Sequence[Any]:
        """One picture per prompt by Attend-and-Excite, with options of `Excite`."""
        hook = Excite([prompt.words for prompt in self.prompts], **options)
        texts = [prompt.prompt for prompt in self.prompts]
        return excite(self.pipe, texts, hook, seeds=self.seeds, **self.passed)


def _by_relevance(batch: Composition) -> Sequence[Any]:
    concepts = {word: concept for prompt in batch.prompts for word, concept in prompt.concepts.items()}
    return batch.excited(relevance=batch.relevance, concepts=concepts)


def _composable(batch: Composition) -> Sequence[Any]:
    rows = zip(batch.prompts, batch.seeds, strict=True)
    return [compose(batch.pipe, prompt.subjects, seeds=[seed], **batch.passed)[0] for prompt, seed in rows]


COMPOSING: dict[str, Callable[[Composition], Sequence[Any]]] = {
    "plain": lambda batch: batch.excited(thresholds={0.0: 0.0}),
    "composable": _composable,
    "attend-and-excite": lambda batch: batch.excited(),
    "relevance": _by_relevance,
}
