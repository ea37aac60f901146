r"""Figures of a relevance: where each concept lives in the model, and how alike concepts are.

Every function takes a `Relevance` (and nothing else it would have to be told) and returns a matplotlib
`Figure` that belongs to no window and no global state, so it can be drawn on a server, in a thread, or in a
notebook. `as_svg` and `as_png` turn one into text and bytes.

All figures share one reading: relevance 1 is the average head; layers stand in the order the picture passes
them, down, mid, up.
"""

__all__ = [
    "as_png",
    "as_svg",
    "concept_similarity",
    "convergence",
    "correlation",
    "heat_map",
    "intervals",
    "layer_means",
    "layer_summary",
    "lines",
    "reliability",
]

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwise.benchmarks.results import Weakening
from headwise.errors import MissingExtra
from headwise.intervals import Interval
from headwise.measuring.agreement import Agreement
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import split_half
from headwise.measuring.votes import Votes
from headwise.model.heads import HeadMap, Layer

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "Figures need matplotlib, which is not installed: pip install 'headwise[plots]'"
    ) from missing

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # words stay words: small, searchable, read aloud
    "svg.hashsalt": "headwise",  # the same figure is the same file
}
INK, ACCENT = "#00356b", "#b45309"  # told apart by lightness as well
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"  # both keep their order for colour-blind eyes


_ORDER_STYLE = {
    "most relevant": (ACCENT, "-", 2.2),
    "least relevant": (INK, "-", 2.2),
    "most relevant layers": (ACCENT, ":", 1.4),
    "least relevant layers": (INK, ":", 1.4),
}


def heat_map(relevance: Relevance) -> Figure:
    """Concepts down, heads across: one cell is how much more than the average head a head serves a concept.

    Few heads hold very large values (66 in SDXL), which would leave the rest black: colours stop at the 99th
    percentile, and the colour bar says so.
    """
    values = relevance.values
    concepts, heads = values.shape
    top = max(2.0, float(np.quantile(values, 0.99)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(max(10.0, min(14.0, 2.5 + heads / 14)), 1.6 + 0.21 * concepts), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        _name_concepts(axes, relevance.concepts)
        _mark_layers(axes, _head_map(relevance), [layer.heads for layer in _head_map(relevance)])
        bar = figure.colorbar(image, ax=axes, extend="max", fraction=0.03, pad=0.01)
        bar.set_label(f"relevance (1 = average head; colours end at {top:.1f}, the 99th percentile)")
        axes.set_title(f"Relevance of {heads} heads to {concepts} concepts")
    return figure


def layer_summary(relevance: Relevance) -> Figure:
    """The same map with the heads of each layer averaged: what is a matter of depth alone."""
    means = layer_means(relevance)
    top = max(1.5, float(np.quantile(means, 0.99)))
    with matplotlib.rc_context(STYLE):
        width = max(7.0, min(16.0, 3 + 0.3 * means.shape[1]))
        figure = Figure(figsize=(width, 1.6 + 0.21 * len(means)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(means, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        _name_concepts(axes, relevance.concepts)
        _mark_layers(axes, _head_map(relevance), [1] * means.shape[1])
        bar = figure.colorbar(image, ax=axes, extend="max", fraction=0.04, pad=0.01)
        bar.set_label(f"mean relevance (colours end at {top:.1f}, the 99th percentile)")
        axes.set_title("Relevance by layer")
    return figure


def concept_similarity(relevance: Relevance) -> Figure:
    """Which concepts share heads: correlation over heads, similar ones side by side."""
    alike = correlation(relevance)
    order = _seriation(alike)
    names = [relevance.concepts[c] for c in order]
    with matplotlib.rc_context(STYLE):
        side = 2.6 + 0.21 * len(names)
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(
            alike[np.ix_(order, order)], cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest"
        )
        _name_concepts(axes, names)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_xlabel("concept")
        figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02).set_label("correlation over heads")
        axes.set_title("Concepts that share heads")
    return figure


def reliability(relevance: Relevance, control: Relevance | None = None) -> Figure:
    """Split-half rank correlation of each concept, beside a control in which names mean nothing."""
    halves = relevance.split_half
    order = np.argsort(np.nan_to_num(halves, nan=-2), kind="stable")
    rows = np.arange(len(order))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.5 + 0.2 * len(order)), layout="constrained")
        axes = figure.subplots()
        axes.hlines(rows, 0, halves[order], color="#b8c2cc", linewidth=2, zorder=1)
        axes.scatter(halves[order], rows, color=INK, label="measured", zorder=3)
        if control is not None:
            axes.scatter(
                control.split_half[order],
                rows,
                facecolors="none",
                edgecolors=ACCENT,
                label="control",
                zorder=2,
            )
            axes.legend(loc="lower left", frameon=False)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlim=(min(-0.5, float(axes.get_xlim()[0])), 1.02), xlabel="split-half rank correlation")
        _name_concepts(axes, [relevance.concepts[c] for c in order])
        axes.set_title("How sure: one half of the pictures against the other")
    return figure


def convergence(votes: Votes) -> Figure:
    """Split-half rank correlation with an eighth to all of the pictures: would more still help?"""
    kept = [blocks for blocks in (4, 8, 16, len(votes.blocks)) if votes.blocks[:blocks].any()]
    halves = np.stack([split_half(replace(votes, blocks=votes.blocks[:blocks])) for blocks in kept])
    pictures = [len(votes) * blocks / len(votes.blocks) for blocks in kept]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(pictures, np.nanmedian(halves, axis=1), marker="o", color=INK, label="median concept")
        axes.plot(pictures, np.nanmin(halves, axis=1), marker="s", color=ACCENT, label="lowest concept")
        axes.set(xlabel="pictures", ylabel="split-half rank correlation", xlim=(0, None), ylim=(None, 1.02))
        axes.legend(loc="lower right", frameon=False)
        axes.set_title("Would more pictures help?")
    return figure


def weakening_curves(found: Weakening) -> Figure:
    """The mean score against the number of weakened heads, a line and a band for every order."""
    randoms = [order for order in found.orders if order.startswith("random")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for order in found.orders:
            color, line, width = _ORDER_STYLE.get(order, ("#8a94a0", "-", 1.0))
            value, low, high = found.curve(order)
            label = order if order not in randoms[1:] else None
            axes.plot(found.ks, value, color=color, linestyle=line, linewidth=width, label=label)
            if order in _ORDER_STYLE:
                axes.fill_between(found.ks, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set(xlabel="heads weakened (k)", ylabel="mean score", xlim=(0, found.ks[-1]))
        axes.legend(frameon=False, loc="upper right")
        axes.set_title(f"{found.scores.settings.get('concept', '')}: what is left when heads are weakened")
    return figure


def weakening_areas(found: Mapping[str, Weakening]) -> Figure:
    """Area between least and most relevant first, of every concept, with its interval and two controls."""
    names = sorted(found, key=lambda name: found[name].area().value)
    rows = np.arange(len(names))
    areas = [found[name].area() for name in names]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.24 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.hlines(rows, [a.low for a in areas], [a.high for a in areas], color=INK, linewidth=2)
        axes.scatter([a.value for a in areas], rows, color=INK, zorder=3, label="least − most relevant first")
        random = [found[name].random().value for name in names]
        axes.scatter(random, rows, facecolors="none", edgecolors=ACCENT, zorder=4, label="random − most")
        layers = [found[name].area("most relevant layers", "least relevant layers").value for name in names]
        axes.scatter(layers, rows, marker="s", s=14, color="#8a94a0", zorder=2, label="whole layers")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("area between curves (score, averaged over k)")
        axes.legend(frameon=False, loc="lower right")
        _name_concepts(axes, names)
        axes.set_ylabel("")
    return figure


def tradeoff(found: Mapping[str, tuple[Interval, Interval]], x: str, y: str) -> Figure:
    """One mark with its two intervals for each method: who goes far on one axis without loss on the other?"""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5), layout="constrained")
        axes = figure.subplots()
        for name, (across, up) in found.items():
            color = ACCENT if name.startswith("relevance") else INK
            axes.plot([across.low, across.high], [up.value] * 2, color=color, linewidth=1.2)
            axes.plot([across.value] * 2, [up.low, up.high], color=color, linewidth=1.2)
            axes.scatter([across.value], [up.value], color=color, zorder=3)
        lowest = -np.inf  # names from below, each above the last where they would touch
        points = 72 / figure.dpi
        for name, (across, up) in sorted(found.items(), key=lambda one: one[1][1].value):
            at = (across.value, up.value)
            height = axes.transData.transform(at)[1] * points
            lowest = max(height + 4, lowest + 9)
            color = ACCENT if name.startswith("relevance") else INK
            axes.annotate(name, at, (5, lowest - height), textcoords="offset points", color=color, fontsize=8)
        axes.set(xlabel=x, ylabel=y)
    return figure


def agreements(found: Mapping[str, Agreement]) -> Figure:
    """Rank correlation of two measurements by concept, beside the most that they could reach."""
    names = sorted(found, key=lambda name: found[name].correlation)
    rows = np.arange(len(names))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.24 * len(names)), layout="constrained")
        axes = figure.subplots()
        reached, most = ([getattr(found[n], key) for n in names] for key in ("correlation", "ceiling"))
        axes.hlines(rows, 0, reached, color=INK, linewidth=1)
        axes.scatter(reached, rows, color=INK, zorder=3, label="the two measurements")
        axes.scatter(most, rows, marker="|", s=90, color=ACCENT, label="the most they could reach")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel="rank correlation over heads", xlim=(min(-0.1, *reached), 1.02))
        axes.legend(frameon=False, loc="lower right")
        _name_concepts(axes, names)
    return figure


def rates(found: Mapping[str, Interval], label: str) -> Figure:
    """Shares with their intervals, one row for each method, the first on top."""
    figure = intervals(found, label)
    figure.axes[0].set(xlim=(0, 1))
    return figure


def intervals(found: Mapping[str, Interval], label: str) -> Figure:
    """Numbers with their intervals, one row for each, the first on top."""
    rows = np.arange(len(found))[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.2 + 0.32 * len(found)), layout="constrained")
        axes = figure.subplots()
        axes.hlines(
            rows, [r.low for r in found.values()], [r.high for r in found.values()], color=INK, linewidth=2
        )
        axes.scatter([r.value for r in found.values()], rows, color=INK, zorder=3)
        axes.set_yticks(rows, list(found))
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=label)
        if min(r.low for r in found.values()) < 0:
            axes.axvline(0, color="#8a94a0", linewidth=1)
    return figure


def lines(
    found: Mapping[str, Sequence[Sequence[float]]], x: str, y: str, goal: float | None = None
) -> Figure:
    """One line for each name over a logarithmic axis, with the lowest and highest as a band.

    Args:
        found: Points of x, y, and the lowest and highest y.
        x, y: Names of the axes.
        goal: A level to be reached.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        shades = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.85, len(found)))
        for color, marker, (name, points) in zip(
            shades, itertools.cycle("osD^vXP"), found.items(), strict=False
        ):
            at, mean, low, high = np.array(points).T[:4]
            axes.plot(at, mean, marker=marker, markersize=4, color=color, label=name)
            axes.fill_between(at, low, high, color=color, alpha=0.1, linewidth=0)
        if goal is not None:
            axes.axhline(goal, color=ACCENT, linewidth=1, linestyle="--")
        axes.set(xlabel=x, ylabel=y, xscale="log")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element, without the XML prologue, ready to stand inside a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def layer_means(relevance: Relevance) -> Float[np.ndarray, "concepts layers"]:
    """Relevance averaged over the heads of each layer."""
    slices = _head_map(relevance).slices
    return np.stack([relevance.values[:, start:stop].mean(axis=1) for start, stop in slices], axis=1)


def correlation(relevance: Relevance) -> Float[np.ndarray, "concepts concepts"]:
    """Pearson correlation between concepts over heads; a concept without votes resembles nothing."""
    centred = relevance.values - relevance.values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return unit @ unit.T


def _head_map(relevance: Relevance) -> HeadMap:
    """The head map, or for arrays that came without one a single unnamed layer."""
    return relevance.head_map or HeadMap((Layer("", relevance.values.shape[1]),))


def _seriation(alike: Float[np.ndarray, "concepts concepts"]) -> Int[np.ndarray, " concepts"]:
    """Order by the Fiedler vector: the line on which similar concepts lie closest (Atkins et al., 1998)."""
    if len(alike) < 3:
        return np.arange(len(alike))
    weights = (alike + 1) / 2
    laplacian = np.diag(weights.sum(axis=1)) - weights
    fiedler = np.linalg.eigh(laplacian)[1][:, 1]
    return np.argsort(fiedler * np.sign(fiedler[np.argmax(np.abs(fiedler))]), kind="stable")


def _name_concepts(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylabel("concept")
    axes.tick_params(axis="y", length=0)


def _mark_layers(axes: Axes, head_map: HeadMap, widths: Sequence[int]) -> None:
    """A thin line between layers, a thick one between places; ticks name blocks, the axis above places."""
    stops = np.cumsum(widths) - 0.5
    starts = stops - np.asarray(widths)
    places = [_place(layer.address) for layer in head_map]
    blocks = [(place, _block(layer.address)) for place, layer in zip(places, head_map, strict=True)]
    for edge, i in zip(stops[:-1], range(len(places) - 1), strict=True):
        axes.axvline(edge, color="white", linewidth=2 if places[i] != places[i + 1] else 0.4, alpha=0.8)
    runs = _runs(blocks)
    middles = [(starts[first] + stops[last]) / 2 for first, last in runs]
    axes.set_xticks(middles, [blocks[first][1] for first, _ in runs])
    axes.tick_params(axis="x", rotation=90 if len(runs) > 24 else 0, labelsize=8)
    axes.set_xlabel("layer, as block.attention" + (" (its heads left to right)" if max(widths) > 1 else ""))
    above = axes.secondary_xaxis("top")
    runs = _runs(places)
    above.set_xticks(
        [(starts[first] + stops[last]) / 2 for first, last in runs], [places[first] for first, _ in runs]
    )
    above.tick_params(length=0)
    above.spines["top"].set_visible(False)


def _place(address: str) -> str:
    """`down_blocks.0.attentions…` is at "down"; a transformer's blocks are at "transformer"."""
    return address.split(".")[0].removesuffix("s").removesuffix("_block")


def _block(address: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2` stands in "1.0"."""
    path = address.split(".")
    inner = path[1:].index("transformer_blocks") + 1 if "transformer_blocks" in path[1:] else len(path)
    return ".".join(part for part in path[:inner] if part.isdigit()) or "0"


def _runs(names: Sequence[object]) -> list[tuple[int, int]]:
    """First and last index of each stretch of equal neighbours."""
    firsts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [len(names) - 1], strict=True))
