"""One self-contained HTML page: figures are SVG, images are data URIs, nothing is loaded from the network.

Jinja's autoescape applies to all external text, such as prompts and model names.
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
from headwise.runs.image_names import kept_images

__all__ = [
    "WIDTH", "Drawing", "Page", "Picture", "Section", "Strip", "Table", "pictures_of", "settings_rows",
    "strips_of_methods",
]  # fmt: skip

WIDTH = 7.5  # inches of a figure on a page, which is read from a greater distance than print


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Args:
        source: The image as a data URI.
        prompt: The prompt below it, which is also its alternative text.
    """

    source: str
    prompt: str

    @classmethod
    def of(cls, path: Path) -> "Picture":
        """The image of a PNG file whose metadata has its prompt."""
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        return cls(source, settings_in(path).get("prompt", path.stem))


@dataclass(frozen=True)
class Strip:
    """A row of images.

    Args:
        name: The heading of the row.
        pictures: The caption below each image, and the image.
        wide: Whether the images are as large as sample images.
    """

    name: str
    pictures: Sequence[tuple[str, Picture]]
    wide: bool = False


@dataclass(frozen=True)
class Drawing:
    """A figure on the page.

    Args:
        svg: The figure itself.
        alt: Its alternative text.
        least: Its minimum width, in CSS units.
    """

    svg: Markup
    alt: str
    least: str

    @classmethod
    def of(cls, figure: Figure, alt: str, least: str) -> "Drawing":
        """A matplotlib figure, with the other arguments of `Drawing`."""
        return cls(Markup(as_svg(figure)), alt, least)


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure.

    Args:
        title: The heading, which expands the table.
        columns: The names of the columns.
        rows: The cells of each row, in the order of the columns.
        numeric: The columns that are aligned right.
        open: Whether the table is initially expanded.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    numeric: tuple[str, ...] = ()
    open: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph that explains the section, figures, strips of images and tables."""

    title: str
    text: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    strips: tuple[Strip, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything a page shows.

    Args:
        title: The question that the page answers.
        lead: An introduction of about two sentences.
        numbers: The name and value of the most important numbers.
        sections: The body of the page.
        sheet: Sample images.
        command: The command line of the run; empty if unknown.
        settings: The name and value of each setting of the run.
        words: The concepts, each with the list of its words.
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
        """Write `index.html` into a folder and return its path."""
        environment = Environment(
            loader=PackageLoader("headwise"), autoescape=True, undefined=StrictUndefined
        )
        path = folder / "index.html"
        write_whole(path, environment.get_template("report.html").render(page=self).encode())
        return path


def pictures_of(folder: Path, pattern: str = "*.png") -> Iterator[Picture]:
    """The images in a folder, in the order of their names."""
    return (Picture.of(path) for path in sorted(folder.glob(pattern)))


def settings_rows(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and value of each setting that is not None, followed by the versions."""
    for name, value in settings.items():
        if value is not None and name not in ("concepts", "counted", "versions", "order"):
            yield name, str(value)
    yield from settings.get("versions", {}).items()


def strips_of_methods(folder: Path, methods: Sequence[str], first: str = "plain") -> Iterator[Strip]:
    """One strip for each prompt whose images were kept, with one image per method.

    Args:
        folder: The folder of the run; its images are named like `003 adjust.png`.
        methods: The methods, in the order of the columns.
        first: The method whose image names the strip by its prompt.
    """
    rows: dict[int, dict[str, Picture]] = {}
    for name, path in kept_images(folder).items():
        rows.setdefault(name.number, {})[name.method] = Picture.of(path)
    for row in rows.values():
        prompt = (row.get(first) or next(iter(row.values()))).prompt
        yield Strip(f"“{prompt}”", [(method, row[method]) for method in methods if method in row])
