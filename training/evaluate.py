"""Measure a checkpoint: what the judge reads in its images, how often it misreads, and whether relevance is causal in it.

    table:  concept × (weakening area least − most relevant, area of the random order, accuracy with all heads weakened)

The table is made on tuning words (those at even places of each concept) while a recipe is being settled and on reporting words
(odd places) for the card; nothing is tuned on the order of heads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

import judging
import numpy as np
import sprites
import torch
import world
from contact import sheet
from diffusers import DiffusionPipeline
from drawing import Painter
from judging import Question
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from vocabulary import CONCEPTS

from headwise.emoji import MODELS
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import quiet
from headwise.model.sites import Attend, Site
from headwise.model.tokens import token_positions

GROUPS = {
    "color": ("Color",), "style": ("Image Style",), "weather": ("Weather Conditions",), "scene": ("Nature Scenes", "Time of Day"),
    "count": ("Counting",), "object": tuple(c for c in CONCEPTS if c in world.THINGS),
}  # fmt: skip
FACTOR = -2.0
KINDS = {"votes": "relevance", "effect": "effect"}  # the run of each measurement, in the folder of work


def pictures_of(
    pipe: DiffusionPipeline, prompts: list[str], seed: int, steps: int, guidance: float
) -> np.ndarray:
    """Generated images of prompts: images × 64 × 64 × 3 bytes."""
    drawn = []
    for start in range(0, len(prompts), 50):
        numbers = range(start, min(start + 50, len(prompts)))
        images = generate(
            pipe, prompts, seed, numbers, num_inference_steps=steps, guidance_scale=guidance, output_type="np"
        )
        drawn.append((np.asarray(images) * 255).round().astype(np.uint8))
    return np.concatenate(drawn)


class WeakenHeads:
    """A hook: multiply attention to the prompt's words by −2 in a set of heads of each image, by scaling their values."""

    def __init__(self, pipe: DiffusionPipeline, prompts: list[str], heads: np.ndarray) -> None:
        self.starts = [start for start, _ in HeadMap.of(pipe).slices]
        self.heads = torch.from_numpy(heads)  # images × all heads, true where weakened
        self.words = torch.zeros(len(prompts), pipe.tokenizer.model_max_length, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            for word in prompt.split():
                self.words[row, list(token_positions(pipe.tokenizer, prompt, word))] = True

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with the words' values scaled in the chosen heads of this layer."""
        start = self.starts[site.layer]
        chosen = self.heads[:, start : start + site.heads, None] & self.words[:, None, :]
        value = value.clone()
        value[site.conditional] = (
            torch.where(chosen[..., None].to(value.device), FACTOR, 1.0) * value[site.conditional]
        )
        return attend(query, key, value)


def weakened(
    pipe: DiffusionPipeline, questions: list[Question], order: np.ndarray, ks: list[int], steps: int, guidance: float,
    judge: object, seed: int,
) -> np.ndarray:  # fmt: skip
    """Right answers after weakening the first k heads of the order: ks × questions."""
    answers = []
    for k in ks:
        heads = np.zeros((1, len(order)), bool)
        heads[0, order[:k]] = True
        right = []
        for start in range(0, len(questions), 50):
            part = questions[start : start + 50]
            prompts = [q.prompt for q in part]
            with hooked(pipe, WeakenHeads(pipe, prompts, np.repeat(heads, len(part), 0))):
                drawn = pictures_of(pipe, prompts, seed, steps, guidance)
            right.append(judging.ask(judge, drawn, part))
        answers.append(np.concatenate(right))
    return np.array(answers, float)


@torch.no_grad()
def reconstructed(pipe: DiffusionPipeline, pictures: np.ndarray) -> np.ndarray:
    """Images after the autoencoder, encoded and decoded: images × 64 × 64 × 3 bytes."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(pipe.vae.dtype) / 127.5 - 1
    y = torch.cat([pipe.vae.decode(pipe.vae.encode(part).latent_dist.mean).sample for part in x.split(50)])
    return ((y.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def by_group(
    pipe: DiffusionPipeline, painter: Painter, judge: object, each: int, steps: int, guidance: float
) -> tuple[dict[str, dict], list]:
    """Accuracy by group on generated images, on drawings of the same prompts ("real") and on these after the autoencoder
    ("reconstructed"), and a few of the generated images."""
    found: dict[str, dict] = {"generated": {}, "real": {}, "reconstructed": {}}
    shown = []
    for group in (*GROUPS, "pair"):
        rng = random.Random(f"report {group}")
        if group == "pair":
            questions = [judging.of_pair(rng) for _ in range(each)]
        else:
            chosen = [rng.choice(GROUPS[group]) for _ in range(each)]
            questions = [judging.of_concept(c, rng.choice(CONCEPTS[c]), rng) for c in chosen]
        drawn = pictures_of(pipe, [q.prompt for q in questions], 1000, steps, guidance)
        real = np.stack([painter.draw(q.scene) for q in questions])
        pictures = {"generated": drawn, "real": real, "reconstructed": reconstructed(pipe, real)}
        for kind, some in pictures.items():
            found[kind][group] = judging.accuracy(judging.ask(judge, some, questions))
        shown += [(q.prompt, p) for q, p in list(zip(questions, drawn, strict=True))[:16]]
        print(f"{group:8}", *(f"{kind} {found[kind][group]['accuracy']:.2f}" for kind in found), flush=True)
    return found, shown


def judge_on_drawings(painter: Painter, judge: object, each: int) -> dict[str, float]:
    """The judge's accuracy for every concept, on plain drawings that training did not see."""
    scores = {}
    for concept, words in CONCEPTS.items():
        rng = random.Random(f"judge {concept}")
        questions = [judging.of_concept(concept, rng.choice(words), rng) for _ in range(each)]
        drawn = np.stack([painter.draw(q.scene) for q in questions])
        scores[concept] = float(judging.ask(judge, drawn, questions).mean())
    return scores


def table(
    pipe: DiffusionPipeline,
    judge: object,
    relevance: Relevance,
    half: int,
    each: int,
    steps: int,
    guidance: float,
    concepts: list[str],
) -> dict[str, dict[str, float]]:
    """The causality table on half of the words: 0 for tuning words, 1 for reporting words."""
    heads_in_all = HeadMap.of(pipe).all_heads
    ks = [heads_in_all * eighths // 8 for eighths in (0, 1, 2, 4, 6, 8)]
    rows = {}
    for concept in concepts:
        rng = random.Random(f"weaken {concept}")
        words = CONCEPTS[concept][half::2]
        questions = [judging.of_concept(concept, rng.choice(words), rng) for _ in range(each)]
        order = np.argsort(-relevance[concept], kind="stable")
        shuffled = np.random.Generator(np.random.Philox(7)).permutation(len(order))
        ends = weakened(pipe, questions, order, [0, heads_in_all], steps, guidance, judge, 2000)
        heights = {}
        for name, heads in (("most", order), ("least", order[::-1].copy()), ("random", shuffled)):
            between = weakened(pipe, questions, heads, ks[1:-1], steps, guidance, judge, 2000)
            heights[name] = np.trapezoid([ends[0], *between, ends[1]], ks, axis=0) / heads_in_all
        split = float(relevance.split_half[relevance.concepts.index(concept)])
        area, low, high = _interval(heights["least"] - heights["most"])
        rows[concept] = {"area": area, "low": low, "high": high} | {
            name: float(of_questions.mean()) for name, of_questions in heights.items()
        }
        rows[concept] |= {
            "plain": float(ends[0].mean()),
            "all_weakened": float(ends[1].mean()),
            "split_half": split,
        }
        print(
            f"{concept:24} area {rows[concept]['area']:+.3f}  "
            + "  ".join(f"{n} {v:.2f}" for n, v in rows[concept].items() if n != "area"),
            flush=True,
        )
    return rows


def _interval(of_questions: np.ndarray) -> tuple[float, float, float]:
    """The mean over questions, and its bootstrap interval of 95 %."""
    drawn = np.random.Generator(np.random.Philox(0)).integers(
        len(of_questions), size=(2000, len(of_questions))
    )
    low, high = np.quantile(of_questions[drawn].mean(1), [0.025, 0.975])
    return float(of_questions.mean()), float(low), float(high)


def misread(
    pipe: DiffusionPipeline, painter: Painter, judge: object, each: int, steps: int, guidance: float
) -> tuple[dict, list]:
    """How often two-sense words in their rare sense are misread, in generated images and in drawings."""
    rng = random.Random("misreading")
    words = [w for w in world.two_sense() for _ in range(each)]
    asked = [judging.misreading(w, rng) for w in words]
    drawn = pictures_of(pipe, [q.prompt for q in asked], 3000, steps, guidance)
    wrong = ~judging.ask(judge, drawn, asked)
    real = ~judging.ask(judge, np.stack([painter.draw(q.scene) for q in asked]), asked)
    found = {
        "misread_plain": judging.accuracy(wrong),
        "misread_real": judging.accuracy(real),
        "misread_words": {w: float(wrong[np.array(words) == w].mean()) for w in world.two_sense()},
    }
    print(found, flush=True)
    return found, [(q.prompt, p) for q, p in zip(asked, drawn, strict=True)]


def options() -> argparse.Namespace:
    """The options of the command."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--sprites", type=Path, required=True)
    parse.add_argument("--work", type=Path, required=True)
    parse.add_argument("--name", choices=MODELS, default="emoji", help="which of the built-in models this is")
    parse.add_argument(
        "--parts",
        nargs="+",
        choices=("judge", "pictures", "misread", "table"),
        default=("judge", "pictures", "misread", "table"),
    )
    parse.add_argument(
        "--by", nargs="+", choices=KINDS, default=tuple(KINDS), help="whose orders the table asks of"
    )
    parse.add_argument("--half", choices=("tuning", "reporting"), default="tuning")
    parse.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parse.add_argument("--each", type=int, default=40)
    parse.add_argument("--steps", type=int, default=20)
    parse.add_argument("--guidance", type=float, default=5.0)
    parse.add_argument("--threads", type=int, default=2)
    parse.add_argument("--dtype", default="float32", help="bfloat16 draws nearly twice as fast on some CPUs")
    return parse.parse_args()


def main() -> None:
    """Print what was asked for, and write it as JSON beside the checkpoint."""
    given = options()
    torch.set_num_threads(given.threads)
    painter = Painter(sprites.load(given.sprites))
    judge = judging.similarity(
        CLIPModel.from_pretrained(given.work / "judge").eval(),
        CLIPTokenizer.from_pretrained(given.work / "judge"),
    )
    found: dict[str, object] = {}
    if "judge" in given.parts:
        found |= {"judge": judge_on_drawings(painter, judge, given.each), "each_judge": given.each}
        for concept, score in found["judge"].items():
            print(f"judge on drawings  {concept:24} {score:.3f}", flush=True)
    if set(given.parts) & {"pictures", "misread", "table"}:
        pipe = dataclasses.replace(MODELS[given.name], folder=given.work).load(getattr(torch, given.dtype))
        with quiet(pipe):
            if "pictures" in given.parts:
                found |= {"steps": given.steps, "guidance": given.guidance}
                groups, shown = by_group(pipe, painter, judge, given.each, given.steps, given.guidance)
                found |= groups
                sheet(shown, given.work / "sheet.png")
            if "misread" in given.parts:
                more, shown = misread(
                    pipe, painter, judge, max(4, given.each // 4), given.steps, given.guidance
                )
                found |= more
                sheet(shown, given.work / "misread.png")
            if "table" in given.parts:
                for kind in given.by:
                    relevance = Relevance.load(given.work / KINDS[kind] / "relevance.safetensors")
                    found |= {
                        f"pictures_{kind}": relevance.settings["pictures"],
                        f"steps_{kind}": relevance.settings["num_inference_steps"],
                        "each_table": given.each,
                    }
                    half = int(given.half == "reporting")
                    how = (given.each, given.steps, given.guidance, given.concepts)
                    print(f"weakened in the order of {kind}:", flush=True)
                    found[f"weakening_{kind}_{given.half}"] = table(pipe, judge, relevance, half, *how)
    file = given.work / "evaluation.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | found, indent=1))


if __name__ == "__main__":
    main()
