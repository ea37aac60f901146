"""How the other concepts of a set affect Color: a few concepts alone, and beside a background.

    nice python benchmarks/beside.py [--json] [--write] [--pictures 64] [--prompts 16] [--out runs/beside]

The built-in model is measured with Color in sets of several sizes, always on the same images. Each order of
heads is evaluated by its rank correlation over heads with that of the whole packaged set (interval: jackknife
over the 32 blocks of images, the same in both), and by the area of ordered weakening (interval: bootstrap
over prompts). The random sets are Color and randomly chosen concepts of the packaged set, without a
background.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from looking import add_output_to, tell

from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
from headwise.benchmarks.prompts.evaluation import eval_prompts
from headwise.benchmarks.weakening import LEAST, MOST, measure_weakening
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.measuring.votes import Votes
from headwise.model.pipelines import load_pipeline

COLOR, DRAWN = "Color", "drawn"  # the concept, and the prefix of the names of random sets


def sets(whole: ConceptSet) -> dict[str, tuple[ConceptSet, ConceptSet | None]]:
    """Each set, and its background."""
    animals = {"Animals": whole.words("Animals")}
    colors = {n: ConceptSet({COLOR: whole.words(COLOR)[:n]}) for n in (3, 5, 10)}
    named: dict[str, tuple[ConceptSet, ConceptSet | None]] = {"all": (whole, None)}
    for n, color in colors.items():
        named[f"{n} words and Animals"] = (ConceptSet(dict(color.concepts) | animals), None)
        named[f"{n} words beside all"] = (color, whole)
    others = [name for name in whole if name != COLOR]
    for size in (8, 16, 24):
        for seed in range(2):
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([size, seed])))
            some = {COLOR, *generator.permutation(others)[: size - 1]}
            random_set = ConceptSet({name: words for name, words in whole.pairs if name in some})
            named[f"{DRAWN}, {size} concepts, {seed}"] = (random_set, None)
    return named


def agreement(votes: Votes, whole: Votes) -> dict[str, float]:
    """The rank correlation between both orders of heads, with its interval."""
    rows = [each.blocks[:, :, each.concepts.names.index(COLOR)] for each in (votes, whole)]
    total, n = [row.sum(0) for row in rows], len(rows[0])
    value = rank_correlation(total[0][None], total[1][None])[0]
    without = [
        rank_correlation(*(all_[None] - row[b] for all_, row in zip(total, rows, strict=True)))[0]
        for b in range(n)
    ]
    half = 1.96 * np.sqrt((n - 1) * np.var(without))
    return {"value": float(value), "low": float(max(-1, value - half)), "high": float(min(1, value + half))}


def compare(pictures: int, prompts: int, out: Path) -> dict[str, Any]:
    """Measure every set, and weaken heads by those that are not random."""
    pipe, whole = load_pipeline("emoji"), ConceptSet.load("emoji")
    score, cases = scoring(CLIPScorer.load("emoji"), "choice"), eval_prompts("emoji", COLOR, count=prompts)
    results: dict[str, Any] = {}
    for name, (concepts, beside) in sets(whole).items():
        folder = out / name.replace(", ", "-").replace(" ", "-")
        relevance: Relevance = measure(
            pipe, concepts, beside=beside, pictures=pictures, num_inference_steps=10, batch_size=8, out=folder
        )
        votes, all_votes = (Votes.load(at / "votes.safetensors") for at in (folder, out / "all"))
        results[name] = {"correlation": agreement(votes, all_votes)}
        results[name]["split_half"] = float(relevance.split_half[relevance.concepts.index(COLOR)])
        if not name.startswith(DRAWN):
            options: dict[str, Any] = {"orders": (MOST, LEAST), "seeds": (10,), "num_inference_steps": 10}
            weakened = measure_weakening(
                pipe,
                relevance,
                COLOR,
                cases,
                score,
                out=folder / "weaken",
                **options,
            )
            results[name]["area"] = weakened.area()._asdict()
    return {"pictures": pictures, "prompts": prompts, "sets": results}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=16, help="prompts for the weakening")
    parser.add_argument("--out", type=Path, default=Path("runs/beside"))
    options = parser.parse_args()
    results = compare(options.pictures, options.prompts, options.out)
    if not tell(results, options, "emoji-beside"):
        return
    for name, numbers in results["sets"].items():
        intervals = (numbers[key] for key in ("correlation", "area") if key in numbers)
        texts = (f"{each['value']:+.2f} ({each['low']:+.2f} to {each['high']:+.2f})" for each in intervals)
        print(f"{name:26} split-half {numbers['split_half']:.2f}  {'  '.join(texts)}")


if __name__ == "__main__":
    main()
