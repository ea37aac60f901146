"""The cost of steering: one denoiser call, stock and with a word adjusted.

    python benchmarks/steering.py [--json] [--calls 9] [the options of looking.py]

The denoiser is that of looking.py: published configuration, random weights, one image with guidance.
A word of three tokens is adjusted in all heads. The two take turns within one run; the numbers are
medians of wall time and the median of the ratios within each turn.
"""

import argparse
import sys
from typing import Any

import numpy as np
from looking import Setting, summary, tell, timed

from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.steering.steer import adjust


def compare(calls: int, setting: Setting) -> dict[str, Any]:
    """Time both in `calls` turns, after one turn to warm up."""
    pipe = setting.pipeline()
    head_map = HeadMap.of(pipe)
    votes = np.random.default_rng(0).integers(1, 100, (2, head_map.all_heads))
    steer = adjust(Relevance.from_votes(votes, ("Color", "Plants"), head_map), (4, 5, 6), "Color", "Plants")
    latents, text = setting.inputs(2 * setting.batch)

    def steered() -> None:
        with hooked(pipe, steer):
            pipe(latents, text)

    run = {"stock": lambda: pipe(latents, text), "steered": steered}
    turns = [{name: timed(call, setting.device) for name, call in run.items()} for _ in range(calls + 1)][1:]
    ratios = {"steered_over_stock": ("steered", "stock")}
    return summary(turns, ratios) | setting.as_json() | {"calls": calls}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    Setting.add_to(parser)
    parser.add_argument("--calls", type=int, default=9, help="turns to time")
    options = parser.parse_args()
    results = compare(options.calls, Setting.read(options))
    if not tell(results, options):
        return
    for name in ("stock", "steered"):
        low, high = results[f"{name}_spread_s"]
        sys.stdout.write(f"{name:8} {results[f'{name}_s']:8.3f} s per call   ({low:.3f} to {high:.3f})\n")
    sys.stdout.write(f"steered / stock {results['steered_over_stock']:.3f}\n")


if __name__ == "__main__":
    main()
