"""Commands that test claims against controls or baselines: headwise benchmark …"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headwise.cli.options import (
    Cases,
    Ks,
    Measured,
    Methods,
    Scorer,
    Senses,
    Sharing,
    Size,
    Sweep,
    concept_named,
    numbers_in,
    scorer_of,
)
from headwise.cli.output import ends, print_report, table
from headwise.cli.running import running
from headwise.cli.steer import weakening_json
from headwise.intervals import Interval

__all__ = ["Effect", "Only", "polysemy", "weakening"]

Names = list[str] | None
Only = Annotated[Names, typer.Option("--concept", help="Only this concept. May be repeated.")]
Effect = Annotated[
    Path | None,
    typer.Option(
        "--effect", help="Relevance by effect: a file or run folder; by default the built-in model's own."
    ),
]
Factor = Annotated[float, typer.Option(help="Factor on the attention of weakened heads.")]


def weakening(
    model: Measured = Measured(),
    cases: Cases = None,
    concepts: Only = None,
    count: Annotated[int, typer.Option(min=2, help="Maximum number of prompts per concept.")] = 24,
    scorer: Scorer = None,
    factor: Factor = -2.0,
    ks: Ks = None,
    sweep: Sweep = Sweep("10", Path("runs/benchmark-weakening"), 10),
    size: Size = Size(),
    sharing: Sharing = Sharing(),
) -> None:
    """Test whether weakening a concept's most relevant heads first removes it soonest.

    With the built-in model, only concepts that its scorer recognises well are tested by default. Running it
    again resumes where it stopped.

    \b
    Examples:
      headwise benchmark weakening --json
      headwise benchmark weakening --concept Color --concept "Image Style" --count 48
    """
    from headwise.benchmarks.clip_scorer import scoring
    from headwise.benchmarks.prompts.evaluation import eval_prompts, evaluated_concepts
    from headwise.benchmarks.weakening_sweeps import benchmark_weakening

    defaults, relevance, source = model.defaults, model.relevance(), cases or model.defaults.cases
    scored = [name for name in defaults.scored_concepts(source) if name in relevance.concepts]
    named = (concept_named(name, evaluated_concepts(source)) for name in concepts or scored)
    prompts = {name: eval_prompts(source, name, count) for name in named}
    options = sweep.settings | vars(size) | {"factor": factor}
    options |= {"ks": None if ks is None else numbers_in(ks, int)}
    with running(model, sharing, sweep.out) as run:
        size.require(run.pipe)
        score = scoring(scorer_of(scorer, model), defaults.score)
        results = benchmark_weakening(run.pipe, relevance, prompts, score, run.folder, run.shard, **options)
    if run.ends_as_shard(sum(len(result.scores) for result in results.values()), sweep.as_json):
        return
    numbers = {name: weakening_json(result) for name, result in results.items()}
    positive = sum(result.area().low > 0 for result in results.values())
    rows = [
        (name, f"{result.area()}", f"{areas['random_area']:+.3f}", f"{areas['layer_area']:+.3f}")
        for (name, result), areas in zip(results.items(), numbers.values(), strict=True)
    ]
    areas_table = table("concept", "area (95 %)>", "random above most>", "whole layers>", rows=rows)
    values = {"concepts": numbers, "share_positive": positive / len(numbers)}
    summary = f"The interval lies above 0 for {positive} of {len(numbers)} concepts."
    print_report(sweep.out, values, sweep.as_json, areas_table, summary)


def polysemy(
    model: Measured = Measured(),
    senses: Senses = None,
    scorer: Scorer = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of prompts; all if not given.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength of the adjustment.")] = 1.0,
    effect_file: Effect = None,
    methods: Methods = None,
    half: Annotated[
        Literal["tuning", "reporting"] | None,
        typer.Option(help="Only every other word: the first, third, … (tuning) or the rest (reporting)."),
    ] = None,
    sweep: Sweep = Sweep("0,1,2", Path("runs/benchmark-polysemy"), 20),
    size: Size = Size(),
    sharing: Sharing = Sharing(),
) -> None:
    """Measure how often words with two senses are misread, plain and adjusted.

    Controls are compared too, as are gates and contrast if relevance by effect is available. Also reports
    whether the prompt's object is still recognised, and how similar each image is to the plain one. Running
    it again resumes where it stopped.

    \b
    Examples:
      headwise benchmark polysemy --json
      headwise benchmark polysemy -m CompVis/stable-diffusion-v1-4 --senses mine.toml --seeds 0,1,2,3,4
    """
    from headwise.benchmarks.polysemy import BY_HEADS, benchmark_polysemy
    from headwise.benchmarks.prompts.evaluation import polysemy_prompts
    from headwise.measuring.concepts import ConceptSet

    relevance, prompts = model.relevance(), polysemy_prompts(senses or model.defaults.cases, count, half)
    listed = relevance.settings.get("concepts")
    concepts = None if listed is None else ConceptSet.from_json(listed)
    options = sweep.settings | vars(size) | {"strength": strength, "keep_prompts": 12, "methods": methods}
    options |= {"effect": model.effect(effect_file), "concepts": concepts}
    with running(model, sharing, sweep.out) as run:
        size.require(run.pipe)
        options |= run.place(len(prompts))
        result = benchmark_polysemy(run.pipe, relevance, prompts, scorer_of(scorer, model), **options)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    compared = {method: result.against_others(method) for method in BY_HEADS if method in result.methods}
    numbers = _polysemy_json(result, compared)
    columns = ("method", "misread (95 %)>", "object>", "kept>", "misread − plain (95 %)>")
    means_table = table(*columns, rows=[_polysemy_row(result, method) for method in result.methods])
    wins = [
        f"{method} is misread less often than {sum(each.high < 0 for each in others.values())} of "
        f"{len(others)} other methods (interval of the difference below 0)."
        for method, others in compared.items()
        if others
    ]
    summary = f"{result.rate(result.methods[0]).n} images per method."
    print_report(sweep.out, numbers, sweep.as_json, means_table, *wins, summary)


def _polysemy_row(result: Any, method: str) -> tuple[str, ...]:
    """A method's row of the table; a cell is empty if no image was scored."""
    means = (f"{result.of(method, m).value:.3f}".replace("nan", "") for m in ("thing", "kept"))
    to_plain = f"{result.difference(method):+.3f}" if "plain" in result.methods and method != "plain" else ""
    return method, f"{result.rate(method)}", *means, to_plain


def _polysemy_json(result: Any, compared: dict[str, dict[str, Interval]]) -> dict[str, Any]:
    """The means of every method, its differences from the other methods, and its misread rate by word."""
    methods = {}
    for method in result.methods:
        misread = result.rate(method)
        numbers = {"misread": misread.value, "low": misread.low, "high": misread.high, "n": misread.n}
        numbers |= {metric: ends(result.of(method, metric)) for metric in ("thing", "kept")}
        if "plain" in result.methods:
            differences = {m: ends(result.difference(method, metric=m)) for m in ("misread", "thing")}
            numbers["difference_to_plain"] = differences
        methods[_key(method)] = numbers
    against = {
        _key(method): {_key(other): ends(difference) for other, difference in others.items()}
        for method, others in compared.items()
    }
    words = {
        word: {_key(method): result.rate(method, word).value for method in result.methods}
        for word in dict.fromkeys(result.words)
    }
    return {"methods": methods, "against": against, "words": words}


def _key(method: str) -> str:
    """The name of a method in JSON."""
    return method.replace(", ", "_").replace(" ", "_")
