"""The axes that a figure is drawn into: new ones in the common style, or those of somebody else's figure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from headwise.report.labels import fit_texts
from headwise.report.style import Axes, Figure, check_width, font_sizes, sheet

__all__ = ["Place", "canvas", "figure_of"]


def figure_of(axes: Axes) -> Figure:
    """The whole figure that axes are in, of a subfigure too."""
    return axes.figure.figure  # type: ignore[return-value]


class Place(TypedDict, total=False):
    """Where a figure goes: keywords that every function of `headwise.plots` takes which draws one axes.

    The functions return the new figure, or that of the axes, and raise a HeadwiseError where the width is
    below 2, or is given beside axes.

    Args:
        title: The title; none if None.
        width: The width of a new figure in inches, 2 or more; 5.5 if None.
        ax: Axes to draw into; a new figure if None.
    """

    title: str | None
    width: float | int | None
    ax: Axes | None


@contextmanager
def canvas(
    height: float | int,
    rows: float | int = 0,
    *,
    title: str | None = None,
    width: float | int | None = None,
    ax: Axes | None = None,
) -> Iterator[Axes]:
    """The axes to draw into: those given, or those of a new figure that belongs to no window.

    Axes that are given keep their own style. At the end the title is set and long labels are broken.

    Args:
        height: The height of a new figure in inches, besides its rows.
        rows: How many lines of text stand one above the other beside the axes.
        title, width, ax: As in `Place`, as are the errors raised.
    """
    inches = check_width(width, ax)
    if ax is not None:
        yield ax
        fit_texts(ax, title)
        return
    _, small = font_sizes(inches)
    height += 0.0 if title is None else 0.2 * (1 + len(title) // (20 * inches))
    with sheet(inches, height + rows * 1.45 * small / 72) as figure:
        axes = figure.subplots()
        axes.tick_params(labelsize=small)  # ticks that are made later have this size too
        yield axes
        fit_texts(axes, title)
