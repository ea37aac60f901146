"""Checkpoints of a single file, written under the names that Stable Diffusion began with."""

import re

from safetensors.torch import save_file

UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def replaced(key, names):
    start = next((old for old in sorted(names, key=len, reverse=True) if key.startswith(f"{old}.")), None)
    return key if start is None else names[start] + key.removeprefix(start)


def unet_key(key, layers, with_attention):
    """The name of one weight; `layers` are the resnets of a down block."""
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        part, number, rest = found.groups()
        place = 1 if part == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{replaced(rest, RESNET) if part == 'resnets' else rest}"
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if not found:
        return replaced(key, UNET)
    way, block, part, number, rest = found.groups()
    block, number = int(block), int(number)
    sort, first = ("input", 1) if way == "down" else ("output", 0)
    index = first + block * (layers + 1) + number
    if part == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.{1 + (block in with_attention)}.{rest}"
    return f"{sort}_blocks.{index}." + (f"0.{replaced(rest, RESNET)}" if part == "resnets" else f"1.{rest}")


def vae_key(key, blocks):
    key = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block", key)
    key = re.sub(
        r"decoder\.up_blocks\.(\d+)\.resnets", lambda m: f"decoder.up.{blocks - 1 - int(m[1])}.block", key
    )
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if found := re.match(r"(\w+)\.mid_block\.attentions\.0\.(.*)", key):
        return f"{found[1]}.mid.attn_1.{replaced(found[2], ATTENTION)}"
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def unet_weights(unet):
    """The weights of a UNet in the shape of Stable Diffusion 1 or XL, under their old names."""
    config = unet.config
    with_attention = {n for n, kind in enumerate(config.up_block_types) if "CrossAttn" in kind}
    return {
        f"model.diffusion_model.{unet_key(key, config.layers_per_block, with_attention)}": weight
        for key, weight in unet.state_dict().items()
    }


def ldm_weights(pipe):
    """The weights of a pipeline in the shape of Stable Diffusion 1, under their old names."""
    blocks = len(pipe.vae.config.block_out_channels)
    weights = unet_weights(pipe.unet)
    weights |= {
        f"first_stage_model.{vae_key(key, blocks)}": weight for key, weight in pipe.vae.state_dict().items()
    }
    weights |= {
        f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": weight
        for key, weight in pipe.text_encoder.state_dict().items()
    }
    return {name: weight.contiguous() for name, weight in weights.items()}


def save_ldm(pipe, file):
    """Write the checkpoint; returns the file."""
    save_file(ldm_weights(pipe), file)
    return file
