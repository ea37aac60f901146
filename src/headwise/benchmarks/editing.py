r"""Which way of editing shows the target best, and keeps the source best?

Every method draws the same pairs of prompts from the same latents. Of a target's picture,

    alignment      cosine of the judge between the picture and the target prompt
    accuracy       1 where the judge picks the target's word among the words of the attribute
    preservation   likeness of source and target where nothing was to change: outside the object's box or,
                   where the surroundings are edited, inside it
    identity       1 where the judge picks the prompt's thing among others

"Target alone" edits nothing: the target drawn for itself, which shows how well it can be shown at all.
"Random heads" has the factors of relevance at other heads.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headwise.benchmarks.clip_scorer import CLIPScorer, without_object
from headwise.benchmarks.prompts import EditPair
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.prompt_to_prompt import PromptToPrompt, generate_edits
from headwise.errors import HeadwiseError
from headwise.intervals import Interval, bootstrap
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.scores import Axes, Scores
from headwise.runs.shards import batches, subrange
from headwise.runs.workers import shared

__all__ = ["ALONE", "EDITING", "MEASURES", "Editing", "benchmark_editing"]

ALONE = "target alone"
MEASURES = ("alignment", "accuracy", "preservation", "identity")
Pictures = list[Image.Image]
Draw = Callable[[Sequence[EditPair], Sequence[int], Pictures], Pictures]


@dataclass(frozen=True)
class Editing:
    """What every method reached for every pair.

    Args:
        scores: Along the axes method, measure, seed and pair.
        attributes: Of each pair.
    """

    scores: Scores
    attributes: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """What was compared."""
        return self.scores.axes["method"]  # type: ignore[return-value]

    def of(self, method: str, measure: str, attribute: str | None = None) -> Interval:
        """The mean over pairs and seeds, with its bootstrap interval over pairs."""
        mine = [attribute in (None, own) for own in self.attributes]
        found = self.scores.values[self.methods.index(method), MEASURES.index(measure)][:, mine].T
        value, low, high = bootstrap(found.mean(1, keepdims=True), lambda mean: mean[0])
        return Interval(float(value), float(low), float(high))


@shared("pairs", together="batch_size")
def benchmark_editing(
    pipe: Any,
    relevance: Relevance,
    pairs: Sequence[EditPair],
    judge: CLIPScorer,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    numbers: range | None = None,
    out: str | Path | None = None,
    batch_size: int = 16,
    keep_pairs: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    checkpoint_every: float | int = 10,
    progress: bool = True,
) -> Editing:
    """Edit every pair by every method from every seed.

    Args:
        pairs: Sources and targets, and what to look for.
        judge: Who looks.
        methods: Some of `EDITING`; all if None.
        keep_pairs: Save the pictures of so many pairs, spread evenly, first seed, in `out`/pictures.
        batch_size: Pictures per pipeline call, sources counted.
        seeds, numbers, out, num_inference_steps, guidance_scale, checkpoint_every, progress: As in
            `measure_weakening`.
    """
    methods = tuple(EDITING) if methods is None else tuple(methods)
    unknown = [method for method in methods if method not in EDITING]
    if unknown or not pairs:
        raise HeadwiseError(
            f"methods={list(methods)} and {len(pairs)} pairs were given; expected a pair or more, and some "
            f"of: {', '.join(EDITING)}."
        )
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    settings = settings_of_pictures(pipe, [p for pair in pairs for p in (pair.source, pair.target)]) | passed
    settings |= {"relevance": relevance.settings.get("weights"), "attributes": [p.attribute for p in pairs]}
    axes: Axes = {"method": methods, "measure": MEASURES, "seed": tuple(seeds), "pair": range(len(pairs))}
    kept = set(range(0, len(pairs), max(1, -(-len(pairs) // keep_pairs)))) if keep_pairs and out else ()
    at_once = max(1, batch_size // 2)
    wanted = subrange(numbers, len(pairs))
    with (
        RunFolder(out, settings, Scores.empty(axes, settings), "scores") as folder,
        quiet(pipe),
        Progress(folder, folder.so_far.values[..., wanted].size, checkpoint_every, progress) as done,
    ):
        for s, seed in enumerate(seeds):
            for batch in batches(wanted.start, wanted.stop, at_once):
                mine = list(batch)
                todo = [m for m in range(len(methods)) if np.isnan(done.so_far.values[m, :, s, mine]).any()]
                if not todo:
                    continue
                some, own = [pairs[n] for n in mine], [seed * len(pairs) + n for n in mine]
                drawn = generate_edits(pipe, [[pair.source] for pair in some], [], seeds=own, **passed)
                sources = [group[0] for group in drawn]
                for n, picture in zip(mine, sources, strict=True):
                    if s == 0 and n in kept:
                        folder.keep(f"{n:03d} source", picture, pairs[n].source)
                for m in todo:
                    edited = EDITING[methods[m]](pipe, relevance, some, own, sources, passed)
                    for n, picture in zip(mine, edited, strict=True):
                        if s == 0 and n in kept:
                            folder.keep(f"{n:03d} {methods[m]}", picture, pairs[n].target)
                    part = Scores.empty(axes, settings)
                    part.values[m, :, s, mine] = measured(judge, some, sources, edited).T
                    done(part)
    return Editing(folder.so_far, tuple(pair.attribute for pair in pairs))


def measured(judge: CLIPScorer, pairs: Sequence[EditPair], sources: Pictures, edited: Pictures) -> np.ndarray:
    """The four measures of each edit: "measures pairs"."""
    alignment = (
        (judge.embed_images(edited) * judge.embed_texts([pair.target for pair in pairs]))
        .sum(-1)
        .double()
        .cpu()
        .numpy()
    )
    accuracy = judge.choose(edited, [pair.texts for pair in pairs]) == 0
    identity = judge.choose(edited, [pair.things for pair in pairs]) == 0
    covered = [
        [without_object(picture, pair.mask(picture.size)) for picture, pair in zip(some, pairs, strict=True)]
        for some in (sources, edited)
    ]
    return np.stack([alignment, accuracy, judge.image_similarity(*covered), identity]).astype(np.float64)


def _hooked(make: Callable[[Relevance, Sequence[EditPair]], Sequence[Any]]) -> Callable[..., Pictures]:
    """A method that is a hook for all pairs of a pipeline call."""

    def drawn(
        pipe: Any, relevance: Relevance, pairs: Sequence[EditPair], seeds: Sequence[int], sources: Pictures,
        passed: Mapping[str, Any],
    ) -> Pictures:  # fmt: skip
        found: dict[int, Image.Image] = {}
        for mine in _together(pairs):
            groups = [[pairs[n].source, pairs[n].target] for n in mine]
            hooks = make(relevance, [pairs[n] for n in mine])
            rows = generate_edits(pipe, groups, hooks, seeds=[seeds[n] for n in mine], **passed)
            found |= {n: row[1] for n, row in zip(mine, rows, strict=True)}
        return [found[n] for n in range(len(pairs))]

    return drawn


def _together(pairs: Sequence[EditPair]) -> list[list[int]]:
    """Pairs that one hook can serve: none has a word of another in it, unless it means the same by it."""
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


def _noised(strength: float) -> Callable[..., Pictures]:
    def drawn(
        pipe: Any, relevance: Relevance, pairs: Sequence[EditPair], seeds: Sequence[int], sources: Pictures,
        passed: Mapping[str, Any],
    ) -> Pictures:  # fmt: skip
        targets = [pair.target for pair in pairs]
        return sdedit(pipe, sources, targets, strength=strength, seeds=seeds, **passed)

    return drawn


def _alone(
    pipe: Any, relevance: Relevance, pairs: Sequence[EditPair], seeds: Sequence[int], sources: Pictures,
    passed: Mapping[str, Any],
) -> Pictures:  # fmt: skip
    """The targets drawn for themselves: how well they can be shown where nothing need be kept."""
    rows = generate_edits(pipe, [[pair.target] for pair in pairs], [], seeds=seeds, **passed)
    return [row[0] for row in rows]


def _relevant(strength: float) -> Callable[[Relevance, Sequence[EditPair]], Sequence[Any]]:
    def make(relevance: Relevance, pairs: Sequence[EditPair]) -> Sequence[Any]:
        concepts = {pair.word: pair.attribute for pair in pairs}
        return [PromptToPrompt(relevance=relevance, concepts=concepts, strength=strength)]

    return make


def _random_heads(relevance: Relevance, pairs: Sequence[EditPair]) -> Sequence[Any]:
    """The control: the same factors, dealt to other heads."""
    order = np.random.Generator(np.random.Philox(0)).permutation(relevance.values.shape[1])
    return _relevant(1.0)(replace(relevance, values=relevance.values[:, order]), pairs)


EDITING: dict[str, Callable[..., Pictures]] = {
    ALONE: _alone,
    "sdedit 0.5": _noised(0.5),
    "sdedit 0.7": _noised(0.7),
    "prompt-to-prompt": _hooked(lambda relevance, pairs: [PromptToPrompt()]),
    "plug-and-play": _hooked(lambda relevance, pairs: [PlugAndPlay()]),
    "masactrl": _hooked(lambda relevance, pairs: [MasaCtrl()]),
    "free-prompt": _hooked(lambda relevance, pairs: [FreePrompt()]),
    "relevance": _hooked(_relevant(1.0)),
    "relevance × 0": _hooked(_relevant(0.0)),
    "relevance × 0.5": _hooked(_relevant(0.5)),
    "relevance × 2": _hooked(_relevant(2.0)),
    "random heads": _hooked(_random_heads),
}
