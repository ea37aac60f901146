"""Layers across a figure: where each begins, and what it is called."""

from collections.abc import Sequence

import numpy as np

from headwise.model.heads import HeadMap
from headwise.report.style import Axes

__all__ = ["block_of", "mark_layers", "place_of"]


def mark_layers(
    axes: Axes,
    head_map: HeadMap,
    widths: Sequence[int],
    line: str = "white",
    above: Axes | None = None,
) -> None:
    """A thin line between layers, a thick one between places; ticks name blocks, the axis above places.

    Args:
        axes: The axes, across which layers stand.
        head_map: The layers.
        widths: The width of each layer on the axis.
        line: The colour of the lines.
        above: The axes over which the places are named, where they are not the same.
    """
    stops = np.cumsum(widths) - 0.5
    starts = stops - np.asarray(widths)
    places = [place_of(layer.address) for layer in head_map]
    blocks = [(place, block_of(layer.address)) for place, layer in zip(places, head_map, strict=True)]
    for edge, i in zip(stops[:-1], range(len(places) - 1), strict=True):
        axes.axvline(edge, color=line, linewidth=2 if places[i] != places[i + 1] else 0.4, alpha=0.8)
    runs = _runs(blocks)
    middles = [(starts[first] + stops[last]) / 2 for first, last in runs]
    axes.set_xticks(middles, [blocks[first][1] for first, _ in runs])
    axes.tick_params(axis="x", rotation=90 if len(runs) > 24 else 0, labelsize=8)
    axes.set_xlabel("layer, as block.attention" + (" (its heads left to right)" if max(widths) > 1 else ""))
    top = (above or axes).secondary_xaxis("top")
    runs = _runs(places)
    top.set_xticks(
        [(starts[first] + stops[last]) / 2 for first, last in runs], [places[first] for first, _ in runs]
    )
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)


def place_of(address: str) -> str:
    """`down_blocks.0.attentions…` is at "down"; a transformer's blocks are at "transformer"."""
    return address.split(".")[0].removesuffix("s").removesuffix("_block")


def block_of(address: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2` stands in "1.0"."""
    path = address.split(".")
    inner = path[1:].index("transformer_blocks") + 1 if "transformer_blocks" in path[1:] else len(path)
    return ".".join(part for part in path[:inner] if part.isdigit()) or "0"


def _runs(names: Sequence[object]) -> list[tuple[int, int]]:
    """First and last index of each stretch of equal neighbours."""
    firsts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [len(names) - 1], strict=True))
