"""The tables of docs/evidence.md about what heads do, and how that is measured."""

import re
from collections.abc import Callable
from typing import Any

from evidence_numbers import Row, between, ends, grid, range_of, signed


def weakening(result: dict[str, Any]) -> str:
    """The areas of every concept and of the controls."""
    rows = sorted(result["concepts"].items(), key=lambda row: -row[1]["area"])
    columns = ("concept", "area", "random minus most relevant first", "area by whole layers")
    return grid(
        columns,
        ((name, ends(of, "area"), signed(of["random_area"]), signed(of["layer_area"])) for name, of in rows),
    )


def votes_and_effect(result: dict[str, Any]) -> str:
    """Their means, then the areas of every concept by votes and by effect, the largest by effect first."""
    rows = sorted(result["concepts"].items(), key=lambda row: -row[1]["effect"]["area"])
    kinds = ("votes", "effect")
    lines = [
        (name, *(ends(of[kind], "area") for kind in kinds), signed(of["rank_correlation"]))
        for name, of in rows
    ]
    count = len(rows)
    said = (
        f"**{signed(of['mean_area'])}**, above 0 for {of['above_0']} of {count}, below for {of['below_0']}"
        for of in (result["summary"][kind] for kind in kinds)
    )
    columns = ("concept", "area by votes", "area by effect", "rank correlation of the two")
    return grid(columns, [("*mean*", *said, ""), *lines])


def factors(result: dict[str, Any]) -> str:
    """The area of each factor by votes and by effect."""
    votes, effect = result["votes"]["factors"], result["effect"]["factors"]
    columns = ("factor on the attention of weakened heads", "area by votes", "area by effect")
    return grid(columns, ((f, ends(votes[f], "area"), ends(effect[f], "area")) for f in votes))


PREDICTORS = {
    "split_half": "two of the prompts, for the other two (split-half)",
    "ceiling": "losses without noise (the ceiling, from the split-half)",
    "effect": "**effect of the concept**",
    "effect_of_others": "mean effect of all other concepts (control)",
    "votes": "**votes of the concept**",
    "votes_of_others": "mean votes of all other concepts (control)",
    "losses_of_others": "mean losses of all other concepts",
    "ridge": "ridge regression on the losses of the other half of the subsets",
}


def subsets(result: dict[str, Any]) -> str:
    """What predicts the loss of a subset given its size, and also given the losses of other concepts."""
    means, concepts = result["means"]["degree1"], [of["degree1"] for of in result["concepts"].values()]

    def counted(key: str, sign: int) -> str:
        """How many concepts have their interval above 0, or below."""
        if key == "ceiling" or key not in concepts[0]:
            return ""
        return str(sum(min(sign * of[key][1], sign * of[key][2]) > 0 for of in concepts))

    def cells(key: str, name: str) -> Row:
        """The row of one predictor."""
        alone = f"{key}_alone"
        beside = range_of(means[alone]) if alone in means else ""
        return name, range_of(means[key]), counted(key, 1), counted(key, -1), beside, counted(alone, 1)

    columns = (
        "what predicts the loss", "given the size", "above 0", "below 0",
        "given the losses of other concepts too", "above 0",
    )  # fmt: skip
    return grid(columns, (cells(*row) for row in PREDICTORS.items()))


def attribution(result: dict[str, Any]) -> str:
    """The score, controls and cost of every estimator, the best first."""

    def cells(name: str, of: dict[str, Any]) -> Row:
        value, low, high = of["score"]
        others = signed(of["others"][0]) if "others" in of else ""
        chance = (
            f"{signed(of[key][1])} to {signed(of[key][2])}" if key in of else ""
            for key in ("chance", "chance_in_layers")
        )
        return (
            name,
            signed(value) + between(low, high),
            others,
            *chance,
            str(of["forward"]),
            str(of["backward"]),
            signed(of["area"]) if "area" in of else "",
        )

    rows = sorted(result["estimators"].items(), key=lambda row: -row[1]["score"][0])
    columns = (
        "estimator",
        "score",
        "from other concepts",
        "by chance",
        "in layers",
        "rows",
        "gradients",
        "area",
    )
    return grid(columns, (cells(*row) for row in rows))


def measured(result: dict[str, Any]) -> str:
    """The score of the relevance that ships with the model, over all concepts."""

    def cells(kind: str) -> Row:
        """The row of votes or of effect."""
        of = result[kind]["estimators"][f"{kind}, measured"]
        return kind, range_of(of["score"]), range_of(of["others"]) if "others" in of else ""

    return grid(("", "score", "from other concepts"), (cells(kind) for kind in ("effect", "votes")))


def estimators(result: dict[str, Any]) -> str:
    """What every estimator costs until it agrees with a long run, the cheapest first."""

    def cells(name: str, of: dict[str, Any]) -> Row:
        rows, value, *_ = max(of["curve"], key=lambda point: point[1])
        reached = of["rows"] is not None
        cost = (f"{of['rows']:.0f}", f"{of['share_of_paper']:.2f}") if reached else ("never", "")
        samples = re.sub(r"\bdraw(s?)$", r"sample\1", name)  # the names are keys of the results
        return samples, *cost, f"{value:.3f} at {rows:.0f}"

    ranked = sorted(result["estimators"].items(), key=lambda row: row[1]["rows"] or float("inf"))
    return grid(("estimator", "rows to 0.95", "of the paper's", "best"), (cells(*row) for row in ranked))


def beside(result: dict[str, Any]) -> str:
    """How a concept's order of heads depends on the concepts beside it."""

    def cells(name: str, of: dict[str, Any]) -> Row:
        values = (ends(of[m], "value") if m in of else "" for m in ("correlation", "area"))
        return name.replace("drawn,", "random set,"), f"{of['split_half']:.2f}", *values

    columns = ("Color and what heads choose between", "split-half", "order", "area")
    return grid(columns, (cells(*row) for row in result["sets"].items()))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "weakening": weakening,
    "votes-and-effect": votes_and_effect,
    "factors": factors,
    "subsets": subsets,
    "attribution": attribution,
    "measured": measured,
    "estimators": estimators,
    "beside": beside,
}
