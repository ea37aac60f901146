"""Figures of a measurement's reliability: split-half correlation by concept and over the number of images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from headwise.measuring.counting import Counted
from headwise.measuring.effect_samples import EffectSamples
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import split_half
from headwise.measuring.votes import Votes
from headwise.report.canvas import Place, canvas, figure_of
from headwise.report.labels import chosen, legend_above, name_rows, upwards
from headwise.report.style import ACCENT, INK, Figure

__all__ = ["convergence", "reliability"]


def reliability(
    relevance: Relevance,
    control: Relevance | None = None,
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """Split-half rank correlation of each concept, next to a control in which names mean nothing.

    Args:
        relevance: The measurement.
        control: A measurement of the same model with `null_concepts`; not shown if None.
        concepts: The concepts to show, from top to bottom; None shows all, the most reliable on top.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept was not measured, or not in the control.
    """
    halves = dict(zip(relevance, relevance.split_half, strict=True))
    names = upwards(halves, concepts)
    measured, rows = np.array([halves[name] for name in names]), np.arange(len(names))
    with canvas(0.7, len(rows), **place) as axes:
        axes.hlines(rows, 0, measured, color="#b8c2cc", linewidth=1.5, zorder=1)
        axes.scatter(measured, rows, s=14, color=INK, label="measured", zorder=3)
        axes.axvline(0, color="black", linewidth=0.8)
        name_rows(axes, names)
        axes.set_xlabel("split-half rank correlation")
        lowest = np.nanmin([*measured, 0.0])
        if control is not None:
            of_control = list(chosen(dict(zip(control, control.split_half, strict=True)), names).values())
            hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": ACCENT}
            axes.scatter(of_control, rows, s=14, **hollow, label="control", zorder=2)
            lowest = np.nanmin([*of_control, lowest])
            legend_above(axes)
        axes.set_xlim(1.1 * lowest, 1.02)
    return figure_of(axes)


def convergence(
    counted: Counted,
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """Split-half rank correlation with an eighth to all of the images, to see whether more would help.

    Args:
        counted: The votes or the effects of a measurement, as in its `votes.safetensors`.
        concepts: The concepts of which the median and the lowest are shown; all if None.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept was not measured.
    """
    if isinstance(counted, Votes):
        xlabel, (images, halves) = "images", _halves_of_votes(counted)
    else:
        xlabel, (images, halves) = "images per concept", _halves_of_effect(counted)
    columns = chosen({name: c for c, name in enumerate(counted.concepts.names)}, concepts)
    halves = halves[:, list(columns.values())]
    with canvas(2.3, **place) as axes:
        axes.plot(
            images, np.nanmedian(halves, axis=1), marker="o", color=INK, clip_on=False, label="median concept"
        )
        axes.plot(images, np.nanmin(halves, axis=1), marker="s", color=ACCENT, label="lowest concept")
        axes.set(xlabel=xlabel, ylabel="split-half rank correlation", xlim=(0, None), ylim=(None, 1))
        legend_above(axes)
    return figure_of(axes)


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
