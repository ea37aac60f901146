"""Pages on the paper's claims: weakening the heads of one concept or of many, and misread words.

Images in the folder of a weakening are named by prompt, order and k: `003 most relevant 0016.png`.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from headwise.benchmarks.method_results import Polysemy
from headwise.benchmarks.results import LEAST, LEAST_LAYERS, MOST, MOST_LAYERS, Weakening, order_name
from headwise.intervals import Interval
from headwise.report import plots
from headwise.report.page import (
    WIDTH,
    Drawing,
    Page,
    Picture,
    Section,
    Strip,
    Table,
    settings_rows,
    strips_of_methods,
)
from headwise.runs.image_names import kept_images
from headwise.runs.scores import Scores

__all__ = ["polysemy_page", "weakening_page", "weakening_section", "weakenings_page"]

WEAKENING = (
    "In the first k heads of an order, the attention to the prompt is multiplied by a negative factor, and "
    "an image-text model scores what the images still show. If relevance is meaningful, a concept is lost "
    "sooner when its most relevant heads come first."
)
POLYSEMY = (
    "Prompts use a word in a rare sense. An image-text model scores which sense each image shows, whether "
    "the prompt's object is recognised among others (thing), and how similar the image is to the plain one "
    "from the same latents (kept). The controls change as much as adjusting does, but not in the heads that "
    "relevance names."
)


def weakening_page(folder: Path, weakening: Weakening) -> Page:
    """The page of a weakening of one concept's heads in several orders."""
    settings = weakening.scores.settings
    return Page(
        title=f"Is {settings.get('concept')} lost when its heads are weakened?",
        lead=WEAKENING,
        numbers=[
            ("area, least minus most relevant first", _signed(weakening.area())),
            ("random above most relevant first", _signed(weakening.random())),
            ("images scored", str(len(weakening.scores))),
        ],
        sections=[_curves(weakening), *_strips_of_orders(folder, weakening)],
        settings=list(settings_rows(settings)),
    )


def weakening_section(folder: Path, weakening: Weakening) -> Section:
    """A weakening as one section of another page: its areas, its curves, and the images of one prompt.

    Args:
        folder: The folder of the weakening.
        weakening: Its results.
    """
    curves, settings = _curves(weakening), weakening.scores.settings
    text = WEAKENING
    if settings.get("score") == "choice":
        text += " Here an image scores 1 if that model chooses the word of the prompt, and 0 otherwise."
    text += (
        f" {curves.text} The area between the curves of least and most relevant first is "
        f"{_signed(weakening.area())}; between random orders and most relevant first it is "
        f"{_signed(weakening.random())}."
    )
    named = {MOST: "most relevant heads first", LEAST: "least relevant first", "random 0": "in random order"}
    strips = tuple(
        replace(strip, name=f"{section.title}, {named[strip.name]}", wide=True)
        for section in islice(_strips_of_orders(folder, weakening), 1)
        for strip in section.strips
        if strip.name in named
    )
    title = f"Is {settings.get('concept')} lost when its heads are weakened?"
    return replace(curves, title=title, text=text, strips=strips)


def _curves(weakening: Weakening) -> Section:
    heights = {order: weakening.height(order) for order in weakening.orders}
    columns = ("order", "mean score (95 %)", "k at half drop")
    alt = "; ".join(
        f"{order_name(order)}: mean score {height.value:.2f}" for order, height in heights.items()
    )
    return Section(
        "Curves",
        "The mean score of all prompts against the number of weakened heads; bands are 95 % intervals "
        "(bootstrap).",
        (
            Drawing.of(
                plots.weakening_curves(weakening, width=WIDTH), f"Curves of score over k. {alt}.", "36rem"
            ),
        ),
        (Table("Every order", columns, weakening.rows(), columns[1:], open=True),),
    )


def _strips_of_orders(folder: Path, weakening: Weakening) -> Iterator[Section]:
    """One section for each prompt whose images were kept: one row per order, k increasing to the right."""
    by_number: dict[int, dict[tuple[str, int | None], Picture]] = {}
    for name, path in kept_images(folder).items():
        by_number.setdefault(name.number, {})[name.method, name.k] = Picture.of(path)
    orders, ks = weakening.orders, weakening.ks
    for pictures in by_number.values():
        strips = []
        ends = {k: pictures.get((orders[0], k)) for k in (0, ks[-1])}  # the same in all orders
        for order in orders:
            row = [(f"k = {k}", pictures.get((order, k), ends.get(k))) for k in ks]
            strips.append(Strip(order, [(name, picture) for name, picture in row if picture is not None]))
        prompt = next(iter(pictures.values())).prompt
        yield Section(f"“{prompt}”", "All images start from the same latents.", strips=tuple(strips))


def weakenings_page(by_folder: dict[Path, Weakening]) -> Page:
    """The page of several weakenings, of different concepts or by different factors.

    Args:
        by_folder: The weakening in each folder.
    """
    named = _named(list(by_folder.values()))
    areas = {name: weakening.area() for name, weakening in named.items()}
    positive = sum(area.low > 0 for area in areas.values())
    between = sum(0 < weakening.random().value < areas[name].value for name, weakening in named.items())
    return Page(
        title="Is a concept lost when its heads are weakened?",
        lead=WEAKENING,
        numbers=[
            ("intervals above 0", f"{positive} of {len(named)}"),
            ("random order in between", f"{between} of {len(named)}"),
            ("images scored", str(sum(len(weakening.scores) for weakening in named.values()))),
        ],
        sections=[_areas(named, areas), *_first_strips(named, list(by_folder))],
        settings=list(settings_rows(next(iter(named.values())).scores.settings)),
    )


def _areas(named: dict[str, Weakening], areas: dict[str, Interval]) -> Section:
    columns = ("weakened", "area (95 %)", "random − most", "by layers")
    layers = {name: weakening.area(MOST_LAYERS, LEAST_LAYERS).value for name, weakening in named.items()}
    rows = [
        (name, _signed(areas[name]), f"{weakening.random().value:+.3f}", f"{layers[name]:+.3f}")
        for name, weakening in named.items()
    ]
    alt = "; ".join(f"{name} {_signed(area)}" for name, area in areas.items())
    return Section(
        "All weakenings",
        "Area between the curves of least and most relevant first, with 95 % intervals. Hollow marks are the "
        "area between random orders and most relevant first; squares are the first area for whole layers.",
        (Drawing.of(plots.weakening_areas(named, width=WIDTH), f"Areas by concept: {alt}.", "36rem"),),
        (Table("The numbers", columns, rows, columns[1:], open=True),),
    )


def _first_strips(named: dict[str, Weakening], folders: list[Path]) -> Iterator[Section]:
    """A section with the images of each weakening's first prompt, if any were kept."""
    strips: list[Strip] = []
    for (name, weakening), folder in zip(named.items(), folders, strict=True):
        for section in islice(_strips_of_orders(folder, weakening), 1):
            rows = {strip.name: strip.pictures for strip in section.strips}
            strips += [
                Strip(f"{name}, {section.title}, {order} first", rows[order]) for order in (MOST, LEAST)
            ]
    if strips:
        yield Section("Images", "The first prompt of each weakening.", strips=tuple(strips))


def _named(weakenings: list[Weakening]) -> dict[str, Weakening]:
    """Each weakening by its concept, or by concept and factor if a concept occurs several times."""
    settings = [weakening.scores.settings for weakening in weakenings]
    names = [each["concept"] for each in settings]
    if len(set(names)) < len(names):
        names = [f"{each['concept']} × {each['factor']:g}" for each in settings]
    return dict(zip(names, weakenings, strict=True))


def polysemy_page(folder: Path, scores: Scores) -> Page:
    """The page of a polysemy benchmark, in which words with several meanings were adjusted."""
    polysemy = Polysemy.of_scores(scores)
    rates = {method: polysemy.rate(method) for method in polysemy.methods}
    by_word = [
        (word, *(f"{polysemy.rate(method, word).value:.2f}" for method in polysemy.methods))
        for word in dict.fromkeys(polysemy.words)
    ]
    alt = "; ".join(f"{method} {rate}" for method, rate in rates.items())
    overview = Section(
        "Misread",
        "Share of images that show a different sense than the intended one; 95 % intervals (Wilson).",
        (
            Drawing.of(
                plots.rates(rates, "share misread", width=WIDTH), f"Misread by method: {alt}.", "34rem"
            ),
        ),
        (
            _means_table(polysemy),
            Table("By word", ("word", *polysemy.methods), by_word, polysemy.methods, open=True),
        ),
    )
    strips = tuple(strips_of_methods(folder, polysemy.methods))
    per_prompt = ("words", "things", "measures")
    return Page(
        title="Which sense does the image show?",
        lead=POLYSEMY,
        numbers=[
            *((method, f"{rate.value:.0%}") for method, rate in rates.items()),
            ("images per method", str(polysemy.rate(polysemy.methods[0]).n)),
        ],
        sections=[overview, Section("Images", "The same latents in every column.", strips=strips)],
        settings=list(settings_rows({k: v for k, v in scores.settings.items() if k not in per_prompt})),
    )


def _means_table(polysemy: Polysemy) -> Table:
    """Other changes by each method, and the difference of its misread rate to that of plain images."""
    first = polysemy.methods[0]
    measured = tuple(m for m in ("thing", "kept") if np.isfinite(polysemy.of(first, m).value))
    beside_plain = ("misread − plain",) if "plain" in polysemy.methods else ()
    rows = []
    for method in polysemy.methods:
        cells = [f"{polysemy.of(method, metric)}" for metric in measured]
        if beside_plain:
            cells.append("" if method == "plain" else _signed(polysemy.difference(method)))
        rows.append((method, *cells))
    columns = (*measured, *beside_plain)
    return Table(
        "Means, with intervals by bootstrap over words", ("method", *columns), rows, columns, open=True
    )


def _signed(interval: Interval) -> str:
    return f"{interval:+.3f}"
