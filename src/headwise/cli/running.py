"""Runs: the pipeline or its workers, the folder, the shard, and the note of the command that made them."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())  # what stands after `headwise`


@dataclass(frozen=True)
class Run:
    """What a command that may be shared works with.

    Args:
        pipe: The pipeline, or Ray workers of whom each has one.
        out: The folder that was asked for.
        shard: The share of this process; None where it does everything.
    """

    pipe: Any
    out: Path
    shard: "Shard | None"

    @property
    def folder(self) -> Path:
        """Where results go: a folder below `out` for a shard."""
        return self.out if self.shard is None else self.shard.folder(self.out)

    def place(self, total: int) -> dict[str, Any]:
        """Arguments of the library: the folder, and which of 0 … total - 1 are the shard's."""
        return {"numbers": None if self.shard is None else self.shard.of(total), "out": self.folder}

    def ends_as_shard(self, scored: int, as_json: bool) -> bool:
        """Whether this is a shard, of which nothing can be concluded yet; then how far it is, is printed."""
        if self.shard is None:
            return False
        if as_json:
            print_json({"shard": str(self.shard), "folder": str(self.folder), "scored": scored})
            return True
        print(f"Shard {self.shard}: {scored} scores in {self.folder}")
        merge = f"headwise merge {self.out} --out {self.out}"
        print(f"When all are done: {merge}, then this command without --shard.")
        return True


@contextmanager
def running(model: Model, sharing: Sharing, out: Path) -> Iterator[Run]:
    """A run that goes on when the same command is given again, shared as the options say."""
    from headwise.runs.shards import shard_of

    if sharing.shard is not None and sharing.ray is not None:
        raise HeadwiseError("--shard and --ray were given. Give one: Ray shares the work out by itself.")
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
    with RayWorkers(model.load, sharing.ray, sharing.workers, gpus=gpus) as crew:
        yield crew


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


def note_command(folder: Path) -> None:
    """Write down the command, so that the page of a run can show it; nothing where no run was begun."""
    from headwise.files import write_whole

    if folder.is_dir() and any(folder.iterdir()):
        command = shlex.join(["headwise", *arguments.get()])
        write_whole(folder / "command.txt", f"{command}\n".encode())
