"""Is a concept lost first where its most relevant heads are weakened first? Of many, or by many factors."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwise.benchmarks.prompts import EvalPrompt
from headwise.benchmarks.weakening import Score, Weakening, measure_weakening
from headwise.errors import UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.runs.shards import Shard

__all__ = ["FACTORS", "benchmark_weakening", "eighths", "sweep_factors"]

FACTORS = (0.5, 0.0, -0.5, -1.0, -2.0, -4.0)


def benchmark_weakening(
    pipe: Any,
    relevance: Relevance,
    cases: Mapping[str, Sequence[EvalPrompt]],
    score: Score,
    out: str | Path,
    shard: Shard | None = None,
    **options: Any,
) -> dict[str, Weakening]:
    """Ordered weakening of several concepts, each in a folder of its own under `out`.

    Args:
        cases: Of every concept that is put on trial.
        shard: Draw only this share of each concept's prompts, where others draw the rest.
        options: As `measure_weakening` takes them; by default six numbers of heads, two random orders
            and the pictures of one prompt.
    """
    usual: dict[str, Any] = {"ks": eighths(relevance.values.shape[1]), "random_orders": 2, "keep_prompts": 1}
    options = usual | {name: value for name, value in options.items() if value is not None}
    unknown = [name for name in cases if name not in relevance.concepts]
    if unknown:
        raise UnknownConcept(
            f"{unknown[0]!r} was not measured. Leave it out, or measure with a concept set that holds it."
        )
    folders = {name: Path(out) / re.sub(r"\W+", "-", name.lower()) for name in cases}
    return {
        name: measure_weakening(
            pipe,
            relevance,
            name,
            of_concept,
            score,
            numbers=None if shard is None else shard.of(len(of_concept)),
            out=folders[name],
            **options,
        )
        for name, of_concept in cases.items()
    }


def eighths(all_heads: int) -> tuple[int, ...]:
    """Numbers of heads to weaken where many curves are wanted: 0, ⅛, ¼, ½, ¾ and all of them."""
    return tuple(sorted({all_heads * share // 8 for share in (0, 1, 2, 4, 6, 8)}))


def sweep_factors(
    pipe: Any,
    relevance: Relevance,
    concept: str,
    cases: Sequence[EvalPrompt],
    score: Score,
    out: str | Path,
    factors: Sequence[float | int] = FACTORS,
    **options: Any,
) -> dict[float, Weakening]:
    """Ordered weakening of one concept by several factors, each in a folder of its own under `out`.

    Args:
        factors: What the heads' attention to the prompt's words is multiplied by.
        options: As `measure_weakening` takes them.
    """
    return {
        float(f): measure_weakening(
            pipe, relevance, concept, cases, score, factor=f, out=Path(out) / f"factor {f:g}", **options
        )
        for f in factors
    }
