"""Heads by ComfyUI's numbers of blocks.

ComfyUI counts a UNet's blocks as Stable Diffusion's first code did: three to a level, of which the third
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
    found = _DIFFUSERS.fullmatch(address)
    if found is None:
        raise HeadMapMismatch(
            f"{address!r} is no layer of a Stable Diffusion 1.x, 2.x or XL UNet, and these nodes know no "
            "other. Use relevance that was measured on one."
        )
    place, level, attention, transformer = found[1], int(found[2] or 0), int(found[3]), int(found[4])
    if place == "mid_block":
        return ("middle", 0, transformer)
    number = _PER_LEVEL * level + attention
    return ("input", 1 + number, transformer) if place == "down_blocks" else ("output", number, transformer)


def heads_by_block(unet: Any) -> dict[Block, int]:
    """How many heads each text-reading layer of ComfyUI's own UNet has."""
    found = ((_COMFYUI.fullmatch(name), module) for name, module in unet.named_modules())
    return {
        (place[1], 0 if place[1] == "middle" else int(place[2]), int(place[3])): module.heads
        for place, module in found
        if place is not None
    }


def slices_by_block(head_map: HeadMap | None, unet: Any) -> dict[Block, slice]:
    """Where in a head map the heads of each layer of ComfyUI's UNet are.

    Raises:
        HeadMapMismatch: They are not the same heads.
    """
    if head_map is None:
        raise HeadMapMismatch(
            "This relevance does not say which heads it is about. Use a file written by `headwise measure`."
        )
    slices = {
        block_of(layer.address): slice(*ends)
        for layer, ends in zip(head_map.layers, head_map.slices, strict=True)
    }
    there = heads_by_block(unet)
    if {block: place.stop - place.start for block, place in slices.items()} != there:
        raise HeadMapMismatch(
            f"The relevance has {head_map}, ComfyUI's model has {sum(there.values())} heads in {len(there)} "
            "layers: they are not the same. Use relevance measured on a model of this very architecture."
        )
    return slices
