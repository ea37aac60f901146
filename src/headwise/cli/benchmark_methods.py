"""Commands that compare methods: headwise benchmark editing | multi-concept | segmentation | atoms."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headwise.cli.benchmark import Effect
from headwise.cli.given_editing import given_editing
from headwise.cli.options import (
    EditSweep,
    Measured,
    Methods,
    Output,
    Pairs,
    Scorer,
    Sharing,
    Size,
    Sweep,
    concept_named,
    numbers_in,
    scorer_of,
)
from headwise.cli.output import ends, print_report, table
from headwise.cli.running import running
from headwise.editing.baselines.table import OFFERED
from headwise.errors import HeadwiseError

__all__ = ["atoms", "editing", "multi_concept", "segmentation"]


def editing(
    model: Measured = Measured(),
    pairs: Pairs = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            help="Edit existing images instead of generated ones: 'emoji', a TOML file of [[pictures]], or "
            "PIE-Bench's mapping_file.json."
        ),
    ] = None,
    effect_file: Effect = None,
    scorer: Scorer = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of pairs per attribute.")] = 20,
    methods: Methods = None,
    sweep: EditSweep = EditSweep("0,1,2,3", Path("runs/benchmark-editing"), 20),
    size: Size = Size(),
    sharing: Sharing = Sharing(),
) -> None:
    """Compare editing methods: how well they show the target and keep the source.

    Compares prompt-to-prompt by relevance with {}. With --pictures, images are inverted at the model's own
    size and methods are compared at equal preservation; --effect and its methods apply only there. Running it
    again resumes where it stopped.

    \b
    Examples:
      headwise benchmark editing --json
      headwise benchmark editing --pictures emoji --seeds 0 --out runs/benchmark-given-editing
      headwise benchmark editing -m CompVis/stable-diffusion-v1-4 --pairs mine.csv --method relevance
    """
    if pictures is not None:
        if pairs is not None:
            raise HeadwiseError(
                "Both --pairs and --pictures were given. Give one: images have their own pairs."
            )
        size.leave_out("--pictures", "given images are scaled to the model's own size")
        given = {"effect_file": effect_file, "scorer": scorer, "methods": methods}
        return given_editing(model, pictures, count, sweep, sharing, **given)
    from headwise.benchmarks.editing import benchmark_editing
    from headwise.benchmarks.prompts.edit_pairs import edit_pairs

    relevance, edits = model.relevance(), edit_pairs(pairs or model.defaults.pairs, count)
    options = sweep.settings | vars(size) | {"methods": methods, "keep_pairs": 10}
    with running(model, sharing, sweep.out) as run:
        size.require(run.pipe)
        options |= run.place(len(edits))
        result = benchmark_editing(run.pipe, relevance, edits, scorer_of(scorer, model), **options)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    metrics = {m: m for m in ("alignment", "accuracy", "preservation")} | {"identity": "same object"}
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
    prompts: Annotated[str | None, typer.Option(help="'emoji' or a TOML file of prompts.")] = None,
    scorer: Scorer = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of prompts per type.")] = 40,
    methods: Methods = None,
    sweep: Sweep = Sweep("0,1,2,3", Path("runs/benchmark-multi-concept"), 20, batch_size=16),
    size: Size = Size(),
    sharing: Sharing = Sharing(),
) -> None:
    """Measure whether all subjects of a prompt appear in the image.

    Compares Attend-and-Excite, plain and by relevance, with plain and composable prompts. Running it again
    resumes where it stopped.

    \b
    Examples:
      headwise benchmark multi-concept --json
      headwise benchmark multi-concept --prompts mine.toml --method attend-and-excite --method relevance
    """
    from headwise.benchmarks.multi_concept import METRICS, benchmark_multi_concept
    from headwise.benchmarks.prompts.evaluation import multi_subject_prompts

    relevance, subjects = model.relevance(), multi_subject_prompts(prompts or model.defaults.pairs, count)
    options = sweep.settings | vars(size) | {"methods": methods, "keep_prompts": 10}
    with running(model, sharing, sweep.out) as run:
        size.require(run.pipe)
        options |= run.place(len(subjects))
        result = benchmark_multi_concept(run.pipe, relevance, subjects, scorer_of(scorer, model), **options)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    numbers = _intervals(result, result.types, METRICS)
    means_table = _means_table("type", numbers, {metric: metric for metric in METRICS})
    print_report(sweep.out, {"types": numbers}, sweep.as_json, means_table)


def segmentation(
    model: Measured = Measured(),
    effect_file: Effect = None,
    pictures: Annotated[str | None, typer.Option(help="'emoji' or a TOML file of [[pictures]].")] = None,
    methods: Methods = None,
    seeds: Annotated[
        str, typer.Option(help="Comma-separated seeds; each image is noised once per seed.")
    ] = "0",
    num_inference_steps: Annotated[int, typer.Option(min=1, help="Number of noise levels per image.")] = 10,
    output: Output = Output(Path("runs/benchmark-segmentation")),
    sharing: Sharing = Sharing(),
) -> None:
    """Measure how well attention maps of a word locate it in images.

    Compares maps weighted by relevance with plain ones, at the model's own size. Running it again
    resumes where it stopped.

    \b
    Examples:
      headwise benchmark segmentation --json
      headwise benchmark segmentation -m CompVis/stable-diffusion-v1-4 --pictures mine.toml --seeds 0,1,2
    """
    from headwise.benchmarks.prompts.masked_words import masked_words
    from headwise.benchmarks.segmentation import benchmark_segmentation

    relevance, words = model.relevance(), masked_words(pictures or model.defaults.pairs)
    options: dict[str, Any] = {"seeds": numbers_in(seeds, int), "num_inference_steps": num_inference_steps}
    options |= {"effect": model.effect(effect_file), "methods": methods, "keep_words": 12}
    with running(model, sharing, output.out) as run:
        options |= run.place(len(words))
        result = benchmark_segmentation(run.pipe, relevance, words, **options)
    if run.ends_as_shard(len(result.scores), output.as_json):
        return
    others = {"iou_above_all_heads": "all heads", "iou_above_votes_top_quarter": "votes, top quarter"}
    others = {key: other for key, other in others.items() if other in result.methods}
    numbers: dict[str, Any] = {}
    rows = []
    for kind, method in itertools.product(dict.fromkeys(result.kinds), result.methods):
        measures = {"iou": result.iou(method, kind), "precision": result.precision(method, kind)}
        measures |= {key: result.iou_above(method, other, kind) for key, other in others.items()}
        rows.append((kind, method, *(f"{each}" for each in measures.values())))
        numbers.setdefault(kind, {})[method] = {
            name: ends(each) | {"n": each.n} for name, each in measures.items()
        }
    above = (f"IoU gain over {other}>" for other in others.values())
    grid = table("words", "method", "IoU (95 %)>", "precision>", *above, rows=rows)
    print_report(output.out, {"kinds": numbers}, output.as_json, grid)


def atoms(
    model: Measured = Measured(),
    prompts: Annotated[
        str | None,
        typer.Option(
            help="'emoji', a prompt file of GenEval 2, GenEval, T2I-CompBench or DSG, or a TOML file of "
            "templates."
        ),
    ] = None,
    kind: Annotated[str, typer.Option(help="Kind of words to turn up: count, color, thing, …")] = "count",
    concept: Annotated[
        str, typer.Option(help="The concept of these words, whose heads are used.")
    ] = "Counting",
    dial: Annotated[
        float, typer.Option(help="How far to turn them up: 0 changes nothing, 1 doubles what the words do.")
    ] = 1.0,
    scorer: Scorer = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of prompts per group.")] = 40,
    effect_file: Effect = None,
    methods: Methods = None,
    sweep: Sweep = Sweep("0,1,2,3", Path("runs/benchmark-atoms"), 20, batch_size=16),
    size: Size = Size(),
    sharing: Sharing = Sharing(),
) -> None:
    """Score everything that a prompt asks for, with and without turning up its words.

    Scores are GenEval 2's Soft-TIFA with a CLIP model as the scorer: means over the atoms of each prompt.
    Words are turned up by relevance by effect if available, by votes, and by controls. Running it again
    resumes where it stopped.

    \b
    Examples:
      headwise benchmark atoms --json
      headwise benchmark atoms --kind color --concept Color --dial 0.5
      headwise benchmark atoms -m CompVis/stable-diffusion-v1-4 --prompts geneval2_data.jsonl --count 10
    """
    from headwise.benchmarks.atoms_benchmark import METRICS, benchmark_atoms
    from headwise.benchmarks.prompts.atoms import prompts_with
    from headwise.benchmarks.prompts.files import read_prompts

    measured, effect = model.relevance(), model.effect(effect_file)
    votes = measured if measured.kind == "votes" else None
    effect = measured if votes is None and effect_file is None else effect
    concept = concept_named(concept, measured.concepts)
    asked = prompts_with(read_prompts(prompts or model.defaults.pairs), kind, count)
    options = sweep.settings | vars(size) | {"kind": kind, "concept": concept, "dial": dial}
    options |= {"effect": effect, "relevance": votes, "methods": methods, "keep_prompts": 10}
    with running(model, sharing, sweep.out) as run:
        size.require(run.pipe)
        options |= run.place(len(asked))
        result = benchmark_atoms(run.pipe, asked, scorer_of(scorer, model), **options)
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
    """The mean and interval of every metric, by group of prompts and by method."""
    return {
        group: {method: {m: ends(result.of(method, m, group)) for m in metrics} for method in result.methods}
        for group in dict.fromkeys(groups)
    }


def _means_table(title: str, numbers: dict[str, Any], metrics: dict[str, str]) -> Table:
    """The means of `_intervals`: one row per group and method, one column per metric, named by its title."""
    rows = [
        (group, method, *(f"{intervals[metric]['mean']:.3f}" for metric in metrics))
        for group, of_method in numbers.items()
        for method, intervals in of_method.items()
    ]
    return table(title, "method", *(f"{column}>" for column in metrics.values()), rows=rows)
