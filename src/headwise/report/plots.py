r"""Figures of a relevance: where each concept lives in the model, and how alike concepts are.

Figures are matplotlib `Figure`s that belong to no window and no global state, so they can be made on a
server, in a thread, or in a notebook. `as_svg` and `as_png` turn one into text and bytes. Figures of
benchmarks (curves.py) and of single images (explanation.py) are found here too.

All figures of heads share one reading: relevance 1 is the average head; layers stand in the order in which
the image passes them, down, mid, up.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwise.measuring.counting import Counted
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import split_half
from headwise.measuring.votes import Votes
from headwise.model.heads import HeadMap, Layer
from headwise.report.curves import (
    agreements,
    intervals,
    lines,
    rates,
    tradeoff,
    tradeoff_curves,
    weakening_areas,
    weakening_curves,
)
from headwise.report.explanation import explanation
from headwise.report.layers import mark_layers
from headwise.report.style import (
    ACCENT,
    DIVERGING,
    GREY,
    INK,
    SEQUENTIAL,
    Figure,
    as_png,
    as_svg,
    canvas,
    name_concepts,
)

__all__ = [
    "agreements", "as_png", "as_svg", "concept_similarity", "convergence", "correlation", "explanation",
    "heat_map", "intervals", "layer_means", "layer_summary", "lines", "rates", "reliability", "tradeoff",
    "tradeoff_curves", "weakening_areas", "weakening_curves",
]  # fmt: skip


def heat_map(relevance: Relevance) -> Figure:
    """Concepts down, heads across: one cell is how much more than the average head a head serves a concept.

    Few heads hold very large values (66 in SDXL), which would leave the rest black: colours stop at the 99th
    percentile, and the colour bar says so. Where values are below 0, as they are by effect, colours reach as
    far below 0 as above.
    """
    values = relevance.values
    concepts, heads = values.shape
    colours, top = _colours(values, 2.0)
    with canvas(max(10.0, min(14.0, 2.5 + heads / 14)), 1.6 + 0.21 * concepts) as (figure, axes):
        image = axes.imshow(values, **colours, aspect="auto", interpolation="nearest")
        name_concepts(axes, relevance.concepts)
        layers = _head_map(relevance)
        mark_layers(axes, layers, [layer.heads for layer in layers], _line(colours))
        bar = figure.colorbar(image, ax=axes, extend=_ends(colours), fraction=0.03, pad=0.01)
        bar.set_label(f"relevance (1 = average head; colours end at {top:.1f}, the 99th percentile)")
        axes.set_title(f"Relevance of {heads} heads to {concepts} concepts")
    return figure


def layer_summary(relevance: Relevance) -> Figure:
    """The same map with the heads of each layer averaged, which leaves what depends on depth alone."""
    means = layer_means(relevance)
    colours, top = _colours(means, 1.5)
    width = max(7.0, min(16.0, 3 + 0.3 * means.shape[1]))
    with canvas(width, 1.6 + 0.21 * len(means)) as (figure, axes):
        image = axes.imshow(means, **colours, aspect="auto", interpolation="nearest")
        name_concepts(axes, relevance.concepts)
        mark_layers(axes, _head_map(relevance), [1] * means.shape[1], _line(colours))
        bar = figure.colorbar(image, ax=axes, extend=_ends(colours), fraction=0.04, pad=0.01)
        bar.set_label(f"mean relevance (colours end at {top:.1f}, the 99th percentile)")
        axes.set_title("Relevance by layer")
    return figure


def concept_similarity(relevance: Relevance) -> Figure:
    """Which concepts share heads: correlation over heads, similar ones side by side."""
    similarity = correlation(relevance)
    order = _seriation(similarity)
    names = [relevance.concepts[c] for c in order]
    ordered = similarity[np.ix_(order, order)]
    side = 2.6 + 0.21 * len(names)
    with canvas(side + 0.8, side) as (figure, axes):
        image = axes.imshow(ordered, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
        name_concepts(axes, names)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set(xlabel="concept", ylabel="")  # a label on the left is cut off beside a square map
        figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02).set_label("correlation over heads")
        axes.set_title("Concepts that share heads")
    return figure


def reliability(relevance: Relevance, control: Relevance | None = None) -> Figure:
    """Split-half rank correlation of each concept, beside a control in which names mean nothing.

    Args:
        relevance: The measurement.
        control: A measurement of the same model with `null_concepts`; None draws none.
    """
    halves = relevance.split_half
    order = np.argsort(np.nan_to_num(halves, nan=-2), kind="stable")
    rows = np.arange(len(order))
    with canvas(7.5, 1.5 + 0.2 * len(order)) as (figure, axes):
        axes.hlines(rows, 0, halves[order], color="#b8c2cc", linewidth=2, zorder=1)
        axes.scatter(halves[order], rows, color=INK, label="measured", zorder=3)
        if control is not None:
            hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": ACCENT}
            axes.scatter(control.split_half[order], rows, **hollow, label="control", zorder=2)
            axes.legend(loc="lower left", frameon=False)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlim=(min(-0.5, float(axes.get_xlim()[0])), 1.02), xlabel="split-half rank correlation")
        name_concepts(axes, [relevance.concepts[c] for c in order])
        axes.set_title("How sure: one half of the pictures against the other")
    return figure


def convergence(counted: Counted) -> Figure:
    """Split-half rank correlation with an eighth to all of the pictures: would more still help?"""
    if isinstance(counted, Votes):
        xlabel, (pictures, halves) = "pictures", _halves_of_votes(counted)
    else:
        xlabel, (pictures, halves) = "pictures of each concept", _halves_of_effect(counted)
    with canvas(7.5, 3.2) as (figure, axes):
        axes.plot(pictures, np.nanmedian(halves, axis=1), marker="o", color=INK, label="median concept")
        axes.plot(pictures, np.nanmin(halves, axis=1), marker="s", color=ACCENT, label="lowest concept")
        axes.set(xlabel=xlabel, ylabel="split-half rank correlation", xlim=(0, None), ylim=(None, 1.02))
        axes.legend(loc="lower right", frameon=False)
        axes.set_title("Would more pictures help?")
    return figure


def _halves_of_votes(votes: Votes) -> tuple[list[float], Float[np.ndarray, "counts concepts"]]:
    counts = [blocks for blocks in (4, 8, 16, len(votes.blocks)) if votes.blocks[:blocks].any()]
    halves = np.stack([split_half(replace(votes, blocks=votes.blocks[:blocks])) for blocks in counts])
    return [len(votes) * blocks / len(votes.blocks) for blocks in counts], halves


def _halves_of_effect(samples: EffectSamples) -> tuple[list[float], Float[np.ndarray, "counts concepts"]]:
    concepts = len(samples.concepts)
    counts = sorted({max(2, len(samples) // concepts // parts) * concepts for parts in (8, 4, 2)})
    counts = [count for count in counts if count < len(samples)]
    firsts = [samples.first(count) for count in counts] + [samples]
    return [len(each) / concepts for each in firsts], np.stack([each.split_half for each in firsts])


def _colours(values: Float[np.ndarray, "rows columns"], least: float) -> tuple[dict[str, Any], float]:
    """The colours of a map, and where they end: at the 99th percentile, but at `least` or more."""
    signed = bool((values < 0).any())
    top = max(least, float(np.quantile(np.abs(values), 0.99)))
    return {"cmap": DIVERGING if signed else SEQUENTIAL, "vmin": -top if signed else 0.0, "vmax": top}, top


def _ends(colours: dict[str, Any]) -> str:
    """At which ends of a colour bar there may be values beyond it."""
    return "both" if colours["vmin"] < 0 else "max"


def _line(colours: dict[str, Any]) -> str:
    """The colour of lines between layers, which are seen on a map that is white at 0 too."""
    return GREY if colours["vmin"] < 0 else "white"


def layer_means(relevance: Relevance) -> Float[np.ndarray, "concepts layers"]:
    """Relevance averaged over the heads of each layer."""
    slices = _head_map(relevance).slices
    return np.stack([relevance.values[:, start:stop].mean(axis=1) for start, stop in slices], axis=1)


def correlation(relevance: Relevance) -> Float[np.ndarray, "concepts concepts"]:
    """Pearson correlation between concepts over heads; 0 for a concept without votes."""
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
