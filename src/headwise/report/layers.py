"""Layers on a figure's horizontal axis: lines between them, and the names of blocks."""

from collections.abc import Sequence

import numpy as np

from headwise.model.heads import HeadMap
from headwise.report.labels import fit_x_ticks
from headwise.report.style import Axes

__all__ = ["block_of", "mark_layers", "place_of"]

MANY = 32  # with more layers, lines between all of them would hide the map


def mark_layers(
    axes: Axes,
    head_map: HeadMap,
    widths: Sequence[int],
    line: str = "white",
    above: Axes | None = None,
) -> None:
    """Mark layers by thin lines, if they are few, and places by thick ones; name blocks and places.

    A place is a part of the denoiser: "down", "mid" or "up" in a UNet.

    Args:
        axes: The axes with layers on the horizontal axis.
        head_map: The layers.
        widths: The width of each layer on the axis.
        line: The colour of the lines.
        above: The axes above which places are named, if they are different axes.
    """
    stops = np.cumsum(widths) - 0.5
    starts = stops - np.asarray(widths)
    places = [place_of(layer.address) for layer in head_map]
    blocks = [(place, block_of(layer.address)) for place, layer in zip(places, head_map, strict=True)]
    for edge, i in zip(stops[:-1], range(len(places) - 1), strict=True):
        thick = 1.5 if places[i] != places[i + 1] else 0.3 if len(places) <= MANY else 0.0
        axes.axvline(edge, color=line, linewidth=thick, alpha=0.8)
    runs = _runs(blocks)
    middles = [(starts[first] + stops[last]) / 2 for first, last in runs]
    axes.set_xticks(middles, [blocks[first][1] for first, _ in runs])
    axes.set_xlabel(f"{'head, by' if max(widths) > 1 else 'layer, by'} block")
    top = (above or axes).secondary_xaxis("top")
    runs = _runs(places)
    top.set_xticks(
        [(starts[first] + stops[last]) / 2 for first, last in runs], [places[first] for first, _ in runs]
    )
    top.tick_params(length=0, labelsize=axes.xaxis.get_ticklabels()[0].get_fontsize())
    top.spines["top"].set_visible(False)
    fit_x_ticks(axes)


def place_of(address: str) -> str:
    """The place of a layer: "down" for `down_blocks.0.attentions…`; "transformer" for transformer blocks."""
    return address.split(".")[0].removesuffix("s").removesuffix("_block")


def block_of(address: str) -> str:
    """The block of a layer: "1.0" for `down_blocks.1.attentions.0.transformer_blocks.0.attn2`."""
    path = address.split(".")
    inner = path[1:].index("transformer_blocks") + 1 if "transformer_blocks" in path[1:] else len(path)
    return ".".join(part for part in path[:inner] if part.isdigit()) or "0"


def _runs(names: Sequence[object]) -> list[tuple[int, int]]:
    """The first and last index of each run of equal names."""
    firsts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [len(names) - 1], strict=True))
