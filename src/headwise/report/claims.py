"""The pages of trials: what weakening showed of one concept or of many, and how often words were misread.

A trial's folder holds scores.safetensors, and pictures/ whose names say what was done to them:
`003 most relevant 0016.png`, `003 adjust.png`. A folder of folders is a trial of many concepts;
one with scales.json compares scales of relevance.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headwise.benchmarks.results import (
    ESTIMATORS_FILE,
    LEAST,
    LEAST_LAYERS,
    MOST,
    MOST_LAYERS,
    QUESTIONS_FILE,
    SCALES_FILE,
    Polysemy,
    Weakening,
)  # fmt: skip
from headwise.errors import UnreadableFile
from headwise.intervals import Interval
from headwise.report import plots
from headwise.report.methods import comparison_page, scales_page, strips_of_methods
from headwise.report.page import Drawing, Page, Picture, Section, Strip, Table, settings_rows
from headwise.report.questions import estimators_page, questions_page
from headwise.runs.scores import Scores

__all__ = ["trial_page"]

WEAKENING = (
    "What the first k heads of an order hear of the prompt is multiplied by a negative factor, and a judge "
    "says what the pictures still show. If relevance means something, a concept is lost sooner when its most "
    "relevant heads go first."
)
POLYSEMY = (
    "Prompts use a word in the sense that it rarely has, and a judge says which sense each picture shows. "
    "The controls change as much as adjusting does, but not at the heads that relevance names."
)
NAME = "scores.safetensors"


def trial_page(folder: Path) -> Page:
    """The page of a trial's folder.

    Raises:
        UnreadableFile: There is neither a trial nor a folder of trials.
    """
    if (folder / NAME).is_file():
        scores = Scores.load(folder / NAME)
        if "measure" in scores.axes:
            return comparison_page(folder, scores)
        return _polysemy(folder, scores) if "method" in scores.axes else _weakening(folder, Weakening(scores))
    if (folder / SCALES_FILE).is_file():
        return scales_page(folder)
    if (folder / ESTIMATORS_FILE).is_file():
        return estimators_page(folder)
    if (folder / QUESTIONS_FILE).is_file():
        return questions_page(folder)
    inner = {file.parent: Weakening(Scores.load(file)) for file in sorted(folder.glob(f"*/{NAME}"))}
    if not inner:
        raise UnreadableFile(
            f"{folder} holds no run: neither relevance.safetensors nor {NAME}. Give the folder of a run."
        )
    return _weakenings(inner)


def _weakening(folder: Path, found: Weakening) -> Page:
    settings = found.scores.settings
    area, random = found.area(), found.random()
    return Page(
        title=f"Is {settings.get('concept')} lost where its heads are weakened?",
        lead=WEAKENING,
        numbers=[
            ("area, least minus most relevant first", _signed(area)),
            ("random above most relevant first", _signed(random)),
            ("pictures scored", str(len(found.scores))),
        ],
        sections=[_curves(found), *_strips_of_orders(folder, found)],
        settings=list(settings_rows(settings)),
    )


def _curves(found: Weakening) -> Section:
    rows = [(order, str(found.height(order)), _k(found.half_drop(order))) for order in found.orders]
    columns = ("order", "mean score (95 %)", "half of the drop at k")
    alt = "; ".join(f"{order}: mean score {found.height(order).value:.2f}" for order in found.orders)
    return Section(
        "Curves",
        "The mean score of all prompts against the number of weakened heads; bands are 95 % (bootstrap).",
        (Drawing.of(plots.weakening_curves(found), f"Curves of score over k. {alt}.", "36rem"),),
        (Table("Every order", columns, rows, columns[1:], open=True),),
    )


def _strips_of_orders(folder: Path, found: Weakening) -> Iterator[Section]:
    """One section for each prompt whose pictures were kept: an order a row, growing k to the right."""
    kept: dict[str, dict[tuple[str, int], Picture]] = {}
    for path in sorted((folder / "pictures").glob("*.png")):
        number, _, rest = path.stem.partition(" ")
        order, _, k = rest.rpartition(" ")
        kept.setdefault(number, {})[order, int(k)] = Picture.of(path)
    for pictures in kept.values():
        strips = []
        for order in found.orders:
            ends = {k: pictures.get((found.orders[0], k)) for k in (0, found.ks[-1])}  # shared by all orders
            row = [(f"k = {k}", pictures.get((order, k), ends.get(k))) for k in found.ks]
            strips.append(Strip(order, [(name, picture) for name, picture in row if picture is not None]))
        prompt = next(iter(pictures.values())).prompt
        yield Section(f"“{prompt}”", "The same latents throughout.", strips=tuple(strips))


def _weakenings(inner: dict[Path, Weakening]) -> Page:
    named = _named(list(inner.values()))
    areas = {name: found.area() for name, found in named.items()}
    positive = sum(area.low > 0 for area in areas.values())
    between = sum(0 < found.random().value < areas[name].value for name, found in named.items())
    columns = ("on trial", "area (95 %)", "random above most", "by layers")
    rows = [
        (n, _signed(areas[n]), f"{f.random().value:+.3f}", f"{f.area(MOST_LAYERS, LEAST_LAYERS).value:+.3f}")
        for n, f in named.items()
    ]
    alt = "; ".join(f"{name} {_signed(area)}" for name, area in areas.items())
    overview = Section(
        "All together",
        "Area between the curves of least and most relevant first, with 95 % intervals; hollow marks are "
        "random orders above most relevant first, squares the same area for whole layers.",
        (Drawing.of(plots.weakening_areas(named), f"Areas by concept: {alt}.", "36rem"),),
        (Table("The numbers", columns, rows, columns[1:], open=True),),
    )
    first = next(iter(named.values()))
    strips = [_most_and_least(name, folder, inner[folder]) for name, folder in zip(named, inner, strict=True)]
    shown = tuple(strip for of_one in strips for strip in of_one)
    pictures = [Section("Pictures", "The first prompt of each.", strips=shown)] if shown else []
    return Page(
        title="Is a concept lost where its heads are weakened?",
        lead=WEAKENING,
        numbers=[
            ("with their interval above 0", f"{positive} of {len(named)}"),
            ("random order in between", f"{between} of {len(named)}"),
            ("pictures scored", str(sum(len(found.scores) for found in named.values()))),
        ],
        sections=[overview, *pictures],
        settings=list(settings_rows(first.scores.settings)),
    )


def _named(many: list[Weakening]) -> dict[str, Weakening]:
    """Each by its concept, or where one concept is weakened by several factors, by its factor."""
    concepts = [found.scores.settings["concept"] for found in many]
    if len(set(concepts)) == len(concepts):
        return dict(zip(concepts, many, strict=True))
    return {f"{c} × {f.scores.settings['factor']:g}": f for c, f in zip(concepts, many, strict=True)}


def _most_and_least(name: str, folder: Path, found: Weakening) -> list[Strip]:
    sections = list(_strips_of_orders(folder, found))
    if not sections:
        return []
    strips = {strip.name: strip for strip in sections[0].strips}
    prompt = sections[0].title
    return [Strip(f"{name}, {prompt}, {order} first", strips[order].pictures) for order in (MOST, LEAST)]


def _polysemy(folder: Path, scores: Scores) -> Page:
    found = Polysemy(scores, tuple(scores.settings["words"]))
    rates = {method: found.rate(method) for method in found.methods}
    words = list(dict.fromkeys(found.words))
    columns = ("word", *found.methods)
    rows = [(word, *(f"{found.rate(m, word).value:.2f}" for m in found.methods)) for word in words]
    alt = "; ".join(f"{method} {rate}" for method, rate in rates.items())
    per_method = int(np.isfinite(scores.values[0]).sum())
    overview = Section(
        "Misread",
        "Share of pictures that show another sense than the one meant; 95 % intervals (Wilson).",
        (Drawing.of(plots.rates(rates, "share misread"), f"Misread by method: {alt}.", "34rem"),),
        (Table("By word", columns, rows, columns[1:], open=True),),
    )
    strips = tuple(strips_of_methods(folder, found.methods))
    return Page(
        title="Which sense does the picture show?",
        lead=POLYSEMY,
        numbers=[(method, f"{rate.value:.0%}") for method, rate in rates.items()]
        + [("pictures a method", str(per_method))],
        sections=[overview, Section("Pictures", "The same latents in every column.", strips=strips)],
        settings=list(settings_rows({k: v for k, v in scores.settings.items() if k != "words"})),
    )


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _k(k: float) -> str:
    return "no drop" if np.isnan(k) else f"{k:.0f}"
