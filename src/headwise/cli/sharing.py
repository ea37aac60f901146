"""Commands for work that many machines share: merge."""

import time
from pathlib import Path
from typing import Annotated

import typer

from headwise.cli.app import Json, app, note_command, print_json

__all__ = ["merge"]


@app.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Shards: files, their folders, or a folder that has shards below it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the whole run.")],
    pictures: Annotated[
        int | None,
        typer.Option("--pictures", "-n", min=1, help="How many it should have, where no shard says so."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what is there though pictures are missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add shards exactly.

    Refuses pictures counted twice or not at all, other models, other settings, and damaged files, by name.

    \b
    Examples:
      headwise merge runs/sd14 --out runs/sd14
      headwise merge node1/votes.safetensors node2/votes.safetensors --out runs/sd14 --pictures 2100
    """
    from headwise.merging import merge as run
    from headwise.shards import said_of

    started = time.monotonic()
    merged = run(files, out, pictures=pictures, partial=partial)
    note_command(out)
    seconds = round(time.monotonic() - started, 2)
    if as_json:
        rows = [
            one._asdict() | {"file": str(one.file), "missing": [[of.start, of.stop] for of in one.missing]}
            for one in merged
        ]
        print_json({"merged": rows, "seconds": seconds})
        return
    for one in merged:
        lacks = f"; missing: {said_of(one.missing)}" if one.missing else ""
        print(f"{one.file}: {one.counted} counted in {one.shards} shards{lacks}")
