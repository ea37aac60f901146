"""Commands that measure and look at what was measured: demo, measure, show, doctor, report."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwise.cli.options import (
    BatchSize,
    Beside,
    Concepts,
    Guidance,
    Json,
    Model,
    NegativePrompt,
    Output,
    Sampling,
    Seed,
    Sharing,
    Size,
    Steps,
    concept_named,
    file_of,
)
from headwise.cli.output import console, duration, finite, interval, print_json, print_rows, table
from headwise.cli.running import resumable, running
from headwise.errors import HeadwiseError
from headwise.measuring.estimators import LEAN, Named

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.relevance import HeadRank, Relevance
    from headwise.steering.doctor import Checkup

__all__ = ["demo", "doctor", "measure", "report", "show"]

Prompts = Annotated[
    str | None, typer.Option("--prompts", "-p", help="File with one prompt per line, or '-' for stdin.")
]
Pictures = Annotated[int, typer.Option("--pictures", "-n", min=1, help="Images to generate, at most.")]
RunFolder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; else runs/<model>.")]
Until = Annotated[float | None, typer.Option(min=0, max=1, help="Stop at this split-half correlation.")]
EstimatorName = Annotated[
    Named, typer.Option(help="'lean' samples words 8 times per call, in 10 calls; 'paper' once, in 50.")
]
OwnSteps = Annotated[
    int | None, typer.Option(min=1, help="Denoising steps per image; the estimator's own if not given.")
]


def demo(
    output: Output = Output(Path("runs/demo")),
    pictures: Annotated[
        int, typer.Option(min=2, help="Images to measure, and as many again for the control.")
    ] = 160,
    num_inference_steps: Steps = LEAN.num_inference_steps,
    batch_size: BatchSize = 12,
) -> None:
    """Measure the built-in model and write a page.

    Nothing is downloaded. If run again, it goes on where it stopped.

    \b
    Examples:
      headwise demo
      headwise demo --out runs/quick --pictures 64
    """
    from headwise.measuring.demo import demo as run
    from headwise.report.measurement import report as write_page

    started = time.monotonic()
    out = output.out
    with resumable(out):
        relevance, control = run(
            out, pictures=pictures, num_inference_steps=num_inference_steps, batch_size=batch_size
        )
    page = write_page(out)
    seconds = time.monotonic() - started
    if output.as_json:
        print_json(
            {
                "page": str(page),
                "file": str(out / "relevance.safetensors"),
                "seconds": round(seconds, 2),
                "pictures": relevance.settings["pictures"],
                "split_half_median": relevance.split_half_median,
                "control_split_half_median": control.split_half_median,
            }
        )
        return
    _print_demo(relevance, control, seconds)
    print(f"Open {page}")


def measure(
    model: Model = Model(),
    concepts: Concepts = None,
    beside: Beside = "auto",
    prompts: Prompts = None,
    pictures: Pictures = 1000,
    out: RunFolder = None,
    until: Until = None,
    estimator: EstimatorName = "lean",
    num_inference_steps: OwnSteps = None,
    guidance_scale: Guidance = 7.5,
    negative_prompt: NegativePrompt = None,
    seed: Seed = 0,
    size: Size = Size(),
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; the votes stay the same.")] = 1,
    keep_pictures: Annotated[int, typer.Option(min=0, help="Decode and save the first N images.")] = 0,
    sharing: Sharing = Sharing(),
    as_json: Json = False,
) -> None:
    """Count which concept each head attends to.

    Generates images and observes the heads. If run again, it goes on where it stopped.

    Heads choose between concepts, so a few concepts of your own are measured beside those of the model's
    set. 64 images give a first order of heads; take hundreds before you build on it.

    \b
    Examples:
      headwise measure --model emoji --pictures 300
      headwise measure -m CompVis/stable-diffusion-v1-4 --until 0.95 --dtype fp16 --out runs/sd14
      cat prompts.txt | headwise measure -m ./my-model --concepts mine.toml --prompts - --json
      headwise measure -m CompVis/stable-diffusion-v1-4 --shard 3/8 --out runs/sd14
      headwise measure -m CompVis/stable-diffusion-v1-4 --ray auto --out runs/sd14
    """
    from headwise.measuring.measure import measure as measure_relevance

    started = time.monotonic()
    concept_set = model.concepts(concepts)
    options: dict[str, Any] = {
        "beside": None if beside == "none" else beside,
        "prompts": _lines(sys.stdin.read()) if prompts == "-" else prompts,
        "pictures": pictures, "until": until, "estimator": estimator, "seed": seed, **vars(size),
        "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt, "batch_size": batch_size, "keep_pictures": keep_pictures,
    }  # fmt: skip
    with running(model, sharing, out or Path("runs") / Path(model.name).name) as run:
        size.require(run.pipe)
        resumed_from = _images_in(run.folder)
        relevance = measure_relevance(run.pipe, concept_set, **options, **run.place(pictures))
    results = {
        "file": str(run.folder / "relevance.safetensors"),
        "pictures": relevance.settings["pictures"],
        "seconds": round(time.monotonic() - started, 2),
        "resumed_from": resumed_from,
        "split_half_median": finite(relevance.split_half_median),
    }
    results |= {} if run.shard is None else {"shard": str(run.shard)}
    _print_measured(results, relevance, as_json)


def show(
    file: Annotated[Path, typer.Argument(help="A relevance file, or the folder of a run.")],
    concept: Annotated[str | None, typer.Option("--concept", help="Only this concept.")] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Heads per concept.")] = 3,
    as_json: Json = False,
) -> None:
    """Show the most relevant heads of each concept.

    With 95 % intervals, and the split-half rank correlation, which says how well other images would repeat
    the order of heads. Concepts that only stood beside yours are shown by name.

    \b
    Examples:
      headwise show runs/demo
      headwise show runs/demo --concept Color --top 10
      headwise show runs/demo/relevance.safetensors --json
    """
    from headwise.measuring.relevance import Relevance

    relevance = Relevance.load(file_of(file))
    names = relevance.foreground if concept is None else (concept_named(concept, relevance.concepts),)
    ranks = {name: relevance.top(name, top) for name in names}
    print_json(_show_json(relevance, ranks)) if as_json else _print_ranks(relevance, ranks)


def doctor(
    model: Model = Model(),
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, help="Images of the measurement to plan for.")
    ] = 1000,
    sampling: Sampling = Sampling(LEAN.num_inference_steps),
    size: Size = Size(),
    as_json: Json = False,
) -> None:
    """Check a model and estimate what measuring costs.

    Are all layers covered, are the images left as they were, how much time and memory would it take?

    \b
    Examples:
      headwise doctor --model emoji
      headwise doctor --model stabilityai/stable-diffusion-xl-base-1.0 --dtype fp16 --json
    """
    from headwise.steering.doctor import examine

    pipe = model.load()
    size.require(pipe)
    checkup = examine(pipe, guidance_scale=sampling.guidance_scale, **vars(size))
    steps = sampling.num_inference_steps
    expected = {
        "pictures": pictures,
        "num_inference_steps": steps,
        "seconds": round(checkup.seconds(pictures, steps), 1),
        "memory_mb": round(checkup.peak_mb),
    }
    print_json(_doctor_json(checkup, expected)) if as_json else _print_checkup(checkup, expected)
    if not checkup.covered:
        raise HeadwiseError(
            checkup.error
            or (
                "Halving every head's attention to the prompt changed nothing in this model."
                if checkup.bit_exact
                else "A hook that does nothing changed the latents of this model."
            )
        )


def report(folder: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write the page of a run.

    index.html holds everything that it shows; open it, print it, or send it.

    \b
    Example:
      headwise report runs/sd14
    """
    from headwise.report.measurement import report as write_page

    print(write_page(folder))


def _print_measured(results: dict[str, Any], relevance: "Relevance", as_json: bool) -> None:
    if "beside" in relevance.settings:
        results["beside"] = relevance.settings["beside"]
    if as_json:
        print_json(results)
        return
    print_rows(results.items())
    for remark in relevance.remarks:
        print(remark)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _images_in(folder: Path) -> int:
    """How many images the votes of a folder already count."""
    from headwise.measuring.votes import Votes

    file = folder / "votes.safetensors"
    return len(Votes.load(file)) if file.is_file() else 0


def _print_demo(relevance: "Relevance", control: "Relevance", seconds: float) -> None:
    firsts = [(relevance.top(name, 1)[0], name) for name in relevance.concepts]
    head, concept = max(firsts, key=lambda pair: pair[0].relevance)
    pictures, highest = relevance.settings["pictures"], interval(head.relevance, head.standard_error)
    print(f"{pictures} images, and again for the control, in {duration(seconds)}; {relevance.head_map}.")
    print(f"Split-half rank correlation, median over concepts: {relevance.split_half_median:z.2f}")
    print(f"The same in the control, where names mean nothing: {control.split_half_median:z.2f}")
    print(f"The highest relevance, {concept}, {highest}: {head.address}")


def _show_json(relevance: "Relevance", ranks: "dict[str, list[HeadRank]]") -> dict[str, Any]:
    split_half = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    return {
        "model": relevance.settings.get("model"),
        "pictures": relevance.settings.get("pictures"),
        "beside": relevance.settings.get("beside"),
        "concepts": {
            name: {
                "split_half": finite(split_half[name]),
                "top": [
                    {
                        "index": rank.index,
                        "address": rank.address,
                        "relevance": rank.relevance,
                        "se": finite(rank.standard_error),
                    }
                    for rank in heads
                ],
            }
            for name, heads in ranks.items()
        },
    }


def _print_ranks(relevance: "Relevance", ranks: "dict[str, list[HeadRank]]") -> None:
    split_half = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    model = relevance.settings.get("model") or "unnamed model"
    pictures = relevance.settings.get("pictures", "an unknown number of")
    print(f"{model}: {pictures} images, {relevance.values.shape[1]} heads")
    rows = []
    for name, heads in ranks.items():
        for place, rank in enumerate(heads):
            first = (name, f"{split_half[name]:z.2f}") if place == 0 else ("", "")
            relevance_of_head = interval(rank.relevance, rank.standard_error)
            rows.append((*first, relevance_of_head, str(rank.index), rank.address))
    console().print(table("concept", "split-half>", "relevance ± 95 %>", "head>", "address", rows=rows))
    for remark in relevance.remarks:
        print(remark)


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
    layers = [
        (layer.address, str(layer.heads), layer.kind, "yes" if layer.address in checkup.reached else "NO")
        for layer in checkup.head_map
    ]
    console().print(table("layer", "heads>", "kind", "covered", rows=layers))
    calls = f"{expected['pictures']} images of {expected['num_inference_steps']} steps"
    cost = f"about {duration(expected['seconds'])}, {expected['memory_mb']} MB on the model's device"
    rows = {
        "model": checkup.model,
        "pipeline": ", ".join([checkup.pipeline, *checkup.features]),
        "heads": f"{checkup.head_map.all_heads} in {len(checkup.head_map.layers)} layers",
        "with a hook that does nothing": "equal bit for bit" if checkup.bit_exact else "DIFFERENT LATENTS",
        "with every head's attention halved": "different latents" if checkup.steered else "NOTHING CHANGED",
        "one denoiser call": f"{checkup.seconds_a_call:.3f} s",
        f"measuring {calls}": cost,
        "weights": f"{checkup.weights_mb:.0f} MB",
        "versions": ", ".join(f"{name} {number}" for name, number in checkup.versions.items()),
    }
    print_rows(rows.items())
