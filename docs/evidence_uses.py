"""The tables of docs/evidence.md about what relevance is good for: steering, editing, composing, maps."""

from collections.abc import Callable
from typing import Any

from evidence_numbers import between, ends, grid, listed, percent, plain, range_of, signed


def polysemy(result: dict[str, Any]) -> str:
    """Misreadings, recognised objects and similarity to the plain image, by method."""
    rows = (
        (
            name.replace("_", " "),
            percent(of, "misread"),
            ends(of["difference_to_plain"]["misread"]) if "difference_to_plain" in of else "",
            plain(of["thing"]),
            plain(of["kept"]),
        )
        for name, of in result["methods"].items()
    )
    return grid(("", "misread", "misread − plain", "object shown", "rest kept"), rows)


def given_editing(result: dict[str, Any]) -> str:
    """The area of every method and attribute, in hundredths, and the best alignment at 0.95 preservation."""
    attributes = list(result["attributes"])
    methods = list(result["attributes"][attributes[0]])

    def cell(attribute: str, method: str) -> str:
        area = result["attributes"][attribute][method]["area"]
        at = result["attributes"][attribute][method]["at_0.95"]["mean"]
        numbers = " to ".join(f"{100 * area[end]:.1f}" for end in ("low", "high"))
        return f"{100 * area['mean']:.1f} ({numbers}); " + ("–" if at is None else f"{at:.3f}")

    return grid(["", *attributes], ((m, *(cell(a, m) for a in attributes)) for m in methods))


REST = ("preservation", "identity")  # what else is said of an edit beside its alignment


def editing(result: dict[str, Any]) -> str:
    """Alignment, preservation and identity by method and attribute; relevance by votes, then by effect."""
    attributes = list(result["votes"]["attributes"])
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
        for kind in result
        for of in (result[kind]["attributes"],)
        for method in of[attributes[0]]
        if kind == "votes" or method.startswith("relevance") or method == "random heads"
    ]
    return grid(["", *attributes], rows)


def multi_concept(result: dict[str, Any]) -> str:
    """The means of every method by type of prompt, by votes and then by effect."""
    metrics = ("full", "minimum", "caption", "am", "gm")
    rows = [
        (kind, method + ", effect" * (relevance == "effect"), *(plain(of[m], 3) for m in metrics))
        for kind in result["votes"]["types"]
        for relevance in ("votes", "effect")
        for method, of in result[relevance]["types"][kind].items()
    ]
    return grid(("prompts", "", *metrics), rows)


def neglect(result: dict[str, Any]) -> str:
    """Attention to subjects, those that are there and those that are missing, without and with its moves."""
    rows = (
        (
            "plain" if name == "plain" else "excited",
            by,
            listed(result[name]["there"]),
            listed(of["attended"]),
            f"{of['attended_if_there']:.2f}",
            f"{of['attended_if_missing']:.2f}",
            f"{of['roc_area']:.2f}",
        )
        for name in ("plain", "attend-and-excite")
        for by, of in result[name].items()
        if by != "there"
    )
    columns = ("", "maps by", "objects there", "attended", "if there", "if missing", "ROC area")
    return grid(columns, rows)


def segmentation(result: dict[str, Any]) -> str:
    """IoU of every weighting, and its difference from equal weights for all heads."""
    kinds = result["kinds"]

    def cell(kind: str, method: str) -> str:
        of = kinds[kind][method]
        if method == "all heads":
            return plain(of["iou"])
        return f"{of['iou']['mean']:.2f}: {ends(of['iou_above_all_heads'])}"

    methods = list(next(iter(kinds.values())))
    columns = [kind.replace("thing", "object") for kind in kinds]
    return grid(["", *columns], ((m, *(cell(k, m) for k in kinds)) for m in methods))


def atoms(result: dict[str, Any]) -> str:
    """The means of every method by group of prompts, and its gain over plain in the geometric mean."""
    metrics = list(next(iter(next(iter(result["groups"].values())).values())))
    rows = (
        (group, method, *(plain(of[m], 3) for m in metrics))
        for group, methods in result["groups"].items()
        for method, of in methods.items()
    )
    gains = result["gm_gains"].items()
    return (
        grid(("prompts", "", *metrics), rows)
        + "\n"
        + "".join(
            f"- gm over plain, {method}: {signed(value, 3)}{between(low, high, 3)}\n"
            for method, (value, low, high) in gains
        )
    )


def dose(result: dict[str, Any]) -> str:
    """What every rule and dial does, and how rules differ from `least` at the same effect."""
    groups = [(name, result[name]) for name in ("tuning", "reported")]
    metrics = ("effect", "certainty", "resemblance", "squared")
    rows = (
        (group, rule, *(range_of(of[m], 3) for m in metrics))
        for group, of_group in groups
        for rule, of in of_group["conditions"].items()
        if None not in of["effect"]
    )
    beyond = (
        (group, rule, *(range_of(of[m], 3) for m in metrics[1:]))
        for group, of_group in groups
        for rule, of in of_group["beyond_least_at_equal_effect"].items()
        if None not in of["certainty"]
    )
    columns = ("concepts", "rule and dial", "effect", "certainty", "alike", "changed")
    return f"{grid(columns, rows)}\nAt the same effect as least:\n\n{grid(columns[:2] + columns[3:], beyond)}"


STEERED = ("misread", "accuracy", "identity", "preservation")  # what steering by a scale does


def scales(result: dict[str, Any]) -> str:
    """Every scale's largest factor, and what steering by it does."""
    rows = (
        (
            name,
            f"{of['largest']:.1f}" if "largest" in of else "",
            *(listed(of[m]) if m in of else "" for m in STEERED),
        )
        for name, of in result["scales"].items()
    )
    return grid(("scale", "largest", "misread", "word seen", "same object", "rest kept"), rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "polysemy": polysemy,
    "given-editing": given_editing,
    "editing": editing,
    "multi-concept": multi_concept,
    "neglect": neglect,
    "segmentation": segmentation,
    "atoms": atoms,
    "dose": dose,
    "scales": scales,
}
