r"""Which scale of relevance (measuring/scales.py) steers best, and harms least?

Every scale is tested in three ways, from the same latents:

    weaken        the area between the curves of least and most relevant first; it depends only on the order
                  of heads, so images are generated only for scales that change the order
    adjust        the fraction of misread images of two-sense words
    strengthen    a word of an attribute is strengthened, and the image compared with the plain one: whether
                  the scorer recognises the word (accuracy) and the same object (identity), and how similar
                  the images are where nothing should change (preservation)
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
from headwise.benchmarks.comparison import Comparison, given_options
from headwise.benchmarks.editing import METRICS, edit_scores
from headwise.benchmarks.method_results import Editing
from headwise.benchmarks.polysemy import benchmark_polysemy
from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.prompts.evaluation import EvalPrompt, PolysemyPrompt
from headwise.benchmarks.results import SCALES_FILE, Scales
from headwise.benchmarks.sweep import Call, Sweep, run_sweep
from headwise.benchmarks.weakening_sweeps import benchmark_weakening
from headwise.errors import HeadwiseError
from headwise.files import write_whole
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.measuring.scales import rescaled
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import settings_of_pictures
from headwise.steering.steer import Steer, strengthen

__all__ = ["SCALES", "Scales", "benchmark_scales", "scale_named"]

SCALES = ("sum", "clamp 9", "clamp 4", "clamp 2", "rank", "softmax 1", "maximum", "shrink")


def scale_named(relevance: Relevance, name: str) -> Relevance:
    """Relevance on a scale.

    Args:
        relevance: The measured relevance.
        name: A scale with its parameter, if it has one, such as "sum" or "clamp 4".

    Raises:
        HeadwiseError: The name is not a scale.
    """
    scale, _, parameter = name.partition(" ")
    try:
        return rescaled(relevance, scale, float(parameter) if parameter else None)
    except ValueError:
        raise HeadwiseError(f"{name!r} is not a scale. Write one such as: {', '.join(SCALES)}.") from None


def benchmark_scales(
    pipe: Any,
    relevance: Relevance,
    prompts: Mapping[str, Sequence[EvalPrompt]],
    two_sense_prompts: Sequence[PolysemyPrompt],
    pairs: Sequence[EditPair],
    scorer: CLIPScorer,
    out: str | Path,
    *,
    scales: Sequence[str] = SCALES,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 16,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    progress: bool = True,
) -> Scales:
    """Test every scale by weakening, adjusting and strengthening.

    Args:
        pipe: The user's pipeline, which is left unchanged.
        relevance: Relevance measured on this model, with its head map.
        prompts: By concept, the prompts for weakening its heads.
        two_sense_prompts: Prompts with a two-sense word to adjust.
        pairs: Pairs whose target prompts are generated with the target's word strengthened.
        scorer: A CLIP model that compares images with texts and with each other.
        out: A folder, in which each test has a folder.
        scales: Names as in `SCALES`.
        seeds, batch_size, progress: As in `benchmark_polysemy`.
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
    """
    passed = given_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, height=height, width=width
    )
    common: dict[str, Any] = passed | {"batch_size": batch_size, "progress": progress}
    choice, out = scoring(scorer, "choice"), Path(out)
    on = {name: scale_named(relevance, name) for name in scales}
    orders = {name: _order(relevance, r) for name, r in on.items()}
    weakened = {
        name: benchmark_weakening(pipe, on[name], prompts, choice, out / "weaken" / name, **common)
        for name in scales
        if orders[name] < 1 or name == scales[0]
    }
    weakened = {name: weakened.get(name, weakened[scales[0]]) for name in scales}
    adjusted = {
        name: benchmark_polysemy(
            pipe, on[name], two_sense_prompts, scorer,
            methods=("adjust",), clamp=math.inf, seeds=seeds, out=out / "adjust" / name, **common,
        )
        for name in scales
    }  # fmt: skip
    comparison = Comparison(relevance, tuple(pairs), ("plain", *on), tuple(seeds), batch_size, 0, passed)
    strengthened = _strengthened(pipe, comparison, on, scorer, out / "strengthen", progress)
    largest = {name: float(r.values.max()) for name, r in on.items()}
    result = Scales(weakened, adjusted, strengthened, orders, largest)
    content = {"scales": result.numbers(), "settings": {"seeds": list(seeds), "pairs": len(pairs)} | passed}
    write_whole(out / SCALES_FILE, json.dumps(content, indent=1).encode())
    return result


def _strengthened(
    pipe: Any,
    comparison: Comparison,
    on: Mapping[str, Relevance],
    scorer: CLIPScorer,
    out: Path,
    progress: bool,
) -> Editing:
    """The scores of the target prompts, plain and strengthened by the relevance on every scale."""
    sweep = partial(_sweep, comparison, on, scorer)
    scores = run_sweep(pipe, sweep, kind="strengthening", out=out, progress=progress)
    return Editing(scores, tuple(pair.attribute for pair in comparison.prompts))


def _sweep(comparison: Comparison, on: Mapping[str, Relevance], scorer: CLIPScorer, pipe: Any) -> Sweep:
    """The sweep over the target prompts, plain and strengthened by the relevance on every scale."""
    pairs, passed = comparison.prompts, comparison.passed
    methods, seeds = comparison.methods, comparison.seeds
    prompts = [pair.target for pair in pairs]
    settings = settings_of_pictures(pipe, prompts) | passed
    settings |= {"attributes": [pair.attribute for pair in pairs]}
    settings |= {"relevance": {name: r.settings.get("weights") for name, r in on.items()}}

    def images(seed: int, numbers: Sequence[int], *hooks: Steer) -> Sequence[Any]:
        with hooked(pipe, *hooks):
            return generate(pipe, prompts, seed, numbers, output_type="pil", **passed)

    plain_images = lru_cache(1)(images)  # generated once for all scales

    def plain(call: Call) -> Sequence[Any]:
        return plain_images(call.label("seed"), tuple(call.numbers))

    def generated(call: Call) -> Sequence[Any]:
        method = call.label("method")
        if method == "plain":
            return plain(call)
        return images(call.label("seed"), call.numbers, _steer(on[method], comparison.of(call)))

    return Sweep(
        {"method": methods, "measure": METRICS, "seed": seeds, "pair": range(len(pairs))},
        settings,
        loops=("seed", "pair", "method"),
        batch_size=comparison.batch_size,
        generate=generated,
        score=lambda call, images: edit_scores(scorer, comparison.of(call), plain(call), images),
    )


def _steer(relevance: Relevance, pairs: Sequence[EditPair]) -> Steer:
    """The steering of each pair's word by its concept, one row of factors per pair."""
    rows = [strengthen(relevance, pair.word, pair.attribute, clamp=math.inf).factors for pair in pairs]
    return Steer(np.concatenate(rows), [pair.word for pair in pairs], head_map=relevance.head_map)


def _order(relevance: Relevance, other: Relevance) -> float:
    """The mean rank correlation over concepts; 1 if no two heads swap places, even if some become tied."""
    order = np.argsort(relevance.values, -1, kind="stable")
    kept = np.diff(np.take_along_axis(other.values, order, -1), axis=-1).min() >= 0
    return 1.0 if kept else float(rank_correlation(relevance.values, other.values).mean())
