"""Rows that pass through the denoiser, counted as a measure of cost.

Every pass goes through the first layer of the head map, including those that hooks make beside the pipeline's
calls. A row whose pass keeps a gradient also counts as one of `backward`, because a backward pass follows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headwise.model.heads import HeadMap, denoiser_of

__all__ = ["RowCount", "count_rows"]


@dataclass
class RowCount:
    """The number of rows that have passed through the denoiser.

    Args:
        forward: The rows of all passes.
        backward: The rows among them whose pass kept gradients.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def count_rows(pipe: Any) -> Iterator[RowCount]:
    """Count the rows that pass through the denoiser while the context is open; nothing is changed.

        with count_rows(pipe) as rows:
            pipe("a red car", num_inference_steps=4, guidance_scale=7.5)
        rows.forward  # 8

    Args:
        pipe: The user's pipeline, or a denoiser.
    """
    count = RowCount()

    def passing(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        rows = next(len(value) for value in (*inputs, *options.values()) if isinstance(value, Tensor))
        count.forward += rows
        count.backward += rows * torch.is_grad_enabled()

    first = denoiser_of(pipe).get_submodule(HeadMap.of(pipe).layers[0].address)
    handle = first.register_forward_pre_hook(passing, with_kwargs=True)
    try:
        yield count
    finally:
        handle.remove()
