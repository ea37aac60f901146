r"""Which editing method shows the target best, and keeps the source best?

Every method edits the same pairs of prompts from the same latents. The image of a target is scored by

    alignment      the scorer's cosine between the image and the target prompt
    accuracy       1 if the scorer chooses the target's word among the words of the attribute
    preservation   the similarity of source and target where nothing should change: outside the object's box
                   or, if the surroundings are edited, inside it
    identity       1 if the scorer chooses the prompt's object among others

"Target alone" edits nothing: the target is generated from its own prompt, which shows how well the model can
show it at all. "Random heads" has the factors of relevance, permuted over heads. The baselines are those of
`editing/baselines/table.py`.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from headwise.benchmarks.clip_scorer import CLIPScorer, without_object
from headwise.benchmarks.comparison import (
    Comparison,
    given_options,
    keep_methods,
    known_methods,
    spread_evenly,
    supported_methods,
)
from headwise.benchmarks.method_results import TARGET_ONLY, Editing
from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.sweep import Call, KeptImage, RunOptions, Sweep, run_sweep
from headwise.editing.baselines.table import BASELINES, Baseline
from headwise.editing.groups import generate_edits
from headwise.editing.prompt_to_prompt import PromptToPrompt
from headwise.editing.support import require_support
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import settings_of_pictures
from headwise.runs.image_names import ImageName

__all__ = [
    "EDITING",
    "METRICS",
    "TARGET_ONLY",
    "Editing",
    "benchmark_editing",
    "edit_scores",
    "with_random_heads",
]

METRICS = Editing.METRICS
Images = Sequence[Any]  # PIL images, or arrays if they are not scored


def benchmark_editing(
    pipe: Any,
    relevance: Relevance,
    pairs: Sequence[EditPair],
    scorer: CLIPScorer,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    batch_size: int = 16,
    keep_pairs: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    **run: Unpack[RunOptions],
) -> Editing:
    """Edit every pair by every method from every seed.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the pairs (runs/ray.py).
        relevance: Relevance measured on this model, with its head map.
        pairs: Source and target prompts, and the texts that their images are compared with.
        scorer: A CLIP model that compares images with texts and with each other.
        methods: Some of `EDITING`; if None, all that work on the pipeline, with a warning about the others.
        seeds: Each pair is generated once from each seed, as `headwise edit --seeds` generates it.
        keep_pairs: The number of pairs, evenly spaced, whose images of the first seed are saved in
            `out`/pictures.
        batch_size: Images per pipeline call, including sources.
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.
    """
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width
    )
    comparison = Comparison(
        relevance, tuple(pairs), known_methods(methods, EDITING, pairs, "pair of prompts"), tuple(seeds),
        max(1, batch_size // 2), keep_pairs,
        passed, methods is not None,
    )  # fmt: skip
    scores = run_sweep(pipe, partial(_sweep, comparison, scorer), kind="editing", together=batch_size, **run)
    return Editing(scores, tuple(pair.attribute for pair in pairs))


def _sweep(comparison: Comparison, scorer: CLIPScorer, pipe: Any) -> Sweep:
    """The sweep over methods, seeds and pairs."""
    relevance, pairs, passed = comparison.relevance, comparison.prompts, comparison.passed
    require = partial(_require_method, pipe)
    methods = supported_methods(comparison.methods, require, comparison.by_name)
    seeds = comparison.seeds
    settings = settings_of_pictures(pipe, [text for pair in pairs for text in (pair.source, pair.target)])
    settings |= passed | {"noise": "seed", "relevance": relevance.settings.get("weights")}
    settings |= {"scorer": scorer.weights, "attributes": [pair.attribute for pair in pairs]}
    kept = spread_evenly(comparison.keep_prompts, len(pairs))
    keep_edits = keep_methods([pair.target for pair in pairs], kept)

    @lru_cache(1)  # the sources of a call's pairs are generated once for all methods
    def generate_sources(seed: int, numbers: tuple[int, ...]) -> Images:
        texts, keys = [[pairs[n].source] for n in numbers], [seed] * len(numbers)
        return [group[0] for group in generate_edits(pipe, texts, [], seeds=keys, **passed)]

    def sources(call: Call) -> Images:
        return generate_sources(call.label("seed"), tuple(call.numbers))

    def generate(call: Call) -> Images:
        batch = Edits(pipe, relevance, comparison.of(call), call.labels("seed"), sources(call), passed)
        return EDITING[call.label("method")](batch)

    def keep(call: Call, images: Images) -> Iterator[KeptImage]:
        for number, seed, source in zip(call.numbers, call.index("seed"), sources(call), strict=True):
            if seed == 0 and number in kept:
                yield KeptImage(ImageName(number, "source"), source, pairs[number].source)
        yield from keep_edits(call, images)

    return Sweep(
        {"method": methods, "measure": METRICS, "seed": seeds, "pair": range(len(pairs))},
        settings,
        loops=("seed", "pair", "method"),
        batch_size=comparison.batch_size,
        generate=generate,
        score=lambda call, images: edit_scores(scorer, comparison.of(call), sources(call), images),
        keep=keep,
    )


def _require_method(pipe: Any, method: str) -> None:
    if method != TARGET_ONLY:
        require_support(pipe, BASELINES[method].object if method in BASELINES else PromptToPrompt)


def edit_scores(
    scorer: CLIPScorer, pairs: Sequence[EditPair], sources: Images, edited: Images
) -> Float[np.ndarray, "metrics pairs"]:
    """The four metrics of each edit.

    Args:
        scorer: A CLIP model that compares images with texts and with each other.
        pairs: The pair of each edit.
        sources: The image of each source prompt.
        edited: The image of each target prompt.
    """
    targets = scorer.embed_texts([pair.target for pair in pairs])
    alignment = (scorer.embed_images(edited) * targets).sum(-1).cpu().double().numpy()
    accuracy = scorer.choose(edited, [pair.texts for pair in pairs]) == 0
    identity = scorer.choose(edited, [pair.things for pair in pairs]) == 0
    covered = [
        [without_object(image, pair.mask(image.size)) for image, pair in zip(images, pairs, strict=True)]
        for images in (sources, edited)
    ]
    preservation = scorer.image_similarity(*covered)
    return np.stack([alignment, accuracy, preservation, identity]).astype(np.float64)


@dataclass(frozen=True)
class Edits:
    """The input of a method: pairs to edit in one call.

    Args:
        pipe: The pipeline.
        relevance: The measured relevance, with its head map.
        pairs: Source and target prompts.
        seeds: The seed of each pair's initial latents.
        sources: The image of each source prompt.
        passed: Options of the pipeline call.
    """

    pipe: Any
    relevance: Relevance
    pairs: Sequence[EditPair]
    seeds: Sequence[int]
    sources: Images
    passed: Mapping[str, Any]


Method = Callable[[Edits], Images]
MakeHook = Callable[[Relevance, Sequence[EditPair]], Any]


def _with_hook(make: MakeHook) -> Method:
    """A method that is a hook on source and target side by side."""

    def edited(batch: Edits) -> Images:
        """The target's image of each pair, generated in groups that one hook can serve."""
        images: dict[int, Any] = {}
        for group in together(batch.pairs):
            pairs, seeds = [batch.pairs[n] for n in group], [batch.seeds[n] for n in group]
            texts = [[pair.source, pair.target] for pair in pairs]
            hooks = [make(batch.relevance, pairs)]
            rows = generate_edits(batch.pipe, texts, hooks, seeds=seeds, **batch.passed)
            images |= {n: row[1] for n, row in zip(group, rows, strict=True)}
        return [images[n] for n in range(len(batch.pairs))]

    return edited


def together(pairs: Sequence[EditPair]) -> list[list[int]]:
    """Groups of pairs that one hook can serve: no target has another's word, unless of the same attribute."""
    groups: list[list[int]] = []
    for n, pair in enumerate(pairs):
        fits = (group for group in groups if all(_apart(pair, pairs[other]) for other in group))
        group = next(fits, None)
        groups.append([n]) if group is None else group.append(n)
    return groups


def _apart(a: EditPair, b: EditPair) -> bool:
    if a.word == b.word:
        return a.attribute == b.attribute
    return a.word not in b.target and b.word not in a.target


def _baseline(baseline: Baseline) -> Method:
    """A method that is one of the baselines."""

    def edited(batch: Edits) -> Images:
        sources, targets = zip(*((pair.source, pair.target) for pair in batch.pairs), strict=True)
        return baseline.edit(batch.pipe, sources, targets, batch.sources, seeds=batch.seeds, **batch.passed)

    return edited


def _target_only(batch: Edits) -> Images:
    """The targets from their own prompts: how well they can be shown if nothing has to be kept."""
    texts = [[pair.target] for pair in batch.pairs]
    return [row[0] for row in generate_edits(batch.pipe, texts, [], seeds=batch.seeds, **batch.passed)]


def _relevant(strength: float) -> MakeHook:
    """Prompt-to-prompt that strengthens each target's word by the relevance of its attribute."""

    def make(relevance: Relevance, pairs: Sequence[EditPair]) -> PromptToPrompt:
        concepts = {pair.word: pair.attribute for pair in pairs}
        return PromptToPrompt(relevance=relevance, concepts=concepts, strength=strength)

    return make


def _random_heads(relevance: Relevance, pairs: Sequence[EditPair]) -> PromptToPrompt:
    """Prompt-to-prompt with relevance permuted over heads."""
    return _relevant(1.0)(with_random_heads(relevance), pairs)


def with_random_heads(relevance: Relevance) -> Relevance:
    """The control: the same values, and thus factors, permuted over heads by a fixed permutation."""
    order = np.random.Generator(np.random.Philox(0)).permutation(relevance.values.shape[1])
    return replace(relevance, values=relevance.values[:, order])


EDITING: dict[str, Method] = {
    TARGET_ONLY: _target_only,
    **{name: _baseline(baseline) for name, baseline in BASELINES.items()},
    "relevance": _with_hook(_relevant(1.0)),
    "relevance × 0": _with_hook(_relevant(0.0)),
    "relevance × 0.5": _with_hook(_relevant(0.5)),
    "relevance × 2": _with_hook(_relevant(2.0)),
    "random heads": _with_hook(_random_heads),
}
