"""Ordered weakening by votes and by effect, on the same images.

    nice python benchmarks/votes_and_effect.py [--model emoji-dit] [--count 8] [--steps 5] [--write]

A built-in model is weakened by both of its packaged relevances, on the evaluation prompts of every concept
that the scorer reads well, whose objects and phrases differ from those that effects are measured on. Heads
are weakened most and least relevant first; the score is the scorer's certainty of the right word. It takes
about a quarter of an hour on one core, and resumes after an interruption.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from looking import add_output_to, tell

from headwise import emoji
from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
from headwise.benchmarks.defaults import defaults_of
from headwise.benchmarks.prompts.evaluation import eval_prompts
from headwise.benchmarks.weakening import LEAST, MOST
from headwise.benchmarks.weakening_sweeps import benchmark_weakening
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.model.pipelines import load_pipeline
from headwise.runs.folder import versions


def compare(model: str, count: int, steps: int, out: Path) -> dict[str, Any]:
    """The areas of every concept by votes and by effect, and the agreement of both orders of heads."""
    names = defaults_of(model).scored_concepts("emoji")
    prompts = {name: eval_prompts("emoji", name, count) for name in names}
    pipe, score = load_pipeline(model), scoring(CLIPScorer.load(model), "certainty")
    files = {"votes": emoji.MODELS[model].relevance, "effect": emoji.MODELS[model].effect}
    relevance = {kind: Relevance.load(file) for kind, file in files.items()}
    options: dict[str, Any] = {"orders": (MOST, LEAST), "random_orders": 0, "seeds": (10,), "keep_prompts": 0}
    options |= {"num_inference_steps": steps, "batch_size": 40}
    areas: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:  # both kinds for each concept, so that an interrupted run can be compared
        for kind, each in relevance.items():
            sweep = benchmark_weakening(pipe, each, {name: prompts[name]}, score, out / kind, **options)
            value, low, high = sweep[name].area()
            areas[name][kind] = {"area": value, "low": low, "high": high}
        both = [relevance[kind][name][None] for kind in files]
        areas[name]["rank_correlation"] = float(rank_correlation(*both)[0])
    summary = {
        kind: {
            "mean_area": statistics.mean(areas[name][kind]["area"] for name in names),
            "above_0": sum(areas[name][kind]["low"] > 0 for name in names),
            "below_0": sum(areas[name][kind]["high"] < 0 for name in names),
            "split_half": float(np.median([each.split_half[each.concepts.index(name)] for name in names])),
            "pictures": each.settings["pictures"],
        }
        for kind, each in relevance.items()
    }
    settings = {"model": model, "count": count, "steps": steps, "seed": 10, "score": "certainty"}
    settings |= {"guidance_scale": 7.5, "threads": torch.get_num_threads(), "versions": versions()}
    return {"summary": summary, "concepts": areas} | settings


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--model", choices=emoji.MODELS, default="emoji")
    parser.add_argument("--count", type=int, default=8, help="evaluation prompts per concept")
    parser.add_argument("--steps", type=int, default=5, help="denoising steps per image")
    parser.add_argument(
        "--out", type=Path, help="folder of the sweeps; default runs/votes-and-effect-<model>"
    )
    options = parser.parse_args()
    out = options.out or Path(f"runs/votes-and-effect-{options.model}")
    results = compare(options.model, options.count, options.steps, out)
    if tell(results, options, f"{options.model}-votes-and-effect"):
        for name, kinds in results["concepts"].items():
            row = (
                f"{kinds[kind]['area']:+.2f} ({kinds[kind]['low']:+.2f} to {kinds[kind]['high']:+.2f})"
                for kind in ("votes", "effect")
            )
            sys.stdout.write(f"{name:24} {'   '.join(row)}\n")
        sys.stdout.write(f"{results['summary']}\n")


if __name__ == "__main__":
    main()
