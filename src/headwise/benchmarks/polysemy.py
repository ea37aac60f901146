r"""How often is a word with two senses misread, plain and adjusted?

The controls are the adjustment without what is claimed for heads (`Steer.control`) and the prompt put more
plainly. Pictures of different methods start from the same latents.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.prompts import PolysemyPrompt
from headwise.benchmarks.weakening import Score
from headwise.errors import HeadwiseError
from headwise.intervals import Interval, wilson
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.scores import Axes, Scores
from headwise.runs.shards import batches, subrange
from headwise.runs.workers import shared
from headwise.steering.steer import Steer, adjust

__all__ = ["METHODS", "Polysemy", "benchmark_polysemy"]

METHODS = ("plain", "rewording", "uniform", "random heads", "layer means", "adjust")


@dataclass(frozen=True)
class Polysemy:
    """How often two-sense words were misread.

    Args:
        misread: 1 where the judge saw another sense than the one that was meant, 0 where not; along the axes
            method, seed and prompt.
        words: Of each prompt, the word with two senses.
    """

    misread: Scores
    words: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """What was compared."""
        return self.misread.axes["method"]  # type: ignore[return-value]

    def rate(self, method: str, word: str | None = None) -> Interval:
        """The share of misread pictures, with its Wilson interval; of one word, if given."""
        of_method = self.misread.values[self.methods.index(method)]
        mine = of_method if word is None else of_method[:, [w == word for w in self.words]]
        known = mine[np.isfinite(mine)]
        return wilson(int(known.sum()), len(known))


@shared("senses", together="batch_size")
def benchmark_polysemy(
    pipe: Any,
    relevance: Relevance,
    senses: Sequence[PolysemyPrompt],
    score: Score,
    *,
    methods: Sequence[str] = METHODS,
    strength: float | int = 1.0,
    clamp: float | int | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    numbers: range | None = None,
    out: str | Path | None = None,
    batch_size: int = 16,
    keep_prompts: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    checkpoint_every: float | int = 10,
    progress: bool = True,
) -> Polysemy:
    """Draw every prompt with every method from every seed, and ask the judge which sense is seen.

    Args:
        senses: Prompts and what may be seen in their pictures.
        score: 1 for pictures that show the first text of their case, 0 for the others: `metrics.scoring` with
            "choice".
        methods: "plain", "rewording" (each prompt's plainer form), "adjust", and its controls "uniform",
            "random heads", "layer means".
        strength, clamp: Of adjusting, see `headwise.adjust`.
        seeds: Each prompt is drawn once from each.
        keep_prompts: Save the pictures of so many prompts, spread evenly, first seed, in `out`/pictures.
        numbers, out, batch_size, num_inference_steps, guidance_scale, checkpoint_every, progress: As in
            `measure_weakening`.
    """
    _check(methods, senses)
    prompts = [sense.case.prompt for sense in senses]
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    settings = settings_of_pictures(pipe, [*prompts, *(sense.reworded for sense in senses)]) | passed
    settings |= {"strength": float(strength), "clamp": clamp, "relevance": relevance.settings.get("weights")}
    settings |= {"words": [sense.word for sense in senses]}
    axes: Axes = {"method": tuple(methods), "seed": tuple(seeds), "prompt": range(len(senses))}
    kept = set(range(0, len(senses), max(1, -(-len(senses) // keep_prompts)))) if keep_prompts and out else ()
    wanted = subrange(numbers, len(senses))
    with (
        RunFolder(out, settings, Scores.empty(axes, settings), "scores") as folder,
        quiet(pipe),
        Progress(folder, folder.so_far.values[..., wanted].size, checkpoint_every, progress) as done,
    ):
        for m, method in enumerate(methods):
            for s, seed in enumerate(seeds):
                todo = [n for n in wanted if np.isnan(done.so_far.values[m, s, n])]
                for batch in batches(0, len(todo), batch_size):
                    drawn = todo[batch.start : batch.stop]
                    some = [senses[n] for n in drawn]
                    asked = [sense.reworded for sense in senses] if method == "rewording" else prompts
                    with hooked(pipe, *_hooks(method, relevance, some, strength, clamp)):
                        images = generate(pipe, asked, seed, drawn, output_type="pil", **passed)
                    for n, image in zip(drawn, images, strict=True):
                        if s == 0 and n in kept:
                            folder.keep(f"{n:03d} {method}", image, asked[n])
                    part = Scores.empty(axes, settings)
                    part.values[m, s, drawn] = 1 - score(images, [sense.case for sense in some])
                    done(part)
    return Polysemy(folder.so_far, tuple(sense.word for sense in senses))


def _hooks(
    method: str,
    relevance: Relevance,
    some: list[PolysemyPrompt],
    strength: float | int,
    clamp: float | int | None,
) -> list[Steer]:
    """What a method puts into the pipeline for one batch: each row its own word and factors."""
    if method in ("plain", "rewording"):
        return []
    rows = [adjust(relevance, s.word, s.toward, s.away, strength, clamp=clamp).factors for s in some]
    steer = Steer(np.concatenate(rows), [s.word for s in some], head_map=relevance.head_map)
    return [steer if method == "adjust" else steer.control(method)]  # type: ignore[arg-type]


def _check(methods: Sequence[str], senses: Sequence[PolysemyPrompt]) -> None:
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise HeadwiseError(f"{unknown[0]!r} is no method. The methods are: {', '.join(METHODS)}.")
    if not senses:
        raise HeadwiseError("No prompt with a two-sense word was given. Give one or more.")
