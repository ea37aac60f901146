"""The pages of comparisons with rivals: ways of editing, and ways of drawing several subjects.

Pictures of a comparison's folder are named by what made them: `003 source.png`, `003 relevance.png`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headwise import plots
from headwise.benchmarks import Editing, MultiConcept
from headwise.benchmarks.editing import ALONE, MEASURES
from headwise.benchmarks.multi_concept import SEEN
from headwise.page import Drawing, Page, Picture, Section, Strip, Table, settings_rows
from headwise.scores import Scores

__all__ = ["comparison_page", "strips_of_methods"]

EDITING = (
    "Every method edits the same pictures, from the same latents. A judge says how well the target prompt "
    "fits (alignment), whether it sees the target's word (accuracy) and the same thing (identity), and how "
    "alike source and edit are where nothing was to change (preservation)."
)
SEVERAL = (
    "Every method draws the same prompts from the same latents. A judge says how well the whole prompt fits "
    "(full), the subject that fits worst (minimum), and how near the prompt is to the caption that it finds "
    "best (caption)."
)
SAME = "The same latents in every column."


def comparison_page(folder: Path, scores: Scores) -> Page:
    """The page of a folder in which methods were compared by several measures."""
    if "pair" in scores.axes:
        return _editing(folder, Editing(scores, tuple(scores.settings["attributes"])))
    return _several(folder, MultiConcept(scores, tuple(scores.settings["types"])))


def strips_of_methods(folder: Path, methods: tuple[str, ...], first: str = "plain") -> Iterator[Strip]:
    """One strip for each prompt whose pictures were kept: a method a column."""
    rows: dict[str, dict[str, Picture]] = {}
    for path in sorted((folder / "pictures").glob("*.png")):
        number, _, method = path.stem.partition(" ")
        rows.setdefault(number, {})[method] = Picture.of(path)
    for row in rows.values():
        prompt = (row.get(first) or next(iter(row.values()))).prompt
        yield Strip(f"“{prompt}”", [(method, row[method]) for method in methods if method in row])


def _editing(folder: Path, found: Editing) -> Page:
    points = {m: (found.of(m, "preservation"), found.of(m, "alignment")) for m in found.methods}
    said = (f"{m} preservation {p.value:.2f}, alignment {a.value:.2f}" for m, (p, a) in points.items())
    figure = plots.tradeoff(points, "preservation", "alignment")
    drawings = [Drawing.of(figure, f"{'; '.join(said)}.", "36rem"), *_doses(found)]
    overview = Section(
        "Alignment and preservation",
        "Means over all pairs and seeds with 95 % intervals (bootstrap over pairs); then, for each strength "
        "of relevance, how often the target's word is seen.",
        tuple(drawings),
        tuple(_table(found, attribute, MEASURES) for attribute in dict.fromkeys(found.attributes)),
    )
    edits = [m for m in found.methods if m != ALONE] or found.methods
    best = max(edits, key=lambda m: found.of(m, "alignment").value)
    strips = tuple(strips_of_methods(folder, ("source", *found.methods), "source"))
    return Page(
        title="Which way of editing shows the target, and keeps the source?",
        lead=EDITING,
        numbers=[("pairs", str(len(found.attributes))), _drawn(found), ("highest alignment", best)],
        sections=[overview, Section("Pictures", SAME, strips=strips)],
        settings=_settings(found),
    )


def _doses(found: Editing) -> Iterator[Drawing]:
    """Accuracy against strength, from the weakest."""
    mine = [m for m in found.methods if m.startswith("relevance")]
    rates = {m: found.of(m, "accuracy") for m in sorted(mine, key=lambda m: float(m.partition("× ")[2] or 1))}
    if len(rates) > 1:
        said = "; ".join(f"{m} {rate}" for m, rate in rates.items())
        yield Drawing.of(plots.rates(rates, "accuracy"), f"Accuracy by strength: {said}.", "34rem")


def _several(folder: Path, found: MultiConcept) -> Page:
    kinds = list(dict.fromkeys(found.types))
    overview = Section(
        "How well prompts fit",
        "Means with 95 % intervals (bootstrap over prompts).",
        tuple(_worst_and_whole(found, kind) for kind in kinds),
        tuple(_table(found, kind, SEEN) for kind in kinds),
    )
    strips = tuple(strips_of_methods(folder, found.methods))
    return Page(
        title="Are all subjects there?",
        lead=SEVERAL,
        numbers=[("prompts", str(len(found.types))), _drawn(found)],
        sections=[overview, Section("Pictures", SAME, strips=strips)],
        settings=_settings(found),
    )


def _worst_and_whole(found: MultiConcept, kind: str) -> Drawing:
    points = {m: (found.of(m, "full", kind), found.of(m, "minimum", kind)) for m in found.methods}
    said = (f"{m} full {f.value:.2f}, minimum {n.value:.2f}" for m, (f, n) in points.items())
    figure = plots.tradeoff(points, f"whole prompt, {kind}", "worst subject")
    return Drawing.of(figure, f"{kind}: {'; '.join(said)}.", "30rem")


def _table(found: Editing | MultiConcept, group: str, measures: tuple[str, ...]) -> Table:
    rows = [(m, *(str(found.of(m, measure, group)) for measure in measures)) for m in found.methods]
    return Table(group, ("method", *measures), rows, measures, open=True)


def _drawn(found: Editing | MultiConcept) -> tuple[str, str]:
    return "pictures a method", str(int(np.isfinite(found.scores.values[0, 0]).sum()))


def _settings(found: Editing | MultiConcept) -> list[tuple[str, str]]:
    lists = ("attributes", "types")
    return list(settings_rows({k: v for k, v in found.scores.settings.items() if k not in lists}))
