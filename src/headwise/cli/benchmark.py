"""Commands that put claims to the test, each beside its controls or baselines: headwise benchmark …"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headwise.cli.options import (
    Cases,
    EditSweep,
    Judge,
    Ks,
    Measured,
    Methods,
    Pairs,
    Senses,
    Sharing,
    Sweep,
    concept_named,
    numbers_in,
    scorer_of,
)
from headwise.cli.output import finite, print_report, table
from headwise.cli.running import running
from headwise.cli.steer import weakening_json
from headwise.editing.baselines.table import OFFERED

__all__ = ["Only", "atoms", "editing", "multi_concept", "polysemy", "weakening"]

Names = list[str] | None
Only = Annotated[Names, typer.Option("--concept", help="Only this concept. May be repeated.")]
Effect = Annotated[
    Path | None,
    typer.Option("--effect", help="Relevance by effect, a file or run; by default the built-in model's own."),
]
Factor = Annotated[float, typer.Option(help="What the attention of weakened heads is multiplied by.")]


def weakening(
    model: Measured = Measured(),
    cases: Cases = None,
    concepts: Only = None,
    count: Annotated[int, typer.Option(min=2, help="Prompts per concept, at most.")] = 24,
    judge: Judge = None,
    factor: Factor = -2.0,
    ks: Ks = None,
    sweep: Sweep = Sweep("10", Path("runs/benchmark-weakening"), 10),
    sharing: Sharing = Sharing(),
) -> None:
    """Is every concept lost first where its most relevant heads are weakened first?

    Of the built-in model, only concepts that its judge reads well. If run again, it goes on where it stopped.

    \b
    Examples:
      headwise benchmark weakening --json
      headwise benchmark weakening --concept Color --concept "Image Style" --count 48
    """
    from headwise.benchmarks.clip_scorer import scoring
    from headwise.benchmarks.prompts import eval_prompts, evaluated_concepts
    from headwise.benchmarks.weakening_sweeps import benchmark_weakening

    defaults, relevance, source = model.defaults, model.relevance(), cases or model.defaults.cases
    scored = [name for name in defaults.scored_concepts(source) if name in relevance.concepts]
    named = (concept_named(name, evaluated_concepts(source)) for name in concepts or scored)
    prompts = {name: eval_prompts(source, name, count) for name in named}
    options = sweep.settings | {"factor": factor, "ks": None if ks is None else numbers_in(ks, int)}
    with running(model, sharing, sweep.out) as run:
        score = scoring(scorer_of(judge, model), defaults.score)
        results = benchmark_weakening(run.pipe, relevance, prompts, score, run.folder, run.shard, **options)
    if run.ends_as_shard(sum(len(result.scores) for result in results.values()), sweep.as_json):
        return
    numbers = {name: weakening_json(result) for name, result in results.items()}
    positive = sum(result.area().low > 0 for result in results.values())
    rows = [
        (name, f"{result.area()}", f"{areas['random_area']:+.3f}", f"{areas['layer_area']:+.3f}")
        for (name, result), areas in zip(results.items(), numbers.values(), strict=True)
    ]
    areas_table = table("concept", "area (95 %)>", "random above most>", "by layers>", rows=rows)
    values = {"concepts": numbers, "share_positive": positive / len(numbers)}
    summary = f"Interval above 0: {positive} of {len(numbers)} concepts."
    print_report(sweep.out, values, sweep.as_json, areas_table, summary)


def polysemy(
    model: Measured = Measured(),
    senses: Senses = None,
    judge: Judge = None,
    count: Annotated[int | None, typer.Option(min=1, help="Prompts at most; all if not given.")] = None,
    strength: Annotated[float, typer.Option(help="Strength of adjusting.")] = 1.0,
    effect_file: Effect = None,
    methods: Methods = None,
    sweep: Sweep = Sweep("0,1,2", Path("runs/benchmark-polysemy"), 20),
    sharing: Sharing = Sharing(),
) -> None:
    """How often is a word with two senses misread: plain, adjusted, and under controls?

    Gates are compared where relevance by effect is known. If run again, it goes on where it stopped.

    \b
    Examples:
      headwise benchmark polysemy --json
      headwise benchmark polysemy -m CompVis/stable-diffusion-v1-4 --senses mine.toml --seeds 0,1,2,3,4
    """
    import numpy as np

    from headwise.benchmarks.clip_scorer import scoring
    from headwise.benchmarks.polysemy import benchmark_polysemy
    from headwise.benchmarks.prompts import polysemy_prompts
    from headwise.measuring.concepts import ConceptSet

    relevance, prompts = model.relevance(), polysemy_prompts(senses or model.defaults.cases, count)
    listed = relevance.settings.get("concepts")
    concepts = None if listed is None else ConceptSet.from_json(listed)
    options = sweep.settings | {"strength": strength, "keep_prompts": 12, "methods": methods}
    options |= {"effect": model.effect(effect_file), "concepts": concepts}
    with running(model, sharing, sweep.out) as run:
        score = scoring(scorer_of(judge, model), "choice")
        options |= run.place(len(prompts))
        result = benchmark_polysemy(run.pipe, relevance, prompts, score, **options)
    if run.ends_as_shard(len(result.misread), sweep.as_json):
        return
    rates = {method: result.rate(method) for method in result.methods}
    n = int(np.isfinite(result.misread.values[0]).sum())
    numbers = {
        method.replace(", ", "_").replace(" ", "_"): {
            "misread": rate.value,
            "low": rate.low,
            "high": rate.high,
            "n": n,
        }
        for method, rate in rates.items()
    }
    rows = [(method, f"{rate}") for method, rate in rates.items()]
    rates_table = table("method", "misread (95 %)>", rows=rows)
    print_report(sweep.out, {"methods": numbers}, sweep.as_json, rates_table, f"{n} images per method.")


def editing(
    model: Measured = Measured(),
    pairs: Pairs = None,
    judge: Judge = None,
    count: Annotated[int, typer.Option(min=1, help="Pairs per attribute, at most.")] = 20,
    methods: Methods = None,
    sweep: EditSweep = EditSweep("0,1,2,3", Path("runs/benchmark-editing"), 20),
    sharing: Sharing = Sharing(),
) -> None:
    """Which way of editing shows the target best, and keeps the source best?

    Compares prompt-to-prompt by relevance with {}. If run again, it goes on where it stopped.

    \b
    Examples:
      headwise benchmark editing --json
      headwise benchmark editing -m CompVis/stable-diffusion-v1-4 --pairs mine.csv --method relevance
    """
    from headwise.benchmarks.editing import benchmark_editing
    from headwise.benchmarks.prompts import edit_pairs

    relevance, edits = model.relevance(), edit_pairs(pairs or model.defaults.pairs, count)
    options = sweep.settings | {"methods": methods, "keep_pairs": 10}
    with running(model, sharing, sweep.out) as run:
        options |= run.place(len(edits))
        result = benchmark_editing(run.pipe, relevance, edits, scorer_of(judge, model), **options)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    metrics = {m: m for m in ("alignment", "accuracy", "preservation")} | {"identity": "same thing"}
    numbers = _intervals(result, result.attributes, metrics)
    for attribute, of_method in numbers.items():
        n = result.attributes.count(attribute) * len(result.scores.axes["seed"])
        for intervals in of_method.values():
            intervals["n"] = n
    means_table = _means_table("attribute", numbers, metrics)
    print_report(sweep.out, {"attributes": numbers}, sweep.as_json, means_table)


editing.__doc__ = (editing.__doc__ or "").format(", ".join(method.title for method in OFFERED.values()))


def multi_concept(
    model: Measured = Measured(),
    prompts: Annotated[str | None, typer.Option(help="'emoji', or a TOML file.")] = None,
    judge: Judge = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts per type, at most.")] = 40,
    methods: Methods = None,
    sweep: Sweep = Sweep("0,1,2,3", Path("runs/benchmark-multi-concept"), 20, batch_size=16),
    sharing: Sharing = Sharing(),
) -> None:
    """Are all subjects of a prompt there?

    Attend-and-Excite, plain and by relevance, beside plain and composable prompts. If run again, it goes on
    where it stopped.

    \b
    Examples:
      headwise benchmark multi-concept --json
      headwise benchmark multi-concept --prompts mine.toml --method attend-and-excite --method relevance
    """
    from headwise.benchmarks.multi_concept import METRICS, benchmark_multi_concept
    from headwise.benchmarks.prompts import multi_subject_prompts

    relevance, subjects = model.relevance(), multi_subject_prompts(prompts or model.defaults.pairs, count)
    options = sweep.settings | {"methods": methods, "keep_prompts": 10}
    with running(model, sharing, sweep.out) as run:
        options |= run.place(len(subjects))
        result = benchmark_multi_concept(run.pipe, relevance, subjects, scorer_of(judge, model), **options)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    numbers = _intervals(result, result.types, METRICS)
    means_table = _means_table("type", numbers, {metric: metric for metric in METRICS})
    print_report(sweep.out, {"types": numbers}, sweep.as_json, means_table)


def atoms(
    model: Measured = Measured(),
    prompts: Annotated[
        str | None,
        typer.Option(
            help="'emoji', or your file of GenEval 2, GenEval, T2I-CompBench or DSG, or of templates in TOML."
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="Turn up the words that say this: count, color, thing, ...")
    ] = "count",
    concept: Annotated[str, typer.Option(help="The concept of these words, by whose heads.")] = "Counting",
    dial: Annotated[
        float, typer.Option(help="How far; 0 changes nothing, 1 doubles what the words do.")
    ] = 1.0,
    judge: Judge = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts per group, at most.")] = 40,
    effect_file: Effect = None,
    methods: Methods = None,
    sweep: Sweep = Sweep("0,1,2,3", Path("runs/benchmark-atoms"), 20, batch_size=16),
    sharing: Sharing = Sharing(),
) -> None:
    """Is everything there that the prompt says, and does turning up its words help?

    Scored by GenEval 2's Soft-TIFA with a CLIP model as the judge: means over what each prompt says. Words
    are turned up by the effect of heads where it is known, by votes, and under controls. If run again, it
    goes on where it stopped.

    \b
    Examples:
      headwise benchmark atoms --json
      headwise benchmark atoms --kind color --concept Color --dial 0.5
      headwise benchmark atoms -m CompVis/stable-diffusion-v1-4 --prompts geneval2_data.jsonl --count 10
    """
    from headwise.benchmarks.atoms import prompts_with
    from headwise.benchmarks.atoms_benchmark import METRICS, benchmark_atoms
    from headwise.benchmarks.prompt_files import read_prompts

    measured, effect = model.relevance(), model.effect(effect_file)
    votes = measured if measured.kind == "votes" else None
    effect = measured if votes is None and effect_file is None else effect
    concept = concept_named(concept, measured.concepts)
    asked = prompts_with(read_prompts(prompts or model.defaults.pairs), kind, count)
    options = sweep.settings | {"kind": kind, "concept": concept, "dial": dial, "methods": methods}
    options |= {"effect": effect, "relevance": votes, "keep_prompts": 10}
    with running(model, sharing, sweep.out) as run:
        options |= run.place(len(asked))
        result = benchmark_atoms(run.pipe, asked, scorer_of(judge, model), **options)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    numbers = _intervals(result, result.groups, METRICS)
    others = [method for method in result.methods if method != "plain" and "plain" in result.methods]
    gains = {method: result.gain(method, "gm") for method in others}
    lines = [f"{method}: gm {gain:+.3f} over plain." for method, gain in gains.items()]
    values = {"groups": numbers, "gm_gains": {method: gain.as_json() for method, gain in gains.items()}}
    means_table = _means_table("group", numbers, {metric: metric for metric in METRICS})
    print_report(sweep.out, values, sweep.as_json, means_table, *lines, f"{len(asked)} prompts.")


def _intervals(result: Any, groups: Iterable[str], metrics: Iterable[str]) -> dict[str, Any]:
    """Mean and interval of every metric, by group of prompts and by method."""

    def interval(*cell: str) -> dict[str, float]:
        mean = result.of(*cell)
        return {"mean": mean.value, "low": finite(mean.low), "high": finite(mean.high)}

    return {
        group: {method: {m: interval(method, m, group) for m in metrics} for method in result.methods}
        for group in dict.fromkeys(groups)
    }


def _means_table(title: str, numbers: dict[str, Any], metrics: dict[str, str]) -> Table:
    """The means of `_intervals`, a row for every group and method, with the metrics by their titles."""
    rows = [
        (group, method, *(f"{intervals[metric]['mean']:.3f}" for metric in metrics))
        for group, of_method in numbers.items()
        for method, intervals in of_method.items()
    ]
    return table(title, "method", *(f"{column}>" for column in metrics.values()), rows=rows)
