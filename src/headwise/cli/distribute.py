"""Commands for work shared by many machines: merge, plan."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwise.cli.measuring import PICTURES, By, OwnBatchSize, OwnSteps, Pictures
from headwise.cli.options import Concepts, Guidance, Json, Model, Size
from headwise.cli.output import duration, print_json, print_rows
from headwise.cli.running import note_command
from headwise.errors import HeadwiseError, UnreadableFile
from headwise.measuring.estimators import LEAN

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.plan import Calibration, Plan

__all__ = ["merge", "plan"]

Price = Annotated[float | None, typer.Option(min=0, help="Price of one worker per hour, in any currency.")]
Save = Annotated[
    Path | None, typer.Option(help="Save the timings, to plan later on a machine without a GPU.")
]
Saved = Annotated[
    Path | None, typer.Option(help="Use timings that --save wrote, instead of loading and timing the model.")
]


def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Shards: files, their folders, or a folder that contains shards.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the merged run.")],
    pictures: Annotated[
        int | None,
        typer.Option("--pictures", "-n", min=1, help="Expected number of images, if no shard records it."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Merge even if images are missing.")] = False,
    as_json: Json = False,
) -> None:
    """Merge the shards of a run exactly.

    Refuses damaged files, shards of different models or settings, and images that were counted twice or not
    at all; the error names them.

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
            result._asdict()
            | {"file": str(result.file), "missing": [[r.start, r.stop] for r in result.missing]}
            for result in merged
        ]
        print_json({"merged": rows, "seconds": seconds})
        return
    for result in merged:
        missing = f"; missing: {format_ranges(result.missing)}" if result.missing else ""
        print(f"{result.file}: {result.counted} counted in {result.shards} shards{missing}")


def plan(
    model: Model = Model(),
    by: By = "votes",
    pictures: Pictures = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of workers that share the images.")] = 1,
    price: Price = None,
    concepts: Concepts = None,
    num_inference_steps: OwnSteps = None,
    guidance_scale: Guidance = 7.5,
    size: Size = Size(),
    batch_size: OwnBatchSize = None,
    save: Save = None,
    calibration: Saved = None,
    as_json: Json = False,
) -> None:
    """Estimate the time, memory and cost of a measurement.

    Times a few denoiser calls on this machine and, by effect, a gradient. Run it on the kind of GPU that the
    workers will use.

    \b
    Examples:
      headwise plan --model sdxl --pictures 2100 --gpus 8 --dtype fp16 --price 2.5
      headwise plan --model sdxl --by effect --dtype fp16
      headwise plan --model sdxl --save h100.json
      headwise plan --calibration h100.json --pictures 2100 --gpus 64 --json
    """
    from headwise.files import write_whole
    from headwise.measuring.measure_effect import BATCH_SIZE
    from headwise.measuring.plan import Calibration
    from headwise.measuring.plan import plan as run

    if calibration is not None:
        timings = Calibration.from_json(_read(calibration))
        if by == "effect" and timings.by != by:
            raise HeadwiseError(
                f"{calibration} holds timings of a measurement by {timings.by}; expected by effect. Save "
                "those with `headwise plan --by effect --save`."
            )
    else:
        batch = batch_size or (BATCH_SIZE if by == "effect" else 1)
        options = {"by": by, "batch_size": batch, "guidance_scale": guidance_scale}
        timings = _timed(model, concepts, size, options)
    if save is not None:
        write_whole(save, json.dumps(timings.to_json(), indent=1).encode())
    total, steps = _images_and_steps(timings, pictures, num_inference_steps)
    expected = run(timings, total, workers=gpus, num_inference_steps=steps, price=price)
    if as_json:
        settings = {"by": timings.by, "pictures": total, "num_inference_steps": steps}
        print_json(settings | vars(expected) | {"calibration": timings.to_json()})
        return
    print_rows(_rows(timings, expected, total, steps).items())


def _images_and_steps(timings: "Calibration", pictures: int | None, steps: int | None) -> tuple[int, int]:
    """The total number of images, and their steps; the defaults depend on how relevance is measured."""
    from headwise.measuring.measure_effect import PICTURES_OF_CONCEPT, STEPS

    if timings.by == "effect":
        return (pictures or PICTURES_OF_CONCEPT) * timings.concepts, steps or STEPS
    return pictures or PICTURES, steps or LEAN.num_inference_steps


def _rows(timings: "Calibration", expected: "Plan", total: int, steps: int) -> dict[str, str]:
    begin = timings.load_s + timings.once_s
    cost = "" if expected.cost is None else f", for {expected.cost:.2f}"
    gradient = f", {timings.effect_s:.3f} s more for a measured call" if timings.by == "effect" else ""
    return {
        "timed": f"{timings.model} on {timings.device}, by {timings.by}, in batches of {timings.batch_size}",
        "one call": f"{timings.call_s:.3f} s per image{gradient}",
        "images": f"{total}, of {steps} steps each, by {expected.workers} workers",
        "time": f"about {duration(expected.seconds)}, of which {duration(begin)} to start",
        "work": f"{expected.worker_hours:.1f} worker hours{cost}",
        "memory": f"{expected.memory_mb:.0f} MB per worker, {expected.driver_mb:.0f} MB for the driver",
        "a lost worker": f"costs at most {expected.piece} images, {duration(expected.piece_s)}",
        "the driver": f"is busy {expected.driver_busy:.1%}; enough for up to {expected.ceiling} workers",
    }


def _timed(model: Model, concepts: str | None, size: Size, options: dict[str, Any]) -> "Calibration":
    """Time loading and a few denoiser calls on this machine."""
    from headwise.measuring.plan import calibrate

    concept_set = model.concepts(concepts)
    started = time.monotonic()
    pipe = model.load()
    size.require(pipe)
    return calibrate(pipe, concept_set, load_s=time.monotonic() - started, **options, **vars(size))


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UnreadableFile(
            f"{file} cannot be read: {error.strerror}. Give a file that --save wrote."
        ) from None
    except ValueError:
        raise UnreadableFile(f"{file} is not JSON. Give a file that `headwise plan --save` wrote.") from None
