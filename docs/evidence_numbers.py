"""Numbers with their intervals as text, and rows as a table in Markdown."""

from collections.abc import Iterable
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


def range_of(numbers: list[float], digits: int = 2) -> str:
    """A number with its interval, from [value, low, high]."""
    value, low, high = numbers
    return signed(value, digits) + between(low, high, digits)


def listed(numbers: list[float]) -> str:
    """A number with its interval, without signs, from [value, low, high]."""
    return plain(dict(zip(("mean", "low", "high"), numbers, strict=True)))


def grid(columns: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
