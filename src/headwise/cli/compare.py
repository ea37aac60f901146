"""Commands that take in and compare what others measured: import, compare."""

from pathlib import Path
from typing import Annotated

import typer

from headwise.cli.app import Json, app, console, file_of, finite, print_json, print_rows, table

__all__ = ["compare", "import_official"]


@app.command("import")
def import_official(
    folder: Annotated[Path, typer.Argument(help="A clone of https://github.com/SNU-DRL/HRV.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the relevance files.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Make relevance files of the published arrays.

    For Stable Diffusion v1.4 and SDXL, usable at once: runs/<model>/relevance.safetensors.

    \b
    Example:
      headwise import ./HRV
    """
    from headwise.measuring.official import MODELS, find_official, read_official

    files = {}
    for tag, path in find_official(folder).items():
        relevance = read_official(path, tag)
        files[MODELS[tag]] = out / Path(MODELS[tag]).name / "relevance.safetensors"
        files[MODELS[tag]].parent.mkdir(parents=True, exist_ok=True)
        relevance.save(files[MODELS[tag]])
    found = {model: str(file) for model, file in files.items()}
    print_json({"files": found}) if as_json else print_rows(found.items())


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A relevance file, or the folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Another, of a model with the same heads.")],
    figure: Annotated[Path | None, typer.Option(help="Write a figure: .svg, .png or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Say how far two measurements name the same heads.

    Rank correlation over heads, by concept, beside the most that the two could reach, and how many of the ten
    most relevant heads they share.

    \b
    Examples:
      headwise compare runs/sd14 runs/stable-diffusion-v1-4
      headwise compare runs/before runs/with-lora --figure moved.svg
    """
    from headwise.measuring.agreement import agreement
    from headwise.measuring.relevance import Relevance

    found = agreement(Relevance.load(file_of(first)), Relevance.load(file_of(second)))
    if figure is not None:
        from headwise.report import plots

        plots.agreements(found).savefig(figure)
    if as_json:
        concepts = {
            name: {"correlation": a.correlation, "ceiling": finite(a.ceiling), "shared": a.shared}
            for name, a in found.items()
        }
        ordered = sorted(a.correlation for a in found.values())
        print_json({"concepts": concepts, "median": ordered[len(ordered) // 2]})
        return
    shown = table("concept", "rank correlation>", "of at most>", "of 10 heads shared>")
    for name, one in sorted(found.items(), key=lambda pair: -pair[1].correlation):
        shown.add_row(name, f"{one.correlation:.2f}", f"{one.ceiling:.2f}", str(one.shared))
    console().print(shown)
