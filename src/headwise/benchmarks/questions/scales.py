r"""Which scale of relevance steers best, and harms least (normalisation.py)?

Three questions to every scale, the same latents in each:

    weaken        the area between the curves of least and most relevant first; scales that keep the order of
                  heads keep it exactly, so that only those which change the order are drawn
    adjust        the share of two-sense words misread
    strengthen    a word of an attribute strengthened, beside the plain picture of the same prompt: whether
                  the judge sees the word (accuracy) and the same thing (identity), and how alike the pictures
                  are where nothing was to change (preservation)
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
from headwise.benchmarks.editing import MEASURES, Editing, measured
from headwise.benchmarks.polysemy import Polysemy, benchmark_polysemy
from headwise.benchmarks.prompts import EditPair, EvalPrompt, PolysemyPrompt
from headwise.benchmarks.weakening import Weakening
from headwise.benchmarks.weakening_sweeps import benchmark_weakening
from headwise.files import write_whole
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.measuring.scales import rescaled
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import quiet, settings_of_pictures
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.scores import Axes, Scores
from headwise.runs.shards import batches
from headwise.steering.steer import Steer, strengthen

__all__ = ["NAME", "SCALES", "Scales", "benchmark_scales", "scale_named"]

NAME = "scales.json"
SCALES = ("sum", "clamp 9", "clamp 4", "clamp 2", "rank", "softmax 1", "maximum", "shrink")


@dataclass(frozen=True)
class Scales:
    """What every scale showed.

    Args:
        weakened: By scale, then by concept; a scale that keeps the order of heads has those of "sum".
        adjusted: By scale.
        strengthened: Its methods are "plain" and the scales.
        orders: By scale, the rank correlation of its order of heads with the order as measured.
        largest: By scale, the largest relevance of any head.
    """

    weakened: dict[str, dict[str, Weakening]]
    adjusted: dict[str, Polysemy]
    strengthened: Editing
    orders: dict[str, float]
    largest: dict[str, float]

    def numbers(self) -> dict[str, dict[str, Any]]:
        """By scale: what it is, and each measure as mean, low and high."""
        found: dict[str, dict[str, Any]] = {}
        for name in ("plain", *self.orders):
            found[name] = {m: list(self.strengthened.of(name, m)) for m in MEASURES}
        for name, order in self.orders.items():
            areas = {concept: list(one.area()) for concept, one in self.weakened[name].items()}
            found[name] |= {"order": order, "largest": self.largest[name], "areas": areas}
            found[name] |= {"misread": list(self.adjusted[name].rate("adjust"))}
        return found


def scale_named(relevance: Relevance, name: str) -> Relevance:
    """Relevance on a scale such as "sum" or "clamp 4"."""
    scale, _, parameter = name.partition(" ")
    return rescaled(relevance, scale, float(parameter) if parameter else None)


def benchmark_scales(
    pipe: Any,
    relevance: Relevance,
    cases: Mapping[str, Sequence[EvalPrompt]],
    senses: Sequence[PolysemyPrompt],
    pairs: Sequence[EditPair],
    judge: CLIPScorer,
    out: str | Path,
    *,
    scales: Sequence[str] = SCALES,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 16,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    progress: bool = True,
) -> Scales:
    """Put every scale to the test.

    Args:
        cases: Of the concepts that are weakened.
        senses: Two-sense words, which are adjusted.
        pairs: Their target prompts are drawn, the target's word strengthened.
        judge: Who looks.
        out: A folder; each question has one of its own in it.
        scales: Names as in `SCALES`.
        seeds, batch_size, num_inference_steps, guidance_scale, progress: As in `benchmark_polysemy`.
    """
    passed: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    common: dict[str, Any] = passed | {"batch_size": batch_size, "progress": progress}
    choice, out = scoring(judge, "choice"), Path(out)
    on = {name: scale_named(relevance, name) for name in scales}
    orders = {name: _order(relevance, r) for name, r in on.items()}
    weakened = {
        name: benchmark_weakening(pipe, on[name], cases, choice, out / "weaken" / name, **common)
        for name in scales
        if orders[name] < 1 or name == scales[0]
    }
    weakened = {name: weakened.get(name, weakened[scales[0]]) for name in scales}
    adjusted = {
        name: benchmark_polysemy(
            pipe, on[name], senses, choice,
            methods=("adjust",), clamp=math.inf, seeds=seeds, out=out / "adjust" / name, **common,
        )
        for name in scales
    }  # fmt: skip
    strengthened = _strengthened(
        pipe, on, pairs, judge, seeds, out / "strengthen", batch_size, passed, progress
    )
    largest = {name: float(r.values.max()) for name, r in on.items()}
    found = Scales(weakened, adjusted, strengthened, orders, largest)
    said = {"scales": found.numbers(), "settings": {"seeds": list(seeds), "pairs": len(pairs)} | passed}
    write_whole(out / NAME, json.dumps(said, indent=1).encode())
    return found


def _strengthened(
    pipe: Any, on: Mapping[str, Relevance], pairs: Sequence[EditPair], judge: CLIPScorer,
    seeds: Sequence[int], out: Path, batch_size: int, passed: dict[str, Any], progress: bool,
) -> Editing:  # fmt: skip
    """The target prompt of every pair, plain and strengthened."""
    prompts, methods = [pair.target for pair in pairs], ("plain", *on)
    settings = settings_of_pictures(pipe, prompts) | passed | {"attributes": [p.attribute for p in pairs]}
    settings |= {"relevance": {name: r.settings.get("weights") for name, r in on.items()}}
    axes: Axes = {"method": methods, "measure": MEASURES, "seed": tuple(seeds), "pair": range(len(pairs))}
    with (
        RunFolder(out, settings, Scores.empty(axes, settings), "scores") as folder,
        quiet(pipe),
        Progress(folder, folder.so_far.values.size, 10, progress) as done,
    ):
        for s, seed in enumerate(seeds):
            for batch in batches(0, len(pairs), batch_size):
                numbers, plain = list(batch), None
                some = [pairs[n] for n in numbers]
                for m, method in enumerate(methods):
                    if np.isfinite(done.so_far.values[m, :, s, numbers]).all():
                        continue
                    if plain is None:
                        plain = generate(pipe, prompts, seed, numbers, output_type="pil", **passed)
                    images = plain
                    if method != "plain":
                        with hooked(pipe, _steer(on[method], some)):
                            images = generate(pipe, prompts, seed, numbers, output_type="pil", **passed)
                    part = Scores.empty(axes, settings)
                    part.values[m, :, s, numbers] = measured(judge, some, plain, images).T
                    done(part)
    return Editing(folder.so_far, tuple(pair.attribute for pair in pairs))


def _steer(relevance: Relevance, pairs: Sequence[EditPair]) -> Steer:
    """Each row its own word and concept."""
    rows = [strengthen(relevance, pair.word, pair.attribute, clamp=math.inf).factors for pair in pairs]
    return Steer(np.concatenate(rows), [pair.word for pair in pairs], head_map=relevance.head_map)


def _order(relevance: Relevance, other: Relevance) -> float:
    """The mean over concepts; 1 where no two heads change places, though some may come to share one."""
    order = np.argsort(relevance.values, -1, kind="stable")
    kept = np.diff(np.take_along_axis(other.values, order, -1), axis=-1).min() >= 0
    return 1.0 if kept else float(rank_correlation(relevance.values, other.values).mean())
