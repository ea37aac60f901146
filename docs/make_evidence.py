"""Write the tables of docs/evidence.md from the stored results.

    python docs/make_evidence.py

Each table is between `<!-- table: NAME MODEL -->` and `<!-- end -->`; the sentences are written by hand. The
numbers come from the newest file `benchmarks/results/MODEL-NAME-DATE.json`, which is named below the table.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
PAGE = DOCS / "evidence.md"
TABLE = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.S)
Row = Iterable[str]


def newest(name: str, model: str) -> Path:
    """The newest result file of this name for this model."""
    files = RESULTS.glob(f"{model}-{name}-[0-9][0-9][0-9][0-9]-*.json")
    return max(files, key=lambda file: file.name)


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


def range_of(numbers: list[float]) -> str:
    """A number with its interval, from [value, low, high]."""
    value, low, high = numbers
    return signed(value) + between(low, high)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "weakening": weakening, "votes-and-effect": votes_and_effect, "factors": factors, "polysemy": polysemy,
    "given-editing": given_editing, "multi-concept": multi_concept, "segmentation": segmentation,
    "atoms": atoms, "attribution": attribution, "subsets": subsets, "measured": measured,
}  # fmt: skip


def written(page: str) -> str:
    """The page with new tables."""

    def table(match: re.Match[str]) -> str:
        file = newest(match[2], match[3])
        made = TABLES[match[2]](json.loads(file.read_text()))
        return f"{match[1]}{made}\nData: `benchmarks/results/{file.name}`.\n{match[4]}"

    return TABLE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
