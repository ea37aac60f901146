"""The pages of questions about relevance itself: how it is best measured, and what it is good for."""

import json
from pathlib import Path
from typing import Any

from headwise.benchmarks.results import ENOUGH, ESTIMATORS_FILE, QUESTIONS_FILE
from headwise.intervals import Interval
from headwise.report import plots
from headwise.report.page import Drawing, Page, Section, Table, settings_rows

__all__ = ["estimators_page", "questions_page"]

LEAD = (
    "Ways of counting votes, at equal cost. Cost is rows that pass the denoiser; agreement is the rank "
    "correlation over heads with a long run on other pictures, the median over concepts."
)
ASKED = (
    "Agreement is the rank correlation over heads, with 95 % intervals of its mean over concepts; what it is "
    "held against was measured on other pictures unless said otherwise."
)


def estimators_page(folder: Path) -> Page:
    """The page of a folder in which estimators were compared."""
    said = json.loads((folder / ESTIMATORS_FILE).read_text(encoding="utf-8"))
    found, settings = said["estimators"], said["settings"]
    draws = {name: one["curve"] for name, one in found.items() if name.endswith((" 1 draw", " 8 draws"))}
    start = settings["lean"].split(",")[0] + ", "
    ways = {
        name.removeprefix(start): one["curve"]
        for name, one in found.items()
        if name.startswith(start) and ", " not in name.removeprefix(start)
    }
    columns = ("estimator", f"rows to {ENOUGH}", "of the paper's", "best", "at rows")
    rows = [_row(name, one) for name, one in found.items()]
    lean = found.get(settings["lean"], {"rows": None, "share_of_paper": None})
    return Page(
        title="How few denoiser rows give the relevance of a long run?",
        lead=LEAD,
        numbers=[
            ("the default", settings["lean"]),
            (f"its rows to {ENOUGH}", _or_never(lean["rows"], ".0f")),
            ("of the paper's", _or_never(lean["share_of_paper"], ".2f")),
            ("split-half of the long run", f"{settings['long_run_split_half']:.3f}"),
        ],
        sections=[
            _section(
                "Draws and steps", draws, "Bands reach from the lowest to the highest of runs of this cost."
            ),
            *([_section(f"Ways of counting, {start[:-2]}", ways, "On the same pictures.")] if ways else []),
            Section(
                "Every estimator", "", tables=(Table("The numbers", columns, rows, columns[1:], open=True),)
            ),
        ],
        settings=list(settings_rows(settings)),
    )


def questions_page(folder: Path) -> Page:
    """The page of a folder in which questions about relevance were asked."""
    said = json.loads((folder / QUESTIONS_FILE).read_text(encoding="utf-8"))
    return Page(
        title="What is open about relevance, asked of this model",
        lead=ASKED,
        numbers=[
            ("questions", str(len(said["answers"]))),
            ("split-half of the whole", f"{said['settings']['whole_split_half']:.3f}"),
        ],
        sections=[_answer(answer) for answer in said["answers"].values()],
        settings=list(settings_rows(said["settings"])),
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
        (Drawing.of(plots.intervals(values, answer["measure"]), f"{alt}.", "34rem"),),
        (Table("The numbers", ("", answer["measure"]), rows, (answer["measure"],), open=True),),
    )


def _section(title: str, curves: dict[str, Any], text: str) -> Section:
    figure = plots.lines(curves, "rows that pass the denoiser", "agreement with the long run", ENOUGH)
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


def _row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    rows, best = one["rows"], max(one["curve"], key=lambda point: point[1])
    return (
        name,
        _or_never(rows, ".0f"),
        _or_never(one["share_of_paper"], ".2f"),
        f"{best[1]:.3f}",
        f"{best[0]:.0f}",
    )


def _or_never(value: float | None, form: str) -> str:
    return "never" if value is None else format(value, form)
