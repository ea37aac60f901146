"""The gallery: its code runs, every figure of the library is in it, and its files are there and small."""

import re
import runpy
from pathlib import Path

import pytest

from headwise.report import plots
from headwise.report.style import Figure
from helpers import ROOT, blocks

PAGE = ROOT / "docs" / "gallery.md"
NUMBERS = {"as_png", "as_svg", "correlation", "layer_means", "style"}  # what is offered beside figures


def lowered(page):
    """The page with less to generate, for the same lines."""
    page, steps = re.subn(r"(num_inference_steps=)\d+", r"\g<1>2", page)
    page, pictures = re.subn(r"(pictures=)32", r"\g<1>8", page)
    page, cases = re.subn(r"(count=)4", r"\g<1>2", page)
    page, ks = re.subn(r"ks=\(0, 4, 16, 48, 96\)", "ks=(0, 96)", page)
    page, orders = re.subn(r"(random_orders=)2", r"\g<1>1", page)
    assert (steps, pictures, cases, ks, orders) == (3, 1, 1, 1, 1)
    return page


def images():
    return re.findall(r"^!\[[^]]+\]\((\S+)\)$", PAGE.read_text(), re.M)


@pytest.mark.timeout(900)  # the built-in model at work
@pytest.mark.filterwarnings("ignore:The first was measured by votes")  # as the page says of this line
def test_every_line_of_the_gallery_runs_and_makes_the_figure_below_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("benchmarks").symlink_to(ROOT / "benchmarks")
    making = runpy.run_path(str(ROOT / "docs" / "make_gallery.py"))
    made = dict(making["figures"](lowered(PAGE.read_text())))
    assert list(made) == images()
    assert all(isinstance(figure, Figure) and figure.axes for figure in made.values())
    assert len({id(figure) for figure in made.values()}) == len(made)


def test_every_figure_of_the_library_is_in_the_gallery():
    code = "".join(blocks(PAGE, "python"))
    assert {name for name in plots.__all__ if f"hw.plots.{name}(" not in code} == NUMBERS


def test_the_files_of_the_gallery_are_there_and_small():
    assert len(images()) > 12
    for image in images():
        content = (PAGE.parent / image).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 100_000, image
    assert {Path(image).name for image in images()} == {
        file.name for file in (PAGE.parent / "figures").glob("gallery-*")
    }
