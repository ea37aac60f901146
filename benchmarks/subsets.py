"""What heads do: the losses of 200 random subsets of heads, for every concept that the scorer reads well.

    python benchmarks/subsets.py [--subsets 100] [--out runs/subsets] [--read] [--json | --write]

The built-in model generates four evaluation prompts of each concept, from one seed, in five steps, plain and
with each subset of heads weakened; its CLIP model scores the similarity of images and prompts. It took 74
minutes on one busy core, and resumes after an interruption: --subsets 100 weakens the first hundred subsets
for all concepts, --subsets 200 later the rest. --read generates nothing, and reports what is in the folder.
For each concept it reports agreements with its losses, all given the size of the subset:

    split_half          the agreement of the losses of two prompts with those of the other two
    ceiling             the agreement that losses without noise would reach
    votes               the packaged relevance of the concept by votes
    votes_of_others     its control: the mean relevance of all other concepts
    effect              the packaged relevance by effect
    effect_of_others    its control
    losses_of_others    the mean losses of the other concepts, from the same four latents
    ridge               values of heads fitted to the losses of the other half of the subsets
    split_half_alone    split_half given also the losses of the others: what is specific to this concept
    votes_alone         the same for votes
    effect_alone        the same for effect

The same is reported given powers of the size up to the third, since losses are curved in it ("degree3").
Means are over concepts, which share subsets and latents, with intervals by bootstrap over concepts.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from looking import add_output_to, tell

from headwise import emoji
from headwise.benchmarks.attribution.partial_correlation import ceiling_of, partial_correlation, split_half
from headwise.benchmarks.attribution.subset_losses import SubsetLosses
from headwise.benchmarks.attribution.subsets import benchmark_subsets
from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
from headwise.benchmarks.defaults import defaults_of
from headwise.benchmarks.prompts.evaluation import EvalPrompt, eval_prompts
from headwise.benchmarks.weakening_sweeps import folder_of
from headwise.intervals import Interval, mean
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import load_pipeline
from headwise.runs.folder import versions
from headwise.runs.scores import Scores

COUNT, PROMPTS = 200, 4
DEGREES = {1: "degree1", 3: "degree3"}
FILES = {"votes": emoji.RELEVANCE, "effect": emoji.EFFECT}
ROWS = (
    "split_half", "ceiling", "votes", "votes_of_others", "effect", "effect_of_others", "losses_of_others",
    "ridge", "split_half_alone", "votes_alone", "effect_alone",
)  # fmt: skip


def prompts_of() -> dict[str, list[EvalPrompt]]:
    """The prompts of every concept that the scorer reads well."""
    names = defaults_of("emoji").scored_concepts("emoji")
    return {name: eval_prompts("emoji", name, PROMPTS) for name in names}


def generate(out: Path, subsets: int) -> None:
    """Weaken the first subsets for all concepts."""
    score = scoring(CLIPScorer.load("emoji"), "similarity")
    numbers = range(subsets + 1)  # number 0 is the plain image
    benchmark_subsets(load_pipeline("emoji"), prompts_of(), score, out, count=COUNT, numbers=numbers)


def read(out: Path, subsets: int) -> dict[str, SubsetLosses]:
    """The losses in the folder, of the subsets that are scored for all concepts."""
    files = {name: folder_of(out, name) / "scores.safetensors" for name in prompts_of()}
    losses = {name: SubsetLosses.of(Scores.load(file)) for name, file in files.items()}
    subsets = min(subsets, *(len(each.subsets) for each in losses.values()))
    return {
        name: replace(each, subsets=each.subsets[:subsets], loss=each.loss[:subsets])
        for name, each in losses.items()
    }


def numbers_of(losses: dict[str, SubsetLosses]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The numbers of each concept."""
    kinds = {kind: Relevance.load(file) for kind, file in FILES.items()}
    for name, concept in losses.items():
        others = np.mean([losses[other].mean for other in losses if other != name], 0)
        predicted = {"losses_of_others": others, "ridge": concept.ridge()}
        for kind, relevance in kinds.items():
            of_others = np.mean([relevance[other] for other in relevance.concepts if other != name], 0)
            predicted[kind] = concept.subsets @ relevance[name]
            predicted[f"{kind}_of_others"] = concept.subsets @ of_others
        values: dict[str, Any] = {"size_alone": float(np.corrcoef(concept.sizes, concept.mean)[0, 1])}
        for degree, key in DEGREES.items():
            size = {"size": concept.sizes, "degree": degree}
            size_and_others = size | {"given": others[:, None]}
            half = concept.split_half(degree)
            rows = {"split_half": half, "ceiling": ceiling_of(half)}
            rows |= {row: partial_correlation(each, concept.mean, **size) for row, each in predicted.items()}
            rows["split_half_alone"] = split_half(concept.loss, **size_and_others)
            for kind in kinds:
                rows[f"{kind}_alone"] = partial_correlation(predicted[kind], concept.mean, **size_and_others)
            values[key] = {row: rounded(rows[row]) for row in ROWS}
        yield name, values


def rounded(interval: Interval) -> list[float | None]:
    """[value, low, high] with four decimals."""
    return [None if end is None else round(end, 4) for end in interval.as_json()]


def report(losses: dict[str, SubsetLosses]) -> dict[str, Any]:
    """The content of the results file.

    `SubsetLosses.from_json(file | file["concepts"]["Color"])` reads the losses of a concept.
    """
    prompts, first = prompts_of(), next(iter(losses.values())).as_json()
    concepts = {
        name: {"prompts": [prompt.prompt for prompt in prompts[name]]}
        | values
        | {key: losses[name].as_json()[key] for key in ("plain", "loss")}
        for name, values in numbers_of(losses)
    }
    settings = {key: value for key, value in first["settings"].items() if key != "prompts"} | {"seed": 10}
    return {
        "versions": versions(),
        "settings": settings | {"threads": 1},
        "means": {
            key: {
                row: rounded(mean(np.array([each[key][row][0] for each in concepts.values()])))
                for row in ROWS
            }
            for key in DEGREES.values()
        },
        "all_heads": first["all_heads"],
        "subsets": first["subsets"],
        "concepts": concepts,
    }


def main() -> None:
    """Print the agreements, by concept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--subsets", type=int, default=COUNT, help=f"number of subsets, up to {COUNT}")
    parser.add_argument("--out", type=Path, default=Path("runs/subsets"), help="folder of the runs")
    parser.add_argument("--read", action="store_true", help="report what is in the folder, generate nothing")
    options = parser.parse_args()
    if not options.read:
        generate(options.out, options.subsets)
    results = report(read(options.out, options.subsets))
    if not tell(results, options, "emoji-subsets"):
        return
    sys.stdout.write(f"{len(results['subsets'])} subsets, given the size\n{'':24}")
    sys.stdout.write("".join(f"{row:>18}" for row in ROWS) + "\n")
    table = {
        name: {row: each["degree1"][row][0] for row in ROWS} for name, each in results["concepts"].items()
    }
    table["mean"] = {row: results["means"]["degree1"][row][0] for row in ROWS}
    for name, each in table.items():
        sys.stdout.write(f"{name:24}" + "".join(f"{each[row]:18.3f}" for row in ROWS) + "\n")


if __name__ == "__main__":
    main()
