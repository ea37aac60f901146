"""The autoencoder of the emoji model: 64×64×3 images ↔ 8×8×64 latents (`AutoencoderKL`, factor 8).

The encoder is not trained. It is the principal component analysis of 8×8 patches of drawings, written into the convolutions of an
`AutoencoderKL`: three strided convolutions put a patch into channels and project it, and what is nonlinear is made to do nothing
(residual branches at zero; the last normalisation sees large constants beside ±z, so that it divides by a constant, and
silu(z) − silu(−z) = z). So the latents are settled before any training, and a denoiser can be trained beside the decoder:

    z = Λ^(-power/2) Vᵀ (patch − mean),    power 1: every channel has variance 1,    0: a rotation of the pixels

The decoder is trained on whitened latents:   loss = |x − x̂|₁ + 2 |x − x̂|² + |∇x − ∇x̂|₁
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import busy
import loop
import numpy as np
import sprites
import torch
import world
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from drawing import Painter
from supply import Supply
from torch import Tensor, nn

LATENTS, GROUPS, SIDE = 64, 8, 8
CHANNELS = (32, 64, 96, 2 * LATENTS + 2 * GROUPS)
CONSTANT = 100.0  # beside which a latent's size does not move the encoder's last normalisation
BUSY = 0.3  # the share of busy drawings


def build() -> AutoencoderKL:
    """The untrained autoencoder; its residual branches begin at zero, and with them it learns many times sooner."""
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=CHANNELS,
        layers_per_block=1, latent_channels=LATENTS, norm_num_groups=GROUPS, sample_size=64, mid_block_add_attention=False,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    return model


def patches(x: Tensor) -> Tensor:
    """Images as their 8×8 patches in the order of the encoder's channels: "b 3 64 64" → "b 8 8 192"."""
    for _ in range(3):
        x = nn.functional.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)
    return x.permute(0, 2, 3, 1)


def analysed(painter: Painter, count: int = 20_000) -> dict[str, Tensor]:
    """Mean (192), directions (192 × 64) and variances (64) of the patches of drawings."""
    rng = random.Random("principal components")
    total, outer, seen = torch.zeros(192, dtype=torch.double), torch.zeros(192, 192, dtype=torch.double), 0
    for _ in range(count // 500):
        x = patches(scaled(drawings(painter, rng, 500))).reshape(-1, 192).double()
        total, outer, seen = total + x.sum(0), outer + x.T @ x, seen + len(x)
    mean = total / seen
    variances, directions = torch.linalg.eigh(outer / seen - mean.outer(mean))
    keep = torch.arange(191, 191 - LATENTS, -1)
    return {
        "mean": mean.float(),
        "directions": directions[:, keep].float(),
        "variances": variances[keep].float(),
    }


@torch.no_grad()
def write_encoder(model: AutoencoderKL, found: dict[str, Tensor], power: float) -> None:
    """Write the analysis into the encoder, and the latents' scale into `quant_conv` and `post_quant_conv`."""
    encoder = model.encoder
    for conv in (m for m in encoder.modules() if isinstance(m, nn.Conv2d)):
        if conv is not encoder.conv_out:
            conv.weight.zero_(), conv.bias.zero_()
    for c in range(3):
        encoder.conv_in.weight[c, c, 1, 1] = 1
    for block, channels in enumerate((3, 12)):
        down = encoder.down_blocks[block].downsamplers[0].conv
        for place in range(4):
            for c in range(channels):
                down.weight[place * channels + c, c, place // 2, place % 2] = 1
    white = found["directions"] / found["variances"].sqrt()  # 192 × 64
    last = encoder.down_blocks[2].downsamplers[0].conv
    last.weight[:LATENTS, :48, :2, :2] = white.T.reshape(LATENTS, 2, 2, 48).permute(0, 3, 1, 2)
    last.bias[:LATENTS] = -(found["mean"] @ white)
    for block, channels in ((1, 12), (2, 48)):
        encoder.down_blocks[block].resnets[0].conv_shortcut.weight[:channels, :channels, 0, 0] = torch.eye(
            channels
        )
    _write_pairs(encoder)
    scale = found["variances"] ** ((1 - power) / 2)
    model.quant_conv.weight.zero_(), model.quant_conv.bias.zero_()
    model.quant_conv.weight[:LATENTS, :LATENTS, 0, 0] = torch.diag(scale)
    model.quant_conv.bias[LATENTS:] = -10.0  # the logarithm of the variance of the noise
    model.post_quant_conv.weight[..., 0, 0] = torch.diag(1 / scale)
    model.post_quant_conv.bias.zero_()
    model.register_to_config(scaling_factor=float(1 / scale.square().mean().sqrt()))


def _write_pairs(encoder: nn.Module) -> None:
    """±z in the last channels, each group with its share of z and with two large constants; then z = silu(z) − silu(−z)."""
    width, share = CHANNELS[-1] // GROUPS, LATENTS // GROUPS
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut.weight
    encoder.conv_out.weight.zero_(), encoder.conv_out.bias.zero_()
    for z in range(LATENTS):
        at = z // share * width + z % share * 2
        shortcut[at, z, 0, 0], shortcut[at + 1, z, 0, 0] = 1, -1
        encoder.conv_out.weight[z, at, 1, 1], encoder.conv_out.weight[z, at + 1, 1, 1] = 1, -1
    constants = torch.arange(GROUPS) * width + width - 2
    bias = encoder.mid_block.resnets[-1].conv2.bias
    bias[constants], bias[constants + 1] = CONSTANT, -CONSTANT
    typical = (2 * share + 2 * CONSTANT**2) / width
    encoder.conv_norm_out.weight.fill_(typical**0.5), encoder.conv_norm_out.bias.zero_()


def encoded(found: dict[str, Tensor], x: Tensor) -> Tensor:
    """The whitened latents of pictures: what the encoder gives at power 1, by one product: "b 64 8 8"."""
    white = found["directions"] / found["variances"].sqrt()
    return ((patches(x) - found["mean"]) @ white).permute(0, 3, 1, 2)


def fresh(size: int, painter: Painter, number: int) -> np.ndarray:
    """Images of training's step of this number: size × 64 × 64 × 3 bytes."""
    return drawings(painter, random.Random(f"autoencoder {number}"), size)


def scaled(pictures: np.ndarray) -> Tensor:
    """Images (b × 64 × 64 × 3 bytes) in -1 … 1: "b 3 64 64"."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def drawings(painter: Painter, rng: random.Random, size: int, busier: float = BUSY) -> np.ndarray:
    """Freshly drawn pictures: size × 64 × 64 × 3 bytes."""
    drawn = []
    for _ in range(size):
        scene, _ = world.sample(rng, rare=0.05)
        drawn.append(busy.draw_busy(painter, scene, rng) if rng.random() < busier else painter.draw(scene))
    return np.stack(drawn)


@torch.no_grad()
def quality(model: AutoencoderKL, painter: Painter, busier: float) -> float:
    """Peak signal to noise, in decibel, of 500 held-out drawings."""
    x = scaled(drawings(painter, random.Random("held-out pictures"), 500, busier)).to(model.device)
    y = torch.cat([model.decode(model.encode(part).latent_dist.mean).sample for part in x.split(50)]).clamp(
        -1, 1
    )
    return float(10 * torch.log10(4 / (x - y).square().mean()))


def analysis(painter: Painter, file: Path) -> dict[str, Tensor]:
    """The analysis of patches, kept in a file."""
    from safetensors.torch import load_file, save_file

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in analysed(painter).items()}, file)
    return load_file(file)


def main() -> None:
    """Analyse, train the decoder (or go on training it), then save the autoencoder in diffusers format."""
    parse = loop.arguments(__doc__, minutes=40)
    parse.add_argument("--power", type=float, default=0.5, help="how far the latents are whitened, 0 … 1")
    parse.add_argument("--lr", type=float, default=2e-3)
    parse.add_argument("--batch", type=int, default=16)
    parse.add_argument(
        "--export", action="store_true", help="only write the autoencoder of the last checkpoint"
    )
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(11)
    painter = Painter(sprites.load(given.sprites))
    found = analysis(painter, given.work / "patches.safetensors")
    model = build()
    write_encoder(model, found, given.power)
    model.encoder.requires_grad_(False)
    model, found = model.to(given.device), {k: v.to(given.device) for k, v in found.items()}

    supply = Supply(partial(fresh, given.batch), given.sprites, given.workers)

    def loss(step: int) -> dict[str, Tensor]:
        x = scaled(supply(step)).to(given.device)
        z = encoded(found, x)
        with loop.half(x.device.type):
            y = model.decoder(z + 0.03 * torch.randn_like(z)).float()
        dx, dy = (x - y).diff(dim=-1).abs().mean(), (x - y).diff(dim=-2).abs().mean()
        error, square = (x - y).abs().mean(), (x - y).square().mean()
        return {"loss": error + 2 * square + dx + dy, "error": error, "square": square}

    file = given.work / "autoencoder.safetensors"
    spent = loop.fit(
        {"decoder": model.decoder}, loss, file, 0.0 if given.export else given.minutes, given.lr, given.batch, loop.Averaged(model.decoder), weight_decay=0.0,
        orthogonal=True, until=given.until,
    )  # fmt: skip
    model.save_pretrained(given.work / "vae")
    if given.export:
        return
    spent |= {"psnr": quality(model, painter, 0.0), "psnr_busy": quality(model, painter, 1.0)}
    (given.work / "autoencoder.json").write_text(json.dumps(spent))
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
