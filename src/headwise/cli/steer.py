"""Commands that steer: generate, weaken."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from headwise.cli.options import (
    BatchSize,
    Cases,
    Guidance,
    Json,
    Ks,
    Measured,
    NegativePrompt,
    Output,
    Sampling,
    Scorer,
    Seed,
    Seeds,
    Sharing,
    Size,
    Steps,
    concept_named,
    numbers_in,
    scorer_of,
)
from headwise.cli.output import console, finite, print_files, print_json, print_report, table
from headwise.cli.running import running
from headwise.errors import HeadwiseError

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.benchmarks.weakening import Weakening
    from headwise.measuring.relevance import Relevance

__all__ = ["generate", "weaken", "weaken_folder", "weakening_json"]

Strengthen = Annotated[
    list[str] | None, typer.Option(help="WORD:CONCEPT or WORD:CONCEPT*STRENGTH. May be repeated.")
]
Adjust = Annotated[
    list[str] | None, typer.Option(help="WORD:TOWARD-AWAY or WORD:TOWARD-AWAY*STRENGTH. May be repeated.")
]
Suggest = Annotated[
    str | None, typer.Option(help="Instead of images, print the concepts whose heads attend to this word.")
]
Strengths = Annotated[
    str | None, typer.Option(help="Comma-separated strengths, such as 0,0.5,1,2: one column each.")
]
Score = Annotated[
    Literal["choice", "certainty", "similarity"],
    typer.Option(
        help="The scorer's choice among the concept's words, its certainty, or the CLIP similarity."
    ),
]
Factors = Annotated[
    str,
    typer.Option(help="Factor on the attention of weakened heads; several, comma-separated, make a sweep."),
]
WeakenFolder = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for the results; runs/weaken-<concept> if not given."),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt of the images.")],
    strengthen: Strengthen = None,
    adjust: Adjust = None,
    suggest: Suggest = None,
    strengths: Strengths = None,
    model: Measured = Measured(),
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, help="Number of images per column.")
    ] = 4,
    output: Output = Output(Path("runs/generate")),
    seed: Seed = 0,
    sampling: Sampling = Sampling(50),
    negative_prompt: NegativePrompt = None,
    size: Size = Size(),
    batch_size: BatchSize = 4,
) -> None:
    """Generate images with and without steering, side by side.

    Writes every image and grid.png; each PNG records how it was made.

    \b
    Examples:
      headwise generate "a lavender vase" --adjust "lavender:Color-Plants"
      headwise generate "a red car" --strengthen "red:Color*1.5" --strengths 0,0.5,1,2
      headwise generate "a lavender vase" --suggest lavender
    """
    pipe, relevance = model.load(), model.relevance()
    size.require(pipe)
    if suggest is not None:
        from headwise.steering.suggest import suggest as run

        suggestions = run(pipe, relevance, prompt, suggest, seed=seed, **vars(sampling))
        _print_suggestions(prompt, suggest, suggestions, output.as_json)
        return
    steering = [*(strengthen or ()), *(adjust or ())]
    columns = _columns(steering, relevance, strengths)
    from headwise.model.samplers import sampler_of
    from headwise.pictures import save_columns
    from headwise.steering.compare import compare

    options = vars(sampling) | {"negative_prompt": negative_prompt} | vars(size)
    images = compare(pipe, prompt, columns, seed=seed, pictures=pictures, batch_size=batch_size, **options)
    settings = {"prompt": prompt, **model.described, "seed": seed, **options, "steering": steering}
    settings |= {"sampler": sampler_of(pipe)}
    print_files(save_columns(output.out, images, settings), output.as_json)


def weaken(
    concept: Annotated[str, typer.Argument(help="The concept whose heads are weakened.")],
    model: Measured = Measured(),
    cases: Cases = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of prompts.")] = 30,
    scorer: Scorer = None,
    score: Score = "choice",
    factors: Factors = "-2",
    ks: Ks = None,
    random_orders: Annotated[int, typer.Option(min=1, help="Number of random orders.")] = 3,
    seeds: Seeds = "10",
    out: WeakenFolder = None,
    num_inference_steps: Steps = 20,
    guidance_scale: Guidance = 7.5,
    negative_prompt: NegativePrompt = None,
    size: Size = Size(),
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch, over all k.")] = 16,
    keep_prompts: Annotated[int, typer.Option(min=0, help="Save the images of the first N prompts.")] = 2,
    sharing: Sharing = Sharing(),
    as_json: Json = False,
) -> None:
    """Weaken a concept's heads in order, and measure whether the concept is lost.

    Orders are most relevant first, least relevant first, random, and by layers. Running it again resumes
    where it stopped.

    \b
    Examples:
      headwise weaken Color
      headwise weaken Color --factors 0.5,0,-0.5,-1,-2,-4
      headwise weaken "Image Style" -m CompVis/stable-diffusion-v1-4 --score similarity --ray auto
    """
    from headwise.benchmarks.clip_scorer import scoring
    from headwise.benchmarks.prompts.evaluation import eval_prompts, evaluated_concepts
    from headwise.benchmarks.weakening import measure_weakening
    from headwise.benchmarks.weakening_sweeps import sweep_factors

    multipliers = numbers_in(factors, float)
    relevance, source = model.relevance(), cases or model.defaults.cases
    concept = concept_named(concept, evaluated_concepts(source))
    prompts = eval_prompts(source, concept, count)
    out = out or weaken_folder(concept)
    options: dict[str, Any] = {"ks": None if ks is None else numbers_in(ks, int), **vars(size)}
    options |= {"seeds": numbers_in(seeds, int), "batch_size": batch_size, "keep_prompts": keep_prompts}
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    options |= {"negative_prompt": negative_prompt, "random_orders": random_orders}
    with running(model, sharing, out) as run:
        size.require(run.pipe)
        options |= run.place(len(prompts))
        trial = (run.pipe, relevance, concept, prompts, scoring(scorer_of(scorer, model), score))
        if len(multipliers) == 1:
            results = {multipliers[0]: measure_weakening(*trial, factor=multipliers[0], **options)}
        else:
            results = sweep_factors(*trial, options.pop("out"), multipliers, **options)
    if run.ends_as_shard(sum(len(result.scores) for result in results.values()), as_json):
        return
    numbers = {f"{factor:g}": weakening_json(result) for factor, result in results.items()}
    values = {"factors": numbers} if len(multipliers) > 1 else next(iter(numbers.values()))
    print_report(out, values, as_json, *_tables(concept, results))


def weaken_folder(concept: str) -> Path:
    """The default folder for weakening a concept."""
    return Path("runs") / f"weaken-{concept.lower().replace(' ', '-')}"


def weakening_json(result: "Weakening") -> dict[str, Any]:
    """The areas and half drops of one weakening, for programs."""
    from headwise.benchmarks.results import LEAST_LAYERS, MOST_LAYERS

    area, random, by_layer = result.area(), result.random(), result.area(MOST_LAYERS, LEAST_LAYERS)
    return {
        "area": area.value,
        "low": finite(area.low),
        "high": finite(area.high),
        "random_area": random.value,
        "layer_area": by_layer.value,
        "half_drop": {order: finite(result.half_drop(order)) for order in result.orders[:2]},
    }


def _tables(concept: str, results: "dict[float, Weakening]") -> Iterator[Table | str]:
    """A table for every factor, followed by its area."""
    for factor, result in results.items():
        rows = []
        for order in result.orders:
            half = finite(result.half_drop(order))
            rows.append((order, f"{result.height(order)}", "no drop" if half is None else f"{half:.0f}"))
        yield table("order", "mean score>", "k at half drop>", rows=rows)
        yield f"{concept}, × {factor:g}: least minus most relevant first {result.area()}"


def _columns(steering: list[str], relevance: "Relevance", strengths: str | None) -> dict[str, list[Any]]:
    from headwise.steering.spelling import parse_steering

    if strengths is None:
        steered = {"steered": [parse_steering(text, relevance) for text in steering]} if steering else {}
        return {"plain": [], **steered}
    if not steering:
        raise HeadwiseError("--strengths needs something to strengthen. Give --strengthen or --adjust too.")
    return {
        f"× {times:g}": [parse_steering(text, relevance, times) for text in steering]
        for times in numbers_in(strengths, float)
    }


def _print_suggestions(prompt: str, word: str, suggestions: list[Any], as_json: bool) -> None:
    if as_json:
        print_json({"prompt": prompt, "word": word, "concepts": [s._asdict() for s in suggestions]})
        return
    print(f'Concepts whose heads attend to {word!r} in "{prompt}":', file=sys.stderr)
    rows = [(suggestion.concept, f"{suggestion.fit:z.2f}") for suggestion in suggestions[:8]]
    console().print(table("concept", "fit>", rows=rows))
