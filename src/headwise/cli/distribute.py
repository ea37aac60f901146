"""Commands for work that many machines share: merge, plan."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from headwise.cli.app import (
    Device,
    Dtype,
    Guidance,
    Height,
    Json,
    Model,
    Steps,
    Width,
    app,
    duration,
    load,
    note_command,
    print_json,
    print_rows,
)
from headwise.errors import UnreadableFile
from headwise.measuring.estimators import LEAN

__all__ = ["merge", "plan"]


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
    from headwise.measuring.merge import merge as run
    from headwise.runs.shards import format_ranges

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
        lacks = f"; missing: {format_ranges(one.missing)}" if one.missing else ""
        print(f"{one.file}: {one.counted} counted in {one.shards} shards{lacks}")


@app.command()
def plan(
    model: Model = "emoji",
    pictures: Annotated[int, typer.Option("--pictures", "-n", min=1, help="How many to measure.")] = 1000,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many workers share them.")] = 1,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of one worker for an hour, in whatever money.")
    ] = None,
    concepts: Annotated[
        str | None, typer.Option("--concepts", "-c", help="'paper34', 'emoji', or a TOML file.")
    ] = None,
    num_inference_steps: Steps = LEAN.num_inference_steps,
    guidance_scale: Guidance = 7.5,
    height: Height = None,
    width: Width = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 1,
    save: Annotated[
        Path | None, typer.Option(help="Keep what was timed, to plan with it where there is no GPU.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="What --save kept: nothing is loaded or timed now.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Foresee what a measurement takes: time, memory, cost.

    Times a few denoiser calls on this machine. Time it on such a GPU as the workers will have.

    \b
    Examples:
      headwise plan --model sdxl --pictures 2100 --gpus 8 --dtype fp16 --price 2.5
      headwise plan --model sdxl --save h100.json
      headwise plan --calibration h100.json --pictures 2100 --gpus 64 --json
    """
    from headwise.files import write_whole
    from headwise.measuring.concepts import ConceptSet
    from headwise.measuring.plan import Calibration, calibrate
    from headwise.measuring.plan import plan as run

    if calibration is not None:
        timed = Calibration.from_json(_read(calibration))
    else:
        concept_set = ConceptSet.load(concepts or ("emoji" if model == "emoji" else "paper34"))
        started = time.monotonic()
        pipe = load(model, dtype, device)
        timed = calibrate(
            pipe,
            concept_set,
            batch_size=batch_size,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            load_s=time.monotonic() - started,
        )
    if save is not None:
        write_whole(save, json.dumps(timed.to_json(), indent=1).encode())
    found = run(timed, pictures, workers=gpus, num_inference_steps=num_inference_steps, price=price)
    if as_json:
        asked = {"pictures": pictures, "num_inference_steps": num_inference_steps}
        print_json(asked | vars(found) | {"calibration": timed.to_json()})
        return
    rows = {
        "timed": f"{timed.model} on {timed.device}, in batches of {timed.batch_size}",
        "one call": f"{timed.call_s:.3f} s a picture",
        "pictures": f"{pictures} of {num_inference_steps} steps, by {gpus} workers",
        "time": f"about {duration(found.seconds)}, of which {duration(timed.load_s + timed.once_s)} to begin",
        "work": f"{found.worker_hours:.1f} hours of all workers"
        + ("" if found.cost is None else f", for {found.cost:.2f}"),
        "memory": f"{found.memory_mb:.0f} MB a worker, {found.driver_mb:.0f} MB of votes for who adds them",
        "a worker that dies": f"costs at most {found.piece} pictures, {duration(found.piece_s)}",
        "the driver": f"is busy {found.driver_busy:.1%} of the time; one can serve {found.ceiling} workers",
    }
    print_rows(rows.items())


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UnreadableFile(
            f"{file} cannot be read: {error.strerror}. Give a file that --save wrote."
        ) from None
    except ValueError:
        raise UnreadableFile(f"{file} is no JSON. Give a file that `headwise plan --save` wrote.") from None
