"""Commands that show what was measured: show, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from headwise.cli.loading import file_of
from headwise.cli.options import Json, concept_named
from headwise.cli.output import console, finite, interval, print_json, table

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.measuring.ranking import HeadRank
    from headwise.measuring.relevance import Relevance

__all__ = ["report", "show"]

NEGLIGIBLE = -0.05  # the table leaves out heads whose negative relevance is above this


def show(
    file: Annotated[Path, typer.Argument(help="A relevance file, or the folder of a run.")],
    concept: Annotated[str | None, typer.Option("--concept", help="Only this concept.")] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Heads per concept.")] = 3,
    as_json: Json = False,
) -> None:
    """Show the most relevant heads of each concept.

    Shows 95 % intervals, and the split-half rank correlation, an estimate of how well other images would
    reproduce the ranking of heads. Concepts that were only measured beside yours are shown with --concept.

    For a measurement by effect, also shows the heads that work against the concept's words: those whose
    relevance is below 0 by more than its error. The table leaves out those above -0.05; --json has all.

    \b
    Examples:
      headwise show runs/demo
      headwise show runs/demo --concept Color --top 10
      headwise show runs/demo/relevance.safetensors --json
    """
    from headwise.measuring.relevance import Relevance

    relevance = Relevance.load(file_of(file))
    names = relevance.foreground if concept is None else (concept_named(concept, relevance.concepts),)
    heads = {name: _Heads(relevance.top(name, top), relevance.against(name, top)) for name in names}
    print_json(_show_json(relevance, heads)) if as_json else _print_heads(relevance, heads)


def report(folder: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write the HTML page of a run.

    index.html is self-contained: open it, print it, or send it.

    \b
    Example:
      headwise report runs/sd14
    """
    from headwise.report.measurement import report as write_page

    print(write_page(folder))


class _Heads(NamedTuple):
    """The most relevant heads of a concept, and those that work against it."""

    top: "list[HeadRank]"
    against: "list[HeadRank]"


def _show_json(relevance: "Relevance", heads: dict[str, _Heads]) -> dict[str, Any]:
    split_half = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    return {
        "model": relevance.settings.get("model"),
        "kind": relevance.kind,
        "pictures": relevance.settings.get("pictures"),
        "beside": relevance.settings.get("beside"),
        "concepts": {
            name: {
                "split_half": finite(split_half[name]),
                "completeness": relevance.completeness.get(name),
                "top": [_rank_json(rank) for rank in of_concept.top],
                "against": [_rank_json(rank) for rank in of_concept.against],
            }
            for name, of_concept in heads.items()
        },
    }


def _rank_json(rank: "HeadRank") -> dict[str, Any]:
    return {
        "index": rank.index,
        "address": rank.address,
        "relevance": rank.relevance,
        "se": finite(rank.standard_error),
    }


def _print_heads(relevance: "Relevance", heads: dict[str, _Heads]) -> None:
    split_half = dict(zip(relevance.concepts, relevance.split_half.tolist(), strict=True))
    completeness = relevance.completeness
    model = relevance.settings.get("model") or "unnamed model"
    pictures = relevance.settings.get("pictures", "an unknown number of")
    print(f"{model}: {pictures} images, {relevance.values.shape[1]} heads, relevance by {relevance.kind}")
    rows = []
    for name, of_concept in heads.items():
        first = [name, f"{split_half[name]:z.2f}"]
        first += [f"{completeness[name]:.2f}"] if completeness else []
        for rank in of_concept.top:
            rows.append(
                (*first, interval(rank.relevance, rank.standard_error), str(rank.index), rank.address)
            )
            first = [""] * len(first)
        first[0] = "  against it"
        for rank in (rank for rank in of_concept.against if rank.relevance < NEGLIGIBLE):
            rows.append(
                (*first, interval(rank.relevance, rank.standard_error), str(rank.index), rank.address)
            )
            first = [""] * len(first)
    columns = ["concept", "split-half>", *(["completeness>"] if completeness else [])]
    console().print(table(*columns, "relevance ± 95 %>", "head>", "address", rows=rows))
    for remark in relevance.remarks:
        print(remark)
