"""Look at a checkpoint: a contact sheet of images, and what a judge reads in them.

Prompts and seeds are those of tuning; reports draw other ones (`evaluate.py`).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import judging
import numpy as np
import sprites
import torch
import world
from contact import sheet
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from drawing import Painter
from transformers import CLIPModel, CLIPTokenizer
from vocabulary import CONCEPTS

PIXART = {"use_resolution_binning": False, "max_sequence_length": 24, "clean_caption": False}
GROUPS = {
    "object": tuple(c for c in CONCEPTS if c in world.THINGS), "color": ("Color",), "style": ("Image Style",),
    "weather": ("Weather Conditions",), "scene": ("Nature Scenes", "Time of Day"), "count": ("Counting",), "pair": (), "misread": (),
}  # fmt: skip


@torch.no_grad()
def pictures_of(
    pipe: DiffusionPipeline, prompts: list[str], seed: int, steps: int, guidance: float
) -> np.ndarray:
    """Generated images of prompts: images × 64 × 64 × 3 bytes."""
    made = []
    for start in range(0, len(prompts), 50):
        part = prompts[start : start + 50]
        seeds = [torch.Generator().manual_seed(1000 * seed + start + i) for i in range(len(part))]
        pixart = {} if isinstance(pipe, StableDiffusionPipeline) else PIXART
        images = pipe(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=seeds,
            output_type="np",
            **pixart,
        ).images
        made.append((images * 255).round().astype(np.uint8))
    return np.concatenate(made)


def questions_of(group: str, count: int) -> list[judging.Question]:
    """Questions of one group; for "misread", right are the images that show the rare sense."""
    rng = random.Random(f"tuning {group}")
    if group == "pair":
        return [judging.of_pair(rng) for _ in range(count)]
    if group == "misread":
        return [judging.misreading(w, rng) for w in list(world.two_sense()) * max(1, count // 17)]
    return [
        judging.of_concept(c, rng.choice(CONCEPTS[c]), rng)
        for c in (rng.choice(GROUPS[group]) for _ in range(count))
    ]


def main() -> None:
    """Write the sheet, print and write the shares of right answers, of images and of drawings."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--sprites", type=Path, required=True)
    parse.add_argument("--model", type=Path, required=True)
    parse.add_argument("--judge", type=Path, required=True)
    parse.add_argument("--out", type=Path, required=True, help="a folder")
    parse.add_argument("--each", type=int, default=50)
    parse.add_argument("--steps", type=int, default=20)
    parse.add_argument("--guidance", type=float, default=5.0)
    parse.add_argument("--threads", type=int, default=1)
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    painter = Painter(sprites.load(given.sprites))
    judge = judging.similarity(
        CLIPModel.from_pretrained(given.judge, dtype=torch.float32).eval(),
        CLIPTokenizer.from_pretrained(given.judge),
    )
    pipe = DiffusionPipeline.from_pretrained(given.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    shown, read = [], {}
    for group in GROUPS:
        questions = questions_of(group, given.each)
        made = pictures_of(pipe, [q.prompt for q in questions], 7, given.steps, given.guidance)
        real = np.stack([painter.draw(q.scene) for q in questions])
        read[group] = {
            "generated": judging.accuracy(judging.ask(judge, made, questions)),
            "drawn": judging.accuracy(judging.ask(judge, real, questions)),
        }
        shown += [(q.prompt, p) for q, p in zip(questions, made, strict=True)][
            : 42 if group == "object" else 14
        ]
        print(
            f"{group:8} generated {read[group]['generated']['accuracy']:.2f}  drawn {read[group]['drawn']['accuracy']:.2f}",
            flush=True,
        )
    sheet(shown, given.out / "sheet.png")
    (given.out / "sheet.json").write_text(json.dumps(read))


if __name__ == "__main__":
    main()
