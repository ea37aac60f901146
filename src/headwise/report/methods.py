"""The pages of comparisons: ways of editing, ways of drawing several subjects, scales of relevance.

Pictures of a comparison's folder are named by what made them: `003 source.png`, `003 relevance.png`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.results import SCALES_FILE, TARGET_ONLY, Editing, MultiConcept
from headwise.intervals import Interval
from headwise.report import plots
from headwise.report.page import Drawing, Page, Picture, Section, Strip, Table, settings_rows
from headwise.runs.scores import Scores

__all__ = ["comparison_page", "scales_page", "strips_of_methods"]

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
SCALES = (
    "The same relevance on several scales. Order is the rank correlation of heads with the relevance as "
    "measured; where it is 1 weakening is the same by construction. Damage is what strengthening one word of "
    "a prompt does to the rest of its picture, beside the plain picture of the same prompt."
)
SAME = "The same latents in every column."


def comparison_page(folder: Path, scores: Scores) -> Page:
    """The page of a folder in which methods were compared by several measures."""
    if "pair" in scores.axes:
        return _editing(folder, Editing(scores, tuple(scores.settings["attributes"])))
    return _several(folder, MultiConcept(scores, tuple(scores.settings["types"])))


def scales_page(folder: Path) -> Page:
    """The page of a folder in which scales of relevance were compared."""
    said = json.loads((folder / SCALES_FILE).read_text(encoding="utf-8"))
    numbers = {name: {k: _intervals(v) for k, v in one.items()} for name, one in said["scales"].items()}
    steered = {name: one for name, one in numbers.items() if name != "plain"}
    points = {name: (one["preservation"], one["accuracy"]) for name, one in numbers.items()}
    rates = {name: one["misread"] for name, one in steered.items()}
    alt = "; ".join(
        f"{name} preservation {p.value:.2f}, accuracy {a.value:.2f}" for name, (p, a) in points.items()
    )
    misread = "; ".join(f"{name} {rate}" for name, rate in rates.items())
    columns = ("scale", "order", "largest", "misread", *Editing.METRICS[1:])
    rows = [
        (name, f"{one['order']:.3f}", f"{one['largest']:.1f}", *(str(one[key]) for key in columns[3:]))
        for name, one in steered.items()
    ]
    concepts = list(next(iter(steered.values()))["areas"])
    areas = [(name, *(str(one["areas"][c]) for c in concepts)) for name, one in steered.items()]
    section = Section(
        "Every scale",
        "Means with 95 % intervals.",
        (
            Drawing.of(plots.tradeoff(points, "rest of the picture kept", "word seen"), f"{alt}.", "36rem"),
            Drawing.of(plots.rates(rates, "share misread when adjusted"), f"Misread: {misread}.", "34rem"),
        ),
        (
            Table("Steering", columns, rows, columns[1:], open=True),
            Table(
                "Weakening: area, least minus most relevant first",
                ("scale", *concepts),
                areas,
                tuple(concepts),
            ),
        ),
    )
    return Page(
        title="On which scale should relevance steer?",
        lead=SCALES,
        numbers=[("scales", str(len(steered))), ("pairs", str(said["settings"]["pairs"]))],
        sections=[section],
        settings=list(settings_rows(said["settings"])),
    )


def _intervals(value: Any) -> Any:
    """JSON's lists of three as intervals."""
    if isinstance(value, dict):
        return {key: _intervals(inner) for key, inner in value.items()}
    return Interval(*value) if isinstance(value, list) else value


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
        tuple(_table(found, attribute, Editing.METRICS) for attribute in dict.fromkeys(found.attributes)),
    )
    edits = [m for m in found.methods if m != TARGET_ONLY] or found.methods
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
        tuple(_table(found, kind, MultiConcept.METRICS) for kind in kinds),
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
