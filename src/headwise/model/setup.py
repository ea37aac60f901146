"""The setup of a pipeline besides its weights: LoRA files, the sampler, the CLIP skip.

`set_up` is permanent; `set_up_for_now` lasts until its context is left, and restores the pipeline then.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from headwise.model.clip_skip import layers_skipped, skip_layers
from headwise.model.loras import load_loras, loras_loaded
from headwise.model.samplers import use_sampler

__all__ = ["set_up", "set_up_for_now"]


def set_up(
    pipe: Any,
    *,
    loras: Mapping[str | Path, float | int] | None = None,
    scheduler: str | None = None,
    clip_skip: int | None = None,
) -> None:
    """Set up a pipeline.

    Args:
        pipe: The pipeline, which is changed.
        loras: LoRA files and the scale of each; see loras.py.
        scheduler: A sampler by name, in place of the pipeline's own; see samplers.py.
        clip_skip: How the text encoder is cut short, 1 or more; see clip_skip.py.

    Raises:
        HeadwiseError: One of them does not fit the pipeline.
    """
    load_loras(pipe, loras or {})
    if scheduler is not None:
        use_sampler(pipe, scheduler)
    if clip_skip is not None:
        skip_layers(pipe, clip_skip)


@contextmanager
def set_up_for_now(
    pipe: Any,
    *,
    loras: Mapping[str | Path, float | int] | None = None,
    scheduler: str | None = None,
    clip_skip: int | None = None,
) -> Iterator[None]:
    """Set up a pipeline until the context is left; LoRAs that were active before stay active.

    Raises:
        HeadwiseError: One of them does not fit the pipeline, which is then left unchanged.
    """
    scheduler_before = pipe.scheduler
    with ExitStack() as undone:
        undone.callback(setattr, pipe, "scheduler", scheduler_before)
        undone.enter_context(loras_loaded(pipe, loras or {}))
        if scheduler is not None:
            use_sampler(pipe, scheduler)
        if clip_skip is not None:
            undone.enter_context(layers_skipped(pipe, clip_skip))
        yield
