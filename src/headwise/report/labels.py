"""Labels that fit: names of rows, ticks that do not overlap, a legend above the axes, wrapped texts."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.text import Text

from headwise.measuring.concepts import unknown_concept
from headwise.report.style import Axes

__all__ = ["chosen", "fit_texts", "fit_x_ticks", "legend_above", "lines_of", "name_rows", "upwards"]

LONGEST = 34  # characters of a name in one line
Value = TypeVar("Value")


def chosen(by_concept: Mapping[str, Value], concepts: Sequence[str] | None) -> dict[str, Value]:
    """The values of the concepts to show, in their order; all if None.

    Raises:
        UnknownConcept: One of them has no value.
    """
    names = list(by_concept) if concepts is None else list(concepts)
    for name in names:
        if name not in by_concept:
            raise unknown_concept(name, list(by_concept))
    return {name: by_concept[name] for name in names}


def upwards(values: Mapping[str, float], concepts: Sequence[str] | None) -> list[str]:
    """Concepts from the lowest row to the highest: `concepts` reversed, or all ordered by value if None.

    Raises:
        UnknownConcept: One of `concepts` has no value.
    """
    if concepts is not None:
        return list(reversed(chosen(values, concepts)))
    return sorted(values, key=lambda name: np.nan_to_num(values[name], nan=-np.inf))


def lines_of(names: Sequence[str]) -> int:
    """The number of lines that each row needs for the longest name."""
    return max((_wrapped(name).count("\n") + 1 for name in names), default=1)


def name_rows(axes: Axes, names: Sequence[str], positions: Sequence[float | int] | None = None) -> None:
    """Write the names of rows at their left.

    Args:
        axes: The axes.
        names: The names; long ones are wrapped.
        positions: The positions of the rows; 0, 1, … if None.
    """
    at = range(len(names)) if positions is None else positions
    axes.set_yticks(at, [_wrapped(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(*sorted((min(at) - 0.5, max(at) + 0.5), reverse=bool(axes.yaxis_inverted())))


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, LONGEST)) or name


def fit_x_ticks(axes: Axes) -> None:
    """Rotate the names below the axes if they touch, and leave out those that still touch."""
    _lay_out(axes)
    if not _touching(axes):
        return
    axes.tick_params(axis="x", rotation=90)
    _lay_out(axes)
    hidden, labels = set(_touching(axes)), axes.get_xticklabels()
    names = ["" if i in hidden else label.get_text() for i, label in enumerate(labels)]
    axes.set_xticks(axes.get_xticks(), names)


def _touching(axes: Axes) -> list[int]:
    """The indices of tick labels that would touch the last label kept before them."""
    touching, end = [], -np.inf
    for i, label in enumerate(axes.get_xticklabels()):
        box = label.get_window_extent()
        if box.x0 < end + 0.01 * axes.figure.dpi:
            touching.append(i)
        else:
            end = box.x1
    return touching


def legend_above(axes: Axes) -> None:
    """Place a legend above the axes, where it covers nothing, in as many columns as fit."""
    _lay_out(axes)
    room, (handles, labels) = axes.get_tightbbox(), axes.get_legend_handles_labels()
    for columns in range(len(labels), 0, -1):
        legend = axes.legend(
            handles, labels, ncols=columns, loc="lower right", bbox_to_anchor=(1, 1), columnspacing=1.0
        )
        if room is None or legend.get_window_extent().width <= room.width:
            return


def fit_texts(axes: Axes, title: str | None) -> None:
    """Set the title, above the legend if there is one, and wrap it and long labels."""
    legend = axes.get_legend()
    if title is not None:
        above = 0.0 if legend is None else legend.get_window_extent().height * 72 / axes.figure.dpi
        axes.set_title(title, pad=above + 6)
    _lay_out(axes)
    edges, frame = axes.figure.bbox, axes.bbox
    middle = (frame.x0 + frame.x1) / 2
    across = 1.9 * min(middle - edges.x0, edges.x1 - middle)
    _break(axes.title, across)
    _break(axes.xaxis.label, across)
    _break(axes.yaxis.label, frame.height)


def _break(text: Text, room: float) -> None:
    """Wrap a text that is longer than its room, which is horizontal, or vertical if the text is rotated."""
    box = text.get_window_extent()
    length = max(box.width, box.height)
    if length > room:
        letters = max(map(len, text.get_text().split("\n")))
        broken = textwrap.fill(text.get_text(), max(8, int(0.95 * letters * room / length)))
        text.set_text(broken)


def _lay_out(axes: Axes) -> None:
    """Lay out the whole figure, so that labels have positions and sizes, with none longer than the figure."""
    root: Any = axes.figure.figure  # the top-level figure, even from a subfigure
    _break(axes.title, root.bbox.width)
    _break(axes.xaxis.label, root.bbox.width)
    _break(axes.yaxis.label, 0.8 * root.bbox.height)
    root.draw_without_rendering()
