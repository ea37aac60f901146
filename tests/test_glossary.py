"""The field's words: prose for users has none that the glossary replaces, and the glossary's names exist."""

import pkgutil
import re
from html.parser import HTMLParser

import pytest

from helpers import ROOT

DOCS = ROOT / "docs"
PAGE = ROOT / "src" / "headwise" / "web" / "page" / "index.html"
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
TERMS, KEPT = GLOSSARY.split("\n## Names that stay\n")

REPLACED = {  # a pattern of words, and what the prose has in their place
    r"pictures?": "image",
    r"draws?|drew|drawn": "generate an image, sample a word, plot a figure",
    r"judge[sd]?|judging": "scorer, to score",
    r"rivals?": "baseline",
    r"things?": "object",
    r"foretell(?:s|ing)?|foretold": "predict",
    r"hears?|heard|listen(?:s|ed|ing)? to": "attend to",
    r"meddle[sd]?|meddling": "intervene on",
}
WORDS = re.compile(rf"\b(?:{'|'.join(REPLACED)})\b", re.IGNORECASE)
SPOKEN = {"alt", "aria-label", "aria-roledescription", "content", "placeholder", "title"}  # attributes


def prose(markdown):
    """The text of a page without code, mathematics, comments, and the targets of links."""
    text = re.sub(r"^```.*?^```|<!--.*?-->|\$\$.*?\$\$", "", markdown, flags=re.M | re.S)
    return re.sub(r"`[^`]*`|\$[^$\n]*\$|\]\([^)]*\)|https?://\S+", "", text)


def help_text(page):
    """The help of all commands without the names of options, their metavariables, and examples."""
    text = "\n".join(re.findall(r"^```text\n(.*?)^```", page, re.M | re.S))
    text = re.sub(r"^ +(?:headwise|cat|torchrun) .*$", "", text, flags=re.M)
    values = r"(?<!\w)'[^'\n]*'(?!\w)|\[\[\w+\]\]|\{\w+\}|count, color, thing"
    return re.sub(rf"--[\w-]+|<[^>]*>|{values}", "", text)


class PageText(HTMLParser):
    """What a browser shows or reads aloud of a page, with code left out."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.inside = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.texts += [value for name, value in attributes if name in SPOKEN and value]
        if tag in ("code", "script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.texts.append(data)


def page_text(page):
    """The text of a web page."""
    return "\n".join(PageText(page).texts)


def replaced_words(text):
    """The words that the glossary replaces, each with the words around it."""
    return [
        " ".join(text[max(match.start() - 30, 0) : match.end() + 30].split())
        for match in WORDS.finditer(text)
    ]


PAGES = [*DOCS.glob("*.md"), ROOT / "README.md", *(ROOT / "integrations").glob("*/README.md")]
READERS = dict.fromkeys(PAGES, prose) | {DOCS / "cli.md": help_text, PAGE: page_text}
SOURCES = {file.relative_to(ROOT).as_posix(): read for file, read in READERS.items()}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_prose_uses_the_words_of_the_field(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert replaced_words(SOURCES[name](text)) == [], f"what to say instead: {REPLACED}"


def test_a_word_is_found_in_prose_and_not_in_code():
    page = "# Pictures\n\nNo drawings, `pictures=2`, [text](pictures.md).\n\n```python\nthings = 1\n```\n"
    assert len(replaced_words(prose(page))) == 1
    page = "```text\n  headwise demo --pictures 4\n  --pictures <int>  The model's pictures to draw.\n```\n"
    assert len(replaced_words(help_text(page))) == 2
    page = '<p aria-label="The rival">was heard <code>picture</code></p><script>thing</script>'
    assert replaced_words(page_text(page)) == ["The rival was heard"] * 2


def rows(tables):
    """The cells of every row of the tables below their heads."""
    lines = [line.strip("| ").split(" | ") for line in tables.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if cells[0] not in ("term", "in code and files")]


def exists(name):
    """Whether a name of the library, as the glossary writes it, leads somewhere."""
    try:
        return bool(pkgutil.resolve_name(f"headwise.{name}"))
    except AttributeError:  # a field without a default
        owner, _, field = f"headwise.{name}".rpartition(".")
        return field in pkgutil.resolve_name(owner).__annotations__


@pytest.mark.parametrize("cells", rows(TERMS), ids=lambda cells: cells[0])
def test_every_term_has_its_place_in_the_library(cells):
    names = [name for name in re.findall(r"`([^`]+)`", cells[3]) if not name.startswith("pipe.")]
    assert len(cells) == 4 and cells[3]
    assert [name for name in names if not exists(name)] == []


def test_the_names_that_stay_are_names():
    files = [*(ROOT / "src" / "headwise").rglob("*.py"), *(ROOT / "src" / "headwise").rglob("card.json")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    names = re.findall(r"`(\w+)`", "".join(cells[0] for cells in rows(KEPT)))
    assert len(names) > 15
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []
