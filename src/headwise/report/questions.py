"""Pages on relevance itself: comparisons of estimators and of scales, and the open questions."""

import json
from pathlib import Path
from typing import Any

from headwise.benchmarks.method_results import Editing
from headwise.benchmarks.results import ATTRIBUTION_FILE, ENOUGH, ESTIMATORS_FILE, QUESTIONS_FILE, SCALES_FILE
from headwise.intervals import Interval
from headwise.report import plots
from headwise.report.page import WIDTH, Drawing, Page, Section, Table, settings_rows

__all__ = ["attribution_page", "estimators_page", "questions_page", "scales_page"]

ESTIMATORS_LEAD = (
    "Ways of counting votes compared at equal cost. Cost is the number of rows that pass through the "
    "denoiser; agreement is the rank correlation over heads with a long run on different images (median over "
    "concepts)."
)
ATTRIBUTION_LEAD = (
    "Each estimator assigns every head a value, computed on prompts that are not used for the score, and so "
    "predicts the loss when random subsets of heads are weakened. The score is the correlation of predicted "
    "and true loss given the size of the subset, with 95 % intervals by bootstrap over subsets. Ridge "
    "regression learns from the losses of one half of the subsets and predicts the other. “By chance” is the "
    "score of the same values permuted among all heads, or among those of each layer; “from other concepts” "
    "is the score of the mean of their values. Cost is the number of rows that pass through the denoiser."
)
QUESTIONS_LEAD = (
    "Agreement is the rank correlation over heads with a measurement on different images, unless the text "
    "says otherwise; intervals are 95 % intervals of its mean over concepts."
)
SCALES_LEAD = (
    "The same relevance on several scales. Order is the rank correlation over heads with the relevance as "
    "measured; where it is 1, weakening is the same by construction. Damage is the change that strengthening "
    "one word causes in the rest of the image, compared with the plain image of the same prompt."
)


def estimators_page(folder: Path) -> Page:
    """The page of a comparison of estimators."""
    results = json.loads((folder / ESTIMATORS_FILE).read_text(encoding="utf-8"))
    by_name, settings = results["estimators"], results["settings"]
    curves = {name: estimator["curve"] for name, estimator in by_name.items()}
    draws = {name: curve for name, curve in curves.items() if name.endswith((" 1 draw", " 8 draws"))}
    start = settings["lean"].split(",")[0] + ", "
    ways = {name.removeprefix(start): curve for name, curve in curves.items() if name.startswith(start)}
    ways = {name: curve for name, curve in ways.items() if ", " not in name}
    columns = ("estimator", f"rows to {ENOUGH}", "share of the paper's", "best", "at rows")
    rows = [_row(name, estimator) for name, estimator in by_name.items()]
    lean = by_name.get(settings["lean"], {"rows": None, "share_of_paper": None})
    return Page(
        title="How few denoiser rows reproduce the relevance of a long run?",
        lead=ESTIMATORS_LEAD,
        numbers=[
            ("the default", settings["lean"]),
            (f"its rows to {ENOUGH}", _or_never(lean["rows"], ".0f")),
            ("share of the paper's", _or_never(lean["share_of_paper"], ".2f")),
            ("split-half of the long run", f"{settings['long_run_split_half']:.3f}"),
        ],
        sections=[
            _section("Samples and steps", draws, "Bands span the lowest to the highest run at this cost."),
            *([_section(f"Ways of counting, {start[:-2]}", ways, "On the same images.")] if ways else []),
            Section(
                "Every estimator", "", tables=(Table("The numbers", columns, rows, columns[1:], open=True),)
            ),
        ],
        settings=list(settings_rows(settings)),
    )


def attribution_page(folder: Path) -> Page:
    """The page of a comparison of attribution estimators."""
    results = json.loads((folder / ATTRIBUTION_FILE).read_text(encoding="utf-8"))
    by_name, settings = results["estimators"], results["settings"]
    ordered = sorted(by_name, key=lambda name: -by_name[name]["score"][0])
    medians = {name: Interval(*by_name[name]["score"]) for name in ordered}
    concepts = tuple(next(iter(by_name.values()))["concepts"])
    columns = (
        "estimator", "median", "from other concepts", "by chance", "by chance in layers",
        "cube of the size given", "rows", "with gradient", *concepts,
    )  # fmt: skip
    rows = [
        (name, str(medians[name]))
        + tuple(_or_nothing(scores.get(key)) for key in ("others", "chance", "chance_in_layers", "degree3"))
        + (str(scores["forward"]), str(scores["backward"]))
        + tuple(str(Interval(*scores["concepts"][concept]["score"])) for concept in concepts)
        for name, scores in ((name, by_name[name]) for name in ordered)
    ]
    ceilings = results["ceilings"]
    rows.append(
        ("losses without noise", *[""] * 7, *(str(Interval(*ceilings[concept])) for concept in concepts))
    )
    alt = "; ".join(f"{name} {score}" for name, score in medians.items())
    figure = Drawing.of(
        plots.intervals(medians, "score, median over concepts", width=WIDTH), f"{alt}.", "34rem"
    )
    best = ordered[0]
    return Page(
        title="Which estimator best predicts what heads do?",
        lead=ATTRIBUTION_LEAD,
        numbers=[
            ("estimators", str(len(by_name))),
            ("concepts", str(len(concepts))),
            ("subsets", str(settings["subsets"])),
            ("the best", f"{best}: {medians[best]}"),
        ],
        sections=[
            Section(
                "Every estimator",
                "",
                (figure,),
                (Table("The numbers", columns, rows, columns[1:], open=True),),
            )
        ],
        settings=list(settings_rows(settings)),
    )


def questions_page(folder: Path) -> Page:
    """The page of answers to questions about relevance."""
    results = json.loads((folder / QUESTIONS_FILE).read_text(encoding="utf-8"))
    answers, settings = results["answers"], results["settings"]
    return Page(
        title="Open questions about relevance, answered for this model",
        lead=QUESTIONS_LEAD,
        numbers=[
            ("questions", str(len(answers))),
            ("split-half of all images", f"{settings['whole_split_half']:.3f}"),
        ],
        sections=[_answer(answer) for answer in answers.values()],
        settings=list(settings_rows(settings)),
    )


def _answer(answer: dict[str, Any]) -> Section:
    values = {name: Interval(*value) for name, value in answer["values"].items()}
    if not values:
        return Section(answer["question"], answer["reading"])
    alt = "; ".join(f"{name} {value}" for name, value in values.items())
    rows = [(name, str(value)) for name, value in values.items()]
    return Section(
        answer["question"],
        answer["reading"],
        (Drawing.of(plots.intervals(values, answer["measure"], width=WIDTH), f"{alt}.", "34rem"),),
        (Table("The numbers", ("", answer["measure"]), rows, (answer["measure"],), open=True),),
    )


def _section(title: str, curves: dict[str, Any], text: str) -> Section:
    figure = plots.lines(
        curves, "rows through the denoiser", "agreement with the long run", ENOUGH, width=WIDTH
    )
    alt = "; ".join(f"{name} {curve[-1][1]:.3f} at {curve[-1][0]:.0f} rows" for name, curve in curves.items())
    points = [
        (name, f"{rows:.0f}", f"{mean:.3f}", f"{low:.3f} to {high:.3f}")
        for name, curve in curves.items()
        for rows, mean, low, high in curve
    ]
    columns = ("estimator", "rows", "agreement", "lowest to highest")
    return Section(
        title,
        text,
        (Drawing.of(figure, f"{alt}.", "36rem"),),
        (Table("The points", columns, points, columns[1:]),),
    )


def _row(name: str, estimator: dict[str, Any]) -> tuple[str, ...]:
    rows, (cost, best, *_) = estimator["rows"], max(estimator["curve"], key=lambda point: point[1])
    share = _or_never(estimator["share_of_paper"], ".2f")
    return name, _or_never(rows, ".0f"), share, f"{best:.3f}", f"{cost:.0f}"


def _or_nothing(interval: Any) -> str:
    return "" if interval is None else str(Interval(*interval))


def _or_never(value: float | None, form: str) -> str:
    return "never" if value is None else format(value, form)


def scales_page(folder: Path) -> Page:
    """The page of a comparison of scales of relevance."""
    results = json.loads((folder / SCALES_FILE).read_text(encoding="utf-8"))
    by_scale = {name: _intervals(numbers) for name, numbers in results["scales"].items()}
    steered = {name: numbers for name, numbers in by_scale.items() if name != "plain"}
    return Page(
        title="On which scale should relevance steer?",
        lead=SCALES_LEAD,
        numbers=[("scales", str(len(steered))), ("pairs", str(results["settings"]["pairs"]))],
        sections=[_scales(by_scale, steered)],
        settings=list(settings_rows(results["settings"])),
    )


def _scales(by_scale: dict[str, Any], steered: dict[str, Any]) -> Section:
    points = {name: (numbers["preservation"], numbers["accuracy"]) for name, numbers in by_scale.items()}
    rates = {name: numbers["misread"] for name, numbers in steered.items()}
    alt = "; ".join(
        f"{name} preservation {p.value:.2f}, accuracy {a.value:.2f}" for name, (p, a) in points.items()
    )
    misread = "; ".join(f"{name} {rate}" for name, rate in rates.items())
    columns = ("scale", "order", "largest", "misread", *Editing.METRICS[1:])
    rows = [
        (name, f"{scale['order']:.3f}", f"{scale['largest']:.1f}", *(str(scale[key]) for key in columns[3:]))
        for name, scale in steered.items()
    ]
    concepts = tuple(next(iter(steered.values()))["areas"])
    areas = [(name, *(str(scale["areas"][c]) for c in concepts)) for name, scale in steered.items()]
    return Section(
        "Every scale",
        "Means with 95 % intervals.",
        (
            Drawing.of(
                plots.tradeoff(points, "preservation", "accuracy", width=WIDTH),
                f"{alt}.",
                "36rem",
            ),
            Drawing.of(
                plots.rates(rates, "share misread when adjusted", width=WIDTH),
                f"Misread: {misread}.",
                "34rem",
            ),
        ),
        (
            Table("Steering", columns, rows, columns[1:], open=True),
            Table("Weakening: area, least minus most relevant first", ("scale", *concepts), areas, concepts),
        ),
    )


def _intervals(value: Any) -> Any:
    """Convert lists of three numbers, as read from JSON, to intervals."""
    if isinstance(value, dict):
        return {key: _intervals(inner) for key, inner in value.items()}
    return Interval(*value) if isinstance(value, list) else value
