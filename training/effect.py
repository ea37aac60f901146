"""The effect table of a checkpoint: how much of what a word does passes through each head, and whether heads part concepts.

    D(s)   what the denoiser says of the latents, with the word's values scaled by s[h] in head h
    d      D(1) − D(0): all that the word does by cross-attention at this call
    e[h]   ∫₀¹ ⟨∂D/∂s_h at s = α·1, d⟩ dα / ⟨d, d⟩        Σ_h e[h] = 1 when the integral is exact

    layers           Σ of e over the heads of a layer
    effective heads  exp of the entropy of |e| / Σ|e|
    cosine           of the e of two concepts
    gates            one factor in 0 … 1 a head, fitted to pass the words of one concept and to block those of another; then, on
                     the words of the fit and on others,  |D(g) − D(1)|² / |d|² of the first + |D(g) − D(0)|² / |d|² of the second:  0.5 is no separation

Run it with the library on the path:  PYTHONPATH=../src python effect.py --model build/model --out build/effect.json
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import world
from diffusers import DiffusionPipeline
from torch import Tensor
from vocabulary import CONCEPTS

from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.pipelines import quiet
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import positions_in

MEASURED = (
    "Color", "Fruits and Vegetables", "Plants", "Food and Beverages", "Animals", "Geometric Patterns", "Image Style", "Time of Day",
    "Weather Conditions", "Counting",
)  # fmt: skip
RIVALS = ("Fruits and Vegetables", "Plants", "Food and Beverages")  # whose words are also colours
Text = Tensor | tuple[Tensor, Tensor]  # token states, for PixArt with which of them are spoken
MIDPOINTS = (1 / 6, 1 / 2, 5 / 6)


@dataclass
class Knob:
    """Scales the values of each row's word by one factor a head; gradients flow into the factors."""

    heads: HeadMap
    mask: Tensor | None = None
    factors: Tensor | None = None

    def __call__(self, attend, site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN001
        """Attend with the word's values scaled."""
        if self.factors is None:
            return attend(query, key, value)
        start, stop = self.heads.slices[site.layer]
        scale = torch.where(self.mask[:, None, :], self.factors[:, start:stop, None], torch.ones(()))
        return attend(query, key, value * scale[..., None])


class Bench:
    """A pipeline whose denoiser can be asked with the words of prompts turned down."""

    def __init__(self, model: Path) -> None:
        self.pipe = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
        self.denoiser = getattr(self.pipe, "unet", None) or self.pipe.transformer
        for part in (self.denoiser, self.pipe.text_encoder, self.pipe.vae):
            part.requires_grad_(False)
        self.heads = HeadMap.of(self.pipe)
        self.knob = Knob(self.heads)

    def denoise(self, x: Tensor, t: Tensor, text: Text, factors: Tensor | None) -> Tensor:
        """What the denoiser says, with the words' values scaled by the factors (rows × heads)."""
        self.knob.factors = None if factors is None else factors.expand(len(x), -1)
        if hasattr(self.denoiser, "caption_projection"):  # PixArt: text is (states, mask)
            t = t.expand(len(x))
            return self.denoiser(x, text[0], t, encoder_attention_mask=text[1]).sample
        return self.denoiser(x, t, encoder_hidden_states=text).sample

    def read(self, prompts: list[tuple[str, str]]) -> tuple[Text, Text, Tensor]:
        """Token states of prompts and of the empty caption, and which tokens are the words': prompts × tokens."""
        told = [p for p, _ in prompts]
        if hasattr(self.denoiser, "caption_projection"):
            states, spoken, empty, silent = self.pipe.encode_prompt(
                told, device="cpu", max_sequence_length=24
            )
            text, empty = (states.detach(), spoken), (empty.detach(), silent)
        else:
            text, empty = (s.detach() for s in self.pipe.encode_prompt(told, "cpu", 1, True))
        mask = torch.zeros(len(prompts), 24, dtype=torch.bool)
        for row, (prompt, word) in enumerate(prompts):
            mask[row, list(positions_in(text_segments(self.pipe), prompt, word))] = True
        return text, empty, mask

    def calls(
        self, prompts: list[tuple[str, str]], steps: int, guidance: float, seed: int
    ) -> list[tuple[Tensor, ...]]:
        """(latents, timestep, text, full, d) of every call while the prompts are drawn."""
        text, empty, mask = self.read(prompts)
        self.knob.mask = mask
        scheduler, shape = self.pipe.scheduler, (len(prompts), self.denoiser.config.in_channels, 8, 8)
        scheduler.set_timesteps(steps)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        zero, met = torch.zeros(1, self.heads.all_heads), []
        with torch.no_grad():
            for t in scheduler.timesteps:
                full = self.denoise(x, t, text, None)
                without = self.denoise(x, t, text, zero)
                plain = self.denoise(x, t, empty, None)
                met.append((x, t, text, full, full - without))
                x = scheduler.step(plain + guidance * (full - plain), t, x).prev_sample
        return met


def prompts_of(concept: str, half: int, count: int, name: str) -> list[tuple[str, str]]:
    """Plain prompts that say a word of the concept, and the word; `half` 0 are tuning words, 1 reporting words."""
    rng, said = random.Random(f"effect {name} {concept}"), []
    words = CONCEPTS[concept][half::2]
    while len(said) < count:
        word = words[len(said) % len(words)]
        scene = world.showing(concept, word, rng)
        prompt = world.caption(scene, rng)
        if f" {word} " in f" {prompt} ".replace("-", " "):
            said.append((prompt, word))
        elif rng.random() < 0.02:
            words = tuple(w for w in words if w != word)
    return said


def effect(bench: Bench, concept: str, half: int, count: int, steps: int, guidance: float) -> dict:
    """The concept's e over heads, with its completeness and the effective number of heads."""
    prompts, share, whole = prompts_of(concept, half, count, "table"), 0.0, 0.0
    for x, t, text, _, d in bench.calls(prompts, steps, guidance, seed=123):
        gradient = torch.zeros(len(x), bench.heads.all_heads)
        for point in MIDPOINTS:
            factors = torch.full_like(gradient, point, requires_grad=True)
            out = bench.denoise(x, t, text, factors)
            gradient += torch.autograd.grad((out * d).sum(), factors)[0] / len(MIDPOINTS)
        share, whole = share + gradient.double(), whole + d.double().square().flatten(1).sum(1)
    e = (share.sum(0) / whole.sum()).numpy()
    others = [
        (share.sum(0) - share[i]) / (whole.sum() - whole[i]) for i in range(count)
    ]  # the jackknife over images
    effective = [_effective(o.numpy()) for o in others]
    spread = float(np.sqrt((count - 1) / count * np.sum((np.array(effective) - np.mean(effective)) ** 2)))
    layers = [float(e[a:b].sum() / e.sum()) for a, b in bench.heads.slices]
    return {
        "e": e.tolist(), "complete": float(e.sum()), "layers": layers, "effective_heads": _effective(e), "effective_se": spread, "n": count,
    }  # fmt: skip


def _effective(e: np.ndarray) -> float:
    p = np.abs(e) / np.abs(e).sum()
    return float(np.exp(-(p * np.log(p + 1e-12)).sum()))


def gates(
    bench: Bench, passed: str, blocked: str, count: int, guidance: float, rounds: int = 60
) -> tuple[float, float]:
    """How well one factor a head parts two concepts: on the words that the factors are fitted to, and on others."""

    def lost(half: int, logits: Tensor) -> Tensor:
        total = torch.zeros(())
        for concept, keeps in ((passed, True), (blocked, False)):
            bench.knob.mask, errors, whole = masks[concept, half], 0.0, 0.0
            for x, t, text, full, d in met[concept, half]:
                wanted = full if keeps else full - d
                errors = errors + (bench.denoise(x, t, text, logits.sigmoid()[None]) - wanted).square().sum()
                whole = whole + d.square().sum()
            total = total + errors / whole
        return total

    met, masks = {}, {}
    for concept in (passed, blocked):
        for half in (0, 1):
            prompts = prompts_of(concept, half, count, "gates")
            met[concept, half] = bench.calls(prompts, 3, guidance, seed=321)[:2]
            masks[concept, half] = bench.read(prompts)[2]
    logits = torch.zeros(bench.heads.all_heads, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(rounds):
        optimizer.zero_grad()
        lost(0, logits).backward()
        optimizer.step()
    with torch.no_grad():
        return float(lost(0, logits)), float(lost(1, logits))


def table(bench: Bench, half: int, count: int, steps: int, guidance: float, gated: bool) -> dict:
    """The whole table; prints it row by row."""
    rows = {}
    for concept in MEASURED:
        rows[concept] = effect(bench, concept, half, count, steps, guidance)
        r = rows[concept]
        print(f"{concept:22} effective {r['effective_heads']:5.1f}  complete {r['complete']:.2f}  layers", *(f"{100 * v:.0f}" for v in r["layers"]), flush=True)  # fmt: skip
    e = {c: np.array(r["e"]) for c, r in rows.items()}
    cosine = lambda a, b: float(e[a] @ e[b] / np.linalg.norm(e[a]) / np.linalg.norm(e[b]))  # noqa: E731
    found = {
        "concepts": rows, "layers": np.mean([r["layers"] for r in rows.values()], 0).tolist(),
        "effective_heads": float(np.mean([r["effective_heads"] for r in rows.values()])),
        "cosines": {f"Color|{c}": cosine("Color", c) for c in MEASURED[1:]}, "gates": {},
    }  # fmt: skip
    print(
        "mean over concepts     effective",
        f"{found['effective_heads']:.1f}",
        "layers",
        *(f"{100 * v:.1f}" for v in found["layers"]),
    )
    print(
        "cosine of Color with  ", "  ".join(f"{c} {cosine('Color', c):.2f}" for c in MEASURED[1:]), flush=True
    )
    for rival in RIVALS if gated else ():
        fitted, other = gates(bench, "Color", rival, 12, guidance)
        found["gates"][f"Color|{rival}"] = {"fitted": fitted, "other_words": other}
        print(f"gates pass Color, block {rival}: fitted {fitted:.2f}  other words {other:.2f}", flush=True)
    return found


def main() -> None:
    """Print the table and write it as JSON."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--model", type=Path, required=True)
    parse.add_argument("--out", type=Path)
    parse.add_argument("--half", choices=("tuning", "reporting"), default="tuning")
    parse.add_argument("--count", type=int, default=20)
    parse.add_argument("--steps", type=int, default=4)
    parse.add_argument("--guidance", type=float, default=7.5)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--no-gates", action="store_true")
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    bench = Bench(given.model)
    with quiet(bench.pipe), hooked(bench.denoiser, bench.knob):
        found = table(
            bench,
            int(given.half == "reporting"),
            given.count,
            given.steps,
            given.guidance,
            not given.no_gates,
        )
    if given.out:
        given.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
