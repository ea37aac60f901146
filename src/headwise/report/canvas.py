"""The axes that a figure is drawn into: new ones in the common style, or those of somebody else's figure."""

from collections.abc import Iterator
from contextlib import contextmanager

from headwise.report.labels import fit_texts
from headwise.report.style import Axes, Figure, check_width, font_sizes, sheet

__all__ = ["canvas", "figure_of"]


def figure_of(axes: Axes) -> Figure:
    """The whole figure that axes are in, of a subfigure too."""
    return axes.figure.figure  # type: ignore[return-value]


@contextmanager
def canvas(
    title: str | None,
    width: float | int | None,
    ax: Axes | None,
    height: float | int = 0.0,
    rows: float | int = 0,
) -> Iterator[Axes]:
    """The axes to draw into: those given, or those of a new figure that belongs to no window.

    Axes that are given keep their own style. At the end the title is set and long labels are broken.

    Args:
        title: The title; None for none.
        width: The width of a new figure in inches.
        ax: The axes to draw into; None for a new figure.
        height: The height of a new figure in inches, besides its rows.
        rows: How many lines of text stand one above the other beside the axes.

    Raises:
        HeadwiseError: The width is too small, or is given beside axes.
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
