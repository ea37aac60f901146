"""Train the autoencoder of the emoji model: 64×64×3 pictures ↔ 8×8×16 latents (`AutoencoderKL`, factor 8).

    loss = |x − x̂|₁ + 2 |x − x̂|² + |∇x − ∇x̂|₁ + 1e-4 · KL

The gradient term keeps thin strokes (rain, stripes, letters), which a plain L1 blurs away.
"""

from __future__ import annotations

import json
import random

import loop
import numpy as np
import sprites
import torch
import world
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from drawing import Painter
from torch import Tensor, nn

BATCH = 4


def build() -> AutoencoderKL:
    """The untrained autoencoder."""
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 32, 64, 160), layers_per_block=1, latent_channels=16, norm_num_groups=1, sample_size=64,
    )  # fmt: skip
    for module in (
        model.modules()
    ):  # residual branches begin at zero: a nearly linear autoencoder, which learns many times sooner
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
        if isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)
    nn.init.constant_(model.quant_conv.bias[16:], -4.0)  # and with little noise
    return model


def batch(painter: Painter, rng: random.Random, size: int) -> Tensor:
    """Freshly drawn pictures in -1 … 1: size × 3 × 64 × 64."""
    drawn = np.stack([painter.draw(world.sample(rng, rare=0.05)[0], rng) for _ in range(size)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    """Train (or go on training), then save the autoencoder in diffusers format with its measured scaling factor."""
    parse = loop.arguments(__doc__, minutes=32)
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(11)
    painter, rng = Painter(sprites.load(given.sprites)), random.Random()
    begun = given.begin and not (given.work / "autoencoder.safetensors").exists()
    model = AutoencoderKL.from_pretrained(given.begin, dtype=torch.float32) if begun else build()
    model = model.to(given.device)

    def loss(step: int) -> dict[str, Tensor]:
        rng.seed(f"autoencoder {step}")
        x = batch(painter, rng, BATCH).to(given.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            latent = model.encode(x).latent_dist
            y = model.decode(latent.sample()).sample.float()
        dx, dy = (x - y).diff(dim=-1).abs().mean(), (x - y).diff(dim=-2).abs().mean()
        kl = latent.kl().mean().float() / latent.mean[0].numel()
        error, square = (x - y).abs().mean(), (x - y).square().mean()
        return {"loss": error + 2 * square + dx + dy + 1e-4 * kl, "error": error, "square": square, "kl": kl}

    spent = loop.fit(
        {"ae": model},
        loss,
        given.work / "autoencoder.safetensors",
        given.minutes,
        1e-3,
        BATCH,
        weight_decay=0.0,
    )
    rng.seed("held-out pictures")
    with torch.no_grad():
        x = batch(painter, rng, 512).to(given.device)
        latent = torch.cat([model.encode(part).latent_dist.mean for part in x.split(64)])
        y = torch.cat([model.decode(part).sample for part in latent.split(64)]).clamp(-1, 1)
    model.register_to_config(scaling_factor=float(1 / latent.std()))
    model.save_pretrained(given.work / "vae")
    psnr = float(10 * torch.log10(4 / (x - y).square().mean()))
    (given.work / "autoencoder.json").write_text(
        json.dumps(spent | {"psnr": psnr, "latent_std": float(latent.std())})
    )
    print(json.dumps(spent | {"psnr": psnr}))


if __name__ == "__main__":
    main()
