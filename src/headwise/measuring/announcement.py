"""What is about to happen: how many images, and roughly how long they take on this machine."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

__all__ = ["announce"]


def announce(pipe: Any, images: int, settings: Mapping[str, Any], extra_calls: float = 0.0) -> None:
    """Say on stderr how many images are to be generated; nothing, if none.

    Args:
        pipe: The pipeline, of which a call is timed; or workers, of whom there may be any number, so that
            no time is said.
        images: How many are missing, at most.
        settings: Those of the run, of which steps, guidance and size are read.
        extra_calls: How many denoiser calls an image costs beside its steps, as gradients do.
    """
    steps, takes = settings.get("num_inference_steps"), ""
    if images < 1 or steps is None:
        return
    if hasattr(pipe, "scheduler"):
        # here, as figures of saved counts, which need no torch, import this module
        from headwise.model.generate import generate
        from headwise.model.pipelines import quiet

        size = {name: settings[name] for name in ("height", "width") if settings.get(name)}
        options = {"guidance_scale": settings.get("guidance_scale", 1.0), "output_type": "latent", **size}
        times = [time.perf_counter()]
        with quiet(pipe):
            for _ in range(2):  # the first also warms up
                generate(pipe, ["a photo"], 0, [0], num_inference_steps=1, **options)
                times.append(time.perf_counter())
        seconds = images * (steps + extra_calls) * min(times[1] - times[0], times[2] - times[1])
        takes = f", about {max(1, seconds / 60):.0f} min here"
    tqdm.write(f"Up to {images} images of {steps} steps are to be generated{takes}.", file=sys.stderr)
