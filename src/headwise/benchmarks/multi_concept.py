r"""Does an image show all subjects of its prompt?

Images are scored by

    full      the scorer's cosine between the image and the whole prompt
    minimum   the smallest of the cosines with each subject alone
    caption   the cosine between the prompt and the caption, among all prompts of its type, that fits the
              image best
    am, gm    the means over the prompt's atoms, its objects and their colours, as in atoms.py

and the methods are

    plain, composable                  no steering; one prompt for each subject
    attend-and-excite, relevance       moving latents by the gradient of maps, plain or weighted by relevance
    neglected                          the least attended subject strengthened in its heads, with no gradient
    neglected, random heads            the same factors, permuted over heads
    all subjects                       every subject strengthened in its heads, from the first call on

A new method needs one more entry in `COMPOSING`.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.atoms import score_atoms, soft_tifa
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.comparison import (
    Comparison,
    given_options,
    keep_methods,
    known_methods,
    spread_evenly,
    supported_methods,
)
from headwise.benchmarks.method_results import MultiConcept
from headwise.benchmarks.prompts.atom_texts import Draft, DraftPrompt, atom_prompts
from headwise.benchmarks.prompts.atoms import AtomPrompt
from headwise.benchmarks.prompts.evaluation import MultiSubjectPrompt
from headwise.benchmarks.prompts.nouns import COMMON_THINGS
from headwise.benchmarks.sweep import Call, RunOptions, Sweep, run_sweep
from headwise.editing.attend_and_excite import Excite
from headwise.editing.baselines.composable import compose
from headwise.editing.neglected import StrengthenNeglected
from headwise.editing.support import require_support
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.hooks import Hook
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.steering.dose import amplify
from headwise.steering.steer import Steer, strengthen

__all__ = [
    "COMPOSING",
    "METRICS",
    "MultiConcept",
    "benchmark_multi_concept",
    "subject_atoms",
    "subject_scores",
]

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
    height: int | None = None,
    width: int | None = None,
    **run: Unpack[RunOptions],
) -> MultiConcept:
    """Generate every prompt by every method from every seed.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the prompts (runs/ray.py).
        relevance: Relevance measured on this model, with its head map.
        prompts: Prompts with their subjects.
        scorer: A CLIP model that compares images with texts.
        methods: Some of `COMPOSING`; if None, all that work on the pipeline, with a warning about the others.
        seeds: Each prompt is generated once from each seed, as `headwise excite --seeds` generates it.
        keep_prompts: The number of prompts, evenly spaced, whose images of the first seed are saved in
            `out`/pictures.
        batch_size: Images per pipeline call.
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.
    """
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width
    )
    comparison = Comparison(
        relevance, tuple(prompts), known_methods(methods, COMPOSING, prompts, "prompt with its subjects"),
        tuple(seeds), batch_size, keep_prompts,
        passed, methods is not None,
    )  # fmt: skip
    sweep = partial(_sweep, comparison, scorer)
    scores = run_sweep(pipe, sweep, kind="multi-concept", together=batch_size, **run)
    return MultiConcept(scores, tuple(prompt.kind for prompt in prompts))


def _sweep(comparison: Comparison, scorer: CLIPScorer, pipe: Any) -> Sweep:
    """The sweep over methods, seeds and prompts."""
    relevance, prompts, passed = comparison.relevance, comparison.prompts, comparison.passed
    require = lambda method: require_support(pipe, *NEEDS.get(method, ()))  # noqa: E731
    methods = supported_methods(comparison.methods, require, comparison.by_name)
    seeds = comparison.seeds
    texts, types = [prompt.prompt for prompt in prompts], [prompt.kind for prompt in prompts]
    settings = settings_of_pictures(pipe, texts) | passed | {"noise": "seed"}
    settings |= {"scorer": scorer.weights, "relevance": relevance.settings.get("weights"), "types": types}
    captions = {kind: sorted({p.prompt for p in prompts if p.kind == kind}) for kind in types}
    atoms = subject_atoms(prompts)

    def generate(call: Call) -> Sequence[Any]:
        batch = Composition(pipe, relevance, comparison.of(call), call.labels("seed"), passed)
        return COMPOSING[call.label("method")](batch)

    def score(call: Call, images: Sequence[Any]) -> Float[np.ndarray, "metrics prompts"]:
        chosen = [atoms[n] for n in call.numbers]
        return subject_scores(scorer, comparison.of(call), images, captions, chosen).T

    return Sweep(
        {"method": methods, "measure": METRICS, "seed": seeds, "prompt": range(len(texts))},
        settings,
        loops=("method", "seed"),
        batch_size=comparison.batch_size,
        generate=generate,
        score=score,
        keep=keep_methods(texts, spread_evenly(comparison.keep_prompts, len(texts))),
    )


def subject_scores(
    scorer: CLIPScorer,
    prompts: Sequence[MultiSubjectPrompt],
    images: Sequence[Any],
    captions: Mapping[str, Sequence[str]],
    atoms: Sequence[AtomPrompt],
) -> Float[np.ndarray, "prompts metrics"]:
    """The metrics of each image.

    Args:
        scorer: A CLIP model that compares images with texts.
        prompts: The prompt of each image.
        images: The images.
        captions: The captions to choose among, by the prompts' type.
        atoms: The atoms of each prompt, as `subject_atoms` returns them.
    """
    means = [
        soft_tifa(each.atoms, probabilities, holds)
        for each, (probabilities, holds) in zip(atoms, score_atoms(scorer, images, atoms), strict=True)
    ]
    rows = []
    for prompt, image, mean in zip(prompts, scorer.embed_images(images), means, strict=True):
        texts = scorer.embed_texts([prompt.prompt, *prompt.subjects])
        full, *each_subject = (texts @ image).tolist()
        choices = captions[prompt.kind]
        best = choices[int((scorer.embed_texts(choices) @ image).argmax())]
        rows.append([full, min(each_subject), float(scorer.embed_texts([best])[0] @ texts[0]), *mean])
    return np.array(rows)


def subject_atoms(prompts: Sequence[MultiSubjectPrompt]) -> list[AtomPrompt]:
    """The atoms of each prompt: that its subjects are there, and the colour of those that have one.

    A colour counts only if its object is there. Wrong texts replace an object by the other objects of these
    prompts (by `COMMON_THINGS` if these are fewer than three), and a colour by ordinary colours.

    Args:
        prompts: Prompts with their subjects.
    """
    drafts = [DraftPrompt(each.prompt, tuple(_drafts(each)), each.kind) for each in prompts]
    few = len({word for each in prompts for word in each.words}) < 3
    return atom_prompts(drafts, COMMON_THINGS if few else ())[0]


def _drafts(prompt: MultiSubjectPrompt) -> Iterator[Draft]:
    for word in prompt.words:
        yield Draft("thing", word)
    for number, (word, subject) in enumerate(zip(prompt.words, prompt.subjects, strict=True)):
        color = subject.split()[1 : -len(word.split())]
        if color:
            yield Draft("color", " ".join(color), word, parents=(number,))


@dataclass(frozen=True)
class Composition:
    """The input of a method: prompts to generate in one call.

    Args:
        pipe: The pipeline.
        relevance: The measured relevance, with its head map.
        prompts: Prompts with their subjects.
        seeds: The seed of each prompt's initial latents.
        passed: Options of the pipeline call.
    """

    pipe: Any
    relevance: Relevance
    prompts: Sequence[MultiSubjectPrompt]
    seeds: Sequence[int]
    passed: Mapping[str, Any]

    @property
    def concepts(self) -> dict[str, str]:
        """The concept of each subject."""
        return {word: concept for prompt in self.prompts for word, concept in prompt.concepts.items()}

    @property
    def words(self) -> list[tuple[str, ...]]:
        """The subjects of each prompt."""
        return [prompt.words for prompt in self.prompts]

    def generated(self, *hooks: Hook) -> Sequence[Any]:
        """One image per prompt, generated with these hooks."""
        texts = [prompt.prompt for prompt in self.prompts]
        with quiet(self.pipe), hooked(self.pipe, *hooks):
            return generate_keys(self.pipe, texts, self.seeds, **self.passed)


def _by_relevance(batch: Composition) -> Sequence[Any]:
    return batch.generated(Excite(batch.words, relevance=batch.relevance, concepts=batch.concepts))


def _neglected(batch: Composition, random: bool = False) -> Sequence[Any]:
    hook = StrengthenNeglected(batch.words, batch.relevance, batch.concepts)
    return batch.generated(hook.at_random_heads() if random else hook)


def _all_subjects(batch: Composition) -> Sequence[Any]:
    relevance, concepts = batch.relevance, batch.concepts
    rule = amplify if relevance.kind == "effect" else strengthen
    factors: dict[str | None, np.ndarray]
    factors = {word: rule(relevance, None, concept).factors[0] for word, concept in concepts.items()}
    factors[None] = np.ones(relevance.values.shape[1])  # for prompts with fewer subjects than others
    hooks = [
        Steer(np.stack([factors[word] for word in words]), list(words), head_map=relevance.head_map)
        for words in zip_longest(*batch.words)
    ]
    return batch.generated(*hooks)


def _composable(batch: Composition) -> Sequence[Any]:
    rows = zip(batch.prompts, batch.seeds, strict=True)
    return [compose(batch.pipe, prompt.subjects, seeds=[seed], **batch.passed)[0] for prompt, seed in rows]


COMPOSING: dict[str, Callable[[Composition], Sequence[Any]]] = {
    "plain": lambda batch: batch.generated(),
    "composable": _composable,
    "attend-and-excite": lambda batch: batch.generated(Excite(batch.words)),
    "relevance": _by_relevance,
    "neglected": _neglected,
    "neglected, random heads": partial(_neglected, random=True),
    "all subjects": _all_subjects,
}
NEEDS = {"composable": (compose,), "attend-and-excite": (Excite,), "relevance": (Excite,)}
