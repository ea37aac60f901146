"""Make the finished weakening that comes with a built-in model, which the page shows before anything has been run.

    python training/weakening_example.py emoji
    python training/weakening_example.py emoji-dit

Heads of Color by relevance by effect, most and least relevant first and in one random order; the images of
the first prompts are kept. It writes the folder `weakening` beside the model: scores.safetensors and pictures/.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import headwise as hw
from headwise import emoji
from headwise.benchmarks.prompts.evaluation import eval_prompts
from headwise.benchmarks.results import LEAST, MOST

CONCEPT, PROMPTS = "Color", 16
SHOWN = ("a red chair", "a blue dog", "a pink boat", "a green kite")
PARTS = (0, 1, 4, 8, 16, 24)  # of 24: numbers of heads, closer together where most is lost


def main(name: str) -> None:
    """Weaken in a temporary folder, and put what the page reads into the package."""
    model = emoji.MODELS[name]
    relevance = hw.Relevance.load(model.effect)
    heads = len(relevance.values[0])
    prompts = eval_prompts("emoji", CONCEPT, PROMPTS)
    prompts = sorted(prompts, key=lambda each: each.prompt not in SHOWN)
    with tempfile.TemporaryDirectory() as folder:
        weakening = hw.measure_weakening(
            hw.load_pipeline(name),
            relevance,
            CONCEPT,
            prompts,
            hw.scoring(hw.CLIPScorer.load("emoji"), "choice"),
            ks=[heads * part // PARTS[-1] for part in PARTS],
            orders=(MOST, LEAST, "random 0"),
            random_orders=1,
            seeds=(10,),
            out=folder,
            batch_size=16,
            keep_prompts=len(SHOWN),
            num_inference_steps=20,
            progress=False,
        )
        target = model.weakening
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        scores = weakening.scores
        replace(scores, settings=scores.settings | {"by": "effect"}).save(target / "scores.safetensors")
        shutil.copytree(Path(folder) / "pictures", target / "pictures")
    print(f"{target}: {CONCEPT}, area {weakening.area()}")


if __name__ == "__main__":
    main(sys.argv[1])
