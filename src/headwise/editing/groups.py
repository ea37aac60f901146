"""Groups: a source and its targets side by side in one batch, from the same latents.

`source_rows` gives each row's source, `FromSource` is the base class of hooks that exchange self-attention
between these rows, and `generate_edits` generates several groups at once.
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
        both: Whether rows of the negative prompt get their source's row too; otherwise they keep their own.
    """
    group = targets + 1
    if not call.prompts or call.pictures % group:
        raise HookMisuse(
            f"{call.pictures} images with {len(call.prompts)} prompts cannot be groups of a source and "
            f"{targets} targets. Use `headwise.edit`, and give the number of targets as `targets`."
        )
    rows = torch.arange(call.rows)
    halves = range(0, call.rows, call.pictures) if both else [call.conditional.start]
    for start in halves:
        rows[start : start + call.pictures] = start + torch.arange(call.pictures) // group * group
    return rows


class FromSource(Hook):
    """A self-attention hook that passes on queries, keys or values of sources to targets, in some calls.

    Args:
        targets: The number of targets that follow each source in the batch.
        start: The fraction of the denoiser calls before it becomes active, 0 … 1.
        until: The fraction of the denoiser calls after which it stops, 0 … 1; None to stay active.
    """

    kinds = ("self",)
    once_per_step = True

    def __init__(self, targets: int, *, start: float | int = 0.0, until: float | int | None = None) -> None:
        self.targets, self.start, self.until = targets, start, until

    def prepare(self, call: DenoiserCall) -> None:
        """Find each row's source, and whether the hook is active in this call."""
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
        pipe: The user's pipeline; it is left unchanged.
        groups: Source and targets of each group, equally many; images of a group share latents and noise.
        hooks: The hooks that make targets resemble their sources.
        seeds: The key of each group: (seed, image), or a seed s for (s, 0).
        latents: Unit noise of each group; sampled from its key if None.
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
    """softmax(q kᵀ/√d) with padding masked: a layer's maps before any hook changes them.

    Args:
        query, key: Queries and keys of some rows of the batch.
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
    """How much of its attention each pixel gives to marked keys: `plain_maps` @ marks, without the maps."""
    # as wide as the queries, so that the layer's own kernel can be used
    values = marks[:, None, :, None].expand(*key.shape[:3], query.shape[-1]).contiguous()
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, values, attn_mask=mask)[..., :1]


def is_coarse(site: Site, smaller: bool = False) -> bool:
    """Whether a layer is coarse: its maps show the layout, and are read or exchanged.

    In UNets these are the layers of height `coarse_side`. In transformers, which have one grid, all layers.

    Args:
        site: The layer.
        smaller: Whether layers of smaller heights count as well.
    """
    if not site.address.startswith(("down_blocks", "mid_block", "up_blocks")):
        return True
    goal = coarse_side(site.call.grid[0])
    return site.height <= goal if smaller else site.height == goal


def coarse_side(side: int) -> int:
    """The height of coarse layers: a quarter of the latents', but at least 8."""
    goal = max(8, side / 4)
    while side > goal:
        side = -(-side // 2)
    return side
