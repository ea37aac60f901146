"""Pages that compare methods: of editing, of generating several subjects, of mapping words.

Images in the folder of a comparison are named by the method that generated them: `003 source.png`,
`003 relevance.png`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from headwise.benchmarks.method_results import TARGET_ONLY, Atoms, Editing, MultiConcept, Segmentation
from headwise.benchmarks.trade_off import SOURCE, GivenEditing
from headwise.report import plots
from headwise.report.page import WIDTH, Drawing, Page, Section, Table, settings_rows, strips_of_methods
from headwise.runs.scores import Scores

__all__ = [
    "atoms_page",
    "editing_page",
    "given_editing_page",
    "multi_subject_page",
    "segmentation_page",
    "strengthening_page",
]

EDITING = (
    "Every method edits the same images, from the same latents. An image-text model scores how well the "
    "target prompt fits (alignment), whether the target's word (accuracy) and the same object (identity) are "
    "recognised, and how similar source and edit are where nothing should change (preservation)."
)
GIVEN_EDITING = (
    "Given images are inverted and then edited by every method at several settings of its strength. An "
    "image-text model scores how well the target prompt fits (alignment), and how similar source and edit "
    "are where nothing should change (preservation)."
)
STRENGTHENING = (
    "One word of each prompt is strengthened by relevance on several scales; every image is compared with "
    "the plain image of the same prompt and latents. An image-text model scores how well the prompt fits "
    "(alignment), whether the word (accuracy) and the same object (identity) are recognised, and how similar "
    "the two images are where nothing should change (preservation)."
)
MULTI_SUBJECT = (
    "Every method generates images for the same prompts from the same latents. An image-text model scores "
    "how well the whole prompt fits (full), how well the worst of its subjects fits (minimum), and how "
    "similar the prompt is to the best of several captions (caption)."
)
SEGMENTATION = (
    "Noise is added to images with known masks, and the denoiser is called with their prompt. The map of a "
    "word is the weighted mean of the heads' attention to it; methods differ in the weights. Precision ranks "
    "pixels by the map; intersection over union (IoU) uses each method's best threshold on the other half of "
    "the images."
)
ATOMS = (
    "Words of one kind are turned up by several methods, from the same latents. For each detail of a prompt, "
    "an image-text model gives the right description a probability among wrong ones. The results are its "
    "arithmetic mean over a prompt (am), its geometric mean (gm), which is small if anything is missing, and "
    "how often the right description is the most probable for the words that are turned up (accuracy)."
)
SAME = "All columns start from the same latents."


def editing_page(folder: Path, scores: Scores) -> Page:
    """The page of a comparison of editing methods."""
    editing = Editing(scores, tuple(scores.settings["attributes"]))
    points = {m: (editing.of(m, "preservation"), editing.of(m, "alignment")) for m in editing.methods}
    alt = "; ".join(
        f"{m} preservation {p.value:.2f}, alignment {a.value:.2f}" for m, (p, a) in points.items()
    )
    figure = plots.tradeoff(points, "preservation", "alignment", width=WIDTH)
    overview = Section(
        "Alignment and preservation",
        "Means over all pairs and seeds with 95 % intervals (bootstrap over pairs); then, for each strength "
        "of relevance, how often the target's word is recognised.",
        (Drawing.of(figure, f"{alt}.", "36rem"), *_strengths(editing)),
        tuple(_table(editing, attribute, Editing.METRICS) for attribute in dict.fromkeys(editing.attributes)),
    )
    edits = [m for m in editing.methods if m != TARGET_ONLY] or editing.methods
    best = max(edits, key=lambda m: editing.of(m, "alignment").value)
    strips = tuple(strips_of_methods(folder, ("source", *editing.methods), "source"))
    return Page(
        title="Which editing method shows the target and preserves the source?",
        lead=EDITING,
        numbers=[("pairs", str(len(editing.attributes))), _per_method(scores), ("highest alignment", best)],
        sections=[overview, Section("Images", SAME, strips=strips)],
        settings=_settings(scores),
    )


def given_editing_page(folder: Path, scores: Scores) -> Page:
    """The page of a comparison of methods for editing given images."""
    editing = GivenEditing(scores, tuple(scores.settings["attributes"]))
    drawings, tables = [], []
    columns = ("method", "area", "at 0.9", "at 0.95")
    for attribute in dict.fromkeys(editing.attributes):
        points = {m: list(editing.points(m, attribute).values()) for m in editing.methods}
        rows = [
            (m, str(editing.area(m, attribute)), *(str(editing.at(m, p, attribute)) for p in (0.9, 0.95)))
            for m in editing.methods
        ]
        alt = "; ".join(f"{method} area {size}" for method, size, *_ in rows)
        figure = plots.tradeoff_curves(points, f"preservation, {attribute}", "alignment", width=WIDTH)
        drawings.append(Drawing.of(figure, f"{attribute}: {alt}.", "36rem"))
        tables.append(Table(attribute, columns, rows, columns[1:], open=True))
    overview = Section(
        "Alignment against preservation",
        "One line per method over the settings of its strength, starting at the unedited source. The tables "
        "have the area under its upper concave hull above the source, a mean over preservations from 0.8 to "
        "1, and the highest alignment at 0.9 and at 0.95, with 95 % intervals (bootstrap over pairs).",
        tuple(drawings),
        tuple(tables),
    )
    strips = tuple(strips_of_methods(folder, editing.settings, SOURCE))
    return Page(
        title="Which method edits given images best, at equal preservation?",
        lead=GIVEN_EDITING,
        numbers=[("pairs", str(len(editing.attributes))), ("settings", str(len(editing.settings) - 1))],
        sections=[overview, Section("Images", "The given image and its edits.", strips=strips)],
        settings=_settings(scores),
    )


def strengthening_page(folder: Path, scores: Scores) -> Page:
    """The page of a comparison of relevance scales for strengthening a word."""
    page = editing_page(folder, scores)
    title = "What does strengthening a word change on each scale?"
    return replace(page, title=title, lead=STRENGTHENING)


def _strengths(editing: Editing) -> Iterator[Drawing]:
    """A figure of accuracy by strength, starting from the weakest."""
    methods = [m for m in editing.methods if m.startswith("relevance")]
    methods.sort(key=lambda m: float(m.partition("× ")[2] or 1))
    rates = {m: editing.of(m, "accuracy") for m in methods}
    if len(rates) > 1:
        alt = "; ".join(f"{m} {rate}" for m, rate in rates.items())
        yield Drawing.of(
            plots.rates(rates, "accuracy", width=WIDTH), f"Accuracy by strength: {alt}.", "34rem"
        )


def multi_subject_page(folder: Path, scores: Scores) -> Page:
    """The page of a comparison of methods for generating several subjects."""
    subjects = MultiConcept(scores, tuple(scores.settings["types"]))
    kinds = list(dict.fromkeys(subjects.types))
    overview = Section(
        "How well prompts fit",
        "Means with 95 % intervals (bootstrap over prompts).",
        tuple(_worst_and_whole(subjects, kind) for kind in kinds),
        tuple(_table(subjects, kind, subjects.metrics) for kind in kinds),
    )
    strips = tuple(strips_of_methods(folder, subjects.methods))
    return Page(
        title="Does the image show all subjects?",
        lead=MULTI_SUBJECT,
        numbers=[("prompts", str(len(subjects.types))), _per_method(scores)],
        sections=[overview, Section("Images", SAME, strips=strips)],
        settings=_settings(scores),
    )


def segmentation_page(folder: Path, scores: Scores) -> Page:
    """The page of a comparison of word maps with masks."""
    settings = scores.settings
    maps = Segmentation(scores, tuple(settings["kinds"]), tuple(settings["images"]))
    kinds = list(dict.fromkeys(maps.kinds))
    figures, tables = [], []
    for kind in kinds:
        ious = {method: maps.iou(method, kind) for method in maps.methods}
        alt = "; ".join(f"{method} {iou}" for method, iou in ious.items())
        figures.append(Drawing.of(plots.rates(ious, f"IoU, {kind}", width=WIDTH), f"{kind}: {alt}.", "30rem"))
        rows = [(m, str(iou), str(maps.precision(m, kind))) for m, iou in ious.items()]
        columns = ("method", "IoU", "precision")
        tables.append(Table(kind, columns, rows, columns[1:], open=True))
    overview = Section(
        "How well maps match masks",
        "Means with 95 % intervals (bootstrap over images).",
        tuple(figures),
        tuple(tables),
    )
    strips = tuple(strips_of_methods(folder, ("mask", *maps.methods), "mask"))
    return Page(
        title="Do word maps show where the objects are?",
        lead=SEGMENTATION,
        numbers=[("words", str(len(maps.kinds))), ("images", str(len(set(maps.images))))],
        sections=[
            overview,
            Section("Images", "Highlighted by the mask, and by each method's map.", strips=strips),
        ],
        settings=_settings(scores),
    )


def atoms_page(folder: Path, scores: Scores) -> Page:
    """The page of a benchmark of how much of each prompt the images show."""
    atoms = Atoms(scores, tuple(scores.settings["groups"]))
    points = {m: (atoms.of(m, "am"), atoms.of(m, "gm")) for m in atoms.methods}
    alt = "; ".join(f"{m} am {a.value:.2f}, gm {g.value:.2f}" for m, (a, g) in points.items())
    overview = Section(
        "How much of the prompts the images show",
        "Means over all prompts and seeds with 95 % intervals (bootstrap over prompts).",
        (
            Drawing.of(
                plots.tradeoff(points, "arithmetic mean", "geometric mean", width=WIDTH), f"{alt}.", "30rem"
            ),
        ),
        tuple(_table(atoms, group, Atoms.METRICS) for group in dict.fromkeys(atoms.groups)),
    )
    strips = tuple(strips_of_methods(folder, atoms.methods))
    words = f"{scores.settings['kind']}, by {scores.settings['concept']}"
    return Page(
        title="Does the image show everything in the prompt?",
        lead=ATOMS,
        numbers=[("prompts", str(len(atoms.groups))), _per_method(scores), ("words turned up", words)],
        sections=[overview, Section("Images", SAME, strips=strips)],
        settings=_settings(scores),
    )


def _worst_and_whole(subjects: MultiConcept, kind: str) -> Drawing:
    points = {m: (subjects.of(m, "full", kind), subjects.of(m, "minimum", kind)) for m in subjects.methods}
    alt = "; ".join(f"{m} full {f.value:.2f}, minimum {n.value:.2f}" for m, (f, n) in points.items())
    figure = plots.tradeoff(points, f"whole prompt, {kind}", "worst subject", width=WIDTH)
    return Drawing.of(figure, f"{kind}: {alt}.", "30rem")


def _table(results: Atoms | Editing | MultiConcept, group: str, measures: tuple[str, ...]) -> Table:
    rows = [(m, *(str(results.of(m, measure, group)) for measure in measures)) for m in results.methods]
    return Table(group, ("method", *measures), rows, measures, open=True)


def _per_method(scores: Scores) -> tuple[str, str]:
    return "images per method", str(int(np.isfinite(scores.values[0, 0]).sum()))


def _settings(scores: Scores) -> list[tuple[str, str]]:
    lists = ("attributes", "types", "groups", "words", "kinds", "images")
    return list(settings_rows({k: v for k, v in scores.settings.items() if k not in lists}))
