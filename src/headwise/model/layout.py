r"""Where pixels and text are in the sequence of joint attention.

With P pixels and T tokens of text the sequence of a row is one of

    text, pixels                          text first, T before P
    pixels, text                          pixels first
    pixels, fill, text, fill              both padded with tokens of the denoiser's own (`Family.filled`)
    text of L ≤ T, pixels, padding        each row's own length L (`Family.ragged`)

In the last, rows are put into the order of the first, with the padding in between, before hooks see them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from headwise.model.families import Family
from headwise.model.sites import DenoiserCall

__all__ = ["Layout", "layout_of", "put_back", "reordered"]


class Layout(NamedTuple):
    """The places of pixels and text in the sequence.

    Args:
        pixels, text: Their slices; the text of shorter rows is followed by padding.
        order: For each row and each place here, the place in the denoiser's sequence; None if they are the
            same.
    """

    pixels: slice
    text: slice
    order: Int[Tensor, "rows length"] | None = None

    def parts(self, length: int) -> list[tuple[str, slice]]:
        """The parts of a sequence of this length, in order: "joint", "text", or "fill"."""
        known = sorted((("joint", self.pixels), ("text", self.text)), key=lambda part: part[1].start)
        parts, at = [], 0
        for kind, part in known:
            if part.start > at:
                parts.append(("fill", slice(at, part.start)))
            parts.append((kind, part))
            at = part.stop
        return [*parts, ("fill", slice(at, length))] if at < length else parts


def layout_of(family: Family, call: DenoiserCall, patch: int, length: int) -> Layout:
    """The layout of a joint attention.

    Args:
        family: The family of the denoiser.
        call: The current denoiser call.
        patch: The side of the denoiser's patches in latents.
        length: The length of the sequence.
    """
    tokens = call.tokens
    if family.filled is not None:
        pixels = (call.grid[0] // patch) * (call.grid[1] // patch)
        start = -(-pixels // family.filled) * family.filled
        return Layout(slice(0, pixels), slice(start, start + tokens))
    if not family.text_first:
        return Layout(slice(0, length - tokens), slice(length - tokens, length))
    order = _order(call, length) if len(set(call.lengths)) > 1 else None
    return Layout(slice(tokens, length), slice(0, tokens), order)


def reordered(tensor: Tensor, order: Int[Tensor, "rows length"], dim: int = -2) -> Tensor:
    """The tensor, "rows … length …", with `dim` of each row permuted into that order."""
    shape = [len(order), *[1] * (tensor.ndim - 1)]
    shape[dim] = order.shape[1]
    index = order.to(tensor.device).reshape(shape)
    rows = tensor.expand(len(order), *tensor.shape[1:])
    return rows.gather(
        dim, index.expand([n if d != dim % tensor.ndim else -1 for d, n in enumerate(rows.shape)])
    )


def put_back(tensor: Tensor, order: Int[Tensor, "rows length"]) -> Tensor:
    """The inverse of `reordered`."""
    return reordered(tensor, order.argsort(-1))


def _order(call: DenoiserCall, length: int) -> Int[Tensor, "rows length"]:
    """The order of text, padding and pixels, for rows of text, pixels and padding."""
    place, tokens = torch.arange(length, device=call.device), call.tokens
    lengths = torch.tensor(call.lengths, device=call.device)[:, None]
    padding = place + (length - tokens)
    pixels = place - tokens + lengths
    return torch.where(place < lengths, place, torch.where(place < tokens, padding, pixels))
