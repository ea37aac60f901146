"""Commands about relevance itself: benchmark estimators, benchmark questions."""

from pathlib import Path
from typing import Annotated

import typer

from headwise.cli.app import Device, Dtype, Json, Model, console, load, print_json, resumable, table
from headwise.cli.benchmark import CLIP, benchmark
from headwise.cli.steer import JudgeName
from headwise.errors import HeadwiseError

__all__ = ["estimators", "questions"]


@benchmark.command()
def estimators(
    model: Model = "emoji",
    concepts: Annotated[
        str | None, typer.Option("--concepts", "-c", help="'paper34', 'emoji', or a TOML file.")
    ] = None,
    long: Annotated[int, typer.Option(min=32, help="Pictures of the long run.")] = 640,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-estimators"),
    seed: Annotated[int, typer.Option(help="Of pictures and words.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 12,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How few denoiser rows give the relevance of a long run?

    Compares ways of counting votes at equal cost. Run again, it goes on.

    \b
    Examples:
      headwise benchmark estimators --json
      headwise benchmark estimators --long 1000 --out runs/estimators
    """
    from headwise.benchmarks.questions.estimators import benchmark_estimators
    from headwise.measuring.concepts import ConceptSet
    from headwise.report.measurement import report

    concept_set = ConceptSet.load(concepts or ("emoji" if model == "emoji" else "paper34"))
    pipe = load(model, dtype, device)
    with resumable(out):
        found = benchmark_estimators(pipe, concept_set, out, long=long, seed=seed, batch_size=batch_size)
    page, numbers = report(out), found.numbers()
    if as_json:
        print_json({"page": str(page), "estimators": numbers, **found.settings})
        return
    shown = table("estimator", "rows to 0.95>", "of the paper's>", "best>")
    for name, one in numbers.items():
        rows = "never" if one["rows"] is None else f"{one['rows']:.0f}"
        share = "" if one["share_of_paper"] is None else f"{one['share_of_paper']:.2f}"
        shown.add_row(name, rows, share, f"{max(point[1] for point in one['curve']):.3f}")
    console().print(shown)
    print(f"Open {page}")


@benchmark.command()
def questions(
    model: Model = "emoji",
    concepts: Annotated[
        str | None, typer.Option("--concepts", "-c", help="'paper34', 'emoji', or a TOML file.")
    ] = None,
    pairs: Annotated[str | None, typer.Option(help="'emoji', a TOML file, or a CSV.")] = None,
    count: Annotated[int, typer.Option(min=2, help="Pairs an attribute, at most.")] = 12,
    judge: JudgeName = None,
    other: Annotated[
        list[str] | None, typer.Option(help="Another checkpoint with the same heads. May be repeated.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=32, help="Of each measurement.")] = 64,
    whole: Annotated[int, typer.Option(min=32, help="Of what all are held against; 32, 64, …")] = 512,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-questions"),
    seed: Annotated[int, typer.Option(help="Of pictures and words.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 12,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """What the paper leaves open: words, pictures, tokens, novel concepts, transfer, steps, causes.

    Run again, it goes on.

    \b
    Examples:
      headwise benchmark questions --json
      headwise benchmark questions --other ./another-checkpoint --whole 1024
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer
    from headwise.benchmarks.prompts import edit_pairs
    from headwise.benchmarks.questions.answers import benchmark_questions, other_schedulers
    from headwise.measuring.concepts import ConceptSet
    from headwise.report.measurement import report

    own = "emoji" if model == "emoji" else None
    names = [Path(name).name for name in other or ()]
    if len(set(names)) < len(names):
        raise HeadwiseError(f"Two of --other {', '.join(other or ())} have the same name. Rename a folder.")
    pipe = load(model, dtype, device)
    with resumable(out):
        found = benchmark_questions(
            pipe,
            ConceptSet.load(concepts or own or "paper34"),
            edit_pairs(pairs or "emoji", count),
            CLIPScorer.load(judge or own or CLIP),
            out,
            others={name: load(of, dtype, device) for name, of in zip(names, other or (), strict=True)},
            schedulers=other_schedulers(pipe),
            pictures=pictures,
            whole=whole,
            seed=seed,
            batch_size=batch_size,
        )
    page = report(out)
    if as_json:
        print_json({"page": str(page), "answers": {name: vars(one) for name, one in found.items()}})
        return
    shown = table("question", "", "number (95 %)>")
    for name, answer in found.items():
        for row, value in answer.values.items():
            shown.add_row(name, row, str(value))
    console().print(shown)
    print(f"Open {page}")
