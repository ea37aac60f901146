r"""Are all subjects of a prompt there?

    full      cosine of the judge between the picture and the whole prompt
    minimum   the smaller of the cosines with the two subjects alone
    caption   cosine between the prompt and the caption that fits the picture best, of all prompts of its type

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts import MultiSubjectPrompt
from headwise.editing.attend_and_excite import Excite, excite
from headwise.editing.baselines.composable import compose
from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.scores import Axes, Scores
from headwise.runs.shards import subrange
from headwise.runs.workers import shared

__all__ = ["COMPOSING", "SEEN", "MultiConcept", "benchmark_multi_concept"]

SEEN = ("full", "minimum", "caption")
Prompts = Sequence[MultiSubjectPrompt]


@dataclass(frozen=True)
class MultiConcept:
    """What every method reached for every prompt.

    Args:
        scores: Along the axes method, measure, seed and prompt.
        types: Of each prompt: "type1" for two things, "type2" for two coloured ones.
    """

    scores: Scores
    types: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """What was compared."""
        return self.scores.axes["method"]  # type: ignore[return-value]

    def of(self, method: str, measure: str, kind: str) -> Interval:
        """The mean over prompts and seeds, with its bootstrap interval over prompts."""
        mine = [kind == own for own in self.types]
        found = self.scores.values[self.methods.index(method), SEEN.index(measure)][:, mine].T
        value, low, high = bootstrap(found.mean(1, keepdims=True), lambda mean: mean[0])
        return Interval(float(value), float(low), float(high))


@shared("prompts", together="batch_size")
def benchmark_multi_concept(
    pipe: Any,
    relevance: Relevance,
    prompts: Sequence[MultiSubjectPrompt],
    judge: CLIPScorer,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    numbers: range | None = None,
    out: str | Path | None = None,
    batch_size: int = 16,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    checkpoint_every: float | int = 10,
    progress: bool = True,
) -> MultiConcept:
    """Draw every prompt by every method from every seed.

    Args:
        prompts: With their subjects.
        judge: Who looks.
        methods: Some of `COMPOSING`; all if None.
        keep_prompts: Save the pictures of so many prompts, spread evenly, first seed, in `out`/pictures.
        seeds, numbers, out, batch_size, num_inference_steps, guidance_scale, checkpoint_every, progress: As
            in `measure_weakening`.
    """
    methods = tuple(COMPOSING) if methods is None else tuple(methods)
    unknown = [method for method in methods if method not in COMPOSING]
    if unknown or not prompts:
        raise HeadwiseError(
            f"methods={list(methods)} and {len(prompts)} prompts were given; expected a prompt or more, and "
            f"some of: {', '.join(COMPOSING)}."
        )
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    settings = settings_of_pictures(pipe, [several.prompt for several in prompts]) | passed
    settings |= {"relevance": relevance.settings.get("weights"), "types": [p.kind for p in prompts]}
    axes: Axes = {"method": methods, "measure": SEEN, "seed": tuple(seeds), "prompt": range(len(prompts))}
    kept = (
        set(range(0, len(prompts), max(1, -(-len(prompts) // keep_prompts)))) if keep_prompts and out else ()
    )
    captions = {kind: sorted({p.prompt for p in prompts if p.kind == kind}) for kind in settings["types"]}
    wanted = subrange(numbers, len(prompts))
    with (
        RunFolder(out, settings, Scores.empty(axes, settings), "scores") as folder,
        quiet(pipe),
        Progress(folder, folder.so_far.values[..., wanted].size, checkpoint_every, progress) as done,
    ):
        for m, method in enumerate(methods):
            for s, seed in enumerate(seeds):
                todo = [n for n in wanted if np.isnan(done.so_far.values[m, 0, s, n])]
                for start in range(0, len(todo), batch_size):
                    drawn = todo[start : start + batch_size]
                    some, own = [prompts[n] for n in drawn], [seed * len(prompts) + n for n in drawn]
                    images = COMPOSING[method](pipe, relevance, some, own, passed)
                    for n, image in zip(drawn, images, strict=True):
                        if s == 0 and n in kept:
                            folder.keep(f"{n:03d} {method}", image, prompts[n].prompt)
                    part = Scores.empty(axes, settings)
                    part.values[m, :, s, drawn] = seen(judge, some, images, captions)
                    done(part)
    return MultiConcept(folder.so_far, tuple(several.kind for several in prompts))


def seen(
    judge: CLIPScorer,
    prompts: Sequence[MultiSubjectPrompt],
    images: Sequence[Any],
    captions: dict[str, list[str]],
) -> np.ndarray:
    """The three measures of each picture: "prompts measures"."""
    rows = []
    looked = judge.embed_images(images)
    for several, picture in zip(prompts, looked, strict=True):
        said = judge.embed_texts([several.prompt, *several.subjects])
        whole, *each = (said @ picture).tolist()
        mine = captions[several.kind]
        best = mine[int((judge.embed_texts(mine) @ picture).argmax())]
        rows.append([whole, min(each), float(judge.embed_texts([best])[0] @ said[0])])
    return np.array(rows)


def _plain(pipe: Any, relevance: Relevance, some: Prompts, seeds: Sequence[int], passed: Any) -> Any:
    return _excited(some, seeds, pipe, passed, thresholds={0.0: 0.0})


def _attend(pipe: Any, relevance: Relevance, some: Prompts, seeds: Sequence[int], passed: Any) -> Any:
    return _excited(some, seeds, pipe, passed)


def _relevant(pipe: Any, relevance: Relevance, some: Prompts, seeds: Sequence[int], passed: Any) -> Any:
    concepts = {word: concept for several in some for word, concept in several.concepts.items()}
    return _excited(some, seeds, pipe, passed, relevance=relevance, concepts=concepts)


def _excited(
    some: Sequence[MultiSubjectPrompt], seeds: Sequence[int], pipe: Any, passed: Any, **options: Any
) -> Any:
    exciting = Excite([several.words for several in some], **options)
    return excite(pipe, [several.prompt for several in some], exciting, seeds=seeds, **passed)


def _composed(pipe: Any, relevance: Relevance, some: Prompts, seeds: Sequence[int], passed: Any) -> Any:
    return [
        compose(pipe, several.subjects, seeds=[seed], **passed)[0]
        for several, seed in zip(some, seeds, strict=True)
    ]


COMPOSING: dict[str, Callable[..., Any]] = {
    "plain": _plain,
    "composable": _composed,
    "attend-and-excite": _attend,
    "relevance": _relevant,
}
