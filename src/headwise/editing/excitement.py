r"""The loss of Attend-and-Excite: one number per image from the maps of layers.

With A[k] the map of all tokens weighted for subject k, t_k the subject's tokens and G a small Gaussian,

    S[k] = Σ_{t in t_k} softmax over the prompt's tokens of 100 · A[k], at t
    loss = max_k max(0, 1 − max over pixels of G ∗ S[k])

A subject has one token in each text encoder that has its own positions in the text.

References:
    | Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models
    | (Chefer et al., 2023) https://arxiv.org/abs/2301.13826
"""

import functools
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headwise.editing.groups import plain_maps
from headwise.model.sites import DenoiserCall

__all__ = ["by_encoder", "excitement_loss", "map_size", "weighted_maps"]

GRID = 8  # the height to which maps weighted by relevance are resized


def by_encoder(call: DenoiserCall, positions: Sequence[int]) -> list[list[int]]:
    """The positions of tokens, in order, grouped by encoder if encoders' tokens are one after the other."""
    starts = sorted({segment.start for segment in call.segments})
    return [list(part) for _, part in groupby(positions, key=lambda t: bisect_right(starts, t))]


def weighted_maps(
    query: Float[Tensor, "images heads pixels dim"],
    key: Float[Tensor, "images heads tokens dim"],
    weights: Float[Tensor, "images subjects heads"],
    size: tuple[int, int],
    goal: tuple[int, int],
    mask: Tensor | None = None,
) -> Float[Tensor, "images subjects tokens grid_height grid_width"]:
    """For each subject, the weighted sum of a layer's maps over heads, resized to height and width `goal`."""
    of_subjects = torch.einsum("pkh,phxt->pktx", weights, plain_maps(query, key, mask))
    return _resized(of_subjects.unflatten(-1, size), goal)


def excitement_loss(
    maps: Float[Tensor, "images subjects tokens height width"],
    subjects: Sequence[Sequence[Sequence[int]]],
    words: Sequence[Sequence[int]],
    as_published: bool = False,
) -> Float[Tensor, " images"]:
    """max_k max(0, 1 − max over pixels of the smoothed map of subject k).

    Args:
        maps: For each subject, the maps of all tokens.
        subjects: The positions of the tokens of each image's subjects, one in each text encoder.
        words: The positions that the softmax is over: those of the words of each image's prompt.
        as_published: Whether maps are smoothed as in the published code, whose Gaussian of "sigma 0.5" is
            exp(−x²) and which reflects maps at their edges.
    """
    sigma, edges = (math.sqrt(0.5), "reflect") if as_published else (0.5, "replicate")
    losses = []
    for image_maps, tokens, chosen in zip(maps, subjects, words, strict=True):
        shares = torch.softmax(100 * image_maps[:, list(chosen)], 1)
        attended = torch.stack(
            [
                shares[k, [list(chosen).index(t) for t in subject_tokens]].sum(0)
                for k, subject_tokens in enumerate(tokens)
            ]
        )
        strongest = _smooth(attended, sigma, edges).flatten(1).amax(1)
        losses.append((1 - strongest).clamp(min=0).amax())
    return torch.stack(losses)


def map_size(latents: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which maps are resized, for latents of this height and width."""
    return GRID, max(1, round(GRID * latents[1] / latents[0]))


def _resized(maps: Tensor, goal: tuple[int, int]) -> Tensor:
    """Maps "… height width" resized, after smoothing by a Gaussian as wide as the step if they shrink.

    Both act along one axis, then the other, so that each axis is one small matrix.
    """
    height, width = maps.shape[-2:]
    if (height, width) == goal:
        return maps
    spread = height / goal[0]
    rows = _along(height, goal[0], spread).to(maps)
    columns = _along(width, goal[1], spread).to(maps)
    return rows @ maps @ columns.T


@functools.cache
@torch.inference_mode(False)  # kept for later calls, whatever mode the first is made in
def _along(size: int, goal: int, spread: float) -> Float[Tensor, "goal size"]:
    """The smoothing and resizing of one axis, as a matrix."""
    each = torch.eye(size, dtype=torch.float64)[:, None]
    if spread > 1:
        reach = math.ceil(spread)
        kernel = _gaussian(spread / 2, reach).to(each)
        each = F.conv1d(F.pad(each, (reach, reach), mode="replicate"), kernel[None, None])
    return F.interpolate(each, size=goal, mode="linear", align_corners=False)[:, 0].T


def _smooth(maps: Float[Tensor, "some height width"], sigma: float, edges: str) -> Tensor:
    """Maps convolved with a Gaussian of 3 × 3 positions, the edges replicated or reflected."""
    kernel = _gaussian(sigma, 1).to(maps)
    padded = F.pad(maps[:, None], (1,) * 4, mode=edges)
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]


def _gaussian(sigma: float, reach: int) -> Float[Tensor, " positions"]:
    return torch.softmax(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * sigma**2), 0)
