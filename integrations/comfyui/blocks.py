"""Heads by ComfyUI's numbers of blocks.

ComfyUI counts a UNet's blocks as Stable Diffusion's first code did: three per level, of which the third
changes the size on the way down, and one before them all that only takes the latents in. With t the
transformer within a block,

    down_blocks.i.attentions.j.transformer_blocks.t.attn2    ("input", 1 + 3 i + j, t)
    mid_block.attentions.0.transformer_blocks.t.attn2        ("middle", 0, t)
    up_blocks.i.attentions.j.transformer_blocks.t.attn2      ("output", 3 i + j, t)

for Stable Diffusion 1.x, 2.x and XL alike. Heads within a layer have the same order on both sides.
"""

import re
from typing import Any

from headwise.errors import HeadMapMismatch
from headwise.model.heads import HeadMap

__all__ = ["Block", "block_of", "heads_by_block", "slices_by_block"]

Block = tuple[str, int, int]

_DIFFUSERS = re.compile(
    r"(down_blocks|mid_block|up_blocks)\.?(\d*)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn2"
)
_COMFYUI = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.(?:\d+\.)?transformer_blocks\.(\d+)\.attn2")
_PER_LEVEL = 3


def block_of(address: str) -> Block:
    """The block of ComfyUI in which the layer at a diffusers address stands."""
    match = _DIFFUSERS.fullmatch(address)
    if match is None:
        raise HeadMapMismatch(
            f"{address!r} is not a layer of a Stable Diffusion 1.x, 2.x or XL UNet, the only models of "
            "these nodes. Use relevance that was measured on one."
        )
    place, level, attention, transformer = match[1], int(match[2] or 0), int(match[3]), int(match[4])
    if place == "mid_block":
        return ("middle", 0, transformer)
    number = _PER_LEVEL * level + attention
    return ("input", 1 + number, transformer) if place == "down_blocks" else ("output", number, transformer)


def heads_by_block(unet: Any) -> dict[Block, int]:
    """How many heads each text-reading layer of ComfyUI's own UNet has."""
    matches = ((_COMFYUI.fullmatch(name), module) for name, module in unet.named_modules())
    return {
        (match[1], 0 if match[1] == "middle" else int(match[2]), int(match[3])): module.heads
        for match, module in matches
        if match is not None
    }


def slices_by_block(head_map: HeadMap | None, unet: Any) -> dict[Block, slice]:
    """Where in a head map the heads of each layer of ComfyUI's UNet are.

    Raises:
        HeadMapMismatch: The head map and the UNet do not have the same heads.
    """
    if head_map is None:
        raise HeadMapMismatch(
            "This relevance does not say which heads it is about. Use a file written by `headwise measure`."
        )
    slices = {
        block_of(layer.address): slice(*ends)
        for layer, ends in zip(head_map.layers, head_map.slices, strict=True)
    }
    heads = heads_by_block(unet)
    if {block: heads_of.stop - heads_of.start for block, heads_of in slices.items()} != heads:
        raise HeadMapMismatch(
            f"The relevance has {head_map}, ComfyUI's model has {sum(heads.values())} heads in {len(heads)} "
            "layers: they are not the same. Use relevance measured on a model of this very architecture."
        )
    return slices
