"""The tables of docs/evidence.md: from the numbers of a result to rows of Markdown."""

import re
from collections.abc import Callable, Iterable
from typing import Any

Row = Iterable[str]


def signed(value: float, digits: int = 2) -> str:
    """A number with an explicit sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def between(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval with explicit signs, in brackets; empty if it is missing."""
    return "" if low is None or high is None else f" ({signed(low, digits)} to {signed(high, digits)})"


def ends(of: dict[str, Any], key: str = "mean", digits: int = 2) -> str:
    """A signed number with its interval."""
    return signed(of[key], digits) + between(of["low"], of["high"], digits)


def plain(of: dict[str, Any], digits: int = 2) -> str:
    """A share or a mean with its interval, without signs."""
    low, high = of["low"], of["high"]
    return f"{of['mean']:.{digits}f}" + (
        "" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})".replace("-", "−")
    )


def percent(of: dict[str, Any], key: str) -> str:
    """A share in percent with its interval."""
    return f"{100 * of[key]:.0f} % ({100 * of['low']:.0f} to {100 * of['high']:.0f})"


def grid(columns: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def weakening(found: dict[str, Any]) -> str:
    """The areas of every concept and of the controls."""
    rows = sorted(found["concepts"].items(), key=lambda row: -row[1]["area"])
    columns = ("concept", "area", "random minus most relevant first", "area by whole layers")
    return grid(
        columns,
        ((name, ends(of, "area"), signed(of["random_area"]), signed(of["layer_area"])) for name, of in rows),
    )


def votes_and_effect(found: dict[str, Any]) -> str:
    """Their means, then the areas of every concept by votes and by effect, the largest by effect first."""
    rows = sorted(found["concepts"].items(), key=lambda row: -row[1]["effect"]["area"])
    kinds = ("votes", "effect")
    lines = [
        (name, *(ends(of[kind], "area") for kind in kinds), signed(of["rank_correlation"]))
        for name, of in rows
    ]
    count = len(rows)
    said = (
        f"**{signed(of['mean_area'])}**, above 0 for {of['above_0']} of {count}, below for {of['below_0']}"
        for of in (found["summary"][kind] for kind in kinds)
    )
    columns = ("concept", "area by votes", "area by effect", "rank correlation of the two")
    return grid(columns, [("*mean*", *said, ""), *lines])


def factors(found: dict[str, Any]) -> str:
    """The area of each factor by votes and by effect."""
    votes, effect = found["votes"]["factors"], found["effect"]["factors"]
    columns = ("factor on the attention of weakened heads", "area by votes", "area by effect")
    return grid(columns, ((f, ends(votes[f], "area"), ends(effect[f], "area")) for f in votes))


def polysemy(found: dict[str, Any]) -> str:
    """Misreadings, recognised objects and similarity to the plain image, by method."""
    rows = (
        (
            name.replace("_", " "),
            percent(of, "misread"),
            ends(of["difference_to_plain"]["misread"]) if "difference_to_plain" in of else "",
            plain(of["thing"]),
            plain(of["kept"]),
        )
        for name, of in found["methods"].items()
    )
    return grid(("", "misread", "misread − plain", "object shown", "rest kept"), rows)


def given_editing(found: dict[str, Any]) -> str:
    """The area of every method and attribute, in hundredths, and the best alignment at 0.95 preservation."""
    attributes = list(found["attributes"])
    methods = list(found["attributes"][attributes[0]])

    def cell(attribute: str, method: str) -> str:
        area = found["attributes"][attribute][method]["area"]
        at = found["attributes"][attribute][method]["at_0.95"]["mean"]
        numbers = " to ".join(f"{100 * area[end]:.1f}" for end in ("low", "high"))
        return f"{100 * area['mean']:.1f} ({numbers}); " + ("–" if at is None else f"{at:.3f}")

    return grid(["", *attributes], ((m, *(cell(a, m) for a in attributes)) for m in methods))


def multi_concept(found: dict[str, Any]) -> str:
    """The means of every method by type of prompt, by votes and then by effect."""
    metrics = ("full", "minimum", "caption", "am", "gm")
    rows = [
        (kind, method + ", effect" * (relevance == "effect"), *(plain(of[m], 3) for m in metrics))
        for kind in found["votes"]["types"]
        for relevance in ("votes", "effect")
        for method, of in found[relevance]["types"][kind].items()
    ]
    return grid(("prompts", "", *metrics), rows)


def segmentation(found: dict[str, Any]) -> str:
    """IoU of every weighting, and its difference from equal weights for all heads."""
    kinds = found["kinds"]

    def cell(kind: str, method: str) -> str:
        of = kinds[kind][method]
        if method == "all heads":
            return plain(of["iou"])
        return f"{of['iou']['mean']:.2f}: {ends(of['iou_above_all_heads'])}"

    methods = list(next(iter(kinds.values())))
    columns = [kind.replace("thing", "object") for kind in kinds]
    return grid(["", *columns], ((m, *(cell(k, m) for k in kinds)) for m in methods))


def atoms(found: dict[str, Any]) -> str:
    """The means of every method by group of prompts, and its gain over plain in the geometric mean."""
    metrics = list(next(iter(next(iter(found["groups"].values())).values())))
    rows = (
        (group, method, *(plain(of[m], 3) for m in metrics))
        for group, methods in found["groups"].items()
        for method, of in methods.items()
    )
    gains = found["gm_gains"].items()
    return (
        grid(("prompts", "", *metrics), rows)
        + "\n"
        + "".join(
            f"- gm over plain, {method}: {signed(value, 3)}{between(low, high, 3)}\n"
            for method, (value, low, high) in gains
        )
    )


def attribution(found: dict[str, Any]) -> str:
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

    rows = sorted(found["estimators"].items(), key=lambda row: -row[1]["score"][0])
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


def subsets(found: dict[str, Any]) -> str:
    """What predicts the loss of a subset given its size, and also given the losses of other concepts."""
    means, concepts = found["means"]["degree1"], [of["degree1"] for of in found["concepts"].values()]

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


def measured(found: dict[str, Any]) -> str:
    """The score of the relevance that ships with the model, over all concepts."""

    def cells(kind: str) -> Row:
        """The row of votes or of effect."""
        of = found[kind]["estimators"][f"{kind}, measured"]
        return kind, range_of(of["score"]), range_of(of["others"]) if "others" in of else ""

    return grid(("", "score", "from other concepts"), (cells(kind) for kind in ("effect", "votes")))


def editing(found: dict[str, Any]) -> str:
    """Alignment, preservation and identity by method and attribute; relevance by votes, then by effect."""
    attributes = list(found["votes"]["attributes"])
    rows = [
        (
            method + ", effect" * (kind == "effect"),
            *(
                "; ".join(
                    (plain(of[a][method]["alignment"]), *(f"{of[a][method][m]['mean']:.2f}" for m in REST))
                )
                for a in attributes
            ),
        )
        for kind in found
        for of in (found[kind]["attributes"],)
        for method in of[attributes[0]]
        if kind == "votes" or method.startswith("relevance") or method == "random heads"
    ]
    return grid(["", *attributes], rows)


def scales(found: dict[str, Any]) -> str:
    """Every scale's largest factor, and what steering by it does."""
    rows = (
        (
            name,
            f"{of['largest']:.1f}" if "largest" in of else "",
            *(listed(of[m]) if m in of else "" for m in STEERED),
        )
        for name, of in found["scales"].items()
    )
    return grid(("scale", "largest", "misread", "word seen", "same object", "rest kept"), rows)


STEERED = ("misread", "accuracy", "identity", "preservation")  # what steering by a scale does


def estimators(found: dict[str, Any]) -> str:
    """What every estimator costs until it agrees with a long run, the cheapest first."""

    def cells(name: str, of: dict[str, Any]) -> Row:
        rows, value, *_ = max(of["curve"], key=lambda point: point[1])
        reached = of["rows"] is not None
        cost = (f"{of['rows']:.0f}", f"{of['share_of_paper']:.2f}") if reached else ("never", "")
        samples = re.sub(r"\bdraw(s?)$", r"sample\1", name)  # the names are keys of the results
        return samples, *cost, f"{value:.3f} at {rows:.0f}"

    ranked = sorted(found["estimators"].items(), key=lambda row: row[1]["rows"] or float("inf"))
    return grid(("estimator", "rows to 0.95", "of the paper's", "best"), (cells(*row) for row in ranked))


def dose(found: dict[str, Any]) -> str:
    """What every rule and dial does, and how rules differ from `least` at the same effect."""
    groups = [(name, found[name]) for name in ("tuning", "reported")]
    metrics = ("effect", "certainty", "resemblance", "squared")
    rows = (
        (group, rule, *(range_of(of[m], 3) for m in metrics))
        for group, result in groups
        for rule, of in result["conditions"].items()
        if None not in of["effect"]
    )
    beyond = (
        (group, rule, *(range_of(of[m], 3) for m in metrics[1:]))
        for group, result in groups
        for rule, of in result["beyond_least_at_equal_effect"].items()
        if None not in of["certainty"]
    )
    columns = ("concepts", "rule and dial", "effect", "certainty", "alike", "changed")
    return f"{grid(columns, rows)}\nAt the same effect as least:\n\n{grid(columns[:2] + columns[3:], beyond)}"


def beside(found: dict[str, Any]) -> str:
    """How a concept's order of heads depends on the concepts beside it."""

    def cells(name: str, of: dict[str, Any]) -> Row:
        values = (ends(of[m], "value") if m in of else "" for m in ("correlation", "area"))
        return name, f"{of['split_half']:.2f}", *values

    columns = ("Color and what heads choose between", "split-half", "order", "area")
    return grid(columns, (cells(*row) for row in found["sets"].items()))


def neglect(found: dict[str, Any]) -> str:
    """Attention to subjects, those that are there and those that are missing, without and with its moves."""
    rows = (
        (
            "plain" if name == "plain" else "excited",
            by,
            listed(found[name]["there"]),
            listed(of["attended"]),
            f"{of['attended_if_there']:.2f}",
            f"{of['attended_if_missing']:.2f}",
            f"{of['roc_area']:.2f}",
        )
        for name in ("plain", "attend-and-excite")
        for by, of in found[name].items()
        if by != "there"
    )
    columns = ("", "maps by", "objects there", "attended", "if there", "if missing", "ROC area")
    return grid(columns, rows)


def listed(numbers: list[float]) -> str:
    """A number with its interval, without signs, from [value, low, high]."""
    return plain(dict(zip(("mean", "low", "high"), numbers, strict=True)))


REST = ("preservation", "identity")  # what else is said of an edit beside its alignment


def range_of(numbers: list[float], digits: int = 2) -> str:
    """A number with its interval, from [value, low, high]."""
    value, low, high = numbers
    return signed(value, digits) + between(low, high, digits)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "weakening": weakening, "votes-and-effect": votes_and_effect, "factors": factors, "polysemy": polysemy,
    "given-editing": given_editing, "multi-concept": multi_concept, "segmentation": segmentation,
    "atoms": atoms, "attribution": attribution, "subsets": subsets, "measured": measured,
    "editing": editing, "scales": scales, "estimators": estimators, "dose": dose, "beside": beside,
    "neglect": neglect,
}  # fmt: skip
