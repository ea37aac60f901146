r"""Which estimator predicts best what heads do? Each predicts the losses when subsets of heads are weakened.

An estimator (estimators.py) sees a model and some *tuning* prompts of a concept, and gives each head h a
value v[h]. The truth is the losses of random subsets of heads (subset_losses.py) for other prompts of the
concept:

    predicted loss of a subset S     Σ_{h ∈ S} v[h]
    score of an estimator            the partial correlation of predicted and true loss given the size of S

For comparison, ridge regression learns from the losses of one half of the subsets and predicts the other
half. The cost of an estimator is counted in denoiser rows: the rows of all passes, and those of them whose
gradient is computed. Optionally, the area of ordered weakening (weakening.py) is measured as well, with heads
in the order of the estimator's values and on reporting prompts.

Another estimator is one more function:

    def bias(pipe, tuning, seed):
        heads = headwise.HeadMap.of(pipe).all_heads
        return np.linspace(1, 0, heads)        # claims that early heads carry more

    estimators = standard_estimators(concepts) | {"early heads": bias}
    result = headwise.benchmark_attribution(pipe, truth, tuning, estimators, out="runs/attribution")
    result.score("early heads")
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from headwise.benchmarks.attribution.estimators import (
    effect,
    mean_attention,
    random_values,
    value_norm,
    votes,
    word_removed,
)
from headwise.benchmarks.attribution.gates import gates
from headwise.benchmarks.attribution.partial_correlation import FEWEST
from headwise.benchmarks.attribution.scores import Attribution, Estimate
from headwise.benchmarks.attribution.tuning import HeadEstimator, Sampling, Truth, Tuning
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.results import ATTRIBUTION_FILE, LEAST, MOST
from headwise.benchmarks.weakening import Score, measure_weakening
from headwise.benchmarks.weakening_sweeps import eighths, folder_of
from headwise.errors import HeadwiseError, RunMismatch
from headwise.files import expanded, read_arrays, write_arrays, write_whole
from headwise.intervals import Interval
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap
from headwise.model.pipelines import digest_of, fingerprint, model_name
from headwise.model.row_count import RowCount, count_rows

__all__ = ["benchmark_attribution", "standard_estimators"]


def standard_estimators(
    concepts: ConceptSet, measured: Relevance | None = None, sampling: Sampling = Sampling()
) -> dict[str, HeadEstimator]:
    """The packaged estimators, by name.

    Args:
        concepts: The concepts that heads choose between when they vote.
        measured: A relevance measured earlier, to compare as "votes, measured" or "effect, measured".
        sampling: How images of tuning prompts are generated.
    """
    voting = partial(
        votes, concepts=concepts, batch_size=sampling.batch_size,
        height=sampling.height, width=sampling.width,
    )  # fmt: skip
    estimators: dict[str, HeadEstimator] = {
        "random": random_values,
        "votes, paper": partial(voting, estimator="paper", pictures=8),
        "votes, lean": partial(voting, estimator="lean", pictures=32),
        "mean attention": partial(mean_attention, sampling=sampling),
        "value norm": partial(value_norm, sampling=sampling),
        "word removed": partial(word_removed, sampling=sampling),
        "effect, 1 call": partial(effect, calls=1, sampling=sampling),
        "effect, pooled": partial(effect, points=3, pooled=True, sampling=sampling),
        "effect, 1 point": partial(effect, points=1, sampling=sampling),
        "effect, 3 points": partial(effect, points=3, sampling=sampling),
        "effect, 5 points": partial(effect, points=5, sampling=sampling),
        "effect, 1 to -2": partial(effect, points=3, path=(1.0, -2.0), sampling=sampling),
        "effect, sibling": partial(effect, points=3, against="sibling", sampling=sampling),
        "gates": partial(gates, sampling=sampling),
    }
    if measured is not None:
        estimators[f"{measured.kind}, measured"] = lambda pipe, tuning, seed: measured[tuning.concept]
    return estimators


def benchmark_attribution(
    pipe: Any,
    truth: Mapping[str, Truth],
    tuning: Mapping[str, Tuning],
    estimators: Mapping[str, HeadEstimator],
    out: str | Path,
    *,
    seed: int = 0,
    reporting: Mapping[str, Sequence[EvalPrompt]] | None = None,
    score: Score | None = None,
    height: int | None = None,
    width: int | None = None,
    progress: bool = True,
    **weakening: Any,
) -> Attribution:
    """Compare estimators of what heads do; an estimate that is already in `out` is not computed again.

    Args:
        pipe: The user's pipeline, which is left unchanged.
        truth: By concept, the losses of the same random subsets of heads.
        tuning: By concept, what estimators may see.
        estimators: By name. A function that was changed needs another name, or another folder.
        out: Folder for the values of each estimator, and for the result.
        seed: Passed to each estimator.
        reporting: By concept, the prompts of ordered weakening; None leaves it out.
        score: The function that scores weakened images, as in `measure_weakening`.
        height, width: The size of the images of ordered weakening and of those that estimators generate:
            give `standard_estimators` the same. A folder holds the values of one size.
        progress: Whether to show a bar on stderr.
        weakening: Options of `measure_weakening`.

    Raises:
        HeadwiseError: The concepts' subsets differ, a tuning prompt is one of the truth's, or an estimator
            did not return a finite number for each head.
        RunMismatch: `out` holds values computed with other settings.
    """
    _require_fair(truth, tuning, HeadMap.of(pipe))
    if reporting and score is None:
        raise HeadwiseError("Prompts for weakening were given without a score. Give score=… too.")
    folder = expanded(out)
    folder.mkdir(parents=True, exist_ok=True)
    size: dict[str, Any] = {"height": height, "width": width}
    about: dict[str, Any] = {"model": model_name(pipe), "weights": fingerprint(pipe), "seed": seed, **size}
    estimates = _estimates(pipe, tuning, estimators, folder, about, progress)
    areas = {
        concept: _areas(
            pipe, estimates[concept], prompts, score, folder_of(folder, concept), weakening | size
        )
        for concept, prompts in (reporting or {}).items()
        if score is not None
    }
    losses = {concept: truth[concept].losses for concept in tuning}
    about |= {"subsets": len(next(iter(losses.values())).subsets), "concepts": len(tuning)}
    about |= {"tuning_prompts": {concept: len(task.prompts) for concept, task in tuning.items()}}
    result = Attribution(estimates, losses, HeadMap.of(pipe), areas, about)
    ceilings = {concept: ceiling.as_json() for concept, ceiling in result.ceilings.items()}
    content = {"settings": about, "ceilings": ceilings, "estimators": result.numbers()}
    write_whole(folder / ATTRIBUTION_FILE, f"{json.dumps(content, indent=1)}\n".encode())
    return result


def _estimates(
    pipe: Any,
    tuning: Mapping[str, Tuning],
    estimators: Mapping[str, HeadEstimator],
    folder: Path,
    about: dict[str, Any],
    progress: bool,
) -> dict[str, dict[str, Estimate]]:
    """What the estimators return, by concept and name."""
    estimates: dict[str, dict[str, Estimate]] = {}
    with tqdm(total=len(tuning) * len(estimators), unit="estimate", disable=not progress) as bar:
        for concept, task in tuning.items():
            estimates[concept] = {}
            for name, estimator in estimators.items():
                bar.set_description(f"{concept}, {name}")
                file = folder_of(folder, concept) / f"{_slug(name)}.safetensors"
                estimates[concept][name] = _estimate(pipe, task, name, estimator, file, about)
                bar.update()
    return estimates


def _estimate(
    pipe: Any, tuning: Tuning, name: str, estimator: HeadEstimator, file: Path, about: dict[str, Any]
) -> Estimate:
    """The values of an estimator, from its file if there is one; those that cost no rows are recomputed."""
    expected = about | {
        "estimator": name,
        "concept": tuning.concept,
        "prompts": f"{len(tuning.prompts)} prompts, {digest_of(repr((tuning.prompts, tuning.words)))}",
    }
    if file.is_file():
        arrays, stored = read_arrays(file, "attribution", ("values",))
        if {key: stored.get(key) for key in expected} != expected:
            raise RunMismatch(
                f"{file} is from a different run: it has {stored}; expected {expected}. Give another "
                "folder, or the same settings."
            )
        return Estimate(arrays["values"], RowCount(**stored["rows"]))
    with count_rows(pipe) as rows:
        values = np.asarray(estimator(pipe, tuning, about["seed"]), float)
    heads = HeadMap.of(pipe).all_heads
    if values.shape != (heads,) or not np.isfinite(values).all():
        raise HeadwiseError(
            f"The estimator {name!r} returned an array of {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} non-finite values; expected one finite number for each of "
            f"{heads} heads."
        )
    if rows.forward:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(file, "attribution", {"values": values}, expected | {"rows": asdict(rows)})
    return Estimate(values, rows)


def _areas(
    pipe: Any,
    estimates: Mapping[str, Estimate],
    prompts: Sequence[EvalPrompt],
    score: Score,
    folder: Path,
    options: dict[str, Any],
) -> dict[str, Interval]:
    """The area of ordered weakening with each estimator's order of heads."""
    head_map = HeadMap.of(pipe)
    values = np.stack([estimate.values for estimate in estimates.values()])
    unknown = np.full(values.shape, np.nan)
    by_estimator = Relevance(values, unknown, unknown[:, 0].copy(), tuple(estimates), head_map)
    defaults: dict[str, Any] = {
        "ks": eighths(head_map.all_heads),
        "orders": (MOST, LEAST),
        "random_orders": 0,
        "seeds": (10,),
        "num_inference_steps": 10,
        "progress": False,
    }
    return {
        name: measure_weakening(
            pipe, by_estimator, name, prompts, score, out=folder / f"weakening-{_slug(name)}",
            **(defaults | options),
        ).area()
        for name in estimates
    }  # fmt: skip


def _require_fair(truth: Mapping[str, Truth], tuning: Mapping[str, Tuning], head_map: HeadMap) -> None:
    """Raise HeadwiseError unless estimators are compared on the same subsets and on unseen prompts."""
    if not tuning or not tuning.keys() <= truth.keys():
        missing = ", ".join(map(repr, tuning.keys() - truth.keys())) or "any concept"
        raise HeadwiseError(
            f"The losses of subsets were not measured for {missing}; expected some of: {', '.join(truth)}."
        )
    subsets = [truth[concept].losses.subsets for concept in tuning]
    if any(not np.array_equal(each, subsets[0]) for each in subsets):
        raise HeadwiseError("The concepts' losses have different subsets; expected the same for all.")
    if subsets[0].shape[1] != head_map.all_heads or len(subsets[0]) < FEWEST:
        raise HeadwiseError(
            f"The truth has {len(subsets[0])} subsets of {subsets[0].shape[1]} heads; expected {FEWEST} or "
            f"more of {head_map}."
        )
    for concept, task in tuning.items():
        shared = set(task.prompts) & set(truth[concept].prompts)
        if shared:
            raise HeadwiseError(
                f"{min(shared)!r} is both a tuning prompt of {concept!r} and one of the truth's. Leave it "
                "out."
            )


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())
