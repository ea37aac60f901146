"""The command line: parse, call one library function, print what came back.

Tables for eyes and JSON for programs go to stdout, progress to stderr. Exit codes: 0 done, 2 refused with one
sentence, 130 interrupted (what was counted is kept, and the same command goes on).
"""

__all__ = ["app", "main"]

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from headwise.errors import HeadwiseError, UnreadableFile

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.doctor import Checkup
    from headwise.relevance import HeadRank, Relevance

app = typer.Typer(
    name="headwise",
    help="Which attention heads of a text-to-image model carry which visual concept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str, typer.Option("--model", "-m", help="Hub name, folder in diffusers format, or 'emoji'.")
]
Dtype = Annotated[Literal["auto", "fp32", "fp16", "bf16"], typer.Option(help="Type of the weights.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; 'auto' is a GPU if there is one.")]
Steps = Annotated[int, typer.Option("--num-inference-steps", min=1, help="Denoising steps a picture.")]
Guidance = Annotated[float, typer.Option("--guidance-scale", help="1 or less means no guidance.")]
Height = Annotated[
    int | None, typer.Option(min=8, help="Of the pictures, in pixels; the model's own if not given.")
]
Width = Annotated[int | None, typer.Option(min=8, help="Likewise.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.")] = Path("runs/demo"),
    pictures: Annotated[
        int, typer.Option(min=2, help="Pictures to measure, and again for the control.")
    ] = 300,
    num_inference_steps: Steps = 20,
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
    from headwise.demo import demo as run

    started = time.monotonic()
    with _resumable():
        relevance, control, page = run(
            out, pictures=pictures, num_inference_steps=num_inference_steps, batch_size=batch_size
        )
    seconds = time.monotonic() - started
    if as_json:
        found = {"page": str(page), "file": str(out / "relevance.safetensors"), "seconds": round(seconds, 2)}
        found |= {"pictures": relevance.settings["pictures"], "split_half_median": _median(relevance)}
        _print_json(found | {"control_split_half_median": _median(control)})
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
    num_inference_steps: Steps = 50,
    guidance_scale: Guidance = 7.5,
    negative_prompt: Annotated[str | None, typer.Option(help="What the pictures should not be.")] = None,
    seed: Annotated[int, typer.Option(help="With a picture's number, the source of all chance.")] = 0,
    height: Height = None,
    width: Width = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures at a time. Changes the time, not the votes.")
    ] = 1,
    keep_pictures: Annotated[int, typer.Option(min=0, help="Decode and save the first so many.")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Count which concept each head attends to.

    Generates pictures and looks on. Run again, it goes on where it stopped.

    \b
    Examples:
      headwise measure --model emoji --pictures 300 --num-inference-steps 20
      headwise measure -m CompVis/stable-diffusion-v1-4 --until 0.95 --dtype fp16 --out runs/sd14
      cat prompts.txt | headwise measure -m ./my-model --concepts mine.toml --prompts - --json
    """
    from headwise.concepts import ConceptSet
    from headwise.probe import measure as run

    started = time.monotonic()
    concept_set = ConceptSet.load(concepts or ("emoji" if model == "emoji" else "paper34"))
    lines = sys.stdin.read().splitlines() if prompts == "-" else prompts
    pipe = _load(model, dtype, device)
    out = out or Path("runs") / Path(model).name
    resumed_from = _pictures_in(out)
    with _resumable():
        relevance = run(
            pipe,
            concept_set,
            prompts=[line for line in lines if line.strip()] if isinstance(lines, list) else lines,
            pictures=pictures,
            out=out,
            until=until,
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
        "split_half_median": _finite(_median(relevance)),
    }
    _print_json(found) if as_json else _print_rows(found.items())


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
    from headwise.relevance import Relevance

    relevance = Relevance.load(_file_of(file))
    names = relevance.concepts if concept is None else (concept,)
    ranks = {name: relevance.top(name, top) for name in names}
    _print_json(_show_json(relevance, ranks)) if as_json else _print_ranks(relevance, ranks)


@app.command()
def doctor(
    model: Model = "emoji",
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, help="Size of the measurement to foresee.")
    ] = 1000,
    num_inference_steps: Steps = 50,
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
    from headwise.doctor import examine

    checkup = examine(_load(model, dtype, device), guidance_scale=guidance_scale, height=height, width=width)
    expected = {
        "pictures": pictures,
        "num_inference_steps": num_inference_steps,
        "seconds": round(checkup.seconds(pictures, num_inference_steps), 1),
        "memory_mb": round(checkup.peak_mb),
    }
    _print_json(_doctor_json(checkup, expected)) if as_json else _print_checkup(checkup, expected)
    if not checkup.covered:
        raise HeadwiseError(
            checkup.complaint or "A hook that does nothing changed the latents of this model."
        )


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write the page of a run.

    index.html holds everything it shows: to open, print or send.

    \b
    Example:
      headwise report runs/sd14
    """
    from headwise.report import report as write

    print(write(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every refusal is one sentence on stderr and exit code 2."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="headwise")
    except HeadwiseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(2)


def _load(model: str, dtype: str, device: str) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would advise to install torchvision
    import torch
    import transformers

    from headwise.pipelines import load_pipeline

    transformers.utils.logging.disable_progress_bar()  # diffusers shows one of its own around it
    types = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError:
        raise HeadwiseError(f"{device!r} is no device. Give cpu, cuda, cuda:1 or mps.") from None
    return load_pipeline(model, dtype=types[dtype], device=device)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What was counted is kept; the same command goes on from there.", file=sys.stderr
        )
        raise


def _pictures_in(folder: Path) -> int:
    from headwise.votes import Votes

    file = folder / "votes.safetensors"
    return len(Votes.load(file)) if file.is_file() else 0


def _file_of(path: Path) -> Path:
    file = path / "relevance.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UnreadableFile(
            f"There is no {file}. Give a relevance file, or the folder of a finished `headwise measure`."
        )
    return file


def _print_demo(relevance: "Relevance", control: "Relevance", seconds: float) -> None:
    firsts = [(relevance.top(name, 1)[0], name) for name in relevance.concepts]
    head, concept = max(firsts, key=lambda pair: pair[0].relevance)
    interval = _interval(head.relevance, head.standard_error)
    counted = relevance.settings["pictures"]
    print(f"{counted} pictures, and again for the control, in {_time(seconds)}; {relevance.head_map}.")
    print(f"Split-half rank correlation, median over concepts: {_median(relevance):z.2f}")
    print(f"The same in the control, where names mean nothing: {_median(control):z.2f}")
    print(f"The highest relevance, {concept}, {interval}: {head.address}")


def _show_json(relevance: "Relevance", ranks: "dict[str, list[HeadRank]]") -> dict[str, Any]:
    sure = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    concepts = {name: {"split_half": _finite(sure[name]), "top": _top_json(ranks[name])} for name in ranks}
    return {"model": _model(relevance), "pictures": relevance.settings.get("pictures"), "concepts": concepts}


def _print_ranks(relevance: "Relevance", ranks: "dict[str, list[HeadRank]]") -> None:
    sure = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    pictures = relevance.settings.get("pictures", "an unknown number of")
    print(f"{_model(relevance) or 'unnamed model'}: {pictures} pictures, {relevance.values.shape[1]} heads")
    table = _table("concept", "split-half>", "relevance ± 95 %>", "head>", "address")
    for name in ranks:
        for place, rank in enumerate(ranks[name]):
            first = (name, f"{sure[name]:z.2f}") if place == 0 else ("", "")
            interval = _interval(rank.relevance, rank.standard_error)
            table.add_row(*first, interval, str(rank.index), rank.address)
    _console().print(table)


def _doctor_json(checkup: "Checkup", expected: dict[str, Any]) -> dict[str, Any]:
    layers = [
        {"address": layer.address, "heads": layer.heads, "kind": layer.kind} for layer in checkup.head_map
    ]
    return {
        "model": checkup.model,
        "heads": checkup.head_map.all_heads,
        "layers": layers,
        "covered": checkup.covered,
        "undisturbed": checkup.undisturbed,
        "seconds_a_call": round(checkup.seconds_a_call, 4),
        "weights_mb": round(checkup.weights_mb, 1),
        "expected": expected,
        "versions": checkup.versions,
    }


def _print_checkup(checkup: "Checkup", expected: dict[str, Any]) -> None:
    table = _table("layer", "heads>", "kind", "covered")
    for layer in checkup.head_map:
        table.add_row(
            layer.address, str(layer.heads), layer.kind, "yes" if layer.address in checkup.reached else "NO"
        )
    _console().print(table)
    calls = f"{expected['pictures']} pictures of {expected['num_inference_steps']} steps"
    rows = {
        "model": checkup.model,
        "heads": f"{checkup.head_map.all_heads} in {len(checkup.head_map.layers)} layers",
        "with a hook that does nothing": "equal bit for bit"
        if checkup.undisturbed
        else "NOT the same latents",
        "one denoiser call": f"{checkup.seconds_a_call:.3f} s",
        f"measuring {calls}": f"about {_time(expected['seconds'])}, {expected['memory_mb']} MB of memory",
        "weights": f"{checkup.weights_mb:.0f} MB",
        "versions": ", ".join(f"{name} {number}" for name, number in checkup.versions.items()),
    }
    _print_rows(rows.items())


def _top_json(ranks: "Sequence[HeadRank]") -> list[dict[str, Any]]:
    return [
        {"index": r.index, "address": r.address, "relevance": r.relevance, "se": _finite(r.standard_error)}
        for r in ranks
    ]


def _model(relevance: "Relevance") -> str | None:
    return relevance.settings.get("model")


def _median(relevance: "Relevance") -> float:
    ordered = sorted(relevance.split_half.tolist())
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return number if math.isfinite(number) else None


def _interval(relevance: float, standard_error: float) -> str:
    return f"{relevance:.2f}" + (f" ± {1.96 * standard_error:.2f}" if math.isfinite(standard_error) else "")


def _time(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _console() -> Console:
    """As wide as the terminal, or wide enough for addresses in a pipe."""
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold"
        )
    return table


def _print_rows(rows: Any) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(f"{name}", f"{value}")
    _console().print(table)


def _print_json(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=1, ensure_ascii=False))
