r"""The time and memory that a measurement will take, estimated from a few seconds of it.

A worker with p images in batches of b, at s denoiser calls each, is busy for

    load + once + ⌈p / b⌉ · batch + p · s · call

where `load` is the time to load the pipeline, `once` to embed the concept words, `batch` the fixed cost of a
batch whatever its number of calls (texts, initial latents), and `call` one call for one image with the probe.
By effect nothing is embedded, `call` is a call without the probe, and the measured call of each image takes
`effect` more. All of these are timed; the rest is arithmetic. The work of the driver of many workers, adding
a result and writing the sum to disk, is timed too: it limits how many workers one driver can serve.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet, choice
from headwise.measuring.counting import CHUNK, Counted
from headwise.measuring.effect import EffectProbe
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.estimators import LEAN
from headwise.measuring.measure_effect import PICTURES_OF_CONCEPT, STEPS
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.votes import Votes
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.memory import memory_of
from headwise.model.pipelines import model_name, quiet
from headwise.runs.schedule import chunks_of
from headwise.runs.shards import batches

__all__ = ["Calibration", "Kind", "Plan", "calibrate", "plan", "work_seconds"]

Kind = Literal["votes", "effect"]
PROMPT, WORD = ["a photo of a dog"], "dog"
CALLS = (2, 6)  # steps of two runs, whose difference gives a call's time; for one step PNDM adds no call
TURNS = 3
CHECKPOINT = 10.0  # seconds, as in `measure`


@dataclass(frozen=True)
class Calibration:
    """The times and sizes of a short run; times are in seconds, sizes in MiB.

    Args:
        model: The name of the pipeline that was timed.
        device: The device that it was timed on.
        batch_size: The number of images per pipeline call.
        load_s: Loading the pipeline; 0 if it was not timed.
        once_s: Embedding the concept words.
        batch_s: The fixed cost of one batch, whatever its number of denoiser calls.
        call_s: One denoiser call for one image, with guidance and the probe.
        weights_mb: The weights of one worker.
        peak_mb: The peak memory of one worker.
        part_mb: The votes that a worker sends for one chunk of images.
        add_s: The driver's time for adding them.
        save_s: The driver's time for one checkpoint.
        driver_mb: The peak memory of votes in the driver, without Python itself; of effects, which are
            stored image by image, for `PICTURES_OF_CONCEPT` images per concept.
        by: What is measured: "votes" or "effect".
        effect_s: By effect, the additional time for measuring one call of one image.
        concepts: By effect, the number of concepts.
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
    by: Kind = "votes"
    effect_s: float = 0.0
    concepts: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as a dictionary that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> "Calibration":
        """The inverse of `to_json`.

        Raises:
            HeadwiseError: The fields are not those of a calibration.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise HeadwiseError(
                f"This is not a calibration ({error}). Give a file that `headwise plan --save` wrote."
            ) from None


@dataclass(frozen=True)
class Plan:
    """The expected time, memory and cost of a measurement.

    Args:
        workers: How many workers share it.
        seconds: The time from start to end.
        worker_hours: The time of all workers together, in hours.
        memory_mb: The memory of one worker, in MiB.
        driver_mb: The memory for votes in the driver, or in `headwise merge`, in MiB.
        piece: How many images a worker gets at a time.
        piece_s: The seconds that a worker needs for them, which are lost if it dies.
        driver_busy: The share of the time in which the driver adds and saves, 0 … 1.
        ceiling: The maximum number of such workers that one driver can serve.
        cost: The price of all worker hours; None if the price of an hour is unknown.
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
    by: Kind = "votes",
    batch_size: int = 1,
    guidance_scale: float | int = 7.5,
    height: int | None = None,
    width: int | None = None,
    load_s: float | int = 0.0,
) -> Calibration:
    """Time a few denoiser calls and a few sums; the pipeline is left unchanged.

    Args:
        pipe: The pipeline that will be measured.
        concepts: The concepts that will be measured; by votes, fewer than 24 are timed with a background set.
        by: What will be measured: "votes", or "effect" with the defaults of `measure_effect`.
        batch_size: Images per pipeline call.
        guidance_scale: The weight of classifier-free guidance, as the pipeline takes it.
        height: The height of images in pixels; None takes the pipeline's default.
        width: The width of images in pixels; None takes the pipeline's default.
        load_s: The seconds that loading the pipeline took, if known.
    """
    options: dict[str, Any] = {"guidance_scale": guidance_scale, "height": height, "width": width}
    timed = _time_votes if by == "votes" else _time_effect
    with quiet(pipe):
        times = timed(pipe, concepts, range(batch_size), options | {"output_type": "latent"})
    weights, peak = memory_of(pipe)
    return Calibration(
        model=model_name(pipe),
        device=_device(denoiser_of(pipe).device),
        batch_size=batch_size,
        load_s=float(load_s),
        weights_mb=weights,
        peak_mb=peak,
        **times,
    )


def _time_votes(pipe: Any, concepts: ConceptSet, numbers: range, options: dict[str, Any]) -> dict[str, Any]:
    """The times of a calibration by votes, and the cost of votes in the driver."""
    concepts = choice(concepts, "auto", pipe)
    probe, once = _timed(lambda: ConceptProbe(pipe, concepts, samples_per_call=LEAN.samples_per_call))

    def counted(calls: int) -> Votes:
        probe.begin(numbers)
        generate(pipe, PROMPT, 0, numbers, num_inference_steps=calls, **options)
        return Votes.of_pictures(probe.take(), numbers, probe.head_map, concepts, {})

    with hooked(pipe, probe):
        times = _batch_and_call(counted, len(numbers))
    return {"once_s": once, **times, **_driver(*_votes_of(HeadMap.of(pipe), concepts))}


def _time_effect(pipe: Any, concepts: ConceptSet, numbers: range, options: dict[str, Any]) -> dict[str, Any]:
    """The times of a calibration by effect, and the cost of effects in the driver."""

    def generated(calls: int) -> Any:
        return generate(pipe, PROMPT, 0, numbers, num_inference_steps=calls, **options).cpu()

    def measured() -> Any:
        probe = EffectProbe(WORD, calls=1, batch_size=len(numbers))
        with hooked(pipe, probe):
            generated(CALLS[0])
        return probe.take()

    times = _batch_and_call(generated, len(numbers))
    measured()  # warms up
    unmeasured = times["batch_s"] + CALLS[0] * times["call_s"] * len(numbers)
    seconds = max(statistics.median(_timed(measured)[1] for _ in range(TURNS)) - unmeasured, 1e-9)
    effect = {"by": "effect", "effect_s": seconds / len(numbers), "concepts": len(concepts)}
    return {"once_s": 0.0, **times, **effect} | _driver(*_effects_of(HeadMap.of(pipe), concepts))


def _batch_and_call(run: Callable[[int], Any], batch_size: int) -> dict[str, float]:
    """The fixed time of a batch, whatever its number of denoiser calls, and that of a call for one image."""
    run(1)  # warms up, and computes the keys of concept words
    few, many = (statistics.median(_timed(partial(run, calls))[1] for _ in range(TURNS)) for calls in CALLS)
    call = max((many - few) / (CALLS[1] - CALLS[0]), 1e-9)
    return {"batch_s": max(few - CALLS[0] * call, 0.0), "call_s": call / batch_size}


def plan(
    calibration: Calibration,
    pictures: int,
    *,
    workers: int = 1,
    num_inference_steps: int | None = None,
    price: float | int | None = None,
) -> Plan:
    """Forecast a measurement.

    Args:
        calibration: The times of a short run on the same kind of worker.
        pictures: The number of images to measure, of all concepts together.
        workers: How many workers share them.
        num_inference_steps: Denoiser calls per image; by default 10 by votes and 4 by effect.
        price: The price of one worker per hour, in any currency.

    Raises:
        HeadwiseError: A number is smaller than 1.
    """
    times = calibration
    default = LEAN.num_inference_steps if times.by == "votes" else STEPS
    num_inference_steps = default if num_inference_steps is None else num_inference_steps
    if min(pictures, workers, num_inference_steps) < 1:
        raise HeadwiseError(
            f"pictures={pictures}, workers={workers} and num_inference_steps={num_inference_steps} were "
            "given; expected 1 or more of each."
        )

    def busy(count: int) -> float:
        work = work_seconds(count, num_inference_steps, times.call_s, times.batch_s, times.batch_size)
        return work + count * times.effect_s

    calls = batches(0, pictures, times.batch_size, ())
    chunks = chunks_of(calls, [range(pictures)], workers, CHUNK)
    chunk = max(map(len, chunks))
    seconds = times.load_s + times.once_s + busy(math.ceil(pictures / workers))
    adding = len(chunks) * times.add_s + seconds / CHECKPOINT * times.save_s
    hours = workers * seconds / 3600
    return Plan(
        workers=workers,
        seconds=seconds,
        worker_hours=hours,
        memory_mb=times.peak_mb,
        driver_mb=times.driver_mb,
        piece=chunk,
        piece_s=busy(chunk),
        driver_busy=min(1.0, adding / seconds),
        ceiling=int(busy(chunk) / times.add_s * max(0.0, 1 - times.save_s / CHECKPOINT)),
        cost=None if price is None else hours * price,
    )


def work_seconds(
    pictures: int, num_inference_steps: int, call_s: float, batch_s: float = 0.0, batch_size: int = 1
) -> float:
    """The seconds that a loaded worker needs for p images, p · s · call + ⌈p / b⌉ · batch."""
    return math.ceil(pictures / batch_size) * batch_s + pictures * num_inference_steps * call_s


def _votes_of(head_map: HeadMap, concepts: ConceptSet) -> tuple[Votes, Votes]:
    """Votes as a driver holds them, and those of a chunk."""
    winners = np.random.Generator(np.random.Philox(0)).integers(
        0, len(concepts), (CHUNK, 50, 1, head_map.all_heads)
    )
    chunk = Votes.of_pictures(winners, range(CHUNK), head_map, concepts, {})
    return Votes.of_pictures(winners[:1], [CHUNK], head_map, concepts, {}), chunk


def _effects_of(head_map: HeadMap, concepts: ConceptSet) -> tuple[EffectSamples, EffectSamples]:
    """The effects of all images but a chunk, as a driver holds them, and those of a chunk."""
    nothing = EffectSamples.empty(head_map, concepts)

    def of(numbers: range) -> EffectSamples:
        through = np.ones((len(numbers), STEPS, head_map.all_heads))
        return EffectSamples.of_pictures(through, through[..., 0], numbers, nothing)

    total = max(CHUNK + 1, PICTURES_OF_CONCEPT * len(concepts))
    return of(range(CHUNK, total)), of(range(CHUNK))


def _driver(so_far: Counted, chunk: Counted) -> dict[str, float]:
    """The fields of a calibration for the cost of results of this size in the driver."""
    packed = chunk.pack()
    with TemporaryDirectory() as folder:
        _, save = _timed(lambda: so_far.save(Path(folder) / "counted.safetensors"))
    _, add = _timed(lambda: so_far + type(chunk).unpack(packed))  # type: ignore[operator]
    arrays = (value for value in vars(so_far).values() if isinstance(value, np.ndarray))
    size = sum(array.nbytes for array in arrays)
    return {
        "part_mb": len(packed) / 2**20,
        "add_s": add,
        "save_s": save,
        "driver_mb": 4 * size / 2**20,  # the sum, the addend, their new sum, and the file being written
    }


def _device(device: Any) -> str:
    if device.type != "cuda":
        return str(device)
    import torch

    return torch.cuda.get_device_name(device)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started
