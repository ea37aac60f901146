"""Commands that compare with rivals: benchmark editing, benchmark multi-concept."""

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
    console,
    pipeline,
    print_json,
    print_shard,
    relevance_of,
    resumable,
    shard_in,
    table,
)
from headwise.cli.benchmark import CLIP, benchmark
from headwise.cli.steer import JudgeName, RelevanceFile, numbers_in

__all__ = ["editing", "multi_concept"]


@benchmark.command()
def editing(
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="'emoji', a TOML file, or a CSV; the guide shows both."),
    ] = None,
    judge: JudgeName = None,
    count: Annotated[int, typer.Option(min=1, help="Pairs of an attribute, at most.")] = 20,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only this one. May be repeated.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Each pair is drawn once from each.")] = "0,1,2,3",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-editing"),
    num_inference_steps: Steps = 20,
    guidance_scale: Guidance = 7.5,
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures at a time, sources counted.")] = 32,
    shard: Shard = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Which way of editing shows the target best, and keeps the source best?

    Prompt-to-prompt, plain and by relevance, beside SDEdit, Plug-and-Play, MasaCtrl and free-prompt editing.
    Run again, it goes on.

    \b
    Examples:
      headwise benchmark editing --json
      headwise benchmark editing -m CompVis/stable-diffusion-v1-4 --pairs mine.csv --method relevance
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer
    from headwise.benchmarks.editing import benchmark_editing
    from headwise.benchmarks.prompts import edit_pairs
    from headwise.report.measurement import report

    whole = out
    part, out = shard_in(shard, ray, whole)
    own = "emoji" if model == "emoji" else None
    given = edit_pairs(pairs or "emoji", count)
    with pipeline(model, dtype, device, ray, workers) as pipe, resumable(out):
        found = benchmark_editing(
            pipe,
            relevance_of(relevance, model),
            given,
            CLIPScorer.load(judge or own or CLIP),
            methods=methods,
            numbers=None if part is None else part.of(len(given)),
            seeds=numbers_in(seeds, int),
            out=out,
            batch_size=batch_size,
            keep_pairs=10,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
    if part is not None:
        print_shard(part, out, whole, len(found.scores), as_json)
        return
    page = report(out)
    of_attribute: dict[str, Any] = {
        attribute: {
            method: {
                measure: _interval(found.of(method, measure, attribute))
                for measure in ("alignment", "preservation", "accuracy", "identity")
            }
            | {"n": int(found.attributes.count(attribute) * len(found.scores.axes["seed"]))}
            for method in found.methods
        }
        for attribute in dict.fromkeys(found.attributes)
    }
    if as_json:
        print_json({"page": str(page), "attributes": of_attribute})
        return
    shown = table("attribute", "method", "alignment>", "accuracy>", "preservation>", "same thing>")
    for attribute, of_method in of_attribute.items():
        for method, one in of_method.items():
            numbers = [f"{one[m]['mean']:.3f}" for m in ("alignment", "accuracy", "preservation", "identity")]
            shown.add_row(attribute, method, *numbers)
    console().print(shown)
    print(f"Open {page}")


@benchmark.command("multi-concept")
def multi_concept(
    model: Model = "emoji",
    relevance: RelevanceFile = None,
    prompts: Annotated[str | None, typer.Option(help="'emoji', or a TOML file.")] = None,
    judge: JudgeName = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts of a type, at most.")] = 40,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only this one. May be repeated.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Each prompt is drawn once from each.")] = "0,1,2,3",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/benchmark-multi-concept"),
    num_inference_steps: Steps = 20,
    guidance_scale: Guidance = 7.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    shard: Shard = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Are all subjects of a prompt there?

    Attend-and-Excite, plain and by relevance, beside plain and composable prompts. Run again, it goes on.

    \b
    Examples:
      headwise benchmark multi-concept --json
      headwise benchmark multi-concept --prompts mine.toml --method attend-and-excite --method relevance
    """
    from headwise.benchmarks.clip_scorer import CLIPScorer
    from headwise.benchmarks.multi_concept import METRICS, benchmark_multi_concept
    from headwise.benchmarks.prompts import multi_subject_prompts
    from headwise.report.measurement import report

    whole = out
    part, out = shard_in(shard, ray, whole)
    own = "emoji" if model == "emoji" else None
    given = multi_subject_prompts(prompts or "emoji", count)
    with pipeline(model, dtype, device, ray, workers) as pipe, resumable(out):
        found = benchmark_multi_concept(
            pipe,
            relevance_of(relevance, model),
            given,
            CLIPScorer.load(judge or own or CLIP),
            methods=methods,
            numbers=None if part is None else part.of(len(given)),
            seeds=numbers_in(seeds, int),
            out=out,
            batch_size=batch_size,
            keep_prompts=10,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
    if part is not None:
        print_shard(part, out, whole, len(found.scores), as_json)
        return
    page = report(out)
    of_type = {
        kind: {
            method: {measure: _interval(found.of(method, measure, kind)) for measure in METRICS}
            for method in found.methods
        }
        for kind in dict.fromkeys(found.types)
    }
    if as_json:
        print_json({"page": str(page), "types": of_type})
        return
    shown = table("type", "method", *(f"{measure}>" for measure in METRICS))
    for kind, of_method in of_type.items():
        for method, one in of_method.items():
            shown.add_row(kind, method, *(f"{one[measure]['mean']:.3f}" for measure in METRICS))
    console().print(shown)
    print(f"Open {page}")


def _interval(found: Any) -> dict[str, float]:
    return {"mean": found.value, "low": found.low, "high": found.high}
