"""The common style of all figures: font sizes for the printed width, two main colours, text that stays text.

A new figure is as wide as it will be printed, so that its fonts have their printed size: 6 and 7 pt in a
column of 3.25 inches, 7 and 8 pt across a page of 5.5 inches, 8 and 9 pt above 7 inches. Fonts in PDF are
TrueType, which conferences require, and text in SVG stays text.
"""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from headwise.errors import HeadwiseError, MissingExtra

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "Figures need matplotlib, which is not installed: pip install 'headwise[plots]'"
    ) from missing

__all__ = [
    "ACCENT", "DIVERGING", "GREY", "INK", "SEQUENTIAL", "WIDTH", "Axes", "Figure", "SubFigure", "as_png",
    "as_svg", "check_width", "font_sizes", "sheet", "style",
]  # fmt: skip

WIDTH = 5.5  # inches: the text width of a NeurIPS or ICLR paper; a column of CVPR or ICML has 3.25
FILES: Any = {
    "pdf.fonttype": 42,  # TrueType; conferences reject Type 3, matplotlib's default
    "ps.fonttype": 42,
    "svg.fonttype": "none",  # text stays text: small, searchable, accessible to screen readers
    "svg.hashsalt": "headwise",  # equal figures give equal files
}
INK, ACCENT, GREY = "#00356b", "#b45309", "#8a94a0"  # they differ in lightness as well
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"  # both are safe for colour-blind readers


class _Sheet(Figure):
    """A figure that is always saved with the settings of `FILES`, and that notebooks display."""

    def savefig(self, *args: Any, **options: Any) -> None:
        """Like matplotlib's, with the settings of `FILES`."""
        with matplotlib.rc_context(FILES):
            super().savefig(*args, **options)

    def _repr_svg_(self) -> str:
        return as_svg(self)


def style(width: float | int = WIDTH) -> AbstractContextManager[None]:
    """The settings of these figures, as a context in which to make and save your own figures.

        with hw.plots.style(width=5.5):
            figure, (left, right) = plt.subplots(1, 2, figsize=(5.5, 2), layout="constrained")
            hw.plots.weakening_curves(color, ax=left)
            figure.savefig("both.pdf")

    Args:
        width: The width of the figure in inches, which determines its font sizes.
    """
    medium, small = font_sizes(width)
    names = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    sizes = {
        "font.size": medium,
        "axes.labelsize": medium,
        "axes.titlesize": medium,
        "figure.titlesize": medium,
    }
    lines = {
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.frameon": False,
        "legend.borderaxespad": 0.3,
        "legend.handlelength": 1.6,
    }
    settings: Any = FILES | sizes | dict.fromkeys(names, small) | lines
    return matplotlib.rc_context(settings)


def font_sizes(width: float | int) -> tuple[int, int]:
    """The font sizes in points, of titles and labels and of ticks and legends, at this width in inches."""
    medium = 7 if width < 4.5 else 8 if width < 7 else 9
    return medium, medium - 1


def check_width(width: float | int | None, axes: object = None) -> float | int:
    """The width of a new figure: the given one, or `WIDTH`.

    Args:
        width: The width in inches; None for the default.
        axes: The user's axes or figure to draw into, which have their own width.

    Raises:
        HeadwiseError: The width is too small for labels, or is given together with axes or a figure.
    """
    if width is None:
        return WIDTH
    if axes is not None:
        raise HeadwiseError(
            f"width={width} was given together with axes or a figure to draw into, which have their own "
            "width. Leave out one of the two."
        )
    if not 2 <= width <= 100:
        raise HeadwiseError(
            f"width={width} was given; expected inches, 2 or more: 3.25 for a column, 5.5 for a page."
        )
    return width


@contextmanager
def sheet(width: float | int, height: float | int) -> Iterator[Figure]:
    """A new figure in the common style, of this width and height in inches, without axes."""
    with style(width):
        yield _Sheet(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element without the XML prologue, to embed in a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(FILES):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as the content of a PNG file.

    Args:
        figure: The figure.
        dpi: Its pixels per inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
