"""The announcement of a run: how many images, and about how long they take on this machine."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tqdm.auto import tqdm

__all__ = ["announce"]


def announce(pipe: Any, images: int, settings: Mapping[str, Any], extra_calls: float = 0.0) -> None:
    """Write to stderr how many images will be generated, and about how long that takes.

    Args:
        pipe: The pipeline, of which a call is timed; with anything else, such as workers, no time is given.
        images: The maximum number of images that are missing; nothing is written if it is 0.
        settings: The settings of the run, with its steps, guidance and size.
        extra_calls: How many denoiser calls an image takes beyond its steps, such as gradients.
    """
    steps, takes = settings.get("num_inference_steps"), ""
    if images < 1 or steps is None:
        return
    if hasattr(pipe, "scheduler"):
        with suppress(Exception):  # not all schedulers take a single step; all else the run itself will raise
            seconds = images * (steps + extra_calls) * _seconds_per_call(pipe, settings)
            takes = f", about {max(1, seconds / 60):.0f} min here"
    tqdm.write(f"Generating up to {images} images of {steps} steps{takes}.", file=sys.stderr)


def _seconds_per_call(pipe: Any, settings: Mapping[str, Any]) -> float:
    """The time of an image of one step."""
    # Imported here, because figures of saved counts import this module and need no torch.
    from headwise.model.generate import generate
    from headwise.model.pipelines import quiet

    size = {name: settings[name] for name in ("height", "width") if settings.get(name)}
    options = {"guidance_scale": settings.get("guidance_scale", 1.0), "output_type": "latent", **size}
    times = [time.perf_counter()]
    with quiet(pipe):
        for _ in range(2):  # the first also warms up
            generate(pipe, ["a photo"], 0, [0], num_inference_steps=1, **options)
            times.append(time.perf_counter())
    return min(times[1] - times[0], times[2] - times[1])
