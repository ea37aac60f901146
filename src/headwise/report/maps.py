r"""Maps of a relevance: where each concept is located in the model, and how similar concepts are.

All maps of heads are read alike: the average head has relevance 1; layers are in the order in which the image
passes through them, down, mid, up. A few heads have very large values (66 in SDXL), which would leave the
rest dark: colours end at the 99th percentile, marked with ≥ on the colour bar. If values are negative, as by
effect, colours reach equally far below and above 0.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float, Int
from matplotlib.ticker import MaxNLocator

from headwise.display import colour_limit
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, Layer
from headwise.report.canvas import Place, canvas, figure_of
from headwise.report.labels import chosen, fit_x_ticks, name_rows
from headwise.report.layers import mark_layers
from headwise.report.style import DIVERGING, GREY, SEQUENTIAL, Axes, Figure

__all__ = ["concept_similarity", "correlation", "heat_map", "layer_means", "layer_summary"]

_BELOW: Any = {
    "location": "bottom",
    "shrink": 0.8,
    "aspect": 30,
    "fraction": 0.05,
    "pad": 0.02,
}  # leaves width
SEVERAL = 12  # with more concepts, names below a similarity map would only repeat those of its rows


def heat_map(
    relevance: Relevance,
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """Relevance with one row per concept and one column per head; the average head has 1.

    Args:
        relevance: The measurement.
        concepts: The concepts to show, from top to bottom; all if None.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept was not measured.
    """
    names = list(chosen(dict.fromkeys(relevance), concepts))
    layers = _head_map(relevance)
    values = np.stack([relevance[name] for name in names])
    return _map(values, names, layers, [layer.heads for layer in layers], 2.0, place)


def layer_summary(
    relevance: Relevance,
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """The same map averaged over the heads of each layer, which shows only the dependence on depth.

    Args:
        relevance: The measurement.
        concepts: The concepts to show, from top to bottom; all if None.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept was not measured.
    """
    means = chosen(dict(zip(relevance, layer_means(relevance), strict=True)), concepts)
    layers = _head_map(relevance)
    return _map(np.stack(list(means.values())), list(means), layers, [1] * len(layers), 1.5, place)


def _map(
    values: Float[np.ndarray, "concepts columns"],
    names: Sequence[str],
    layers: HeadMap,
    widths: Sequence[int],
    least: float,
    place: Place,
) -> Figure:
    signed = bool((values < 0).any())
    top = colour_limit(values, least)
    colours: dict[str, Any] = {"cmap": DIVERGING if signed else SEQUENTIAL}
    colours |= {"vmin": -top if signed else 0.0, "vmax": top}
    extend = "both" if signed else "max"
    with canvas(1.15, max(4, len(names)), **place) as axes:
        image = axes.imshow(values, **colours, aspect="auto", interpolation="nearest")
        name_rows(axes, names)
        _colour_bar(axes, image, f"{'mean ' * (max(widths) == 1)}relevance (average head = 1)", extend)
        mark_layers(axes, layers, widths, GREY if signed else "white")  # visible on a map that is white at 0
    return figure_of(axes)


def _colour_bar(axes: Axes, image: Any, label: str, extend: str = "neither") -> None:
    """A colour bar below the axes; with `extend`, its last colours also stand for all values beyond."""
    low, top = image.get_clim()
    figure: Any = axes.figure
    fraction = 0.25 * figure.dpi / figure.bbox.height  # a quarter of an inch, however many rows there are
    bar = figure.colorbar(
        image, ax=axes, extend=extend, location="bottom", shrink=0.8, aspect=30, fraction=fraction, pad=0.02
    )
    inner = [value for value in MaxNLocator(4).tick_values(low, top) if abs(value) < 0.8 * top]
    if extend == "neither":
        bar.set_ticks([low, 0, top])
    else:
        ends = [top] if low == 0 else [low, top]
        beyond = [f"{'≥' if end > 0 else '≤'} {end:.1f}".replace("-", "−") for end in ends]
        bar.set_ticks([*inner, *ends], labels=[*(f"{value:g}".replace("-", "−") for value in inner), *beyond])
    bar.ax.tick_params(labelsize=axes.yaxis.get_ticklabels()[0].get_fontsize())
    bar.set_label(label)


def concept_similarity(
    relevance: Relevance,
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """Which concepts share heads: their correlation over heads, with similar concepts next to each other.

    Columns are in the order of the rows; if there are many, only rows are named.

    Args:
        relevance: The measurement.
        concepts: The concepts to show, in this order; None shows all, ordered by similarity.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept was not measured.
    """
    similarity = correlation(relevance)
    if concepts is None:
        concepts = [relevance.concepts[c] for c in _seriation(similarity)]
    names = list(chosen(dict.fromkeys(relevance), concepts))
    order = [relevance.concepts.index(name) for name in names]
    below = 0 if len(names) > SEVERAL else 0.4 * max(map(len, names))  # lines that rotated names take
    with canvas(1.1, max(8, 1.5 * len(names) if below else len(names)) + below, **place) as axes:
        ordered = similarity[np.ix_(order, order)]
        image = axes.imshow(ordered, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        name_rows(axes, names)
        _colour_bar(axes, image, "correlation over heads")
        if len(names) > SEVERAL:
            axes.set(xticks=[], xlabel="concepts, in the order of the rows")
        else:
            axes.set_xticks(range(len(names)), names)
            fit_x_ticks(axes)
    return figure_of(axes)


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
    """The head map; for arrays without one, a single unnamed layer."""
    return relevance.head_map or HeadMap((Layer("", relevance.values.shape[1]),))


def _seriation(similarity: Float[np.ndarray, "concepts concepts"]) -> Int[np.ndarray, " concepts"]:
    """Order by the Fiedler vector, which puts similar concepts close together (Atkins et al., 1998)."""
    if len(similarity) < 3:
        return np.arange(len(similarity))
    weights = (similarity + 1) / 2
    laplacian = np.diag(weights.sum(axis=1)) - weights
    fiedler = np.linalg.eigh(laplacian)[1][:, 1]
    return np.argsort(fiedler * np.sign(fiedler[np.argmax(np.abs(fiedler))]), kind="stable")
