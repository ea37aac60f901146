"""What all commands share: the app, the options, loading, and how tables and JSON are printed."""

__all__ = [
    "app",
    "console",
    "duration",
    "file_of",
    "finite",
    "interval",
    "load",
    "main",
    "median",
    "model_of",
    "note_command",
    "pipeline",
    "print_files",
    "print_json",
    "print_rows",
    "print_shard",
    "relevance_of",
    "resumable",
    "shard_in",
    "table",
]

import json
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from headwise.errors import HeadwiseError, RunMismatch, UnreadableFile

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.relevance import Relevance
    from headwise.runs.shards import Shard as Part

app = typer.Typer(
    name="headwise",
    help="Which attention heads of a text-to-image model carry which visual concept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Hub name, folder in diffusers format, 'sd14', 'sdxl', or 'emoji'."),
]
Dtype = Annotated[Literal["auto", "fp32", "fp16", "bf16"], typer.Option(help="Type of the weights.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; 'auto' is a GPU if there is one.")]
Steps = Annotated[int, typer.Option("--num-inference-steps", min=1, help="Denoising steps a picture.")]
Guidance = Annotated[float, typer.Option("--guidance-scale", help="1 or less means no guidance.")]
Height = Annotated[
    int | None, typer.Option(min=8, help="Of the pictures, in pixels; the model's own if not given.")
]
Width = Annotated[int | None, typer.Option(min=8, help="Likewise.")]
Shard = Annotated[
    str | None,
    typer.Option(
        help="Only this share: i/n from 0/n on, or auto under torchrun, accelerate launch or SLURM. "
        "`headwise merge` puts them together."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(help="Share over a Ray cluster: its address, auto, or local (with none) for this machine."),
]
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="With --ray: how many; one a GPU, or else a CPU, if not given."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]

given: ContextVar[tuple[str, ...]] = ContextVar("given", default=())  # what stands after `headwise`


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every refusal is one sentence on stderr and exit code 2."""
    try:
        given.set(tuple(sys.argv[1:] if arguments is None else arguments))
        app(args=_with_address(given.get()), prog_name="headwise")
    except HeadwiseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(2)


def _with_address(arguments: Sequence[str]) -> list[str]:
    """A bare --ray is one of this machine: typer knows no option that may go without its value."""
    words = list(arguments)
    for i, word in enumerate(words):
        if word == "--ray" and (i + 1 == len(words) or words[i + 1].startswith("-")):
            words[i] = "--ray=local"
    return words


@contextmanager
def pipeline(model: str, dtype: str, device: str, ray: str | None, workers: int | None) -> Iterator[Any]:
    """The pipeline; or, with --ray, workers of whom each has one."""
    if ray is None:
        if workers is not None:
            raise HeadwiseError("--workers was given without --ray. Give --ray, or --ray ADDRESS, too.")
        yield load(model, dtype, device)
        return
    from functools import partial

    from headwise.runs.ray import RayWorkers

    gpus = None if device == "auto" else int(device.startswith("cuda"))
    with RayWorkers(partial(load, model, dtype, device), ray, workers, gpus=gpus) as crew:
        yield crew


def shard_in(text: str | None, ray: str | None, out: Path) -> tuple["Part | None", Path]:
    """The shard that is asked for, and the folder it goes to."""
    from headwise.runs.shards import shard_of

    if text is None:
        return None, out
    if ray is not None:
        raise HeadwiseError("--shard and --ray were given. Give one: Ray shares the work out by itself.")
    shard = shard_of(text)
    return shard, shard.folder(out)


def load(model: str, dtype: str, device: str) -> Any:
    """The pipeline, on the device, quietly."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would advise to install torchvision
    import torch
    import transformers

    from headwise.measuring.official import MODELS, SHORT
    from headwise.model.pipelines import load_pipeline

    transformers.utils.logging.disable_progress_bar()  # diffusers shows one of its own around it
    types = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if device == "auto":
        device = f"cuda:{_own_gpu()}" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError:
        raise HeadwiseError(f"{device!r} is no device. Give cpu, cuda, cuda:1 or mps.") from None
    name = MODELS[SHORT[model]] if model in SHORT and not Path(model).exists() else model
    return load_pipeline(name, dtype=types[dtype], device=device)


def _own_gpu() -> int:
    """The GPU of this process, where torchrun or accelerate launch started one process for each."""
    import torch

    number = os.environ.get("LOCAL_RANK", "0")
    return int(number) % torch.cuda.device_count() if number.isdecimal() else 0


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Note the command in the folder of its run, and say on the way out that an interrupted run goes on."""
    try:
        yield
    except RunMismatch:
        raise  # the folder is another run's, or another process's
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            print(
                "\nInterrupted. What was counted is kept; the same command goes on from there.",
                file=sys.stderr,
            )
        note_command(folder)
        raise
    note_command(folder)


def file_of(path: Path) -> Path:
    """The relevance file of a path that may be a folder."""
    file = path / "relevance.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UnreadableFile(
            f"There is no {file}. Give a relevance file, or the folder of a finished `headwise measure`."
        )
    return file


def relevance_of(path: Path | None, model: str) -> "Relevance":
    """What was measured of a model: the file or folder given, the built-in model's own, or runs/<model>."""
    from headwise import emoji
    from headwise.measuring.relevance import Relevance

    if path is None and model == "emoji":
        return Relevance.load(emoji.RELEVANCE)
    return Relevance.load(file_of(path or Path("runs") / Path(model).name))


def model_of(relevance: "Relevance") -> str | None:
    """The model it was measured on."""
    return relevance.settings.get("model")


def median(relevance: "Relevance") -> float:
    """Of the split-half correlations."""
    ordered = sorted(relevance.split_half.tolist())
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def finite(number: float) -> float | None:
    """JSON has no NaN."""
    return number if math.isfinite(number) else None


def interval(relevance: float, standard_error: float) -> str:
    """Relevance with its interval of 95 %."""
    return f"{relevance:.2f}" + (f" ± {1.96 * standard_error:.2f}" if math.isfinite(standard_error) else "")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def console() -> Console:
    """As wide as the terminal, or wide enough for addresses in a pipe."""
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, markup=False, highlight=False, emoji=False)


def table(*columns: str) -> Table:
    """An empty table; a column whose name ends in > is set right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold"
        )
    return made


def print_rows(rows: Any) -> None:
    """Pairs of name and value, one a line."""
    made = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        made.add_row(f"{name}", f"{value}")
    console().print(made)


def print_shard(shard: "Part", folder: Path, whole: Path, scored: int, as_json: bool) -> None:
    """What a shard of a trial did, of which nothing can be concluded yet."""
    if as_json:
        print_json({"shard": str(shard), "folder": str(folder), "scored": scored})
        return
    print(f"Shard {shard}: {scored} scores in {folder}")
    print(f"When all are done: headwise merge {whole} --out {whole}, then this command without --shard.")


def print_files(files: Sequence[Path], as_json: bool) -> None:
    """What `save_columns` wrote: for programs all of it, for eyes the grid."""
    found = {"grid": str(files[-1]), "files": [str(file) for file in files[:-1]]}
    print_json(found) if as_json else print(files[-1])


def print_json(found: dict[str, Any]) -> None:
    """For programs."""
    print(json.dumps(found, indent=1, ensure_ascii=False))


def note_command(folder: Path) -> None:
    """So that the page of a run says what made it; where nothing was begun, nothing is noted."""
    from headwise.files import write_whole

    if folder.is_dir() and any(folder.iterdir()):
        command = shlex.join(["headwise", *given.get()])
        write_whole(folder / "command.txt", f"{command}\n".encode())
