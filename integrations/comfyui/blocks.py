"""Heads by ComfyUI's numbers of blocks.

ComfyUI counts a UNet's blocks as Stable Diffusion's first code did: three per level, of which the third
changes the size on the way down, and one before them all that only takes the latents in. With t the
transformer within a block,

    down_blocks.i.attentions.j.transformer_blocks.t.attn2    ("input", 1 + 3 i + j, t)
    mid_block.attentions.0.transformer_blocks.t.attn2        ("middle", 0, t)
    up_blocks.i.attentions.j.transformer_blocks.t.attn2      ("output", 3 i + j, t)

for Stable Diffusion 1.x, 2.x and XL alike. Transformers are counted as in diffusers; Stable Diffusion 3 has
the blocks of the first line alone, FLUX.1 those of both:

    transformer_blocks.i.attn                                ("double_block", i)
    single_transformer_blocks.i.attn                         ("single_block", i)

Heads within a layer have the same order on both sides.
"""

import re
from typing import Any

from headwise.errors import HeadMapMismatch
from headwise.model.heads import HeadMap

__all__ = ["Block", "block_of", "heads_by_block", "is_joint", "slices_by_block"]

Block = tuple[str, int] | tuple[str, int, int]

_UNET = re.compile(
    r"(down_blocks|mid_block|up_blocks)\.?(\d*)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn2"
)
_TRANSFORMER = re.compile(r"(single_)?transformer_blocks\.(\d+)\.attn")
_IN_UNET = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.(?:\d+\.)?transformer_blocks\.(\d+)\.attn2")
_IN_SD3 = re.compile(r"joint_blocks\.(\d+)\.x_block\.attn")
_IN_FLUX = re.compile(r"(double|single)_blocks\.(\d+)")
_PER_LEVEL = 3


def block_of(address: str) -> Block:
    """The block of ComfyUI in which the layer at a diffusers address stands.

    Raises:
        HeadMapMismatch: The layer is of another family of models.
    """
    if match := _TRANSFORMER.fullmatch(address):
        return ("single_block" if match[1] else "double_block", int(match[2]))
    match = _UNET.fullmatch(address)
    if match is None:
        raise HeadMapMismatch(
            f"{address!r} is not a layer of Stable Diffusion 1.x, 2.x, XL or 3 or of FLUX.1, the only models "
            "of these nodes. Use relevance that was measured on one."
        )
    place, level, attention, transformer = match[1], int(match[2] or 0), int(match[3]), int(match[4])
    if place == "mid_block":
        return ("middle", 0, transformer)
    number = _PER_LEVEL * level + attention
    return ("input", 1 + number, transformer) if place == "down_blocks" else ("output", number, transformer)


def is_joint(block: Block) -> bool:
    """Whether text and pixels are one sequence in the attention of this block."""
    return block[0] in ("double_block", "single_block")


def heads_by_block(denoiser: Any) -> dict[Block, int]:
    """How many heads each text-reading layer of ComfyUI's own denoiser has."""
    heads: dict[Block, int] = {}
    for name, module in denoiser.named_modules():
        if match := _IN_UNET.fullmatch(name):
            number = 0 if match[1] == "middle" else int(match[2])
            heads[match[1], number, int(match[3])] = module.heads
        elif match := _IN_SD3.fullmatch(name):
            heads["double_block", int(match[1])] = module.num_heads
        elif (match := _IN_FLUX.fullmatch(name)) and not getattr(module, "flipped_img_txt", False):
            heads[f"{match[1]}_block", int(match[2])] = module.num_heads
    return heads


def slices_by_block(head_map: HeadMap | None, denoiser: Any) -> dict[Block, slice]:
    """Where in a head map the heads of each layer of ComfyUI's denoiser are.

    Raises:
        HeadMapMismatch: The head map and the denoiser do not have the same heads.
    """
    if head_map is None:
        raise HeadMapMismatch(
            "This relevance does not say which heads it is about. Use a file written by `headwise measure`."
        )
    slices = {
        block_of(layer.address): slice(*ends)
        for layer, ends in zip(head_map.layers, head_map.slices, strict=True)
    }
    heads = heads_by_block(denoiser)
    if {block: heads_of.stop - heads_of.start for block, heads_of in slices.items()} != heads:
        raise HeadMapMismatch(
            f"The relevance has {head_map}, ComfyUI's model has {sum(heads.values())} heads in {len(heads)} "
            "layers: they are not the same. Use relevance measured on a model of this very architecture."
        )
    return slices
