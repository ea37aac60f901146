"""What all figures share: one style, two inks, and SVG that is the same every time it is written."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from headwise.errors import MissingExtra

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "Figures need matplotlib, which is not installed: pip install 'headwise[plots]'"
    ) from missing

__all__ = [
    "ACCENT", "DIVERGING", "GREY", "INK", "SEQUENTIAL", "Axes", "Figure", "as_png", "as_svg", "canvas",
    "name_concepts", "sheet",
]  # fmt: skip

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # words stay words: small, searchable, read aloud
    "svg.hashsalt": "headwise",  # the same figure is the same file
}
INK, ACCENT, GREY = "#00356b", "#b45309", "#8a94a0"  # told apart by lightness as well
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"  # both keep their order for colour-blind eyes


@contextmanager
def canvas(width: float | int, height: float | int) -> Iterator[tuple[Figure, Axes]]:
    """A new figure and its axes in the common style; it belongs to no window and no global state.

    Args:
        width: The width of the figure in inches.
        height: The height of the figure in inches.
    """
    with sheet(width, height) as figure:
        yield figure, figure.subplots()


@contextmanager
def sheet(width: float | int, height: float | int) -> Iterator[Figure]:
    """A new figure without axes, of this width and height in inches, as `canvas` makes them."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element without the XML prologue, ready to stand inside a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def name_concepts(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of concepts beside the rows of a figure, the first at position 0."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylabel("concept")
    axes.tick_params(axis="y", length=0)
