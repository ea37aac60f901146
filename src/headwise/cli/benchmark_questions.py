"""Commands that compare ways to measure, scale and evaluate relevance: headwise benchmark …"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from headwise.cli.benchmark import Only
from headwise.cli.options import (
    Cases,
    Concepts,
    Counting,
    Measured,
    Model,
    Pairs,
    Scorer,
    Senses,
    Size,
    Steps,
    Sweep,
    concept_named,
    scorer_of,
)
from headwise.cli.output import print_report, table
from headwise.cli.running import resumable
from headwise.errors import HeadwiseError, UnreadableFile
from headwise.intervals import Interval

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.relevance import Relevance

__all__ = ["attribution", "estimators", "questions", "scales"]

Names = list[str] | None
Scales = Annotated[Names, typer.Option(help="Only this scale, such as 'clamp 4'. May be repeated.")]
Others = Annotated[Names, typer.Option(help="Another checkpoint with the same heads. May be repeated.")]
Reference = Annotated[
    int, typer.Option(min=32, help="Number of images of the reference measurement: 32, 64, …")
]
TuningPrompts = Annotated[
    Path | None,
    typer.Option(help="Text file of tuning prompts that contain the words; made from templates by default."),
]
TruthFile = Annotated[
    Path, typer.Option(help="JSON file of subset losses by concept, as written by benchmarks/subsets.py.")
]


def scales(
    model: Measured = Measured(),
    scale: Scales = None,
    cases: Cases = None,
    senses: Senses = None,
    pairs: Pairs = None,
    scorer: Scorer = None,
    count: Annotated[
        int, typer.Option(min=2, help="Maximum number of prompts, and of pairs, per concept.")
    ] = 12,
    sweep: Sweep = Sweep("0,1", Path("runs/benchmark-scales"), 10),
    size: Size = Size(),
) -> None:
    """Compare scales of relevance for steering, and how much each changes the rest.

    Weakens, adjusts and strengthens with each scale. Running it again resumes where it stopped.

    \b
    Examples:
      headwise benchmark scales --json
      headwise benchmark scales --scale sum --scale "clamp 4"
    """
    from headwise.benchmarks.prompts.edit_pairs import edit_pairs
    from headwise.benchmarks.prompts.evaluation import eval_prompts, polysemy_prompts
    from headwise.benchmarks.questions.scales import SCALES, benchmark_scales

    defaults, relevance = model.defaults, model.relevance()
    edits = edit_pairs(pairs or defaults.pairs, count)
    prompts = {edit.attribute: eval_prompts(cases or defaults.cases, edit.attribute, count) for edit in edits}
    sources = (prompts, polysemy_prompts(senses or defaults.cases), edits)
    pipe, options = model.load(), sweep.settings | vars(size) | {"scales": scale or SCALES}
    size.require(pipe)
    with resumable(sweep.out):
        clip = scorer_of(scorer, model)
        result = benchmark_scales(pipe, relevance, *sources, clip, sweep.out, **options)
    numbers = result.numbers()
    rows = [
        (name, f"{numbers[name]['order']:.3f}", f"{numbers[name]['largest']:.1f}")
        + tuple(f"{numbers[name][m][0]:.3f}" for m in ("misread", "accuracy", "identity", "preservation"))
        for name in result.orders
    ]
    columns = ("scale", "order>", "largest>", "misread>", "word seen>", "same object>", "rest kept>")
    print_report(sweep.out, {"scales": numbers}, sweep.as_json, table(*columns, rows=rows))


def estimators(
    model: Model = Model(),
    concepts: Concepts = None,
    long: Annotated[int, typer.Option(min=32, help="Number of images of the long run.")] = 640,
    counting: Counting = Counting(Path("runs/benchmark-estimators")),
    size: Size = Size(),
) -> None:
    """Find how few denoiser rows reproduce the relevance of a long run.

    Compares ways of counting votes at equal cost. Running it again resumes where it stopped.

    \b
    Examples:
      headwise benchmark estimators --json
      headwise benchmark estimators --long 1000 --out runs/estimators
    """
    from headwise.benchmarks.questions.estimators import benchmark_estimators

    concept_set, pipe, out = model.concepts(concepts), model.load(), counting.out
    size.require(pipe)
    with resumable(out):
        result = benchmark_estimators(pipe, concept_set, out, long=long, **counting.settings, **vars(size))
    numbers = result.numbers()
    rows = [
        (
            name,
            "never" if costs["rows"] is None else f"{costs['rows']:.0f}",
            "" if costs["share_of_paper"] is None else f"{costs['share_of_paper']:.2f}",
            f"{max(point[1] for point in costs['curve']):.3f}",
        )
        for name, costs in numbers.items()
    ]
    costs = table("estimator", "rows to 0.95>", "share of the paper's>", "best>", rows=rows)
    print_report(out, {"estimators": numbers, **result.settings}, counting.as_json, costs)


def questions(
    model: Model = Model(),
    concepts: Concepts = None,
    pairs: Pairs = None,
    count: Annotated[int, typer.Option(min=2, help="Maximum number of pairs per attribute.")] = 12,
    scorer: Scorer = None,
    other: Others = None,
    pictures: Annotated[int, typer.Option(min=32, help="Number of images per measurement.")] = 64,
    whole: Reference = 512,
    counting: Counting = Counting(Path("runs/benchmark-questions")),
    size: Size = Size(),
) -> None:
    """Answer questions that the paper leaves open.

    They concern words, images, tokens, novel concepts, transfer to other models, steps and causes. Running
    it again resumes where it stopped.

    \b
    Examples:
      headwise benchmark questions --json
      headwise benchmark questions --other ./another-checkpoint --whole 1024
    """
    from headwise.benchmarks.prompts.edit_pairs import edit_pairs
    from headwise.benchmarks.questions.answers import benchmark_questions, other_schedulers

    if len({Path(name).name for name in other or ()}) < len(other or ()):
        raise HeadwiseError(f"Two of --other {', '.join(other or ())} have the same name. Rename a folder.")
    concept_set, edits = model.concepts(concepts), edit_pairs(pairs or model.defaults.pairs, count)
    pipe = model.load()
    size.require(pipe)
    with resumable(counting.out):
        answers = benchmark_questions(
            pipe,
            concept_set,
            edits,
            scorer_of(scorer, model),
            counting.out,
            others={Path(name).name: replace(model, name=name).load() for name in other or ()},
            schedulers=other_schedulers(pipe),
            pictures=pictures,
            whole=whole,
            **counting.settings,
            **vars(size),
        )
    numbers = {name: vars(answer) for name, answer in answers.items()}
    rows = [(name, key, str(n)) for name, answer in answers.items() for key, n in answer.values.items()]
    shown = table("question", "", "number (95 %)>", rows=rows)
    print_report(counting.out, {"answers": numbers}, counting.as_json, shown)


def attribution(
    truth: TruthFile,
    model: Measured = Measured(),
    only: Only = None,
    concepts: Concepts = None,
    estimator: Annotated[Names, typer.Option(help="Only this estimator. May be repeated.")] = None,
    prompts: TuningPrompts = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of tuning prompts per concept.")] = 20,
    num_inference_steps: Steps = 4,
    areas: Annotated[
        int, typer.Option(min=0, help="Number of prompts for ordered weakening; 0 skips it.")
    ] = 0,
    cases: Cases = None,
    scorer: Scorer = None,
    counting: Counting = Counting(Path("runs/benchmark-attribution"), batch_size=10),
    size: Size = Size(),
) -> None:
    """Compare how well estimators predict the loss when heads are weakened.

    Each estimator assigns a value to every head, from prompts that are not reported on, and predicts how
    much is lost when random subsets of heads are weakened. Running it again resumes where it stopped.

    \b
    Examples:
      headwise benchmark attribution --truth losses.json --json
      headwise benchmark attribution --truth losses.json --concept Color --estimator "value norm" --areas 10
    """
    from headwise.benchmarks.attribution.benchmark import benchmark_attribution, standard_estimators
    from headwise.benchmarks.attribution.tuning import Sampling, read_truth, reporting_of, tuning_of
    from headwise.benchmarks.clip_scorer import scoring

    losses, concept_set = read_truth(truth), model.concepts(concepts)
    names = [concept_named(name, list(losses)) for name in only or losses]
    sampling = Sampling(num_inference_steps, batch_size=counting.batch_size, **vars(size))
    known = standard_estimators(concept_set, _measured(model), sampling)
    chosen = {name: known[name] for name in _estimators_named(estimator, known)}
    with resumable(counting.out):
        pipe = model.load()
        size.require(pipe)
        tuning = tuning_of(
            pipe, concept_set, {name: losses[name] for name in names},
            source=concepts or model.defaults.concepts, prompts=prompts, count=count,
        )  # fmt: skip
        source = cases or model.defaults.cases
        reporting = {name: reporting_of(source, tuning[name], areas) for name in names if areas}
        score = scoring(scorer_of(scorer, model), model.defaults.score) if areas else None
        result = benchmark_attribution(
            pipe, losses, tuning, chosen, counting.out,
            seed=counting.seed, reporting=reporting, score=score, **vars(size),
        )  # fmt: skip
    numbers, ceilings = result.numbers(), {name: each.as_json() for name, each in result.ceilings.items()}
    without_noise = median(ceiling.value for ceiling in result.ceilings.values())
    about = (
        f"Median over {len(names)} concepts and {result.settings['subsets']} subsets. Noise-free losses "
        f"would score {without_noise:.3f}."
    )
    values = {"estimators": numbers, "ceilings": ceilings, **result.settings}
    print_report(counting.out, values, counting.as_json, _attribution_table(numbers, bool(areas)), about)


def _attribution_table(numbers: dict[str, Any], areas: bool) -> Table:
    """The scores of the estimators, best first, and their costs."""
    rows = [
        (name, f"{Interval(*its['score'])}")
        + tuple(_range(its.get(key)) for key in ("others", "chance", "chance_in_layers"))
        + (f"{its['forward']}", f"{its['backward']}")
        + ((f"{its['area']:+.3f}" if "area" in its else "",) if areas else ())
        for name, its in sorted(numbers.items(), key=lambda pair: -pair[1]["score"][0])
    ]
    columns = (
        "estimator",
        "score (95 %)>",
        "from other concepts>",
        "by chance>",
        "by chance in layers>",
        "rows>",
        "gradients>",
    )
    return table(*columns, *(("area>",) if areas else ()), rows=rows)


def _range(interval: list[float] | None) -> str:
    """The ends of an interval; empty if there is none."""
    return "" if interval is None else f"{interval[1]:.3f} to {interval[2]:.3f}"


def _measured(model: Measured) -> "Relevance | None":
    """The measured relevance of the model; None if nothing was measured."""
    try:
        return model.relevance()
    except UnreadableFile:
        if model.relevance_file is not None:
            raise
        return None


def _estimators_named(names: Names, known: Iterable[str]) -> list[str]:
    """The estimators to compare; all known ones if None."""
    known = list(known)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise HeadwiseError(f"{unknown[0]!r} is not an estimator. The estimators are: {', '.join(known)}.")
    return known if names is None else names
