"""What commands print: tables for people, JSON for programs, and the numbers in both."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from headwise.intervals import Interval

__all__ = [
    "console", "duration", "ends", "finite", "interval", "print_files", "print_json", "print_report",
    "print_rows", "table",
]  # fmt: skip


def finite(number: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return number if math.isfinite(number) else None


def ends(mean: Interval) -> dict[str, float | None]:
    """A mean and the ends of its interval, for JSON."""
    return {"mean": mean.value, "low": finite(mean.low), "high": finite(mean.high)}


def interval(relevance: float, standard_error: float) -> str:
    """Relevance with its 95 % interval."""
    return f"{relevance:.2f}" + (f" ± {1.96 * standard_error:.2f}" if math.isfinite(standard_error) else "")


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def console() -> Console:
    """A console as wide as the terminal, or wide enough for head addresses in a pipe."""
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, markup=False, highlight=False, emoji=False)


def table(*columns: str, rows: Iterable[Sequence[str]] = ()) -> Table:
    """A table; a column whose name ends in > is right-aligned."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*row)
    return grid


def print_rows(rows: Iterable[tuple[object, object]]) -> None:
    """Print pairs of name and value, one per line."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        grid.add_row(f"{name}", f"{value}")
    console().print(grid)


def print_files(files: Sequence[Path], as_json: bool) -> None:
    """Print what `save_columns` wrote: all files as JSON, or just the grid."""
    if as_json:
        print_json({"grid": str(files[-1]), "files": [str(file) for file in files[:-1]]})
    else:
        print(files[-1])


def print_report(folder: Path, numbers: dict[str, Any], as_json: bool, *tables: Table | str) -> None:
    """Write the page of a run; print its numbers as JSON, or its tables and sentences."""
    from headwise.report.measurement import report

    page = report(folder)
    if as_json:
        print_json({"page": str(page), **numbers})
        return
    for paragraph in tables:
        print(paragraph) if isinstance(paragraph, str) else console().print(paragraph)
    print(f"Open {page}")


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object; NaN and infinity, which JSON does not have, are null."""
    print(json.dumps(_plain(values), indent=1, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return finite(value) if isinstance(value, float) else value
