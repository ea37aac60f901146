"""The command that demonstrates Headwise on a built-in model: demo."""

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwise.cli.options import BatchSize, Model, Output
from headwise.cli.output import duration, finite, interval, print_json
from headwise.cli.running import resumable

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.benchmarks.demo import Demo

__all__ = ["demo"]


def demo(
    output: Output = Output(Path("runs/demo")),
    model: Annotated[
        Literal["emoji", "emoji-dit"],
        typer.Option("--model", "-m", help="The built-in model: a UNet, or a transformer."),
    ] = "emoji",
    pictures: Annotated[int, typer.Option(min=2, help="Number of images to measure per concept.")] = 20,
    num_inference_steps: Annotated[
        int,
        typer.Option(
            "--num-inference-steps", min=1, help="Denoising steps per image that is shown or scored."
        ),
    ] = 20,
    batch_size: BatchSize = 16,
) -> None:
    """Demonstrate Headwise on a built-in model, on one page.

    Measures by effect which heads carry each concept, weakens those of Color to see whether colors are
    lost, generates the first of the packaged prompts, and turns words up and down through their heads.

    Nothing is downloaded. Running it again resumes where it stopped.

    \b
    Examples:
      headwise demo
      headwise demo --model emoji-dit --out runs/transformer
      headwise demo --out runs/quick --pictures 4 --num-inference-steps 10
    """
    from headwise.benchmarks.demo import demo as run
    from headwise.report.measurement import report as write_page

    started, out, pipe = time.monotonic(), output.out, Model(model).load()
    with resumable(out):
        shown = run(
            out,
            model=model,
            pipe=pipe,
            pictures=pictures,
            num_inference_steps=num_inference_steps,
            batch_size=batch_size,
        )
    page = write_page(out)
    numbers = {
        "page": str(page),
        "file": str(out / "relevance.safetensors"),
        "seconds": round(time.monotonic() - started, 2),
        **_numbers(shown),
    }
    if output.as_json:
        print_json(numbers)
        return
    _print(shown, numbers)
    print(f"Open {page}")


def _numbers(shown: "Demo") -> dict[str, Any]:
    relevance, weakening = shown
    area = weakening.area()
    return {
        "pictures": relevance.settings["pictures"],
        "split_half_median": relevance.split_half_median,
        "completeness_median": median(relevance.completeness.values()),
        "weakening": {
            "concept": weakening.scores.settings["concept"],
            "area": area.value,
            "low": finite(area.low),
            "high": finite(area.high),
            "random_area": weakening.random().value,
        },
    }


def _print(shown: "Demo", numbers: dict[str, Any]) -> None:
    relevance, weakening = shown
    concept, seconds = numbers["weakening"]["concept"], numbers["seconds"]
    head = relevance.top(concept, 1)[0]
    concepts, heads = relevance.values.shape
    print(
        f"Done in {duration(seconds)}: measured the relevance of {heads} heads to {concepts} concepts, by "
        f"effect on {numbers['pictures']} images."
    )
    print(
        f"Median over concepts: split-half rank correlation {numbers['split_half_median']:z.2f}, "
        f"completeness {numbers['completeness_median']:z.2f}"
    )
    print(
        f"Most relevant head for {concept}, {interval(head.relevance, head.standard_error)}: {head.address}"
    )
    print(
        f"Score of {concept} as its heads are weakened, least minus most relevant first: "
        f"{weakening.area():+.2f}; random minus most relevant first: {weakening.random():+.2f}"
    )
