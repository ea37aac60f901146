r"""The figure of one explained image: the shares of layers and heads in each word, and where heads act.

Red marks positive shares, of heads through which a word acts, and blue negative ones, of heads that work
against it.
"""

import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image

from headwise.errors import HeadwiseError
from headwise.measuring.explanation import Explanation
from headwise.report.layers import block_of, mark_layers, place_of
from headwise.report.style import DIVERGING, INK, Axes, Figure, SubFigure, check_width, sheet

__all__ = ["explanation", "short_address", "signed"]

FOR, AGAINST, ALL = "#b2182b", "#2166ac", "#6b21a8"


def explanation(
    explained: Explanation,
    words: Sequence[str] | None = None,
    maps: int = 4,
    *,
    title: str | None = None,
    width: float | int | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """The image, the shares of layers and heads in each word, and maps of each word's largest heads.

    A map shows where the output changes when the word is muted in one head. It is drawn over the image in
    grey, and its colour is scaled to its own largest value, so that weak heads are as visible as strong
    ones; the number above it is the head's share.

    Args:
        explained: The explanation.
        words: The words to show, from top to bottom; all if None.
        maps: The maximum number of heads shown for each word.
        title: The title; the prompt if None.
        width: The width of a new figure in inches, 2 or more; 5.5 if None.
        figure: An empty figure or subfigure to draw into; a new figure if None.

    Returns:
        The new figure, the given one, or the one that holds the given subfigure.

    Raises:
        HeadwiseError: The explained image is not a Pillow image, a word was not explained, or the width is
            below 2 or given together with a figure.
    """
    if not isinstance(explained.image, Image.Image):
        raise HeadwiseError(
            f"The explained image is a {type(explained.image).__name__}; expected a Pillow image. "
            "Explain with output_type='pil'."
        )
    rows = [explained.index(word) for word in (explained.words if words is None else words)]
    shown = min(maps, explained.heads.shape[1])
    inches = check_width(width, figure)
    cell = (inches - 0.7) / (shown + 1) * explained.image.height / explained.image.width
    heights = (1.0 + len(rows) * (0.5 + inches / 20), len(rows) * (cell + 0.35))
    title = f"“{explained.prompt}”" if title is None else title
    if figure is not None:
        _fill(figure, explained, rows, shown, heights, title)
        return figure.figure  # type: ignore[return-value]
    with sheet(inches, sum(heights)) as made:
        _fill(made, explained, rows, shown, heights, title)
    return made


def _fill(
    figure: Figure | SubFigure,
    explained: Explanation,
    rows: Sequence[int],
    shown: int,
    heights: tuple[float, float],
    title: str,
) -> None:
    """Draw the image and the shares in the upper half, and the maps in the lower half."""
    figure.suptitle(title, wrap=True)
    halves: Any = figure.subfigures(2, 1, height_ratios=heights)
    left, right = halves[0].subfigures(1, 2, width_ratios=(1, 3))
    axes = left.subplots()
    axes.imshow(explained.image, interpolation="nearest")
    axes.set_axis_off()
    _draw_shares(right, explained, rows)
    _draw_maps(halves[1], explained, rows, shown)


def _draw_shares(figure: SubFigure, explained: Explanation, rows: Sequence[int]) -> None:
    """Draw for each word the bars of its layers, and below them a strip of its heads."""
    axes = figure.subplots(2 * len(rows), 1, sharex=True, height_ratios=[3, 1] * len(rows))
    slices, limit = explained.head_map.slices, float(np.abs(explained.shares[rows]).max()) or 1.0
    of_layers = explained.by_layer[rows]
    low, high = min(0.0, of_layers.min()), max(0.0, of_layers.max())
    margin = 0.05 * (high - low) or 0.5
    colours: dict[str, Any] = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}
    strip: Any = None
    for (bars, heads), w in zip(axes.reshape(-1, 2), rows, strict=True):
        for share, (start, stop) in zip(explained.by_layer[w], slices, strict=True):
            bars.bar((start + stop - 1) / 2, share, 0.9 * (stop - start), color=FOR if share > 0 else AGAINST)
        bars.axhline(0, color="black", linewidth=0.6)
        bars.set(ylim=(low - margin, high + margin))
        _name(bars, explained.words[w], f"sum {explained.completeness[w]:.2f}".replace("-", "−"))
        for each in (bars, heads):
            each.tick_params(axis="x", length=0)
            each.spines[["bottom", "left"]].set_visible(False)
        strip = heads.imshow(explained.shares[w][None], aspect="auto", interpolation="nearest", **colours)
        heads.set_yticks([0], ["heads"])
        heads.tick_params(axis="y", length=0)
        for start, _ in slices[1:]:
            heads.axvline(start - 0.5, color="#c9ced4", linewidth=0.5)
    bar = figure.colorbar(strip, ax=list(axes), location="bottom", aspect=30, fraction=0.05, pad=0.02)
    bar.set_label("share of a head")
    mark_layers(heads, explained.head_map, [layer.heads for layer in explained.head_map], above=axes[0])


def _draw_maps(figure: SubFigure, explained: Explanation, rows: Sequence[int], shown: int) -> None:
    """Draw for each word the map of all heads, and those of the heads with the largest shares."""
    grid = figure.subplots(len(rows), shown + 1, squeeze=False)
    grey = explained.image.convert("L")
    for cells, w in zip(grid, rows, strict=True):
        titles = [("all\nheads", ALL, explained.word_maps[w])]
        for head, map_ in zip(explained.heads[w, :shown], explained.maps[w], strict=False):
            share = explained.shares[w, head]
            name = short_address(explained.head_map.address(int(head)))
            titles.append((f"{name}\n{signed(share)}", FOR if share > 0 else AGAINST, map_))
        for axes, (title, colour, map_) in zip(cells, titles, strict=True):
            axes.imshow(grey, cmap="gray", vmin=-220, vmax=255, interpolation="nearest")
            axes.imshow(
                _tinted(map_, colour),
                interpolation="bicubic",
                extent=(-0.5, grey.width - 0.5, grey.height - 0.5, -0.5),
            )
            axes.set(xticks=[], yticks=[], xlim=(-0.5, grey.width - 0.5), ylim=(grey.height - 0.5, -0.5))
            axes.spines[:].set_visible(False)
            axes.set_title(title, fontsize=_small(), color=colour, pad=2)
        _name(cells[0], explained.words[w], f"strength\n{explained.strengths[w]:.2f}")


def _name(axes: Axes, word: str, number: str) -> None:
    """Write a word and its number at the left of its row."""
    axes.set_ylabel(f"{word}\n{number}", rotation=0, ha="right", va="center", color=INK, fontsize=_small())


def _small() -> Any:
    """The font size of ticks and legends in the current style."""
    return matplotlib.rcParams["legend.fontsize"]


def signed(share: float) -> str:
    """A share with its sign, using a minus sign instead of a hyphen."""
    return f"{share:+.2f}".replace("-", "−")


def short_address(address: str) -> str:
    """Shorten `up_blocks.2.attentions.1.transformer_blocks.0.attn2[4]` to "up 2.1[4]".

    Later transformer blocks of the same attention keep their number: `….transformer_blocks.3.attn2[4]` is
    "up 2.1.3[4]".
    """
    path, head = address.split("[")
    later = re.search(r"\.transformer_blocks(\.[1-9]\d*)", path)
    return f"{place_of(path)} {block_of(path)}{later[1] if later else ''}[{head}"


def _tinted(map_: Float[np.ndarray, "height width"], colour: str) -> Float[np.ndarray, "height width 4"]:
    """A map as one colour whose opacity grows with the value."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    top = float(map_.max())
    strength = 0.85 * map_ / top if top > 0 else np.zeros_like(map_)
    return np.stack([np.full_like(map_, c) for c in (red, green, blue)] + [strength], -1)
