"""Commands that import and compare measurements: import, compare."""

import statistics
import warnings
from pathlib import Path
from typing import Annotated

import typer

from headwise.cli.loading import file_of
from headwise.cli.options import Json, Output
from headwise.cli.output import console, finite, print_json, print_rows, table
from headwise.errors import HeadwiseError

__all__ = ["compare", "import_official"]

FIGURES = (".svg", ".png", ".pdf")


def import_official(
    folder: Annotated[Path, typer.Argument(help="A clone of https://github.com/SNU-DRL/HRV.")],
    output: Output = Output(Path("runs")),
) -> None:
    """Convert the published arrays to relevance files.

    Writes runs/<model>/relevance.safetensors for Stable Diffusion v1.4 and SDXL, ready to use.

    \b
    Example:
      headwise import ./HRV
    """
    from headwise.measuring.official import MODELS, find_official, read_official

    files = {}
    for tag, path in find_official(folder).items():
        relevance = read_official(path, tag)
        file = output.out / Path(MODELS[tag]).name / "relevance.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        relevance.save(file)
        files[MODELS[tag]] = str(file)
    print_json({"files": files}) if output.as_json else print_rows(files.items())


def compare(
    first: Annotated[Path, typer.Argument(help="A relevance file, or the folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Another file or folder, of a model with the same heads.")],
    figure: Annotated[Path | None, typer.Option(help="Write a figure: .svg, .png or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Report how well two measurements agree on the heads of each concept.

    For each concept: the rank correlation over heads, the highest value that their noise allows, and how
    many of the ten most relevant heads they share. Then how the two differ: kind, concepts, words. In
    Python, this is `hw.agreement`; `hw.compare` generates images under several steerings, like `headwise
    generate`.

    \b
    Examples:
      headwise compare runs/sd14 runs/stable-diffusion-v1-4
      headwise compare runs/before runs/with-lora --figure moved.svg
    """
    from headwise.measuring.agreement import agreement, differences
    from headwise.measuring.relevance import Relevance

    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise HeadwiseError(
            f"--figure {figure} was given; expected a name that ends in {', '.join(FIGURES)}."
        )
    both = Relevance.load(file_of(first)), Relevance.load(file_of(second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the differences, which are printed below
        agreements = agreement(*both)
    if figure is not None:
        from headwise.report import plots

        plots.agreements(agreements).savefig(figure)
    if as_json:
        concepts = {
            name: {"correlation": a.correlation, "ceiling": finite(a.ceiling), "shared": a.shared}
            for name, a in agreements.items()
        }
        median = statistics.median(a.correlation for a in agreements.values())
        kinds = [relevance.kind for relevance in both]
        print_json(
            {"concepts": concepts, "median": median, "kinds": kinds, "differences": differences(*both)}
        )
        return
    rows = [
        (name, f"{a.correlation:.2f}", f"{a.ceiling:.2f}", str(a.shared))
        for name, a in sorted(agreements.items(), key=lambda item: -item[1].correlation)
    ]
    console().print(table("concept", "rank correlation>", "ceiling>", "shared of top 10>", rows=rows))
    for difference in differences(*both):
        print(difference)
