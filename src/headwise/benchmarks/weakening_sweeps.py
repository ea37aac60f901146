"""Ordered weakening (weakening.py) of several concepts, or of one concept with several factors."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.weakening import Score, Weakening, measure_weakening
from headwise.errors import UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.runs.shards import Shard

__all__ = ["FACTORS", "benchmark_weakening", "eighths", "folder_of", "sweep_factors"]

FACTORS = (0.5, 0.0, -0.5, -1.0, -2.0, -4.0)


def benchmark_weakening(
    pipe: Any,
    relevance: Relevance,
    prompts: Mapping[str, Sequence[EvalPrompt]],
    score: Score,
    out: str | Path,
    shard: Shard | None = None,
    **options: Any,
) -> dict[str, Weakening]:
    """Ordered weakening of several concepts, each in a folder under `out`.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the prompts (runs/ray.py).
        relevance: Relevance measured on this model, with its head map.
        prompts: By concept, the prompts to generate.
        score: From images and their prompts to numbers, such as `clip_scorer.scoring` returns.
        out: The folder in which the concepts' folders are created.
        shard: Which part of each concept's prompts to generate, if other processes generate the rest.
        options: Passed to `measure_weakening`. By default there are six numbers of heads and two random
            orders, and the images of one prompt are saved.

    Raises:
        UnknownConcept: A concept was not measured.
    """
    defaults: dict[str, Any] = {
        "ks": eighths(relevance.values.shape[1]),
        "random_orders": 2,
        "keep_prompts": 1,
    }
    options = defaults | {name: value for name, value in options.items() if value is not None}
    unknown = [name for name in prompts if name not in relevance.concepts]
    if unknown:
        raise UnknownConcept(
            f"{unknown[0]!r} was not measured. Leave it out, or measure with a concept set that has it."
        )
    return {
        name: measure_weakening(
            pipe,
            relevance,
            name,
            concept_prompts,
            score,
            numbers=None if shard is None else shard.of(len(concept_prompts)),
            out=folder_of(out, name),
            **options,
        )
        for name, concept_prompts in prompts.items()
    }


def folder_of(out: str | Path, concept: str) -> Path:
    """The folder of a concept's run, such as `out`/time-of-day."""
    return Path(out) / re.sub(r"\W+", "-", concept.lower())


def eighths(all_heads: int) -> tuple[int, ...]:
    """Few numbers of heads to weaken, for many curves: 0, ⅛, ¼, ½, ¾ and all of them."""
    return tuple(sorted({all_heads * part // 8 for part in (0, 1, 2, 4, 6, 8)}))


def sweep_factors(
    pipe: Any,
    relevance: Relevance,
    concept: str,
    prompts: Sequence[EvalPrompt],
    score: Score,
    out: str | Path,
    factors: Sequence[float | int] = FACTORS,
    **options: Any,
) -> dict[float, Weakening]:
    """Ordered weakening of one concept with several factors, each in a folder under `out`.

    Args:
        pipe, relevance, concept, prompts, score: As in `measure_weakening`.
        out: The folder in which the factors' folders are created.
        factors: The factors on the heads' attention to the prompt's words, −100 … 100.
        options: Passed to `measure_weakening`.
    """
    return {
        float(f): measure_weakening(
            pipe, relevance, concept, prompts, score, factor=f, out=Path(out) / f"factor {f:g}", **options
        )
        for f in factors
    }
