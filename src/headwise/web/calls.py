"""The calls of the library that each request comes to: jobs execute them, snippets.py prints them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwise.benchmarks.defaults import defaults_of, score_by
from headwise.editing.baselines.table import OFFERED
from headwise.steering.spelling import steering_rule
from headwise.web.expressions import Call, Name, call
from headwise.web.requests import (
    Compose,
    Edit,
    Explain,
    Explore,
    Generate,
    Measure,
    Mute,
    Steering,
    Strip,
    Suggest,
    Weaken,
)

__all__ = [
    "compare", "edit", "edit_finished", "edit_hooks", "excite", "explain", "explore", "invert", "measure",
    "mute", "sampling", "spell", "strip_columns", "suggest", "weaken",
]  # fmt: skip

PIPE, RELEVANCE, HOOK = Name("pipe"), Name("relevance"), Name("hook")
SUGGESTION_STEPS = 8
MAPS = 6  # heads of a word that are shown with a map
WEAKENING = {"random_orders": 1, "batch_size": 8, "keep_prompts": 3}


def sampling(request: Any) -> dict[str, Any]:
    """The arguments of the pipeline."""
    given = {name: getattr(request, name, None) for name in ("negative_prompt", "height", "width")}
    sampled = {"num_inference_steps": request.num_inference_steps, "guidance_scale": request.guidance_scale}
    return sampled | {name: value for name, value in given.items() if value is not None}


def explore(request: Explore) -> Call:
    """The image whose attention maps are kept."""
    options = {"output_type": "pil", **sampling(request)}
    return call("hw.generate", PIPE, [request.prompt], request.seed, [0], **options)


def explain(request: Explain) -> Call:
    """The image, and the heads that carry the words."""
    options = {"seed": request.seed, "maps_of": MAPS, **sampling(request)}
    return call("hw.explain", PIPE, request.prompt, request.words, **options)


def mute(request: Mute, columns: Mapping[str, bool]) -> Call:
    """Images from the same latents, a column for each; where it is True, the word is muted in one head."""
    muted = call("hw.weaken", call("hw.HeadMap.of", PIPE), [request.head], request.word, 0.0)
    hooks = {name: [muted] if is_muted else [] for name, is_muted in columns.items()}
    options = {"seed": request.seed, "pictures": 1, "batch_size": 1, **sampling(request)}
    return call("hw.compare", PIPE, request.prompt, hooks, **options)


def steer(steering: Steering, times: float = 1.0, kind: str = "votes") -> Call:
    """The hook of one steering by relevance of this kind, its strength multiplied by `times`."""
    occurrence = {} if steering.occurrence is None else {"occurrence": steering.occurrence}
    rule = steering_rule(kind, two_senses=steering.away is not None)
    named = [steering.concept] if steering.away is None else [steering.concept, steering.away]
    strength = steering.strength * times
    return call(f"hw.{rule.__name__}", RELEVANCE, steering.word, *named, strength, **occurrence)


def spell(steering: Steering, times: float = 1.0) -> str:
    """One steering as the command line spells it, such as "lavender:Color-Plants*1.5"."""
    word = steering.word if steering.occurrence is None else f"{steering.word}#{steering.occurrence}"
    concepts = steering.concept if steering.away is None else f"{steering.concept}-{steering.away}"
    return f"{word}:{concepts}*{steering.strength * times:g}"


def compare(
    request: Generate | Strip, columns: Mapping[str, float], pictures: int, kind: str = "votes"
) -> Call:
    """Images of the prompt from the same latents, a column for each multiple of the steering's strength."""
    hooks = {
        name: [steer(steering, times, kind) for steering in request.steering] if times else []
        for name, times in columns.items()
    }
    options = {"seed": request.seed, "pictures": pictures, "batch_size": 1, **sampling(request)}
    return call("hw.compare", PIPE, request.prompt, hooks, **options)


def strip_columns(request: Strip) -> dict[str, float]:
    """The columns of a strip and the multiples of the steering's strength in them."""
    return {f"× {times:g}": times for times in request.strengths}


def suggest(request: Suggest) -> Call:
    """The concepts whose heads a word activates."""
    options = {"pictures": 4, "batch_size": 4, "seed": request.seed, **sampling(request)}
    options["num_inference_steps"] = min(SUGGESTION_STEPS, request.num_inference_steps)
    return call("hw.suggest", PIPE, RELEVANCE, request.prompt, request.word, **options)


def edit_hooks(request: Edit, measured: bool = True) -> dict[str, Call]:
    """The hooks of the ways to edit that a request names, by name.

    Args:
        request: The request; without concepts and baselines it is edited by prompt-to-prompt.
        measured: Whether there is a relevance; without one, concepts have no effect.
    """
    hooks: dict[str, Call] = {}
    if request.concepts and measured:
        options = {"concepts": request.concepts, "strength": request.strength}
        hooks["relevance"] = call("hw.PromptToPrompt", relevance=RELEVANCE, **options)
    baselines = {name: call(b.path, **b.options) for name, b in OFFERED.items() if b.is_hook}
    hooks |= {name: hook for name, hook in baselines.items() if name in request.baselines}
    return hooks or {"prompt-to-prompt": baselines["prompt-to-prompt"]}


def invert(request: Edit) -> Call:
    """The inversion of the uploaded `picture`."""
    steps = request.num_inference_steps
    return call("hw.invert", PIPE, Name("picture"), request.prompt, num_inference_steps=steps)


def edit(request: Edit) -> Call:
    """An edit by `hook`: of a generated image, or of the uploaded one by its `inverted` noise."""
    if request.picture is None:
        options = {"seeds": [request.seed], **sampling(request)}
        return call("hw.edit", PIPE, request.prompt, [request.target], HOOK, **options)
    options = sampling(request) | {"skip": request.skip}
    del options["num_inference_steps"]  # those of the inversion
    return call("hw.edit_picture", PIPE, Name("inverted"), [request.target], [HOOK], **options)


def edit_finished(request: Edit) -> dict[str, Call]:
    """The edits of a finished image that a request names, by name: of the `picture`, or the `source`."""
    start = Name("source" if request.picture is None else "picture")
    options = {"seeds": [request.seed], **sampling(request)}
    options = {name: value for name, value in options.items() if name not in ("height", "width")}
    return {
        name: call(baseline.path, PIPE, [start], [request.target], **baseline.options, **options)
        for name, baseline in OFFERED.items()
        if not baseline.is_hook and name in request.baselines
    }


def excite(request: Compose, measured: bool = True) -> dict[str, Call]:
    """The ways to compose several subjects, by name; each gives a list of one image."""
    options = {"seeds": [request.seed], **sampling(request)}
    exciting = {"plain": call("hw.Excite", [request.words], thresholds={0.0: 0.0})}
    if request.concepts and measured:
        by_relevance = {"relevance": RELEVANCE, "concepts": request.concepts}
        exciting["relevance"] = call("hw.Excite", [request.words], **by_relevance)
    exciting["attend-and-excite"] = call("hw.Excite", [request.words])
    ways = {name: call("hw.excite", PIPE, [request.prompt], way, **options) for name, way in exciting.items()}
    phrases = request.parts or phrases_of(request.prompt, request.words)
    return ways | {"composable": call("editing.baselines.composable.compose", PIPE, phrases, **options)}


def phrases_of(prompt: str, words: Sequence[str]) -> list[str]:
    """The phrase of each subject: the one between commas and "and" that names it, else "a" and its word."""
    phrases = [phrase.strip() for phrase in re.split(r",|\band\b", prompt) if phrase.strip()]
    chosen = []
    for word in words:
        naming = [p for p in phrases if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", p, re.I)]
        chosen.append(naming[0] if len(naming) == 1 and len(phrases) > 1 else f"a {word}")
    return chosen


def weaken(request: Weaken, folder: Path, ks: Sequence[int], model: str, scorer: str | None) -> Call:
    """The weakening of a concept's heads, scored by `scorer`.

    Args:
        request: The request.
        folder: The folder of the run.
        ks: The numbers of heads to weaken.
        model: The name of the model, which decides on the evaluation prompts.
        scorer: The name of the CLIP model, which decides on the score.
    """
    cases = defaults_of(model).cases
    prompts = call("benchmarks.prompts.evaluation.eval_prompts", cases, request.concept, request.count)
    options = {"ks": tuple(ks), "factor": request.factor, "seeds": (request.seed,), "out": folder}
    return call(
        "hw.measure_weakening",
        PIPE,
        RELEVANCE,
        request.concept,
        prompts,
        call("hw.scoring", Name("scorer"), score_by(scorer)),
        **options,
        **WEAKENING,
        **sampling(request),
    )


def measure(request: Measure, folder: Path) -> Call:
    """The measurement of a concept set into the folder of a run."""
    options: dict[str, Any] = {"pictures": request.pictures, "seed": request.seed, "out": folder}
    options |= {"prompts": request.prompts} if request.prompts else {}
    options |= {"until": request.until} if request.until is not None else {}
    options |= {"batch_size": request.batch_size, "keep_pictures": request.keep_pictures}
    options |= sampling(request)
    if request.by == "effect":
        return call("hw.measure_effect", PIPE, request.concepts, **options)
    return call("hw.measure", PIPE, call("hw.ConceptSet.load", request.concepts), **options)
