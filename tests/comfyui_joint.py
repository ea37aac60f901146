"""What of ComfyUI's joint attention the nodes touch, written anew for the tests: its blocks' signatures."""

import torch
from torch import nn

import comfyui_standin as comfyui

TEXT, PIXELS, DIM = 24, 6, 4


class Heads(nn.Module):
    def __init__(self, heads, **more):
        super().__init__()
        self.num_heads = heads
        self.__dict__.update(more)


def flux(double=2, single=3, heads=2, **more):
    """What of ComfyUI's Flux the nodes look at."""
    denoiser = nn.Module()
    denoiser.double_blocks = nn.ModuleList(Heads(heads, **more) for _ in range(double))
    denoiser.single_blocks = nn.ModuleList(Heads(heads, **more) for _ in range(single))
    return comfyui.ModelPatcher(denoiser)


def sd3(blocks=3, heads=3):
    """What of ComfyUI's MMDiT the nodes look at; the attention of the text has the heads of the pixels'."""
    denoiser = nn.Module()
    denoiser.joint_blocks = nn.ModuleList(nn.Module() for _ in range(blocks))
    for block in denoiser.joint_blocks:
        block.x_block, block.context_block = nn.Module(), nn.Module()
        block.x_block.attn, block.x_block.attn2, block.context_block.attn = (Heads(heads) for _ in range(3))
    return comfyui.ModelPatcher(denoiser)


def joint_block(heads, apart, projections, more=()):
    """A block of ComfyUI's that attends once, to text and pixels, and then to `more`, as its blocks do."""

    def run(given):
        options = {"skip_reshape": apart, "transformer_options": given["transformer_options"]}
        outs = []
        for each in (projections, *more):
            laid = [x if apart else x.transpose(1, 2).flatten(-2) for x in each[:2]]
            laid.append(each[2] if apart else each[2].transpose(1, 2))  # as SD 3 leaves its values
            outs.append(comfyui.optimized_attention(*laid, heads=heads, **options))
        return {"img": outs[0], "more": outs[1:]}

    return {"original_block": run}


def projections(rows, heads, tokens, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, heads, tokens, DIM, generator=made, dtype=torch.float64) for _ in range(3)]


def block_inputs(block, rows, options, text=TEXT, pixels=PIXELS):
    """What ComfyUI gives a replaced block: in FLUX's single blocks text and pixels are one."""
    both = {"txt": torch.zeros(rows, text, 1), "img": torch.zeros(rows, pixels, 1)}
    given = both if block[0] == "double_block" else {"img": torch.zeros(rows, text + pixels, 1)}
    return given | {"transformer_options": options}


def patches_of(model):
    return model.model_options["transformer_options"]["patches_replace"]["dit"]
