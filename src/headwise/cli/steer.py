"""Commands that act: generate, weaken."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwise.cli.app import (
    Device,
    Dtype,
    Guidance,
    Height,
    Json,
    Model,
    Ray,
    Shard,
    Steps,
    Width,
    WorkerCount,
    app,
    console,
    load,
    pipeline,
    print_files,
    print_json,
    print_shard,
    relevance_of,
    resumable,
    shard_in,
    table,
)
from headwise.errors import HeadwiseError

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.benchmarks.weakening import Weakening
    from headwise.measuring.relevance import Relevance

__all__ = ["generate", "weaken"]

RelevanceFile = Annotated[
    Path | None,
    typer.Option("--relevance", "-r", help="File or run folder; by default the model's own or runs/<model>."),
]
Cases = Annotated[
    str | None,
    typer.Option(help="'emoji', 'paper' or a TOML file of prompts; by default the model's own."),
]
JudgeName = Annotated[
    str | None, typer.Option(help="CLIP by hub name or folder, or 'emoji'; by default the model's own.")
]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    strengthen: Annotated[
        list[str] | None, typer.Option(help="WORD:CONCEPT or WORD:CONCEPT*STRENGTH. May be repeated.")
    ] = None,
    adjust: Annotated[
        list[str] | None, typer.Option(help="WORD:TOWARD-AWAY, likewise. May be repeated.")
    ] = None,
    suggest: Annotated[
        str | None, typer.Option(help="Draw nothing steered; say which concepts this word excites.")
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help="A row of strengths, such as 0,0.5,1,2: a column for each.")
    ] = None,
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    pictures: Annotated[int, typer.Option("--pictures", "-n", min=1, help="How many rows.")] = 4,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path(
        "runs/generate"
    ),
    seed: Annotated[int, typer.Option(help="With a picture's number, the source of all chance.")] = 0,
    num_inference_steps: Steps = 50,
    guidance_scale: Guidance = 7.5,
    negative_prompt: Annotated[str | None, typer.Option(help="What the pictures should not be.")] = None,
    height: Height = None,
    width: Width = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 4,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw a prompt, plain and steered, side by side.

    Writes every picture and grid.png; each PNG says how it was made.

    \b
    Examples:
      headwise generate "a lavender vase" --adjust "lavender:Color-Plants"
      headwise generate "a red car" --strengthen "red:Color*1.5" --strengths 0,0.5,1,2
      headwise generate "a lavender vase" --suggest lavender
    """
    pipe = load(model, dtype, device)
    measured = relevance_of(relevance, model)
    options: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    if suggest is not None:
        from headwise.steering.suggest import suggest as run

        found = run(pipe, measured, prompt, suggest, seed=seed, **options)
        _print_suggestions(prompt, suggest, found, as_json)
        return
    spelled = [*(strengthen or ()), *(adjust or ())]
    columns = _columns(spelled, measured, strengths)
    from headwise.pictures import save_columns
    from headwise.steering.compare import compare

    more: dict[str, Any] = {"negative_prompt": negative_prompt, "height": height, "width": width}
    drawn = compare(
        pipe, prompt, columns, seed=seed, pictures=pictures, batch_size=batch_size, **options, **more
    )
    said = {"prompt": prompt, "model": model, "seed": seed, **options, **more, "steering": spelled}
    print_files(save_columns(out, drawn, said), as_json)


@app.command()
def weaken(
    concept: Annotated[str, typer.Argument(help="The concept whose heads are on trial.")],
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    cases: Cases = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts at most.")] = 30,
    judge: JudgeName = None,
    score: Annotated[
        Literal["choice", "certainty", "similarity"],
        typer.Option(help="The judge's choice among the concept's words, its certainty, or CLIP similarity."),
    ] = "choice",
    factors: Annotated[
        str, typer.Option(help="What weakened heads' attention is multiplied by; several are a sweep.")
    ] = "-2",
    ks: Annotated[str | None, typer.Option(help="Numbers of heads, such as 0,16,64,128.")] = None,
    random_orders: Annotated[int, typer.Option(min=1, help="Draws of a random order.")] = 3,
    seeds: Annotated[str, typer.Option(help="Each prompt is drawn once from each.")] = "10",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; runs/weaken-<concept>.")] = None,
    num_inference_steps: Steps = 20,
    guidance_scale: Guidance = 7.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time, of whatever k.")] = 16,
    keep_prompts: Annotated[int, typer.Option(min=0, help="Save the pictures of the first so many.")] = 2,
    shard: Shard = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Weaken the heads of a concept in order, and see whether it is lost.

    Most relevant first, least relevant first, at random, and by layers. Run again, it goes on.

    \b
    Examples:
      headwise weaken Color
      headwise weaken Color --factors 0.5,0,-0.5,-1,-2,-4
      headwise weaken "Image Style" -m CompVis/stable-diffusion-v1-4 --score similarity --ray auto
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
    from headwise.benchmarks.prompts import eval_prompts
    from headwise.benchmarks.weakening import measure_weakening
    from headwise.benchmarks.weakening_sweeps import sweep_factors
    from headwise.report.measurement import report

    by = numbers_in(factors, float)
    measured = relevance_of(relevance, model)
    own = "emoji" if model == "emoji" else None
    whole = out or Path("runs") / f"weaken-{concept.lower().replace(' ', '-')}"
    part, out = shard_in(shard, ray, whole)
    given = eval_prompts(cases or own or "paper", concept, count)
    look = scoring(CLIPScorer.load(judge or own or "openai/clip-vit-large-patch14"), score)
    options: dict[str, Any] = {
        "numbers": None if part is None else part.of(len(given)),
        "ks": None if ks is None else numbers_in(ks, int),
        "random_orders": random_orders,
        "seeds": numbers_in(seeds, int),
        "batch_size": batch_size,
        "keep_prompts": keep_prompts,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
    }
    with pipeline(model, dtype, device, ray, workers) as pipe, resumable(out):
        trial = (pipe, measured, concept, given)
        if len(by) == 1:
            found = {by[0]: measure_weakening(*trial, look, factor=by[0], out=out, **options)}
        else:
            found = sweep_factors(*trial, look, out, by, **options)
    if part is not None:
        print_shard(part, out, whole, sum(len(one.scores) for one in found.values()), as_json)
        return
    page = report(out)
    if as_json:
        sweep = {"factors": {f"{factor:g}": json_of(one) for factor, one in found.items()}}
        print_json({"page": str(page)} | (json_of(found[by[0]]) if len(by) == 1 else sweep))
        return
    for factor, one in found.items():
        _print_weakening(f"{concept}, × {factor:g}", one)
    print(f"Open {page}")


def numbers_in(text: str, kind: type) -> list[Any]:
    """Numbers in a line, with commas between."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise HeadwiseError(
            f"{text!r} was given; expected numbers with commas between, such as 0,1,2."
        ) from None


def json_of(found: "Weakening") -> dict[str, Any]:
    """What one weakening found, for programs."""
    area, random = found.area(), found.random()
    by_layer = found.area("most relevant layers", "least relevant layers")
    halves = {order: found.half_drop(order) for order in found.orders[:2]}
    return {
        "area": area.value,
        "low": area.low,
        "high": area.high,
        "random_area": random.value,
        "layer_area": by_layer.value,
        "half_drop": {order: k if k == k else None for order, k in halves.items()},
    }


def _columns(spelled: list[str], relevance: "Relevance", strengths: str | None) -> dict[str, list[Any]]:
    from headwise.steering.spelling import parse_steering

    if strengths is None:
        steered = {"steered": [parse_steering(text, relevance) for text in spelled]} if spelled else {}
        return {"plain": [], **steered}
    if not spelled:
        raise HeadwiseError("--strengths needs something to strengthen. Give --strengthen or --adjust too.")
    return {
        f"× {times:g}": [parse_steering(text, relevance, times) for text in spelled]
        for times in numbers_in(strengths, float)
    }


def _print_suggestions(prompt: str, word: str, found: list[Any], as_json: bool) -> None:
    if as_json:
        print_json({"prompt": prompt, "word": word, "concepts": [s._asdict() for s in found]})
        return
    print(f'Concepts whose heads {word!r} excites in "{prompt}":', file=sys.stderr)
    shown = table("concept", "fit>")
    for suggestion in found[:8]:
        shown.add_row(suggestion.concept, f"{suggestion.fit:z.2f}")
    console().print(shown)


def _print_weakening(name: str, found: "Weakening") -> None:
    shown = table("order", "mean score>", "half of the drop at k>")
    for order in found.orders:
        half = found.half_drop(order)
        shown.add_row(order, f"{found.height(order)}", f"{half:.0f}" if half == half else "no drop")
    console().print(shown)
    print(f"{name}: least minus most relevant first {found.area()}")
