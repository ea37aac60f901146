"""The denoisers that can be trained: UNets that read text at one or more levels, and a transformer without skip connections.

    all      UNet 8×8, 4×4, 2×2, text at every level                                             16 text layers × 8 heads
    below    the same without text at 8×8                                                        16 × 8
    four     UNet 8×8, 4×4, text at 4×4 alone: every text layer sees the same grid               16 × 8
    flat     UNet of one level, 8×8, text in every layer: no layer sees a coarser grid           12 × 8
    up       UNet of one level, text on the way up: skip connections carry nothing that was read 12 × 8
    dit      PixArt-shaped: self-attention, cross-attention, gated MLP on the 8×8 latents        8 × 12

Queries and keys on text begin larger than usual (`SHARP`): with the usual ones attention stays flat, since the mean over a short
caption says all of it, and heads never learn to choose.
"""

from __future__ import annotations

from pathlib import Path

import torch
from autoencoder import LATENTS
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = ["SHAPES", "build", "denoised", "pipeline", "scheduler"]

SHARP = 6.0  # how much larger the logits of attention to text begin
DOWN, UP = ["CrossAttnDownBlock2D"], ["CrossAttnUpBlock2D"]
SHAPES = {
    "all": {
        "block_out_channels": (96, 128, 192), "down_block_types": 3 * DOWN, "up_block_types": 3 * UP, "layers_per_block": 2,
        "transformer_layers_per_block": 1,
    },
    "below": {
        "block_out_channels": (128, 160, 192), "down_block_types": ["DownBlock2D"] + 2 * DOWN, "up_block_types": 2 * UP + ["UpBlock2D"],
        "layers_per_block": 2, "transformer_layers_per_block": (1, 2, 1),
    },
    "four": {
        "block_out_channels": (128, 192), "down_block_types": ["DownBlock2D"] + DOWN, "up_block_types": UP + ["UpBlock2D"],
        "layers_per_block": (2, 3), "transformer_layers_per_block": (1, 2),
    },
    "flat": {
        "block_out_channels": (128,), "down_block_types": DOWN, "up_block_types": UP, "layers_per_block": 5,
        "transformer_layers_per_block": 1,
    },
    "up": {
        "block_out_channels": (128,), "down_block_types": ["DownBlock2D"], "mid_block_type": "UNetMidBlock2D", "up_block_types": UP,
        "layers_per_block": 2, "transformer_layers_per_block": 4,
    },
    "dit": {"num_layers": 8, "num_attention_heads": 12, "attention_head_dim": 16},
}  # fmt: skip


def build(shape: str, wider: float = 1.0) -> nn.Module:
    """The untrained denoiser of a shape; `wider` multiplies its channels."""
    config = dict(SHAPES[shape])
    if shape == "dit":
        width = int(wider * config["attention_head_dim"]) * config["num_attention_heads"]
        config["attention_head_dim"] = int(wider * config["attention_head_dim"])
        model = PixArtTransformer2DModel(
            **config, in_channels=LATENTS, out_channels=LATENTS, sample_size=8, patch_size=1, cross_attention_dim=width,
            caption_channels=192, activation_fn="geglu",
        )  # fmt: skip
    else:
        config["block_out_channels"] = tuple(
            max(32, round(wider * c / 32) * 32) for c in config["block_out_channels"]
        )
        model = UNet2DConditionModel(
            **config,
            sample_size=8,
            in_channels=LATENTS,
            out_channels=LATENTS,
            attention_head_dim=8,
            cross_attention_dim=192,
        )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("attn2.to_q.weight", "attn2.to_k.weight")):
                p.mul_(SHARP**0.5)
    return model


def denoised(model: nn.Module, x: Tensor, t: Tensor, states: Tensor, spoken: Tensor) -> Tensor:
    """What the denoiser says of noisy latents; `spoken` marks start, words and end (a PixArt pipeline masks the padding)."""
    if not hasattr(model, "caption_projection"):
        return model(x, t, states).sample
    return model(x, states, t, encoder_attention_mask=spoken.to(x.dtype)).sample


def scheduler() -> DDIMScheduler:
    """The noise schedule of training, with which the pipeline is shipped."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip


def pipeline(parts: Path, model: nn.Module) -> DiffusionPipeline:
    """The denoiser with the other trained parts, in plain diffusers classes."""
    vae = AutoencoderKL.from_pretrained(parts / "vae", dtype=torch.float32)
    reader = CLIPTextModel.from_pretrained(parts / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(parts / "tokenizer")
    if isinstance(model, UNet2DConditionModel):
        return StableDiffusionPipeline(
            vae=vae, text_encoder=reader, tokenizer=tokenizer, unet=model, scheduler=scheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    return PixArtSigmaPipeline(
        vae=vae,
        text_encoder=_longer(reader, 300),
        tokenizer=tokenizer,
        transformer=model,
        scheduler=scheduler(),
    )


def _longer(reader: CLIPTextModel, tokens: int) -> CLIPTextModel:
    """The reader for as many tokens as PixArt pads to: later positions are those of the last, and masked."""
    config = CLIPTextConfig(**reader.config.to_dict() | {"max_position_embeddings": tokens})
    longer, weights = CLIPTextModel(config), reader.state_dict()
    for name, table in weights.items():
        if name.endswith("position_embedding.weight"):
            weights[name] = torch.cat([table, table[-1:].expand(tokens - len(table), -1)])
    longer.load_state_dict(weights)
    return longer
