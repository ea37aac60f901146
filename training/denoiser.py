"""Train the denoiser of the emoji model: a `UNet2DConditionModel` with 16 cross-attention layers of 8 heads, on frozen latents.

    v-prediction, zero terminal SNR:   x_t = √ᾱ x₀ + √(1-ᾱ) ε,   v = √ᾱ ε - √(1-ᾱ) x₀,   loss = |v̂(x_t, t, words) - v|²

The reader's end and padding tokens are replaced by the empty caption's, so that words are all there is to read; one caption in ten
is empty, for guidance. Each cross-attention layer meets the empty caption in place of the words of some samples, so that no few
layers alone learn to read. An eighth of each batch is freshly drawn and joins a pool from which the rest is taken: drawing and encoding
then cost little beside the denoiser, and a picture is seen eight times, each time with other noise.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import clip
import loop
import numpy as np
import sprites
import torch
import world
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from drawing import Painter
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

SHARP = 6.0  # how much larger the logits of attention to text begin
DEAF = 0.15  # the share of samples for which a layer does not hear the words
PRESETS = {
    "cpu": {"channels": (96, 128, 192), "batch": 128, "lr": 1e-3, "pool": 120_000},
    "gpu": {"channels": (128, 192, 256), "batch": 1024, "lr": 1.5e-3, "pool": 400_000},
}


def build(channels: tuple[int, int, int]) -> UNet2DConditionModel:
    """The untrained denoiser: 6 + 1 + 9 cross-attention layers of 8 heads, as Stable Diffusion 1.x has.

    Queries and keys on text begin larger than usual: with the usual ones attention stays flat, since the mean over a
    short caption says all of it, and heads never learn to choose.
    """
    model = UNet2DConditionModel(
        sample_size=8, in_channels=16, out_channels=16, down_block_types=["CrossAttnDownBlock2D"] * 3,
        up_block_types=["CrossAttnUpBlock2D"] * 3, block_out_channels=channels, layers_per_block=2, attention_head_dim=8,
        cross_attention_dim=192,
    )  # fmt: skip
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("attn2.to_q.weight", "attn2.to_k.weight")):
                p.mul_(SHARP**0.5)
    return model


def scheduler() -> DDIMScheduler:
    """The noise schedule of training, with which the pipeline is shipped."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip


class SometimesDeaf(AttnProcessor2_0):
    """Attention that in training now and then gets the empty caption in place of a sample's words."""

    def __init__(self, empty: Tensor, share: float) -> None:
        super().__init__()
        self.empty, self.share = empty, share

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **more: Any
    ) -> Tensor:
        """Attend as ever, but for the samples that do not hear."""
        if encoder_hidden_states is not None and attn.training:
            deaf = torch.rand(len(hidden_states), 1, 1, device=hidden_states.device) < self.share
            encoder_hidden_states = torch.where(
                deaf, self.empty.to(encoder_hidden_states), encoder_hidden_states
            )
        return super().__call__(attn, hidden_states, encoder_hidden_states, **more)


class Pool:
    """Latents and token states of the last drawings; `batch` renews an eighth and returns a mixture of new and old."""

    def __init__(self, work: Path, painter: Painter, size: int, device: str, rare: float) -> None:
        self.vae = AutoencoderKL.from_pretrained(work / "vae", dtype=torch.float32).eval().to(device)
        self.reader = (
            CLIPTextModel.from_pretrained(work / "text_encoder", dtype=torch.float32).eval().to(device)
        )
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.painter, self.size, self.device, self.rare = painter, size, device, rare
        self.latents = torch.empty(size, 16, 8, 8, dtype=torch.half)
        self.states = torch.empty(size, 24, 192, dtype=torch.half)
        self.filled = self.at = 0
        self.empty = self._states([""])[0]

    def batch(self, rng: random.Random, size: int) -> tuple[Tensor, Tensor]:
        """Latents (size × 16 × 8 × 8) and token states (size × 24 × 192), one in ten of the empty caption."""
        new = size if self.filled < 8 * size else size // 8
        self._renew(rng, new)
        rows = torch.tensor([rng.randrange(self.filled) for _ in range(size - new)], dtype=torch.long)
        rows = torch.cat([rows, (torch.arange(new) + self.at - new) % self.size])
        states = self.states[rows].float()
        states[torch.tensor([rng.random() < 0.1 for _ in rows])] = self.empty.float()
        return self.latents[rows].float().to(self.device), states.to(self.device)

    @torch.no_grad()
    def _renew(self, rng: random.Random, count: int) -> None:
        drawn = [world.sample(rng, rare=self.rare) for _ in range(count)]
        x = np.stack([self.painter.draw(scene, rng) for scene, _ in drawn])
        x = torch.from_numpy(x).permute(0, 3, 1, 2).float().to(self.device) / 127.5 - 1
        with torch.autocast(self.device, torch.bfloat16):
            latents = self.vae.encode(x).latent_dist.mean.float() * self.vae.config.scaling_factor
        rows = (torch.arange(count) + self.at) % self.size
        self.latents[rows], self.states[rows] = (
            latents.half().cpu(),
            self._states([caption for _, caption in drawn]),
        )
        self.at, self.filled = (self.at + count) % self.size, min(self.size, self.filled + count)

    @torch.no_grad()
    def _states(self, captions: list[str]) -> Tensor:
        ids = clip.encode(self.tokenizer, captions)
        states = self.reader(ids.to(self.device)).last_hidden_state.cpu()
        if hasattr(self, "empty"):
            states = torch.where((ids == self.tokenizer.eos_token_id)[..., None], self.empty.float(), states)
        return states.half()


def save(work: Path, denoiser: UNet2DConditionModel, averaged: loop.Averaged, folder: Path) -> None:
    """Write the pipeline of the averaged weights in half precision, in plain diffusers format."""
    kept = {n: p.detach().clone() for n, p in denoiser.named_parameters()}
    with torch.no_grad():
        for name, p in denoiser.named_parameters():
            p.copy_(averaged.weights[name])
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae", dtype=torch.float32), text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"), unet=UNet2DConditionModel.from_config(denoiser.config),
        scheduler=scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.unet.load_state_dict(denoiser.state_dict())
    pipe.unet.half()
    pipe.vae.half()  # but not the reader: transformers would load it in half precision, diffusers the rest in single
    pipe.save_pretrained(folder, safe_serialization=True)
    with torch.no_grad():
        for name, p in denoiser.named_parameters():
            p.copy_(kept[name])


def main() -> None:
    """Train (or go on training) and save the pipeline under `--work`/model."""
    parse = loop.arguments(__doc__, minutes=90)
    parse.add_argument("--preset", choices=PRESETS, default="cpu")
    parse.add_argument(
        "--rare", type=float, default=0.01, help="share of pictures with a two-sense word in its rare sense"
    )
    parse.add_argument("--compile", action="store_true", help="compile the denoiser first, some minutes")
    parse.add_argument("--export", action="store_true", help="only write the pipeline of the last checkpoint")
    given = parse.parse_args()
    preset = PRESETS[given.preset]
    torch.set_num_threads(given.threads)
    torch.manual_seed(31)
    model = build(preset["channels"])
    if given.begin and not (given.work / "denoiser.safetensors").exists():
        model = UNet2DConditionModel.from_pretrained(given.begin / "unet", dtype=torch.float32)
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.copytree(given.begin / part, given.work / part, dirs_exist_ok=True)
    model = model.train().to(given.device)
    averaged = loop.Averaged(model)
    alphas = scheduler().alphas_cumprod.to(given.device)
    pool = Pool(given.work, Painter(sprites.load(given.sprites)), preset["pool"], given.device, given.rare)
    rng = random.Random()
    deaf = SometimesDeaf(pool.empty.float().to(given.device), DEAF)
    model.set_attn_processor({n: deaf if ".attn2." in n else p for n, p in model.attn_processors.items()})

    denoise = torch.compile(model) if given.compile else model

    def loss(step: int) -> dict[str, Tensor]:
        rng.seed(f"denoiser {step}")
        x, states = pool.batch(rng, preset["batch"])
        generator = torch.Generator(given.device).manual_seed(step)
        t = torch.randint(0, len(alphas), (len(x),), generator=generator, device=x.device)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        a, b = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        # heads this narrow run faster without the fused kernel on a CPU
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(given.device, torch.bfloat16):
            v = denoise(a * x + b * noise, t, states).sample.float()
        return {"loss": (v - (a * noise - b * x)).square().mean()}

    minutes = 0.0 if given.export else given.minutes
    file = given.work / "denoiser.safetensors"
    spent = loop.fit(
        {"unet": model},
        loss,
        file,
        minutes,
        preset["lr"],
        preset["batch"],
        averaged,
        floor=0.02,
        orthogonal=True,
    )
    save(given.work, model, averaged, given.work / "model")
    if not given.export:
        (given.work / "denoiser.json").write_text(
            json.dumps(spent | {"preset": given.preset, "rare": given.rare})
        )


if __name__ == "__main__":
    main()
