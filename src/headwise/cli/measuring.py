"""The options of measuring, many of whose defaults depend on whether it is by votes or by effect."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from headwise.measuring.estimators import Named

__all__ = ["PICTURES", "By", "OfEffect", "OfVotes", "OwnBatchSize", "OwnSteps", "Pictures"]

PICTURES = 1000  # by votes

By = Annotated[
    Literal["votes", "effect"],
    typer.Option(help="'votes': what heads attend to; 'effect': what they do with the words."),
]
Pictures = Annotated[
    int | None,
    typer.Option("--pictures", "-n", min=1, help="Images, at most: 1000; by effect 100 of each concept."),
]
OwnBatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images at a time: 1; by effect 4. The result stays the same.")
]
OwnSteps = Annotated[
    int | None, typer.Option(min=1, help="Denoising steps per image: 10, or the estimator's; by effect 4.")
]
Beside = Annotated[
    str | None,
    typer.Option(
        help="By votes: concepts that stand beside yours to be chosen. 'auto', if none are given, takes the "
        "model's own set for fewer than 24, 'none' takes none; or 'paper34', 'emoji', or a TOML file."
    ),
]


@dataclass(frozen=True)
class OfVotes:
    """What only a measurement by votes takes."""

    beside: Beside = None
    estimator: Annotated[
        Named | None,
        typer.Option(
            help="By votes: 'lean' samples words 8 times per call, in 10 calls; 'paper' once, in 50. 'lean' "
            "if not given."
        ),
    ] = None


@dataclass(frozen=True)
class OfEffect:
    """What only a measurement by effect takes."""

    points: Annotated[
        int | None, typer.Option(min=1, help="By effect: points of the integral; 1 if not given.")
    ] = None
    calls: Annotated[
        int | None,
        typer.Option(
            min=0, help="By effect: calls of each image that are measured, 0 for all; 1 if not given."
        ),
    ] = None
    against: Annotated[
        Literal["nothing", "sibling"] | None,
        typer.Option(
            help="By effect: 'nothing' asks what a word does; 'sibling' what tells it from another word of "
            "its concept. 'nothing' if not given."
        ),
    ] = None
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="By effect: the part of the steps that is measured, such as 0 0.3.", metavar="START STOP"
        ),
    ] = None
