"""The command that measures heads: measure."""

import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from headwise.cli.measuring import PICTURES, By, OfEffect, OfVotes, OwnBatchSize, OwnSteps, Pictures
from headwise.cli.options import (
    Concepts,
    Guidance,
    Json,
    Model,
    NegativePrompt,
    Seed,
    Sharing,
    Size,
)
from headwise.cli.output import finite, print_json, print_rows
from headwise.cli.running import running
from headwise.errors import HeadwiseError

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.relevance import Relevance

__all__ = ["measure"]

Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        "-p",
        help="File with one prompt per line, or '-' for stdin. By effect, the concepts' words are looked "
        "up in these prompts.",
    ),
]
RunFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/<model> if not given.")
]
Until = Annotated[
    float | None, typer.Option(min=0, max=1, help="Stop once the split-half correlation reaches this value.")
]


def measure(
    model: Model = Model(),
    by: By = "votes",
    concepts: Concepts = None,
    prompts: Prompts = None,
    pictures: Pictures = None,
    by_votes: OfVotes = OfVotes(),
    by_effect: OfEffect = OfEffect(),
    out: RunFolder = None,
    until: Until = None,
    num_inference_steps: OwnSteps = None,
    guidance_scale: Guidance = 7.5,
    negative_prompt: NegativePrompt = None,
    seed: Seed = 0,
    size: Size = Size(),
    batch_size: OwnBatchSize = None,
    keep_pictures: Annotated[int, typer.Option(min=0, help="Decode and save the first N images.")] = 0,
    sharing: Sharing = Sharing(),
    as_json: Json = False,
) -> None:
    """Measure which heads carry each concept.

    Generates images and observes the heads. Running it again resumes where it stopped.

    By votes, it counts which concept each head attends to most. Heads choose among concepts, so a few
    concepts of your own are measured together with those of the model's set. 64 images give a first ranking
    of heads; use hundreds before you build on it.

    By effect, it measures what share of the effect of a concept's words passes through each head, by
    gradients, at one denoiser call per image. It needs no other concepts to choose among.

    \b
    Examples:
      headwise measure --model emoji --pictures 300
      headwise measure --model emoji --by effect --concepts mine.toml
      headwise measure -m CompVis/stable-diffusion-v1-4 --until 0.95 --dtype fp16 --out runs/sd14
      cat prompts.txt | headwise measure -m ./my-model --concepts mine.toml --prompts - --json
      headwise measure -m CompVis/stable-diffusion-v1-4 --shard 3/8 --out runs/sd14
      headwise measure -m CompVis/stable-diffusion-v1-4 --ray auto --out runs/sd14
    """
    started = time.monotonic()
    options: dict[str, Any] = {
        "prompts": _lines(sys.stdin.read()) if prompts == "-" else prompts,
        "until": until, "seed": seed, **vars(size), "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "batch_size": batch_size,
        "keep_pictures": keep_pictures, "pictures": pictures,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    chosen = _by_votes if by == "votes" else _by_effect
    measuring = chosen(model, concepts, options, by_votes, by_effect)
    with running(model, sharing, out or Path("runs") / model.run_name) as run:
        size.require(run.pipe)
        resumed_from = _images_in(run.folder)
        relevance = measuring.start(run.pipe, **run.place(measuring.total))
    results: dict[str, Any] = {
        "file": str(run.folder / "relevance.safetensors"), "by": by,
        "pictures": relevance.settings["pictures"], "seconds": round(time.monotonic() - started, 2),
        "resumed_from": resumed_from, "split_half_median": finite(relevance.split_half_median),
        **({} if run.shard is None else {"shard": str(run.shard)}),
    }  # fmt: skip
    _print_measured(results, relevance, model.name, as_json)


class _Measuring(NamedTuple):
    """A measurement that still needs a pipeline, a folder and a shard, and its total number of images."""

    start: "Callable[..., Relevance]"
    total: int


def _by_votes(
    model: Model, concepts: str | None, options: dict[str, Any], votes: OfVotes, effect: OfEffect
) -> _Measuring:
    from headwise.measuring.measure import measure as measure_votes

    _refuse(effect, "votes", "effect")
    concept_set = model.concepts(concepts)
    total = options.setdefault("pictures", PICTURES)
    beside = None if votes.beside == "none" else votes.beside or "auto"
    options |= {"beside": beside, "estimator": votes.estimator or "lean"}
    return _Measuring(partial(measure_votes, concepts=concept_set, **options), total)


def _by_effect(
    model: Model, concepts: str | None, options: dict[str, Any], votes: OfVotes, effect: OfEffect
) -> _Measuring:
    from headwise.measuring.measure_effect import PICTURES_OF_CONCEPT, measure_effect

    _refuse(votes, "effect", "votes")
    options |= {name: value for name, value in vars(effect).items() if value is not None}
    if effect.calls == 0:
        options["calls"] = None
    total = options.setdefault("pictures", PICTURES_OF_CONCEPT) * len(model.concepts(concepts))
    name = concepts or model.defaults.concepts  # the name of the file, since it has the templates too
    return _Measuring(partial(measure_effect, concepts=name, **options), total)


def _refuse(options: OfVotes | OfEffect, by: str, other: str) -> None:
    """Refuse options that belong to the other way of measuring."""
    given = [f"--{name}" for name, value in vars(options).items() if value is not None]
    if given:
        raise HeadwiseError(
            f"{given[0]} was given with --by {by}; only --by {other} takes it. Leave it out, or measure "
            f"--by {other}."
        )


def _print_measured(results: dict[str, Any], relevance: "Relevance", model: str, as_json: bool) -> None:
    completeness = relevance.completeness
    if "beside" in relevance.settings:
        results["beside"] = relevance.settings["beside"]
    if as_json and completeness:
        results["completeness"] = {"median": median(completeness.values()), "concepts": completeness}
    elif completeness:
        results["completeness"] = f"{median(completeness.values()):.2f} (median; 1 if the integral is exact)"
    if as_json:
        print_json(results)
        return
    print_rows(results.items())
    for remark in relevance.remarks:
        print(remark)
    if "shard" not in results:
        print(_next_step(Path(results["file"]).parent, relevance, model))


def _next_step(folder: Path, relevance: "Relevance", model: str) -> str:
    """What to do with a relevance that was just measured: look at it, then test it."""
    concept = (relevance.foreground or relevance.concepts)[0]
    steps = (
        ["show", str(folder), "--concept", concept],
        ["weaken", concept, "-m", model, "-r", str(folder), "--quick"],
    )
    look, test = (shlex.join(["headwise", *words]) for words in steps)
    return f"Next: `{look}` lists its heads, and `{test}` tests whether they matter."


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _images_in(folder: Path) -> int:
    """How many images were already counted in a folder."""
    from headwise.measuring.counting import counted_in

    return len(counted_in(folder) or ())
