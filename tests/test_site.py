"""The site of the documents: it is built without a warning, is whole, and asks no other host for anything."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.md"))

for package in ("zensical", "latex2mathml"):
    pytest.importorskip(package, reason="the site is built with: pip install 'headwise[docs]'")


def built(folder, **pages):
    """The site of docs/, with some pages more or changed, and what building it says."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name, text in pages.items():
        (folder / "docs" / f"{name}.md").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "docs"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = built(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


class Asked(HTMLParser):
    """What a browser fetches of a page by itself, and its mathematics."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.formulas = [], 0
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.formulas += tag == "math"
        if tag != "a":
            given = dict(attributes)
            self.fetched += [given[name] for name in ("src", "href", "srcset", "data") if given.get(name)]


def test_every_page_is_in_the_site_and_in_its_navigation(site):
    assert set(PAGES) <= {page.stem for page in site.glob("*.html")}
    links = set(re.findall(r'href="(?:\./)?(\w+)\.html"', (site / "index.html").read_text()))
    assert set(PAGES) - {"index"} <= links
    assert (site / "notebooks" / "tour.ipynb").is_file()
    assert not list(site.rglob("*.py"))


def test_no_page_asks_another_host(site):
    for page in site.glob("*.html"):
        asked = Asked(page).fetched
        assert asked, page
        assert [where for where in asked if re.match(r"(\w+:)?//", where)] == [], page
        assert "mermaid" not in page.read_text(), "whose script would come from another host"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(\w+:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize("name", PAGES)
def test_mathematics_is_made_whole_while_the_site_is_built(site, name):
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", (ROOT / "docs" / f"{name}.md").read_text(), flags=re.M | re.S)
    page = (site / f"{name}.html").read_text(encoding="utf-8")
    assert Asked(site / f"{name}.html").formulas == len(re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.S))
    for formula in re.findall(r"<math.*?</math>", page, re.S):
        assert "\\" not in formula, "a command that MathML was not made of"


def test_theory_has_mathematics(site):
    assert Asked(site / "theory.html").formulas > 50


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    done = built(tmp_path, format="# Files\n\n[nowhere](nowhere.md)\n")
    assert done.returncode != 0
    assert "does not exist" in done.stdout + done.stderr
