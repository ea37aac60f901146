"""Train a denoiser of the emoji model (`architectures.py`) on frozen latents.

    v-prediction, zero terminal SNR:   x_t = √ᾱ x₀ + √(1-ᾱ) ε,   v = √ᾱ ε - √(1-ᾱ) x₀,   loss = |v̂(x_t, t, words) - v|²

The reader's end and padding tokens are replaced by the empty caption's, so that words are all there is to read; one caption in ten
is empty, for guidance. Which layers hear the words of a sample is drawn anew for each (`hearing.py`), so that no few layers alone
learn to read. An eighth of each batch is freshly drawn and joins a pool from which the rest is taken: drawing and encoding
then cost little beside the denoiser, and an image is seen eight times, each time with other noise.

    torchrun --standalone --nproc-per-node 2 denoiser.py --threads 1 …      one process a core, each with batches of its own
"""

from __future__ import annotations

import argparse
import json
import random
from functools import partial
from pathlib import Path

import autoencoder
import loop
import numpy as np
import tokenizer as words
import torch
import torch.nn.functional as F
import world
from architectures import SHAPES, build, denoised, pipeline, scheduler
from diffusers import AutoencoderKL
from drawing import Painter
from hearing import Ears, draw_hearing, listen, text_layers
from safetensors.torch import load_file
from supply import Supply
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

FIRST = 20_000  # images are drawn before the first step
LATENTS = autoencoder.LATENTS
TOLD = (
    "preset",
    "shape",
    "rule",
    "disagree",
    "alike",
    "everywhere",
    "rare",
    "noisy",
)  # options the card quotes
PRESETS = {
    "cpu": {"wider": 1.0, "batch": 32, "lr": 3e-3, "pool": 100_000},
    "gpu": {"wider": 1.0, "batch": 1024, "lr": 1.5e-3, "pool": 300_000},
    "tiny": {"wider": 0.5, "batch": 32, "lr": 1e-3, "pool": 5_000},
}


def drawn(size: int, rare: float, painter: Painter, number: int) -> tuple[np.ndarray, list[str]]:
    """New images of the step of this number (size × 64 × 64 × 3 bytes) and their captions."""
    rng = random.Random(f"denoiser {number}")
    scenes = [world.sample(rng, rare=rare) for _ in range(size)]
    return np.stack([painter.draw(scene) for scene, _ in scenes]), [caption for _, caption in scenes]


class Pool:
    """Latents and captions of the last drawings; `batch` takes in some new ones and returns a mixture of new and old."""

    def __init__(self, parts: Path, size: int, device: str) -> None:
        self.found = {k: v.to(device) for k, v in load_file(parts / "patches.safetensors").items()}
        vae = AutoencoderKL.from_pretrained(parts / "vae", dtype=torch.float32)
        scale = vae.quant_conv.weight[:LATENTS, :LATENTS, 0, 0].diagonal() * vae.config.scaling_factor
        self.scale = scale.detach().to(device)[:, None, None]
        self.reader = (
            CLIPTextModel.from_pretrained(parts / "text_encoder", dtype=torch.float32).eval().to(device)
        )
        self.tokenizer = CLIPTokenizer.from_pretrained(parts / "tokenizer")
        self.size, self.device, self.filled, self.at = size, device, 0, 0
        self.latents = torch.empty(size, LATENTS, 8, 8, dtype=torch.half, device=device)
        self.ids = torch.empty(size, 24, dtype=torch.int32, device=device)
        self.silent = words.encode(self.tokenizer, [""]).to(device)
        with torch.no_grad():
            self.empty = self.reader(self.silent).last_hidden_state[0]

    def add(self, pictures: np.ndarray, captions: list[str]) -> None:
        """Take in new drawings, in place of the oldest."""
        rows = (torch.arange(len(captions)) + self.at) % self.size
        x = autoencoder.scaled(pictures).to(self.device)
        self.latents[rows] = (autoencoder.encoded(self.found, x) * self.scale).half()
        self.ids[rows] = words.encode(self.tokenizer, captions).int().to(self.device)
        self.at, self.filled = (
            (self.at + len(captions)) % self.size,
            min(self.size, self.filled + len(captions)),
        )

    @torch.no_grad()
    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (size × 64 × 8 × 8), token states (size × 24 × 192), one in ten of the empty caption, which are of words, which
        of words, start and end."""
        rows = torch.randint(0, self.filled, (size,), generator=generator)
        without = torch.rand(size, 1, generator=generator) < 0.1
        ids = torch.where(without.to(self.device), self.silent, self.ids[rows].long())
        ends = ids == self.tokenizer.eos_token_id
        with loop.half(self.device):
            states = self.reader(ids).last_hidden_state.float()
        states = torch.where(ends[..., None], self.empty, states)
        spoken = ~ends | (ends.cumsum(1) == 1)
        return self.latents[rows].float(), states, ~ends & (ids != self.tokenizer.bos_token_id), spoken


def save(parts: Path, denoiser: nn.Module, averaged: loop.Averaged, folder: Path) -> None:
    """Write the pipeline of the averaged weights in half precision, in plain diffusers format."""
    model = type(denoiser).from_config(denoiser.config)
    model.load_state_dict(denoiser.state_dict() | averaged.weights)
    pipe = pipeline(parts, model.half())
    pipe.vae.half()  # but not the reader: transformers would load it in half precision, diffusers the rest in single
    pipe.save_pretrained(folder, safe_serialization=True)


def options() -> argparse.Namespace:
    """The options of this training."""
    parse = loop.arguments(__doc__, minutes=90)
    parse.add_argument(
        "--parts", type=Path, help="folder of the trained vae, text_encoder, tokenizer; --work if not given"
    )
    parse.add_argument("--preset", choices=PRESETS, default="cpu")
    parse.add_argument("--shape", choices=SHAPES, default="up", help="where text is read")
    parse.add_argument(
        "--rule", default="heads 0.5", help="which layers hear a sample's words, see hearing.py"
    )
    parse.add_argument(
        "--disagree", type=float, default=0.0, help="weight of how alike the heads of a layer look at words"
    )
    parse.add_argument(
        "--alike", type=float, default=0.1, help="how alike heads may look at words at no cost"
    )
    parse.add_argument(
        "--everywhere", action="store_true", help="compare the heads of all layers, not those of a layer only"
    )
    parse.add_argument(
        "--rare", type=float, default=0.02, help="share of images with a two-sense word in its rare sense"
    )
    parse.add_argument(
        "--noisy",
        type=float,
        default=0.4,
        help="exponent of the drawn time: 1 draws all alike, below 1 more noise",
    )
    parse.add_argument("--batch", type=int, help="samples a step; the preset's if not given")
    parse.add_argument("--lr", type=float, help="the learning rate; the preset's if not given")
    parse.add_argument("--compile", action="store_true", help="compile the denoiser first, some minutes")
    parse.add_argument("--export", action="store_true", help="only write the pipeline of the last checkpoint")
    given = parse.parse_args()
    given.parts = given.parts or given.work
    given.work.mkdir(parents=True, exist_ok=True)
    return given


def begun(given: argparse.Namespace, wider: float) -> nn.Module:
    """The denoiser to train: a new one, or that of the pipeline at `--begin`."""
    model = build(given.shape, wider)
    if not given.begin:
        return model
    folder = given.begin / ("transformer" if given.shape == "dit" else "unet")
    return type(model).from_pretrained(folder, dtype=torch.float32)


def main() -> None:
    """Train (or go on training) and save the pipeline under `--work`/model."""
    given = options()
    preset = PRESETS[given.preset]
    preset |= {name: value for name in ("batch", "lr") if (value := getattr(given, name)) is not None}
    torch.set_num_threads(given.threads)
    torch.manual_seed(31)
    model = begun(given, preset["wider"]).train().to(given.device)
    averaged = loop.Averaged(model)
    alphas = scheduler().alphas_cumprod.to(given.device)
    pool = Pool(given.parts, preset["pool"], given.device)
    new, first = preset["batch"] // 8, FIRST // (preset["batch"] // 8)
    supply = Supply(partial(drawn, new, given.rare), given.sprites, given.workers)
    layers = text_layers(model)
    widest = min(m.to_q.in_features for _, m in layers)
    top = torch.tensor([m.to_q.in_features == widest for _, m in layers])
    ears = Ears(pool.empty, len(layers), layers[0][1].heads, preset["batch"])
    ears.compares = given.disagree > 0
    listen(model, ears)
    denoise = torch.compile(model) if given.compile else model

    def loss(step: int) -> dict[str, Tensor]:
        for number in range(step if not pool.filled else step + first, step + first + 1):
            pool.add(*supply(number))
        chance = torch.Generator().manual_seed(step)
        x, states, words, spoken = pool.batch(preset["batch"], chance)
        ears.words.copy_(words)
        ears.hears.copy_(draw_hearing(given.rule, len(x), top, layers[0][1].heads, chance))
        generator = torch.Generator(given.device).manual_seed(step)
        if given.shape == "dit":
            ears.unheard = model.caption_projection(pool.empty)
        drawn_time = torch.rand(len(x), generator=generator, device=x.device) ** given.noisy
        t = (drawn_time * len(alphas)).long().clamp(max=len(alphas) - 1)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        a, b = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        # heads this narrow run faster without the fused kernel on a CPU
        with sdpa_kernel(SDPBackend.MATH), loop.half(given.device):
            v = denoised(denoise, a * x + b * noise, t, states, spoken).float()
        square = (v - (a * noise - b * x)).square().mean()
        if not ears.compares:
            return {"loss": square}
        alike = ears.likeness(given.everywhere)
        return {
            "loss": square + given.disagree * F.relu(alike - given.alike),
            "square": square,
            "alike": alike,
        }

    file = given.work / "denoiser.safetensors"
    spent = loop.fit(
        {"unet": model}, loss, file, 0.0 if given.export else given.minutes, preset["lr"], preset["batch"], averaged, floor=0.02,
        fall=0.25, orthogonal=True, until=given.until,
    )  # fmt: skip
    if loop.Crew().rank == 0:  # of several processes one writes
        save(given.parts, model, averaged, given.work / "model")
        if not given.export:
            (given.work / "denoiser.json").write_text(
                json.dumps(spent | {k: getattr(given, k) for k in TOLD})
            )


if __name__ == "__main__":
    main()
