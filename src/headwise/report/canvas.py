"""The axes that a figure is drawn into: new ones in the common style, or the user's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from headwise.report.labels import fit_texts
from headwise.report.style import Axes, Figure, check_width, font_sizes, sheet

__all__ = ["Place", "canvas", "figure_of"]


def figure_of(axes: Axes) -> Figure:
    """The top-level figure that axes are in, even if they are in a subfigure."""
    return axes.figure.figure  # type: ignore[return-value]


class Place(TypedDict, total=False):
    """Where a figure is drawn: the keywords of every function of `headwise.plots` that draws one axes.

    The functions return the new figure, or that of the axes, and raise a HeadwiseError if the width is
    below 2, or is given together with axes.

    Args:
        title: The title; None for no title.
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
    """The axes to draw into: the given ones, or those of a new figure without a window.

    Given axes keep their own style. At the end the title is set and long labels are wrapped.

    Args:
        height: The height of a new figure in inches, without its rows.
        rows: The number of text lines stacked at the left of the axes.
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
        axes.tick_params(labelsize=small)  # also for ticks that are created later
        yield axes
        fit_texts(axes, title)
