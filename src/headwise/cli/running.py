"""Runs: the pipeline or its workers, the folder, the shard, and a record of the command."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwise.cli.options import Model, Sharing
from headwise.cli.output import print_json
from headwise.errors import HeadwiseError, RunMismatch

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.runs.shards import Shard

__all__ = ["Run", "arguments", "note_command", "resumable", "running"]

arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())  # the words after `headwise`


@dataclass(frozen=True)
class Run:
    """The pipeline, folder and shard of a command whose work can be shared.

    Args:
        pipe: The pipeline, or Ray workers that have one each.
        out: The folder that was given.
        shard: The share of this process; None if it does all the work.
    """

    pipe: Any
    out: Path
    shard: "Shard | None"

    @property
    def folder(self) -> Path:
        """Where results go: a folder below `out` for a shard."""
        return self.out if self.shard is None else self.shard.folder(self.out)

    def place(self, total: int) -> dict[str, Any]:
        """Arguments for the library: the folder, and which of 0 … total - 1 belong to the shard."""
        return {"numbers": None if self.shard is None else self.shard.of(total), "out": self.folder}

    def ends_as_shard(self, scored: int, as_json: bool) -> bool:
        """Whether this is a shard, which has no result of its own; its progress is then printed."""
        if self.shard is None:
            return False
        if as_json:
            print_json({"shard": str(self.shard), "folder": str(self.folder), "scored": scored})
            return True
        print(f"Shard {self.shard}: {scored} scores in {self.folder}")
        merge = f"headwise merge {self.out} --out {self.out}"
        print(f"When all shards are done: {merge}, then this command without --shard.")
        return True


@contextmanager
def running(model: Model, sharing: Sharing, out: Path) -> Iterator[Run]:
    """A run that resumes when the same command is given again, shared as the options say."""
    from headwise.runs.shards import shard_of

    if sharing.shard is not None and sharing.ray is not None:
        raise HeadwiseError(
            "Both --shard and --ray were given. Give one: Ray distributes the work by itself."
        )
    shard = None if sharing.shard is None else shard_of(sharing.shard)
    with _pipeline(model, sharing) as pipe:
        run = Run(pipe, out, shard)
        with resumable(run.folder):
            yield run


@contextmanager
def _pipeline(model: Model, sharing: Sharing) -> Iterator[Any]:
    if sharing.ray is None:
        if sharing.workers is not None:
            raise HeadwiseError("--workers was given without --ray. Give --ray, or --ray ADDRESS, too.")
        yield model.load()
        return
    from headwise.runs.ray import RayWorkers

    gpus = None if model.device == "auto" else int(model.device.startswith("cuda"))
    # A thread of Ray prints on stdout when a worker dies; there the command's answer has to stay alone.
    with redirect_stdout(sys.stderr), RayWorkers(model.load, sharing.ray, sharing.workers, gpus=gpus) as crew:
        yield crew


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Record the command in the folder of its run; when interrupted, say how to resume."""
    try:
        yield
    except RunMismatch:
        raise  # the folder belongs to another run or another process
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            print(
                "\nInterrupted. What was counted is kept; the same command resumes from there.",
                file=sys.stderr,
            )
        note_command(folder)
        raise
    note_command(folder)


def note_command(folder: Path) -> None:
    """Record the command, so that the page of a run can show it; does nothing if no run was begun."""
    from headwise.files import write_whole

    if folder.is_dir() and any(folder.iterdir()):
        command = shlex.join(["headwise", *arguments.get()])
        write_whole(folder / "command.txt", f"{command}\n".encode())
