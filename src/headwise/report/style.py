"""What all figures share: sizes that are read at the width of a paper, two inks, and files that stay text.

A new figure is as wide as it will be printed, so that its fonts have their printed size: 6 and 7 pt in a
column of 3.25 inches, 7 and 8 pt across a page of 5.5 inches, 8 and 9 pt above 7 inches. Fonts in PDF are
TrueType, which conferences ask for, and words in SVG stay words.
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

WIDTH = 5.5  # inches: the text of a NeurIPS or ICLR paper; a column of CVPR or ICML has 3.25
FILES: Any = {
    "pdf.fonttype": 42,  # TrueType; Type 3, which matplotlib writes by default, is refused by conferences
    "ps.fonttype": 42,
    "svg.fonttype": "none",  # words stay words: small, searchable, read aloud
    "svg.hashsalt": "headwise",  # the same figure is the same file
}
INK, ACCENT, GREY = "#00356b", "#b45309", "#8a94a0"  # told apart by lightness as well
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"  # both keep their order for colour-blind eyes


class _Sheet(Figure):
    """A figure that any way of saving writes with the settings of `FILES`, and that notebooks show."""

    def savefig(self, *args: Any, **options: Any) -> None:
        """As matplotlib's, with fonts and words as `FILES` says."""
        with matplotlib.rc_context(FILES):
            super().savefig(*args, **options)

    def _repr_svg_(self) -> str:
        return as_svg(self)


def style(width: float | int = WIDTH) -> AbstractContextManager[None]:
    """The settings of these figures, as a context in which you make and save figures of your own.

        with hw.plots.style(width=5.5):
            figure, (left, right) = plt.subplots(1, 2, figsize=(5.5, 2), layout="constrained")
            hw.plots.weakening_curves(color, ax=left)
            figure.savefig("both.pdf")

    Args:
        width: The width of the figure in inches, which decides the size of its fonts.
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
    """The sizes, in points, of titles and labels, and of ticks and legends in a figure of this width."""
    medium = 7 if width < 4.5 else 8 if width < 7 else 9
    return medium, medium - 1


def check_width(width: float | int | None, axes: object = None) -> float | int:
    """The width of a new figure: the one that is given, or `WIDTH`.

    Args:
        width: The width in inches; None for the default.
        axes: The axes or the figure to draw into, whose own width is the one that counts.

    Raises:
        HeadwiseError: It is too small for any label, or is given beside what to draw into.
    """
    if width is None:
        return WIDTH
    if axes is not None:
        raise HeadwiseError(
            f"width={width} was given beside axes or a figure to draw into, which have their own width. "
            "Leave out one of the two."
        )
    if not 2 <= width <= 100:
        raise HeadwiseError(
            f"width={width} was given; expected inches, 2 or more: 3.25 for a column, 5.5 for a page."
        )
    return width


@contextmanager
def sheet(width: float | int, height: float | int) -> Iterator[Figure]:
    """A new figure without axes, of this width and height in inches, in the common style."""
    with style(width):
        yield _Sheet(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element without the XML prologue, ready to stand inside a page."""
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
