"""HTML for notebooks: tables, strips of colour and images, made without matplotlib.

Jupyter shows an object by its `_repr_html_`. The HTML made here loads nothing from other hosts: images are
data URIs, and all text from outside is escaped.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import Float
from PIL import Image

__all__ = ["Html", "colour_limit", "html_image", "html_strip", "html_table"]

SEQUENTIAL = ("#00224e", "#414d6b", "#7c7b78", "#bbae6a", "#fee838")  # cividis, from 0 up
DIVERGING = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")  # RdBu, 0 in the middle


class Html(str):
    """Text that is already HTML, and is not escaped again."""


def html_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()
) -> Html:
    """A table whose cells are escaped unless they are `Html`.

    Args:
        caption: What the table is, in words.
        columns: The names of the columns.
        rows: The cells of each row.
        notes: Sentences below the table.
    """
    head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return Html(
        f'<table><caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def _cell(value: object) -> str:
    text = value if isinstance(value, Html) else escape(str(value))
    return f'<td style="text-align:left">{text}</td>'


def colour_limit(values: Float[np.ndarray, "..."], least: float = 0.0) -> float:
    """The absolute value at which the colour scale ends: the 99th percentile, but at least `least`.

    A few heads have very large values, which would leave all others in the first colour.
    """
    return max(least, float(np.quantile(np.abs(values), 0.99)))


def html_strip(values: Float[np.ndarray, " all_heads"], limit: float, signed: bool, alt: str) -> Html:
    """One row of a map: a strip with one pixel of colour for each head.

    Args:
        values: The values.
        limit: The absolute value from which on the last colour is used.
        signed: Whether 0 is the middle of the colour scale, or its start.
        alt: What the strip shows, in words.
    """
    stops = np.array(
        [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (DIVERGING if signed else SEQUENTIAL)]
    )
    at = np.linspace(-limit if signed else 0.0, limit or 1.0, len(stops))
    colours = np.stack([np.interp(values, at, stops[:, channel]) for channel in range(3)], -1)
    return html_image(Image.fromarray(colours.round().astype(np.uint8)[None]), alt, "width:20em;height:1.1em")


def html_image(image: Image.Image, alt: str, css: str) -> Html:
    """An image as a data URI.

    Args:
        image: The image.
        alt: What it shows, in words.
        css: Its size.
    """
    buffer = io.BytesIO()
    image.save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    style = f"{css};image-rendering:pixelated"
    return Html(f'<img alt="{escape(alt)}" style="{style}" src="data:image/png;base64,{data}">')
