"""One self-contained HTML page: figures are SVG, pictures data URIs, and nothing is asked of the network.

Whatever came from outside, prompts and model names above all, passes Jinja's autoescape.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from headwise.files import write_whole
from headwise.pictures import settings_in
from headwise.report.style import Figure, as_svg

__all__ = ["Drawing", "Page", "Picture", "Section", "Strip", "Table", "pictures_of", "settings_rows"]


@dataclass(frozen=True)
class Picture:
    """A picture on the page, and the prompt beneath it."""

    source: str
    prompt: str

    @classmethod
    def of(cls, path: Path) -> "Picture":
        """A PNG, which knows its prompt."""
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        return cls(source, settings_in(path).get("prompt", path.stem))


@dataclass(frozen=True)
class Strip:
    """A row of pictures with a name before them and one beneath each."""

    name: str
    pictures: Sequence[tuple[str, Picture]]


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: its SVG, what it shows in words, and the width it is never squeezed below."""

    svg: Markup
    alt: str
    least: str

    @classmethod
    def of(cls, figure: Figure, alt: str, least: str) -> "Drawing":
        """A matplotlib figure."""
        return cls(Markup(as_svg(figure)), alt, least)


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure, folded away unless `open`."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    numeric: tuple[str, ...] = ()
    open: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph that says how to read, drawings, strips of pictures and tables."""

    title: str
    text: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    strips: tuple[Strip, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything a page shows.

    Args:
        title, lead: What it is about, and how to understand it in two sentences.
        numbers: The few that matter, by name.
        sections: The body.
        sheet: Sample pictures.
        command: What made it.
        settings: Name and value.
        words: Pairs of a concept and its words.
    """

    title: str
    lead: str
    numbers: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    sheet: Sequence[Picture] = ()
    command: str = ""
    settings: Sequence[tuple[str, str]] = ()
    words: Sequence[Sequence[Any]] = ()

    def write(self, folder: Path) -> Path:
        """As `index.html` in a folder."""
        environment = Environment(
            loader=PackageLoader("headwise"), autoescape=True, undefined=StrictUndefined
        )
        path = folder / "index.html"
        write_whole(path, environment.get_template("report.html").render(page=self).encode())
        return path


def pictures_of(folder: Path, pattern: str = "*.png") -> Iterator[Picture]:
    """The pictures in a folder, by name."""
    return (Picture.of(path) for path in sorted(folder.glob(pattern)))


def settings_rows(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was not left to the model, versions last."""
    for name, value in settings.items():
        if value is not None and name not in ("concepts", "counted", "versions", "order"):
            yield name, str(value)
    yield from settings.get("versions", {}).items()
