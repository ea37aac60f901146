"""Do gates by effect read words with two senses rightly? Beside the same gates at random heads, and no heads.

    nice python benchmarks/gate.py [--json] [--write]

Relevance by effect is measured on 32 pictures of each concept of the built-in model that a word may be read
as. Of every second word with two senses each prompt is generated once, of ten steps: plain; with `gate`; with
its factors permuted over the heads; and with their root mean square in every head. A picture is misread if
the judge does not choose the text of the sense that is meant. Intervals are Wilson's, over pictures.
"""

import argparse
import sys
from typing import Any

import numpy as np
from looking import add_output_to, tell

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts import PolysemyPrompt, polysemy_prompts
from headwise.intervals import wilson
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure_effect import measure_effect
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import load_pipeline, quiet
from headwise.runs.shards import batches
from headwise.steering.dose import gate
from headwise.steering.steer import Steer

MEASURED, SEED, BATCH = 32, 8, 25
METHODS = ("plain", "gate", "gate, random heads", "gate, uniform")


def steering(method: str, relevance: Relevance, prompts: list[PolysemyPrompt]) -> Steer:
    """One hook for a batch, with a row of factors for each prompt."""
    gates = [gate(relevance, each.word, each.toward, each.away) for each in prompts]
    if method == "plain":
        rows = [np.ones_like(each.factors) for each in gates]
    elif method == "gate":
        rows = [each.factors for each in gates]
    else:
        kind: Any = method.removeprefix("gate, ")
        rows = [each.control(kind, seed=0).factors for each in gates]
    return Steer(np.concatenate(rows), [each.word for each in prompts])


def compare() -> dict[str, Any]:
    """The share of misread pictures by method."""
    pipe, scorer, concepts = load_pipeline("emoji"), CLIPScorer.load("emoji"), ConceptSet.load("emoji")
    every = polysemy_prompts("emoji")
    words = list(dict.fromkeys(each.word for each in every))[1::2]
    prompts = [each for each in every if each.word in words]
    names = sorted({name for each in prompts for name in (each.toward, each.away)})
    some = ConceptSet({name: concepts.words(name) for name in names})
    relevance = measure_effect(pipe, some, pictures=MEASURED, batch_size=16, progress=False)
    misread: dict[str, int] = dict.fromkeys(METHODS, 0)
    for method in METHODS:
        for numbers in batches(0, len(prompts), BATCH):
            batch = [prompts[n] for n in numbers]
            with quiet(pipe), hooked(pipe, steering(method, relevance, batch)):
                pictures = generate(
                    pipe,
                    [each.case.prompt for each in batch],
                    SEED,
                    range(len(batch)),
                    num_inference_steps=10,
                    output_type="pil",
                )
            chosen = scorer.choose(pictures, [each.case.texts for each in batch])
            misread[method] += int((chosen != 0).sum())
    shares = {method: list(wilson(count, len(prompts))) for method, count in misread.items()}
    return {"words": words, "prompts": len(prompts), "seed": SEED, "measured_on": MEASURED, "misread": shares}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    options = parser.parse_args()
    found = compare()
    if not tell(found, options):
        return
    for method, (value, low, high) in found["misread"].items():
        sys.stdout.write(f"{method:20} {value:.2f} ({low:.2f} to {high:.2f})\n")


if __name__ == "__main__":
    main()
