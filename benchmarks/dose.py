r"""What a dose of a word does: does the effect match the dial, and what else changes in the image?

    nice python benchmarks/dose.py [--json] [--write] [--prompts 24] [--out runs/dose]

Relevance by effect is measured on up to 48 images of each concept of the built-in model; doses are applied to
other prompts, with another seed. Three concepts are for choosing a rule, four for the report. A rule gives
each head a factor:

    least            the smallest change that reaches the dose, within 0 … 3: Σ (f − 1)²
    weighted         the same, with changes weighted by the standard error: Σ se² (f − 1)²
    equal            the same, weighted by |e|: heads that act are raised equally, as in `amplify`
    all heads        1 + dial in every head, which needs no relevance
    strengthen       1 + s (R − 1) with the packaged relevance by votes
    random heads     the factors of least, permuted over heads
    span, neighbours
                     dial times the other words of the concept added to the word (`steering.word_mixture`),
                     which needs no heads; only its images are measured, not its effect

The report has the dials above 0 of all of these except weighted. For every prompt and factors f it has: the
*effect* ⟨D(f) − D(0), d⟩ / ⟨d, d⟩ − 1 with d = D(1) − D(0), averaged over the calls of a plain image of four
steps; the scorer's *certainty* of the word among the concept's words, in an image of ten steps; the
*resemblance* of that image to the plain one (the scorer's cosine); and the mean *squared* difference of their
pixels. Since rules differ in the effect that they reach, each is also compared with least at equal effect, by
interpolating all three between its dials. For each concept, dose_and_effect is the rank correlation between
dose and measured effect over all factors. Intervals are by bootstrap over prompts.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from looking import add_output_to, tell
from PIL import Image

from headwise import emoji
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.files import write_whole
from headwise.intervals import bootstrap
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure_effect import measure_effect
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.measuring.word_prompts import WordPrompt, word_prompts
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.hooks import Hook
from headwise.model.pipelines import load_pipeline, quiet
from headwise.model.sites import DenoiserCall
from headwise.steering.dose import acting, least_change
from headwise.steering.steer import Steer
from headwise.steering.word_mixture import MIXTURES, mixed_words

TUNING = ("Color", "Animals", "Time of Day")
REPORTED = ("Weather Conditions", "Material", "Geometric Patterns", "Plants")
MEASURED = 48  # the number of images per concept on which relevance is measured, with seed 0
SEED = 7  # of the steered images
DIALS, STRENGTHS = (0.5, 1.0, 2.0), (0.25, 0.5, 1.0)
LESS = (-1.0, -0.5)  # dials that turn the word down
UNCERTAIN = 0.9  # below this certainty, strengthening can still improve on the plain image


class Heads(NamedTuple):
    """Measurements of the heads of a concept.

    Args:
        shares: e, the share of the word's effect that passes through each head.
        errors: The standard errors of the shares.
        votes: Relevance by votes.
    """

    shares: np.ndarray
    errors: np.ndarray
    votes: np.ndarray


def _random(heads: Heads, dial: float) -> np.ndarray:
    return Steer(least_change(heads.shares, dial)[None]).control("random heads", seed=0).factors[0]


Rule = Callable[[Heads, float], np.ndarray]
RULES: dict[str, tuple[Rule, tuple[float, ...]]] = {
    "least": (lambda heads, dial: least_change(heads.shares, dial), LESS + DIALS),
    "weighted": (
        lambda heads, dial: least_change(heads.shares, dial, weights=acting(heads.errors**2)),
        DIALS,
    ),
    "equal": (
        lambda heads, dial: least_change(heads.shares, dial, weights=acting(heads.shares)),
        DIALS,
    ),
    "all heads": (lambda heads, dial: np.full_like(heads.shares, 1 + dial), LESS + DIALS),
    "strengthen": (lambda heads, strength: 1 + strength * (heads.votes - 1), STRENGTHS),
    "random heads": (_random, (1.0, 2.0)),
}
RULES_OF_REPORT = ("least", "equal", "all heads", "strengthen", "random heads")


class MeasuredEffect(Hook):
    """A hook that measures what factors do along the effect of each image's word, averaged over calls.

    Args:
        words: The word of each image.
        factors: Rows of factors, each of which is tried on every image.
    """

    def __init__(self, words: list[str], factors: np.ndarray) -> None:
        self.words, self.factors = words, factors
        self.calls = 0
        self.total = np.zeros((len(factors), len(words)))  # Σ over calls of ⟨D(f) − D(1), d⟩ / ⟨d, d⟩

    @property
    def effect(self) -> np.ndarray:
        """What each row of factors adds to the effect of each image's word; −1 removes all of it."""
        return self.total / self.calls

    def finish(self, call: DenoiserCall) -> None:
        """Run the call again with each row of factors."""

        def output(factors: np.ndarray) -> torch.Tensor:
            assert call.rerun is not None
            steer = Steer(factors[None], self.words)
            steer.prepare(call.of_rows(call.pictures))
            result = call.rerun(steer)
            return (result[0] if isinstance(result, tuple) else result.sample).flatten(1).double()

        if not call.prompted:
            return
        with torch.no_grad():
            muted, plain = (output(np.full(call.head_map.all_heads, value)) for value in (0.0, 1.0))
            effect = plain - muted
            for total, factors in zip(self.total, self.factors, strict=True):
                along = ((output(factors) - plain) * effect).sum(1)
                total += (along / effect.square().sum(1)).numpy()
            self.calls += 1


def texts_of(pair: WordPrompt, words: tuple[str, ...]) -> tuple[str, ...]:
    """The prompt, and the prompt with its word replaced by each of the concept's other words."""
    pattern = rf"(?<!\w){re.escape(pair.word)}(?!\w)"
    others = [word.lower() for word in words if word.lower() != pair.word.lower()]
    return pair.prompt, *(re.sub(pattern, lambda _, w=word: w, pair.prompt, count=1) for word in others)


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    """Pixels from 0 to 1, one row for each image."""
    return np.stack([np.asarray(p.convert("RGB"), np.float64).ravel() / 255 for p in pictures])


def try_concept(pipe: Any, scorer: CLIPScorer, concept: str, prompts: int) -> dict[str, Any]:
    """Every rule at every dial, on prompts with a word of the concept: the numbers of each prompt."""
    words = ConceptSet.load("emoji").words(concept)
    alone = ConceptSet({concept: words})
    pairs = word_prompts(alone, None, None, pipe)[concept]
    measured_on = min(MEASURED, len(pairs) - prompts)
    relevance = measure_effect(pipe, alone, pictures=measured_on, batch_size=12, progress=False)
    total = relevance[concept].sum()
    votes = Relevance.load(emoji.RELEVANCE)[concept]
    heads = Heads(relevance[concept] / total, relevance.standard_errors[0] / total, votes)
    pairs = pairs[measured_on : measured_on + prompts]
    cases = [EvalPrompt(each.prompt, texts_of(each, words)) for each in pairs]
    conditions = [(rule, dial) for rule, (_, dials) in RULES.items() for dial in dials]
    if concept in REPORTED:
        conditions = [(rule, dial) for rule, dial in conditions if rule in RULES_OF_REPORT and dial > 0]
    factors = np.stack([RULES[rule][0](heads, dial) for rule, dial in conditions])
    pair_words = [each.word for each in pairs]
    options = {"seed": SEED, "numbers": range(len(pairs))}
    measured = MeasuredEffect(pair_words, factors)
    with quiet(pipe):
        with hooked(pipe, measured):
            generate(pipe, [p for p, _ in pairs], **options, num_inference_steps=4, output_type="latent")

        def pictures(hook: Hook) -> list[Image.Image]:
            with hooked(pipe, hook):
                return generate(
                    pipe, [p for p, _ in pairs], **options, num_inference_steps=10, output_type="pil"
                )

        def scores(hook: Hook) -> dict[str, list[float]]:
            steered = pictures(hook)
            return {
                "certainty": scorer.probability(steered, [c.texts for c in cases]).tolist(),
                "resemblance": scorer.image_similarity(plain, steered).tolist(),
                "squared": np.square(pixels(plain) - pixels(steered)).mean(1).tolist(),
            }

        plain = pictures(Steer(np.ones_like(heads.shares)[None], pair_words))
        results: dict[str, Any] = {"plain": scorer.probability(plain, [c.texts for c in cases]).tolist()}
        results["completeness"] = relevance.settings["completeness"][0]
        for (rule, dial), row, effect in zip(conditions, factors, measured.effect, strict=True):
            results[f"{rule} {dial:g}"] = {
                "dose": float(heads.shares @ (row - 1)),
                "effect": effect.tolist(),
                **scores(Steer(row[None], pair_words)),
            }
        for mixture, factor in product(MIXTURES, STRENGTHS):
            mixed = mixed_words(pipe, mixture, pair_words, [words] * len(pairs), keep=1.0, factor=factor)
            results[f"{mixture} {factor:g}"] = {"effect": [None] * len(pairs), **scores(mixed)}
    return results


def points(tried: dict[str, Any]) -> dict[str, np.ndarray]:
    """Effect, certainty, resemblance and squared difference of each condition and prompt, and of "plain"."""
    plain, kinds = np.array(tried["plain"]), ("effect", "certainty", "resemblance", "squared")
    steered = {
        name: np.stack([np.array(each[kind], float) for kind in kinds], 1)
        for name, each in tried.items()
        if isinstance(each, dict)
    }
    return {"plain": np.stack([0 * plain, plain, 1 + 0 * plain, 0 * plain], 1)} | steered


def summary(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The means over the prompts of some concepts, with intervals."""
    by_concept = [points(concept) for concept in tried]
    names = list(by_concept[0])
    cases = np.concatenate([np.stack([each[name] for name in names], 1) for each in by_concept])
    results = {"prompts": len(cases), "conditions": _intervals(names, *bootstrap(cases, lambda mean: mean))}
    uncertain = cases[:, 0, 1] < UNCERTAIN
    gains = (cases[:, :, 1] - cases[:, :1, 1])[uncertain]
    results["uncertain"] = {"prompts": int(uncertain.sum())}
    if uncertain.any():
        results["uncertain"] |= dict(zip(names, map(_triple, *bootstrap(gains, lambda m: m)), strict=True))
    compared = [name for name in names if not name.startswith("least") and not name.partition(" -")[1]]
    reference = ["plain", *(f"least {dial:g}" for dial in DIALS)]
    curve, others = ([names.index(name) for name in some] for some in (reference, compared))

    def beyond_least(mean: np.ndarray) -> np.ndarray:
        at = mean[others, 0]
        expected = np.stack([np.interp(at, mean[curve, 0], mean[curve, kind]) for kind in (1, 2, 3)], 1)
        reached = (at <= mean[curve[-1], 0])[:, None]
        return np.where(reached, mean[others, 1:] - expected, np.nan)

    value, low, high = bootstrap(cases, beyond_least)
    kinds = ("certainty", "resemblance", "squared")
    results["beyond_least_at_equal_effect"] = {
        name: {kind: _triple(value[i, k], low[i, k], high[i, k]) for k, kind in enumerate(kinds)}
        for i, name in enumerate(compared)
        if name != "plain"
    }
    return results


def together(tried: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The summaries of each group of concepts, and of each concept."""
    results: dict[str, Any] = {}
    for group, concepts in {"tuning": TUNING, "reported": REPORTED}.items():
        some = {concept: tried[concept] for concept in concepts if concept in tried}
        results[group] = {"concepts": list(some)} | summary(list(some.values()))
        for concept, each in some.items():
            doses, effects = (
                np.array(
                    [np.mean(of[kind]) for of in each.values() if isinstance(of, dict) and "dose" in of]
                )[None]
                for kind in ("dose", "effect")
            )
            results[concept] = {
                "completeness": each["completeness"],
                "doses": {
                    name: of["dose"] for name, of in each.items() if isinstance(of, dict) and "dose" in of
                },
                "dose_and_effect": round(float(rank_correlation(doses, effects)[0]), 3),
            } | summary([each])
    return results


def _intervals(names: list[str], value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    kinds = ("effect", "certainty", "resemblance", "squared")
    return {
        name: {kind: _triple(value[i, k], low[i, k], high[i, k]) for k, kind in enumerate(kinds)}
        for i, name in enumerate(names)
    }


def _triple(value: float, low: float, high: float) -> list[float | None]:
    return [None if np.isnan(each) else round(float(each), 5) for each in (value, low, high)]


def main() -> None:
    """Try all concepts, save the numbers of each prompt, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--concepts", nargs="+", default=[*TUNING, *REPORTED])
    parser.add_argument("--out", type=Path, default=Path("runs/dose"))
    options = parser.parse_args()
    pipe, scorer = load_pipeline("emoji"), CLIPScorer.load("emoji")
    options.out.mkdir(parents=True, exist_ok=True)
    tried: dict[str, dict[str, Any]] = {}
    for concept in options.concepts:
        path = options.out / f"{concept}.json"
        if not path.exists():
            write_whole(path, json.dumps(try_concept(pipe, scorer, concept, options.prompts)).encode())
        tried[concept] = json.loads(path.read_text())
    results = together(tried)
    settings = {"seed": SEED, "measured_on": MEASURED, "uncertain_below": UNCERTAIN}
    settings |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if not tell(settings | results, options, "emoji-dose"):
        return
    for name in ("tuning", "reported"):
        sys.stdout.write(f"{name}: {results[name]['prompts']} prompts\n")
        for condition, numbers in results[name]["conditions"].items():
            texts = (f"{kind} {mean:+.3f}" for kind, (mean, *_) in numbers.items() if mean is not None)
            sys.stdout.write(f"    {condition:18} {'  '.join(texts)}\n")


if __name__ == "__main__":
    main()
