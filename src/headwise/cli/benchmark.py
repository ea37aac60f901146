"""Commands that put claims to the test: benchmark weakening, benchmark polysemy, benchmark scales."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headwise.cli.app import (
    Device,
    Dtype,
    Guidance,
    Json,
    Model,
    Ray,
    Shard,
    Steps,
    WorkerCount,
    app,
    console,
    load,
    pipeline,
    print_json,
    print_shard,
    relevance_of,
    resumable,
    shard_in,
    table,
)
from headwise.cli.steer import Cases, JudgeName, RelevanceFile, json_of, numbers_in

__all__ = ["benchmark"]

benchmark = typer.Typer(
    help="Put a claim of the paper to the test, controls beside it.", no_args_is_help=True
)
app.add_typer(benchmark, name="benchmark")

CLIP = "openai/clip-vit-large-patch14"
SURE = 0.95  # a concept is scored where the judge reads at least this share of drawings rightly


@benchmark.command()
def weakening(
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    cases: Cases = None,
    concepts: Annotated[
        list[str] | None, typer.Option("--concept", help="Only this one. May be repeated.")
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Prompts a concept, at most.")] = 24,
    judge: JudgeName = None,
    factor: Annotated[float, typer.Option(help="What weakened heads' attention is multiplied by.")] = -2.0,
    ks: Annotated[str | None, typer.Option(help="Numbers of heads, such as 0,16,64,128.")] = None,
    seeds: Annotated[str, typer.Option(help="Each prompt is drawn once from each.")] = "10",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-weakening"),
    num_inference_steps: Steps = 10,
    guidance_scale: Guidance = 7.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    shard: Shard = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Is every concept lost first where its most relevant heads are weakened first?

    Of the built-in model the concepts that its judge reads well. Run again, it goes on.

    \b
    Examples:
      headwise benchmark weakening --json
      headwise benchmark weakening --concept Color --concept "Image Style" --count 48
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
    from headwise.benchmarks.prompts import eval_prompts
    from headwise.benchmarks.weakening_sweeps import benchmark_weakening
    from headwise.report.measurement import report

    whole = out
    part, out = shard_in(shard, ray, whole)
    measured = relevance_of(relevance, model)
    own = "emoji" if model == "emoji" else None
    source = cases or own or "paper"
    names = concepts or [name for name in _scored(model, source) if name in measured.concepts]
    with pipeline(model, dtype, device, ray, workers) as pipe, resumable(out):
        found = benchmark_weakening(
            pipe,
            measured,
            {name: eval_prompts(source, name, count) for name in names},
            scoring(CLIPScorer.load(judge or own or CLIP), "choice" if own else "similarity"),
            out,
            part,
            ks=None if ks is None else numbers_in(ks, int),
            seeds=numbers_in(seeds, int),
            factor=factor,
            batch_size=batch_size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
    if part is not None:
        print_shard(part, out, whole, sum(len(one.scores) for one in found.values()), as_json)
        return
    of_concept = {name: json_of(one) for name, one in found.items()}
    positive = [name for name, one in of_concept.items() if one["low"] > 0]
    share = len(positive) / len(of_concept)
    page = report(out)
    if as_json:
        print_json({"page": str(page), "concepts": of_concept, "share_positive": share})
        return
    shown = table("concept", "area (95 %)>", "random above most>", "by layers>")
    for name, one in found.items():
        layers = one.area("most relevant layers", "least relevant layers")
        shown.add_row(name, f"{one.area()}", f"{one.random().value:+.3f}", f"{layers.value:+.3f}")
    console().print(shown)
    print(f"Interval above 0: {len(positive)} of {len(of_concept)} concepts.\nOpen {page}")


@benchmark.command()
def polysemy(
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    senses: Annotated[
        str | None, typer.Option(help="'emoji', 'paper' or a TOML file of [[senses]]; the model's own.")
    ] = None,
    judge: JudgeName = None,
    count: Annotated[int | None, typer.Option(min=1, help="Prompts at most; all if not given.")] = None,
    strength: Annotated[float, typer.Option(help="Of adjusting.")] = 1.0,
    seeds: Annotated[str, typer.Option(help="Each prompt is drawn once from each.")] = "0,1,2",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-polysemy"),
    num_inference_steps: Steps = 20,
    guidance_scale: Guidance = 7.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    shard: Shard = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How often is a word with two senses misread, plain, adjusted, and under controls?

    Run again, it goes on.

    \b
    Examples:
      headwise benchmark polysemy --json
      headwise benchmark polysemy -m CompVis/stable-diffusion-v1-4 --senses mine.toml --seeds 0,1,2,3,4
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
    from headwise.benchmarks.polysemy import benchmark_polysemy
    from headwise.benchmarks.prompts import polysemy_prompts
    from headwise.report.measurement import report

    whole = out
    part, out = shard_in(shard, ray, whole)
    measured = relevance_of(relevance, model)
    own = "emoji" if model == "emoji" else None
    given = polysemy_prompts(senses or own or "paper", count)
    with pipeline(model, dtype, device, ray, workers) as pipe, resumable(out):
        found = benchmark_polysemy(
            pipe,
            measured,
            given,
            scoring(CLIPScorer.load(judge or own or CLIP), "choice"),
            strength=strength,
            numbers=None if part is None else part.of(len(given)),
            seeds=numbers_in(seeds, int),
            out=out,
            batch_size=batch_size,
            keep_prompts=12,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
    if part is not None:
        print_shard(part, out, whole, len(found.misread), as_json)
        return
    rates = {method: found.rate(method) for method in found.methods}
    n = int((found.misread.values[0] == found.misread.values[0]).sum())
    page = report(out)
    if as_json:
        methods = {
            method.replace(" ", "_"): {"misread": r.value, "low": r.low, "high": r.high, "n": n}
            for method, r in rates.items()
        }
        print_json({"page": str(page), "methods": methods})
        return
    shown = table("method", "misread (95 %)>")
    for method, rate in rates.items():
        shown.add_row(method, f"{rate}")
    console().print(shown)
    print(f"{n} pictures a method.\nOpen {page}")


@benchmark.command()
def scales(
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    scale: Annotated[
        list[str] | None, typer.Option(help="Only this one, such as 'clamp 4'. May be repeated.")
    ] = None,
    cases: Cases = None,
    senses: Annotated[str | None, typer.Option(help="'emoji', 'paper' or a TOML file of [[senses]].")] = None,
    pairs: Annotated[str | None, typer.Option(help="'emoji', a TOML file, or a CSV.")] = None,
    judge: JudgeName = None,
    count: Annotated[
        int, typer.Option(min=2, help="Prompts a concept and pairs an attribute, at most.")
    ] = 12,
    seeds: Annotated[str, typer.Option(help="Each prompt is drawn once from each.")] = "0,1",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-scales"),
    num_inference_steps: Steps = 10,
    guidance_scale: Guidance = 7.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """On which scale should relevance steer, and which breaks the rest of the picture?

    Weakens, adjusts and strengthens with each scale. Run again, it goes on.

    \b
    Examples:
      headwise benchmark scales --json
      headwise benchmark scales --scale sum --scale "clamp 4"
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer
    from headwise.benchmarks.prompts import edit_pairs, eval_prompts, polysemy_prompts
    from headwise.benchmarks.questions.scales import SCALES, benchmark_scales
    from headwise.report.measurement import report

    pipe = load(model, dtype, device)
    own = "emoji" if model == "emoji" else None
    given = edit_pairs(pairs or "emoji", count)
    with resumable(out):
        found = benchmark_scales(
            pipe,
            relevance_of(relevance, model),
            {pair.attribute: eval_prompts(cases or own or "paper", pair.attribute, count) for pair in given},
            polysemy_prompts(senses or own or "paper"),
            given,
            CLIPScorer.load(judge or own or CLIP),
            out,
            scales=scale or SCALES,
            seeds=numbers_in(seeds, int),
            batch_size=batch_size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
    page, numbers = report(out), found.numbers()
    if as_json:
        print_json({"page": str(page), "scales": numbers})
        return
    shown = table("scale", "order>", "largest>", "misread>", "word seen>", "same thing>", "rest kept>")
    for name in found.orders:
        one = numbers[name]
        means = [f"{one[key][0]:.3f}" for key in ("misread", "accuracy", "identity", "preservation")]
        shown.add_row(name, f"{one['order']:.3f}", f"{one['largest']:.1f}", *means)
    console().print(shown)
    print(f"Open {page}")


def _scored(model: str, source: str) -> list[Any]:
    """The concepts that the judge can score."""
    from headwise import emoji
    from headwise.benchmarks.prompts import evaluated_concepts

    sure = emoji.card()["judge"] if model == "emoji" else {}
    return [name for name in evaluated_concepts(source) if sure.get(name, 1.0) >= SURE]
