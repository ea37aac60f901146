"""The options of measuring; many defaults depend on whether it is by votes or by effect."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from headwise.measuring.estimators import Named

__all__ = ["PICTURES", "By", "OfEffect", "OfVotes", "OwnBatchSize", "OwnSteps", "Pictures"]

PICTURES = 1000  # by votes

By = Annotated[
    Literal["votes", "effect"],
    typer.Option(help="'votes' counts what heads attend to; 'effect' measures what they do with words."),
]
Pictures = Annotated[
    int | None,
    typer.Option(
        "--pictures",
        "-n",
        min=1,
        help="Maximum number of images: 1000 by default; by effect, 100 per concept.",
    ),
]
OwnBatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Images per batch: 1 by default; by effect, 4. Does not change results."),
]
OwnSteps = Annotated[
    int | None,
    typer.Option(min=1, help="Denoising steps per image: 10 by default, or the estimator's; by effect, 4."),
]
Beside = Annotated[
    str | None,
    typer.Option(
        help="By votes: further concepts that heads can choose. 'auto' (default) adds the model's own set to "
        "fewer than 24 concepts, 'none' adds none; or 'paper34', 'emoji' or a TOML file."
    ),
]


@dataclass(frozen=True)
class OfVotes:
    """Options of a measurement by votes only."""

    beside: Beside = None
    estimator: Annotated[
        Named | None,
        typer.Option(
            help="By votes: 'lean' (default) samples words 8 times per call in 10 calls; 'paper' once in 50."
        ),
    ] = None


@dataclass(frozen=True)
class OfEffect:
    """Options of a measurement by effect only."""

    points: Annotated[
        int | None, typer.Option(min=1, help="By effect: number of points of the integral; 1 if not given.")
    ] = None
    calls: Annotated[
        int | None,
        typer.Option(
            min=0, help="By effect: number of denoiser calls to measure per image, 0 for all; 1 if not given."
        ),
    ] = None
    against: Annotated[
        Literal["nothing", "sibling"] | None,
        typer.Option(
            help="By effect: 'nothing' (default) measures what a word does; 'sibling' what distinguishes it "
            "from another word of its concept."
        ),
    ] = None
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="By effect: the fraction of the steps to measure, such as 0 0.3.", metavar="START STOP"
        ),
    ] = None
