"""The page of a run: `report` recognises the run by its files; this module makes the page of a measurement.

Every folder may hold command.txt, the command of the run. The folder of a measurement holds

    relevance.safetensors   the measurement; the only required file
    votes.safetensors       its votes, for the curve over images; or effect.safetensors, its effects
    control/                another run of the same model in which concept names mean nothing
    pictures/NNN.png        sample images; the metadata of each PNG has its prompt
    turned/                 words turned down and up in their heads (turned.py)
    weakening/              a run in which the heads of one concept were weakened (claims.py)
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.results import Weakening, kind_of
from headwise.errors import UnreadableFile
from headwise.measuring.counting import Counted, counted_in
from headwise.measuring.ranking import HeadRank
from headwise.measuring.relevance import Relevance
from headwise.report import claims, methods, plots, questions
from headwise.report.page import WIDTH, Drawing, Page, Section, Table, pictures_of, settings_rows
from headwise.report.turned import turned_section
from headwise.runs.scores import Scores

__all__ = ["report"]

RELEVANCE, SCORES = "relevance.safetensors", "scores.safetensors"
HEADS_PER_CONCEPT = 5
LEADS = {
    "votes": "At every layer and call each head voted for the concept whose words its image queries attended "
    "to most. A head's relevance is its share of a concept's votes, scaled so that the average head has 1.",
    "effect": "Each prompt contains a word of a concept. A head's share is the part of the word's effect on "
    "the denoiser's output that passes through the head: its gradient, integrated from the muted word to the "
    "full word. Relevance is that share, scaled so that the average head has 1; a head below 0 works against "
    "the word.",
}


def report(run_folder: str | os.PathLike[str]) -> Path:
    """Write `index.html` into the folder of a run of any kind, and return its path.

    Args:
        run_folder: The folder of a measurement or a benchmark, or a folder of such folders of weakenings.

    Raises:
        UnreadableFile: The folder holds no run, a damaged one, or a sweep of interventions.
    """
    folder = Path(run_folder)
    return replace(_page_of(folder), command=_text(folder / "command.txt")).write(folder)


def _page_of(folder: Path) -> Page:
    if (folder / RELEVANCE).is_file():
        return _measurement(folder)
    kind = kind_of(folder)
    if kind in _OF_FOLDER:
        return _OF_FOLDER[kind](folder)
    if kind in _OF_SCORES:
        return _OF_SCORES[kind](folder, Scores.load(folder / SCORES))
    if kind == "interventions":
        raise UnreadableFile(
            f'{folder} holds a sweep of kind "interventions", which has no page of its own. Give the folder '
            "of `headwise benchmark questions` that contains it, whose page shows the answers."
        )
    raise UnreadableFile(
        f"{folder} holds no run: neither {RELEVANCE} nor {SCORES}. Give the folder of a run."
    )


def _weakenings(folder: Path) -> Page:
    files = sorted(folder.glob(f"*/{SCORES}"))
    return claims.weakenings_page({file.parent: Weakening(Scores.load(file)) for file in files})


_OF_FOLDER: dict[str, Callable[[Path], Page]] = {
    "scales": questions.scales_page,
    "estimators": questions.estimators_page,
    "attribution": questions.attribution_page,
    "questions": questions.questions_page,
    "weakenings": _weakenings,
}
_OF_SCORES: dict[str, Callable[[Path, Scores], Page]] = {
    "weakening": lambda folder, scores: claims.weakening_page(folder, Weakening(scores)),
    "polysemy": claims.polysemy_page,
    "editing": methods.editing_page,
    "given-editing": methods.given_editing_page,
    "strengthening": methods.strengthening_page,
    "multi-concept": methods.multi_subject_page,
    "atoms": methods.atoms_page,
    "segmentation": methods.segmentation_page,
}


def _measurement(folder: Path) -> Page:
    relevance = Relevance.load(folder / RELEVANCE)
    control_file = folder / "control" / RELEVANCE
    control = Relevance.load(control_file) if control_file.is_file() else None
    sections = [
        turned_section(folder / "turned"),
        _map_section(relevance),
        _weakening_section(folder / "weakening"),
        _certainty_section(relevance, control, counted_in(folder)),
        _heads_section(relevance),
        _layer_section(relevance),
        _similarity_section(relevance),
    ]
    return Page(
        title=f"Which heads of {relevance.settings.get('model', 'this model')} carry which concept",
        lead=LEADS[relevance.kind],
        numbers=_numbers(relevance, control),
        sections=[section for section in sections if section is not None],
        sheet=list(pictures_of(folder / "pictures")),
        settings=list(settings_rows(relevance.settings)),
        words=relevance.settings.get("concepts", []),
    )


def _numbers(relevance: Relevance, control: Relevance | None) -> list[tuple[str, str]]:
    numbers = [
        ("images measured", str(relevance.settings.get("pictures", "?"))),
        ("heads", str(relevance.values.shape[1])),
        ("concepts", _concepts(relevance)),
        ("split-half correlation, median", _number(relevance.split_half_median)),
    ]
    if control is not None:
        numbers.append(("the same in the control", _number(control.split_half_median)))
    if relevance.completeness:
        median = np.median(list(relevance.completeness.values()))
        numbers.append(("completeness, median", _number(median)))
    return numbers


def _concepts(relevance: Relevance) -> str:
    """The number of the user's concepts, and their background."""
    background = relevance.settings.get("beside")
    return str(len(relevance.foreground)) + (f", background of {background}" if background else "")


def _map_section(relevance: Relevance) -> Section:
    best = {name: relevance.top(name, 1)[0] for name in relevance.concepts}
    leader = max(best, key=lambda name: best[name].relevance)
    concepts, heads = relevance.values.shape
    alt = (
        f"Heat map of {concepts} concepts by {heads} heads. Its highest value is "
        f"{best[leader].relevance:.1f}, {leader} at {best[leader].address}."
    )
    text = (
        "Each row is a concept and each column a head, in the order in which the image passes through them. "
        + ("Red" if (relevance.values < 0).any() else "Bright")
        + " cells are heads that carry the concept far more than the average head does."
    )
    if (relevance.values < 0).any():
        text += " Blue cells are heads that work against its words."
    return Section(
        "Concept × head map", text, (Drawing.of(plots.heat_map(relevance, width=10), alt, "60rem"),)
    )


def _weakening_section(folder: Path) -> Section | None:
    """The section of a weakening; None if there is none, or if it is not finished."""
    if not (folder / SCORES).is_file():
        return None
    scores = Scores.load(folder / SCORES)
    return claims.weakening_section(folder, Weakening(scores)) if np.isfinite(scores.values).all() else None


def _heads_section(relevance: Relevance) -> Section:
    unit = "images" if relevance.kind == "effect" else "blocks of images"
    text = (
        "An address is the layer's path in diffusers and the head's number within it. "
        f"± is 1.96 standard errors (jackknife over {unit})."
    )
    leading = _rows(relevance.concepts, partial(relevance.top, k=1))
    more = _rows(relevance.concepts, partial(relevance.top, k=HEADS_PER_CONCEPT))
    against = _rows(relevance.concepts, partial(relevance.against, k=HEADS_PER_CONCEPT))
    columns = ("concept", "relevance ± 95 %", "address", "index")
    tables = [
        Table("The most relevant head of each concept", columns, leading, columns[1::2], open=True),
        Table(f"The {HEADS_PER_CONCEPT} most relevant heads", columns, more, columns[1::2]),
    ]
    if against:
        title = "Heads that work against the words (95 % interval below 0)"
        tables.append(Table(title, columns, against, columns[1::2]))
    return Section("The heads of each concept", text, tables=tuple(tables))


def _rows(concepts: Sequence[str], heads_of: Callable[[str], list[HeadRank]]) -> list[tuple[Any, ...]]:
    """One row per head of each concept, the first of them with the concept's name."""
    return [
        (name if place == 0 else "", _interval(head), head.address, head.index)
        for name in concepts
        for place, head in enumerate(heads_of(name))
    ]


def _certainty_section(relevance: Relevance, control: Relevance | None, counted: Counted | None) -> Section:
    text = (
        "The images are split at random into two halves, many times; relevance is computed from each half "
        "and the two orders of heads are compared (Spearman). "
        "1 means that other images would give the same order."
    )
    if control is not None:
        text += (
            " In the control, all concepts sample the words of all concepts, so names mean nothing. Without "
            "the variance from noise, relevance has a standard deviation over heads of "
            f"{_spread(relevance):.2f}; in the control it is {_spread(control):.2f}."
        )
    drawings = [
        Drawing.of(
            plots.reliability(relevance, control, width=WIDTH),
            _certainty_in_words(relevance, control),
            "34rem",
        )
    ]
    if counted is not None and np.isfinite(relevance.split_half).all():
        alt = f"Curve of the split-half correlation over images, up to {len(counted)}."
        drawings.append(Drawing.of(plots.convergence(counted, width=WIDTH), alt, "34rem"))
    runs = [relevance] if control is None else [relevance, control]
    rows = [
        (name, *(_number(run.split_half[c]) for run in runs)) for c, name in enumerate(relevance.concepts)
    ]
    columns = ("concept", "split-half", "control")[: 1 + len(runs)]
    text += _errors_in_words(relevance)
    if relevance.completeness:
        text += (
            " Completeness is the share of the words' effect that all heads together account for: 1 if the "
            "integral over the word's strength is exact."
        )
        rows = [(*row, _number(relevance.completeness[row[0]])) for row in rows]
        columns += ("completeness",)
    tables = (Table("Every concept", columns, rows, columns[1:]),)
    return Section("How reliable", text, tuple(drawings), tables)


def _errors_in_words(relevance: Relevance) -> str:
    """A sentence on the relative size of standard errors; empty if there are none."""
    firsts = [relevance.top(name, 1)[0] for name in relevance.concepts]
    shares = [head.standard_error / head.relevance for head in firsts if head.relevance > 0]
    if not shares or not np.isfinite(shares).all():
        return ""
    return (
        f" The standard error of the most relevant head of a concept is {np.median(shares):.0%} of its "
        "relevance (median over concepts); the tables below list the errors of single heads."
    )


def _certainty_in_words(relevance: Relevance, control: Relevance | None) -> str:
    lowest = int(np.argmin(relevance.split_half))
    words = (
        "Split-half rank correlation of each concept: "
        f"median {_number(np.median(relevance.split_half))}, "
        f"lowest {relevance.concepts[lowest]} with {_number(relevance.split_half[lowest])}."
    )
    return words if control is None else f"{words} Control: median {_number(np.median(control.split_half))}."


def _layer_section(relevance: Relevance) -> Section:
    means = plots.layer_means(relevance)
    text = (
        "Relevance averaged over the heads of each layer. Layers alone explain "
        f"{_explained_by_layers(relevance):.0%} of the variance over heads; the rest is between the heads of "
        "a layer."
    )
    head_map = relevance.head_map
    strongest = [head_map.layers[layer].address if head_map else "" for layer in means.argmax(axis=1)]
    rows = [
        (n, f"{m:.2f}", a) for n, m, a in zip(relevance.concepts, means.max(axis=1), strongest, strict=True)
    ]
    columns = ("concept", "mean relevance", "address")
    alt = (
        f"Heat map of {means.shape[0]} concepts by {means.shape[1]} layers; its maximum is {means.max():.1f}."
    )
    drawing = Drawing.of(plots.layer_summary(relevance, width=WIDTH), alt, "40rem")
    return Section(
        "By layer",
        text,
        (drawing,),
        (Table("The strongest layer of each concept", columns, rows, columns[1:2]),),
    )


def _similarity_section(relevance: Relevance) -> Section:
    similarity, names = plots.correlation(relevance), relevance.concepts
    pairs = sorted(((similarity[a, b], a, b) for a in range(len(names)) for b in range(a)), reverse=True)
    ends = pairs if len(pairs) <= 16 else pairs[:8] + pairs[-8:]
    rows = [(names[a], names[b], f"{value:+.2f}") for value, a, b in ends]
    columns = ("concept", "and", "correlation")
    text = "Concepts with a high correlation have their relevance in the same heads."
    alt = f"Matrix of correlations between {len(names)} concepts, with similar ones next to each other."
    drawing = Drawing.of(plots.concept_similarity(relevance, width=WIDTH), alt, "34rem")
    return Section(
        "Concepts that share heads",
        text,
        (drawing,),
        (Table("Most and least similar", columns, rows, columns[2:]),),
    )


def _spread(relevance: Relevance) -> float:
    """Standard deviation over heads without the variance due to noise; median over concepts."""
    noise = (relevance.standard_errors**2).mean(axis=1)
    return float(np.median(np.sqrt(np.maximum(0, relevance.values.var(axis=1) - noise))))


def _explained_by_layers(relevance: Relevance) -> float:
    """Share of the variance over heads that is between layers; median over concepts."""
    head_map = relevance.head_map
    widths = [layer.heads for layer in head_map] if head_map else [relevance.values.shape[1]]
    between = np.repeat(plots.layer_means(relevance), widths, axis=1).var(axis=1)
    total = relevance.values.var(axis=1)
    return float(np.median(between[total > 0] / total[total > 0])) if total.any() else 0.0


def _interval(head: HeadRank) -> str:
    return f"{head.relevance:.2f} ± {1.96 * head.standard_error:.2f}"


def _number(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{value:z.2f}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
