r"""What a measurement will take, from a few seconds of it.

A worker with pictures i = 1 … p in batches of b, at s denoiser calls each, is busy for

    load + once + ⌈p / b⌉ · batch + p · s · call

where `load` makes the pipeline, `once` embeds the concept words, `batch` is what a batch costs whatever its
number of calls (texts, first latents), and `call` is one call for one picture, looked at by the probe. All
four are measured; the rest is arithmetic. What the driver of many workers does, adding a part and putting the
sum on the disk, is measured too: it says how many workers one driver can serve.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.estimators import LEAN
from headwise.measuring.measure import CHUNK
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.votes import Votes
from headwise.model.attention import hooked
from headwise.model.device import memory_of
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.pipelines import model_name, quiet
from headwise.runs.schedule import chunks_of
from headwise.runs.shards import batches

__all__ = ["Calibration", "Plan", "calibrate", "plan"]

CALLS = (2, 6)  # steps of two runs, whose difference is the price; of one step PNDM makes no call more
TURNS = 3
CHECKPOINT = 10.0  # seconds, as in `measure`


@dataclass(frozen=True)
class Calibration:
    """What a short run took.

    Args:
        model, device: What was timed, and on what.
        batch_size: Pictures at a time.
        load_s: To make the pipeline; 0 if not known.
        once_s: To embed the concept words.
        batch_s: A batch, whatever its number of calls.
        call_s: One denoiser call for one picture, with guidance and the probe.
        weights_mb, peak_mb: Of a worker.
        part_mb: What a worker sends for a piece of pictures.
        add_s, save_s: What the driver needs to add that, and for a checkpoint.
        driver_mb: What the driver holds of votes at most, beside Python.
    """

    model: str
    device: str
    batch_size: int
    load_s: float
    once_s: float
    batch_s: float
    call_s: float
    weights_mb: float
    peak_mb: float
    part_mb: float
    add_s: float
    save_s: float
    driver_mb: float

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> "Calibration":
        """From what `to_json` gave.

        Raises:
            HeadwiseError: It is no calibration.
        """
        try:
            return cls(**found)
        except TypeError as error:
            raise HeadwiseError(
                f"This is no calibration ({error}). Give a file that `headwise plan --save` wrote."
            ) from None


@dataclass(frozen=True)
class Plan:
    """What a measurement is expected to take.

    Args:
        workers: How many share it.
        seconds: From start to end.
        worker_hours: Of all workers together.
        memory_mb: Of one worker.
        driver_mb: Of the driver, or of `headwise merge`, for votes.
        piece: Pictures that a worker gets at a time.
        piece_s: What it needs for them, which is what its death costs.
        driver_busy: The share of the time in which the driver adds and saves.
        ceiling: How many such workers one driver can serve.
        cost: Of all worker hours, if their price is known.
    """

    workers: int
    seconds: float
    worker_hours: float
    memory_mb: float
    driver_mb: float
    piece: int
    piece_s: float
    driver_busy: float
    ceiling: int
    cost: float | None


def calibrate(
    pipe: Any,
    concepts: ConceptSet,
    *,
    batch_size: int = 1,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    load_s: float | int = 0.0,
) -> Calibration:
    """Time a few denoiser calls and a few sums; the pipeline is left as it was.

    Args:
        pipe, concepts: What will be measured.
        batch_size, guidance_scale, height, width: As it will be.
        load_s: What loading took, if somebody looked.
    """
    probe, once = _timed(lambda: ConceptProbe(pipe, concepts, samples_per_call=LEAN.samples_per_call))

    def counted(calls: int) -> Votes:
        numbers = range(batch_size)
        probe.begin(numbers)
        options: dict[str, Any] = {"num_inference_steps": calls, "guidance_scale": guidance_scale}
        options["output_type"] = "latent"
        generate(pipe, ["a photo of a dog"], 0, numbers, height=height, width=width, **options)
        return Votes.of_pictures(probe.take(), numbers, probe.head_map, concepts, {})

    with hooked(pipe, probe), quiet(pipe):
        counted(1)  # warms up, and makes the keys of the concept words
        few, many = (
            statistics.median(_timed(partial(counted, calls))[1] for _ in range(TURNS)) for calls in CALLS
        )
    call = max((many - few) / (CALLS[1] - CALLS[0]), 1e-9)
    weights, peak = memory_of(pipe)
    return Calibration(
        model=model_name(pipe),
        device=_device(denoiser_of(pipe).device),
        batch_size=batch_size,
        load_s=float(load_s),
        once_s=once,
        batch_s=max(few - CALLS[0] * call, 0.0),
        call_s=call / batch_size,
        weights_mb=weights,
        peak_mb=peak,
        **_driver(HeadMap.of(pipe), concepts),
    )


def plan(
    calibration: Calibration,
    pictures: int,
    *,
    workers: int = 1,
    num_inference_steps: int = LEAN.num_inference_steps,
    price: float | int | None = None,
) -> Plan:
    """What so many pictures will take.

    Args:
        calibration: What a few took.
        pictures: How many.
        workers: How many share them.
        num_inference_steps: Denoiser calls a picture.
        price: Of a worker for an hour, in whatever money.
    """
    if min(pictures, workers, num_inference_steps) < 1:
        raise HeadwiseError(
            f"pictures={pictures}, workers={workers} and num_inference_steps={num_inference_steps} were "
            "given; expected 1 or more of each."
        )
    found = calibration

    def busy(share: int) -> float:
        return (
            math.ceil(share / found.batch_size) * found.batch_s + share * num_inference_steps * found.call_s
        )

    each = math.ceil(pictures / workers)
    calls = batches(0, pictures, found.batch_size, ())
    pieces = chunks_of(calls, [range(pictures)], workers, CHUNK)
    piece = max(map(len, pieces))
    seconds = found.load_s + found.once_s + busy(each)
    adding = len(pieces) * found.add_s + seconds / CHECKPOINT * found.save_s
    hours = workers * seconds / 3600
    return Plan(
        workers=workers,
        seconds=seconds,
        worker_hours=hours,
        memory_mb=found.peak_mb,
        driver_mb=found.driver_mb,
        piece=piece,
        piece_s=busy(piece),
        driver_busy=min(1.0, adding / seconds),
        ceiling=int(busy(piece) / found.add_s * max(0.0, 1 - found.save_s / CHECKPOINT)),
        cost=None if price is None else hours * price,
    )


def _driver(head_map: HeadMap, concepts: ConceptSet) -> dict[str, float]:
    """What votes of this size cost the driver."""
    winners = np.random.Generator(np.random.Philox(0)).integers(
        0, len(concepts), (CHUNK, 50, 1, head_map.all_heads)
    )
    votes = Votes.of_pictures(winners, range(CHUNK), head_map, concepts, {})
    other = Votes.of_pictures(winners[:1], [CHUNK], head_map, concepts, {})
    packed = votes.pack()
    with TemporaryDirectory() as folder:
        _, save = _timed(lambda: votes.save(Path(folder) / "votes.safetensors"))
    _, add = _timed(lambda: other + Votes.unpack(packed))
    size = votes.counts.nbytes + votes.blocks.nbytes
    return {
        "part_mb": len(packed) / 2**20,
        "add_s": add,
        "save_s": save,
        "driver_mb": 4 * size / 2**20,  # the sum, the part, their sum, and what is being written
    }


def _device(device: Any) -> str:
    if device.type != "cuda":
        return str(device)
    import torch

    return torch.cuda.get_device_name(device)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started
