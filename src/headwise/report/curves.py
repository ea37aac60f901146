"""Figures of curves: of weakening, of methods over their strength, of agreement over cost.

An interval is a band. Marks differ in shape as well as in colour, for colour-blind readers and grey prints.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, Unpack

import matplotlib
import numpy as np

from headwise.benchmarks.results import LEAST, LEAST_LAYERS, MOST, MOST_LAYERS, Weakening, order_name
from headwise.report.canvas import Place, canvas, figure_of
from headwise.report.labels import legend_above
from headwise.report.style import ACCENT, GREY, INK, SEQUENTIAL, Figure

__all__ = ["lines", "tradeoff_curves", "weakening_curves"]

_ORDER_STYLE = {
    MOST: (ACCENT, "-", 1.6),
    LEAST: (INK, "-", 1.6),
    MOST_LAYERS: (ACCENT, ":", 1.2),
    LEAST_LAYERS: (INK, ":", 1.2),
}
_OF_RANDOM = ("-", "--", "-.", (0, (1, 1)))
Named = TypeVar("Named")


def weakening_curves(
    weakening: Weakening,
    **place: Unpack[Place],
) -> Figure:
    """The mean score against the number of weakened heads: one line per order, with bands for relevance.

    Args:
        weakening: The scores of images in which the heads of one concept were weakened.
        place: `title`, `width` and `ax`, as in `Place`.
    """
    dashes = itertools.cycle(_OF_RANDOM)
    with canvas(2.4, len(weakening.orders) / 3, **place) as axes:
        for order in weakening.orders:
            color, line, thick = _ORDER_STYLE.get(order) or (GREY, next(dashes), 0.9)
            value, low, high = weakening.curve(order)
            axes.plot(weakening.ks, value, color=color, ls=line, lw=thick, label=order_name(order))
            if order in _ORDER_STYLE:
                axes.fill_between(weakening.ks, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set(xlabel="heads weakened (k)", ylabel="mean score", xlim=(0, weakening.ks[-1]))
        legend_above(axes)
    return figure_of(axes)


def tradeoff_curves(
    points: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    **place: Unpack[Place],
) -> Figure:
    """One line per method through the points of its settings, with a mark at each.

    Args:
        points: The coordinates of each method's settings, in the order of their strength, by its name.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
        place: `title`, `width` and `ax`, as in `Place`.
    """
    with canvas(2.6, len(points) / 2, **place) as axes:
        colours = itertools.cycle(matplotlib.color_sequences["tab10"])
        for color, marker, (name, at) in _marked(colours, points):
            across, up = np.array(at).T
            axes.plot(across, up, marker=marker, color=color, label=name)
        axes.set(xlabel=x, ylabel=y)
        legend_above(axes)
    return figure_of(axes)


def lines(
    by_name: Mapping[str, Sequence[Sequence[float]]],
    x: str,
    y: str,
    goal: float | None = None,
    **place: Unpack[Place],
) -> Figure:
    """One line per name over a logarithmic axis, with a band from the lowest to the highest value.

    Args:
        by_name: The points of each line: x, y, and the lowest and highest y.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
        goal: A target level, shown as a dashed line; None for no line.
        place: `title`, `width` and `ax`, as in `Place`.
    """
    with canvas(2.4, len(by_name) / 2, **place) as axes:
        shades = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.85, len(by_name)))
        for color, marker, (name, points) in _marked(shades, by_name):
            at, mean, low, high = np.array(points).T[:4]
            axes.plot(at, mean, marker=marker, color=color, label=name)
            axes.fill_between(at, low, high, color=color, alpha=0.1, linewidth=0)
        if goal is not None:
            axes.axhline(goal, color=ACCENT, linewidth=1, linestyle="--")
        axes.set(xlabel=x, ylabel=y, xscale="log")
        legend_above(axes)
    return figure_of(axes)


def _marked(
    colours: Iterable[object], by_name: Mapping[str, Named]
) -> Iterable[tuple[object, str, tuple[str, Named]]]:
    """Each item with a colour and a mark."""
    return zip(colours, itertools.cycle("osD^vXP"), by_name.items(), strict=False)
