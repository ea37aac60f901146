"""Commands that look: demo, measure, show, doctor, report."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    duration,
    file_of,
    finite,
    interval,
    load,
    median,
    model_of,
    pipeline,
    print_json,
    print_rows,
    resumable,
    shard_in,
    table,
)
from headwise.errors import HeadwiseError
from headwise.measuring.estimators import LEAN, Named

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.relevance import HeadRank, Relevance
    from headwise.steering.doctor import Checkup

__all__ = ["demo", "doctor", "measure", "report", "show"]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.")] = Path("runs/demo"),
    pictures: Annotated[
        int, typer.Option(min=2, help="Pictures to measure, and again for the control.")
    ] = 160,
    num_inference_steps: Steps = LEAN.num_inference_steps,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 12,
    as_json: Json = False,
) -> None:
    """Measure the built-in model and write a page.

    Nothing is downloaded. Run again, it goes on where it stopped.

    \b
    Examples:
      headwise demo
      headwise demo --out runs/quick --pictures 64
    """
    from headwise.measuring.demo import demo as run
    from headwise.report.measurement import report as write_page

    started = time.monotonic()
    with resumable(out):
        relevance, control = run(
            out, pictures=pictures, num_inference_steps=num_inference_steps, batch_size=batch_size
        )
    page = write_page(out)
    seconds = time.monotonic() - started
    if as_json:
        found = {"page": str(page), "file": str(out / "relevance.safetensors"), "seconds": round(seconds, 2)}
        found |= {"pictures": relevance.settings["pictures"], "split_half_median": median(relevance)}
        print_json(found | {"control_split_half_median": median(control)})
        return
    _print_demo(relevance, control, seconds)
    print(f"Open {page}")


@app.command()
def measure(
    model: Model = "emoji",
    concepts: Annotated[
        str | None,
        typer.Option("--concepts", "-c", help="'paper34', 'emoji', or a TOML file; by default the model's."),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", "-p", help="File with one prompt a line, '-' for stdin.")
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, help="How many to generate at most.")
    ] = 1000,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/<model> if not given.")
    ] = None,
    until: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop at this median split-half correlation.")
    ] = None,
    estimator: Annotated[
        Named, typer.Option(help="'lean' draws words 8 times a call, in 10 calls; 'paper' once, in 50.")
    ] = "lean",
    num_inference_steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps a picture; the estimator's own if not given.")
    ] = None,
    guidance_scale: Guidance = 7.5,
    negative_prompt: Annotated[str | None, typer.Option(help="What the pictures should not be.")] = None,
    seed: Annotated[int, typer.Option(help="With a picture's number, the source of all chance.")] = 0,
    height: Height = None,
    width: Width = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures at a time. Changes the time, not the votes.")
    ] = 1,
    keep_pictures: Annotated[int, typer.Option(min=0, help="Decode and save the first so many.")] = 0,
    shard: Shard = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Count which concept each head attends to.

    Generates pictures and looks on. Run again, it goes on where it stopped.

    \b
    Examples:
      headwise measure --model emoji --pictures 300
      headwise measure -m CompVis/stable-diffusion-v1-4 --until 0.95 --dtype fp16 --out runs/sd14
      cat prompts.txt | headwise measure -m ./my-model --concepts mine.toml --prompts - --json
      headwise measure -m CompVis/stable-diffusion-v1-4 --shard 3/8 --out runs/sd14
      headwise measure -m CompVis/stable-diffusion-v1-4 --ray auto --out runs/sd14
    """
    from headwise.measuring.concepts import ConceptSet
    from headwise.measuring.measure import measure as run

    started = time.monotonic()
    concept_set = ConceptSet.load(concepts or ("emoji" if model == "emoji" else "paper34"))
    lines = sys.stdin.read().splitlines() if prompts == "-" else prompts
    part, out = shard_in(shard, ray, out or Path("runs") / Path(model).name)
    resumed_from = _pictures_in(out)
    with pipeline(model, dtype, device, ray, workers) as pipe, resumable(out):
        relevance = run(
            pipe,
            concept_set,
            prompts=[line for line in lines if line.strip()] if isinstance(lines, list) else lines,
            pictures=pictures,
            numbers=None if part is None else part.of(pictures),
            out=out,
            until=until,
            estimator=estimator,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            seed=seed,
            height=height,
            width=width,
            batch_size=batch_size,
            keep_pictures=keep_pictures,
        )
    found = {
        "file": str(out / "relevance.safetensors"),
        "pictures": relevance.settings["pictures"],
        "seconds": round(time.monotonic() - started, 2),
        "resumed_from": resumed_from,
        "split_half_median": finite(median(relevance)),
    }
    found |= {} if part is None else {"shard": str(part)}
    print_json(found) if as_json else print_rows(found.items())


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A relevance file, or the folder of a run.")],
    concept: Annotated[str | None, typer.Option("--concept", help="Only this concept.")] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Heads a concept.")] = 3,
    as_json: Json = False,
) -> None:
    """Show the most relevant heads of each concept.

    With 95 % intervals, and the split-half rank correlation that says how sure they are.

    \b
    Examples:
      headwise show runs/demo
      headwise show runs/demo --concept Color --top 10
      headwise show runs/demo/relevance.safetensors --json
    """
    from headwise.measuring.relevance import Relevance

    relevance = Relevance.load(file_of(file))
    names = relevance.concepts if concept is None else (concept,)
    ranks = {name: relevance.top(name, top) for name in names}
    print_json(_show_json(relevance, ranks)) if as_json else _print_ranks(relevance, ranks)


@app.command()
def doctor(
    model: Model = "emoji",
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, help="Size of the measurement to foresee.")
    ] = 1000,
    num_inference_steps: Steps = LEAN.num_inference_steps,
    guidance_scale: Guidance = 7.5,
    height: Height = None,
    width: Width = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check a model and foresee what measuring costs.

    Are all layers covered, is nothing disturbed, how much time and memory would it take?

    \b
    Examples:
      headwise doctor --model emoji
      headwise doctor --model stabilityai/stable-diffusion-xl-base-1.0 --dtype fp16 --json
    """
    from headwise.steering.doctor import examine

    checkup = examine(load(model, dtype, device), guidance_scale=guidance_scale, height=height, width=width)
    expected = {
        "pictures": pictures,
        "num_inference_steps": num_inference_steps,
        "seconds": round(checkup.seconds(pictures, num_inference_steps), 1),
        "memory_mb": round(checkup.peak_mb),
    }
    print_json(_doctor_json(checkup, expected)) if as_json else _print_checkup(checkup, expected)
    if not checkup.covered:
        raise HeadwiseError(
            checkup.error
            or (
                "Heads that heard half of the prompt changed nothing in this model."
                if checkup.bit_exact
                else "A hook that does nothing changed the latents of this model."
            )
        )


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write the page of a run.

    index.html holds everything it shows: to open, print or send.

    \b
    Example:
      headwise report runs/sd14
    """
    from headwise.report.measurement import report as write

    print(write(folder))


def _pictures_in(folder: Path) -> int:
    from headwise.measuring.votes import Votes

    file = folder / "votes.safetensors"
    return len(Votes.load(file)) if file.is_file() else 0


def _print_demo(relevance: "Relevance", control: "Relevance", seconds: float) -> None:
    firsts = [(relevance.top(name, 1)[0], name) for name in relevance.concepts]
    head, concept = max(firsts, key=lambda pair: pair[0].relevance)
    sure = interval(head.relevance, head.standard_error)
    counted = relevance.settings["pictures"]
    print(f"{counted} pictures, and again for the control, in {duration(seconds)}; {relevance.head_map}.")
    print(f"Split-half rank correlation, median over concepts: {median(relevance):z.2f}")
    print(f"The same in the control, where names mean nothing: {median(control):z.2f}")
    print(f"The highest relevance, {concept}, {sure}: {head.address}")


def _show_json(relevance: "Relevance", ranks: "dict[str, list[HeadRank]]") -> dict[str, Any]:
    sure = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    concepts = {name: {"split_half": finite(sure[name]), "top": _top_json(ranks[name])} for name in ranks}
    return {
        "model": model_of(relevance),
        "pictures": relevance.settings.get("pictures"),
        "concepts": concepts,
    }


def _print_ranks(relevance: "Relevance", ranks: "dict[str, list[HeadRank]]") -> None:
    sure = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    pictures = relevance.settings.get("pictures", "an unknown number of")
    print(f"{model_of(relevance) or 'unnamed model'}: {pictures} pictures, {relevance.values.shape[1]} heads")
    shown = table("concept", "split-half>", "relevance ± 95 %>", "head>", "address")
    for name in ranks:
        for place, rank in enumerate(ranks[name]):
            first = (name, f"{sure[name]:z.2f}") if place == 0 else ("", "")
            shown.add_row(
                *first, interval(rank.relevance, rank.standard_error), str(rank.index), rank.address
            )
    console().print(shown)


def _doctor_json(checkup: "Checkup", expected: dict[str, Any]) -> dict[str, Any]:
    layers = [
        {"address": layer.address, "heads": layer.heads, "kind": layer.kind} for layer in checkup.head_map
    ]
    return {
        "model": checkup.model,
        "heads": checkup.head_map.all_heads,
        "layers": layers,
        "covered": checkup.covered,
        "undisturbed": checkup.bit_exact,
        "steered": checkup.steered,
        "family": [checkup.pipeline, *checkup.features],
        "seconds_a_call": round(checkup.seconds_a_call, 4),
        "weights_mb": round(checkup.weights_mb, 1),
        "expected": expected,
        "versions": checkup.versions,
    }


def _print_checkup(checkup: "Checkup", expected: dict[str, Any]) -> None:
    shown = table("layer", "heads>", "kind", "covered")
    for layer in checkup.head_map:
        shown.add_row(
            layer.address, str(layer.heads), layer.kind, "yes" if layer.address in checkup.reached else "NO"
        )
    console().print(shown)
    calls = f"{expected['pictures']} pictures of {expected['num_inference_steps']} steps"
    rows = {
        "model": checkup.model,
        "pipeline": ", ".join([checkup.pipeline, *checkup.features]),
        "heads": f"{checkup.head_map.all_heads} in {len(checkup.head_map.layers)} layers",
        "with a hook that does nothing": "equal bit for bit" if checkup.bit_exact else "NOT the same latents",
        "with every head hearing half": "other latents" if checkup.steered else "NOTHING CHANGED",
        "one denoiser call": f"{checkup.seconds_a_call:.3f} s",
        f"measuring {calls}": f"about {duration(expected['seconds'])}, {expected['memory_mb']} MB of memory",
        "weights": f"{checkup.weights_mb:.0f} MB",
        "versions": ", ".join(f"{name} {number}" for name, number in checkup.versions.items()),
    }
    print_rows(rows.items())


def _top_json(ranks: "Sequence[HeadRank]") -> list[dict[str, Any]]:
    return [
        {"index": r.index, "address": r.address, "relevance": r.relevance, "se": finite(r.standard_error)}
        for r in ranks
    ]
