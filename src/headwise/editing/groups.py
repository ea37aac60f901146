"""Groups: a source and its targets stand side by side in one batch, from the same latents.

`source_rows` says which row is whose source, `FromSource` is what hooks have in common that exchange
self-attention between these rows, and `generate_edits` generates several groups at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from headwise.editing.support import require_support
from headwise.errors import HookMisuse
from headwise.model.attention import hooked
from headwise.model.generate import Key, generate_keys
from headwise.model.hooks import Hook
from headwise.model.sites import AttentionHook, DenoiserCall, Site

__all__ = [
    "FromSource", "coarse_side", "generate_edits", "is_coarse", "plain_maps", "plain_shares", "source_rows",
]  # fmt: skip


def source_rows(call: DenoiserCall, targets: int, both: bool = False) -> Int[Tensor, " rows"]:
    """For each row of the batch, the row of its source; a source has its own row.

    Args:
        call: The denoiser call under way.
        targets: The number of targets that follow each source in the batch.
        both: Whether rows of the negative prompt have their source's row too; otherwise they have their own.
    """
    group = targets + 1
    if not call.prompts or call.pictures % group:
        raise HookMisuse(
            f"{call.pictures} images with {len(call.prompts)} prompts cannot be groups of a source and "
            f"{targets} targets. Use `headwise.edit`, and say `targets` as many as there are."
        )
    rows = torch.arange(call.rows)
    halves = range(0, call.rows, call.pictures) if both else [call.conditional.start]
    for start in halves:
        rows[start : start + call.pictures] = start + torch.arange(call.pictures) // group * group
    return rows


class FromSource(Hook):
    """A hook at self-attention that gives targets something of their source, in a share of the calls.

    Args:
        targets: The number of targets that follow each source in the batch.
        start: The share of the denoiser calls before the first in which it is active.
        until: The share of the denoiser calls after which it is not active any more; None for all calls.
    """

    kinds = ("self",)
    once_per_step = True

    def __init__(self, targets: int, *, start: float | int = 0.0, until: float | int | None = None) -> None:
        self.targets, self.start, self.until = targets, start, until

    def prepare(self, call: DenoiserCall) -> None:
        """Find each row's source, and whether this call is one of the share."""
        require_support(call.head_map, self)
        self._rows = source_rows(call, self.targets, both=True)
        done = call.step / max(1, call.steps)
        self._active = self.start <= done and (self.until is None or done < self.until)


def generate_edits(
    pipe: Any,
    groups: Sequence[Sequence[str]],
    hooks: Sequence[AttentionHook],
    *,
    seeds: Sequence[Key],
    latents: Float[Tensor, "groups channels height width"] | None = None,
    **options: Any,
) -> list[list[Any]]:
    """The images of several sources and their targets, in one batch.

    Args:
        pipe: The user's pipeline; it is left as it was.
        groups: Source and targets, as many targets in each; images of a group share latents and noise.
        hooks: The hooks that make targets resemble their sources.
        seeds: The key of each group: (seed, image), or a seed s for (s, 0).
        latents: Unit noise of each group; drawn from its key if None.
        options: Passed to the pipeline: `height`, `width`, `negative_prompt` …
    """
    require_support(pipe, *hooks)
    prompts = [prompt for group in groups for prompt in group]
    keys = [key for key, group in zip(seeds, groups, strict=True) for _ in group]
    if latents is not None:
        latents = torch.stack([noise for noise, group in zip(latents, groups, strict=True) for _ in group])
    with hooked(pipe, *hooks):
        images = iter(generate_keys(pipe, prompts, keys, latents=latents, **options))
    return [[next(images) for _ in group] for group in groups]


def plain_maps(
    query: Float[Tensor, "rows heads pixels dim"],
    key: Float[Tensor, "rows heads keys dim"],
    mask: Tensor | None,
) -> Float[Tensor, "rows heads pixels keys"]:
    """softmax(q kᵀ/√d) with padding masked: what a layer attends to, whatever other hooks make of it.

    Args:
        query, key: Those of some rows of the batch.
        mask: `Site.mask_of_rows` of the same rows.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1)


def plain_shares(
    query: Float[Tensor, "rows heads pixels dim"],
    key: Float[Tensor, "rows heads keys dim"],
    marks: Float[Tensor, "rows keys"],
    mask: Tensor | None,
) -> Float[Tensor, "rows heads pixels 1"]:
    """How much of its attention each pixel gives to marked keys: `plain_maps` @ marks, without maps."""
    # as wide as the queries, so that the kernel that the layer uses can be used
    values = marks[:, None, :, None].expand(*key.shape[:3], query.shape[-1]).contiguous()
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, values, attn_mask=mask)[..., :1]


def is_coarse(site: Site, smaller: bool = False) -> bool:
    """Whether a layer is one of those that see the layout, and whose maps are read.

    In UNets these are the layers of height `coarse_side`. Transformers have one grid, and all layers count.

    Args:
        site: The layer.
        smaller: Whether smaller heights count as well.
    """
    if not site.address.startswith(("down_blocks", "mid_block", "up_blocks")):
        return True
    goal = coarse_side(site.call.grid[0])
    return site.height <= goal if smaller else site.height == goal


def coarse_side(side: int) -> int:
    """The height of the layers that count as coarse: a quarter of the latents', though not under 8."""
    goal = max(8, side / 4)
    while side > goal:
        side = -(-side // 2)
    return side
