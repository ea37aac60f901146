"""The cost of a weakening sweep: 15 k × 2 orders × 3 seeds of one prompt, against the stock pipeline.

    python benchmarks/weakening.py [--json] [--turns 3] [--steps 20]

The built-in model generates every image of the sweep, once with `measure_weakening` (each row of a batch with
different heads, ends shared by the orders) and once one by one without hooks, which is the least that a sweep
without batches could cost. The two take turns within one run. Both decode the images, and neither scores
them.
"""

import argparse
import sys
from typing import Any

import numpy as np
from looking import add_output_to, summary, tell, timed

from headwise import emoji
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.weakening import LEAST, MOST, grid, measure_weakening
from headwise.measuring.relevance import Relevance
from headwise.model.generate import generate
from headwise.model.pipelines import load_pipeline, quiet

SEEDS = (10, 20, 30)


def compare(turns: int, steps: int) -> dict[str, Any]:
    """Time both in turns, after a short turn to warm up."""
    pipe, relevance = load_pipeline("emoji"), Relevance.load(emoji.RELEVANCE)
    ks = grid(relevance.values.shape[1])
    case = EvalPrompt("a red car", ("a red car",))

    def sweep(ks: tuple[int, ...] = ks, seeds: tuple[int, ...] = SEEDS) -> None:
        measure_weakening(
            pipe,
            relevance,
            "Color",
            [case],
            lambda pictures, cases: np.zeros(len(pictures)),
            ks=ks,
            orders=(MOST, LEAST),
            seeds=seeds,
            batch_size=28,
            num_inference_steps=steps,
            progress=False,
        )

    def one_by_one(count: int = 2 * len(ks)) -> None:
        with quiet(pipe):
            for seed in SEEDS:
                for _ in range(count):
                    generate(pipe, [case.prompt], seed, [0], output_type="pil", num_inference_steps=steps)

    sweep((0, ks[-1]), SEEDS[:1]), one_by_one(1)
    runs = {"sweep": sweep, "one_by_one": one_by_one}
    taken = [{name: timed(run) for name, run in runs.items()} for _ in range(turns)]
    swept = {"ks": len(ks), "orders": 2, "seeds": len(SEEDS), "steps": steps, "turns": turns}
    return swept | summary(taken, {"sweep_over_one_by_one": ("sweep", "one_by_one")})


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per image")
    options = parser.parse_args()
    results = compare(options.turns, options.steps)
    if not tell(results, options):
        return
    for name in ("sweep", "one_by_one"):
        low, high = results[f"{name}_spread_s"]
        sys.stdout.write(f"{name:12} {results[f'{name}_s']:8.1f} s   ({low:.1f} to {high:.1f})\n")
    sys.stdout.write(f"sweep / one by one {results['sweep_over_one_by_one']:.3f}\n")


if __name__ == "__main__":
    main()
