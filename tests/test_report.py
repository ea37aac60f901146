"""The page: whole in itself, honest about its control, deaf to hostile text."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from headwise.benchmarks.method_results import Editing
from headwise.errors import UnreadableFile
from headwise.measuring.relevance import Relevance
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from headwise.web.run_store import RunStore
from helpers import sd_map, votes_on

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br", "path", "use", "rect", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes something else"


@pytest.fixture
def folder(tmp_path):
    """A finished run with a control, two images and hostile text wherever text can come from."""
    votes = votes_on(sd_map())
    votes.settings.update(model=HOSTILE, negative_prompt=HOSTILE)
    votes.save(tmp_path / "votes.safetensors")
    Relevance.from_votes(votes).save(tmp_path / "relevance.safetensors")
    (tmp_path / "control").mkdir()
    Relevance.from_votes(votes_on(sd_map(), 1)).save(tmp_path / "control" / "relevance.safetensors")
    (tmp_path / "pictures").mkdir()
    for i, prompt in enumerate(("a red vase", HOSTILE)):
        said = PngInfo()
        said.add_itxt("prompt", prompt)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / f"{i}.png", pnginfo=said)
    (tmp_path / "command.txt").write_text(f"headwise demo --out {HOSTILE}")
    return tmp_path


@pytest.fixture
def page(folder):
    return report(folder).read_text()


def test_the_page_asks_nothing_of_the_network(page):
    for tag, attributes in Tags(page).tags:
        assert tag not in ("script", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert re.match(r"(data:|#|$)", attributes.get(name) or ""), (tag, attributes)
    assert "@import" not in page and not re.search(r"url\((?!['\"]?(#|data:))", page)


def test_hostile_text_stays_text(page):
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert not any(name.startswith("on") for _, attributes in Tags(page).tags for name in attributes)


def test_tags_are_closed(page):
    assert Tags(page).open in ([], ["html"])


def test_every_picture_and_figure_says_what_it_shows(page):
    tags = Tags(page).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [
        "Image generated from the prompt: a red vase",
        f"Image generated from the prompt: {HOSTILE}",
    ]
    figures = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(figures) == 5 and all(len(figure["aria-label"]) > 20 for figure in figures)


def test_the_numbers_of_the_relevance_are_on_the_page(folder, page):
    relevance = Relevance.load(folder / "relevance.safetensors")
    for name in relevance.concepts:
        for head in relevance.top(name, 5):
            assert head.address in page
            assert f"{head.relevance:.2f} ± {1.96 * head.standard_error:.2f}" in page
    assert f"{np.median(relevance.split_half):.2f}" in page


def test_a_bare_result_is_enough(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (folder / "relevance.safetensors").rename(bare / "relevance.safetensors")
    page = report(bare).read_text()
    assert "In the control" not in page and "<img" not in page


def test_a_run_of_one_picture_has_no_certainty_and_says_so(tmp_path):
    Relevance.from_votes(np.arange(24).reshape(3, 8), ["a", "b", "c"]).save(
        tmp_path / "relevance.safetensors"
    )
    assert "unknown" in report(tmp_path).read_text()


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="holds no run"):
        report(tmp_path)


def sweep_of(folder, axes, settings):
    scores = Scores.empty(axes, settings)
    scores.values[...] = 1
    scores.save(folder / "scores.safetensors")
    return folder


def test_a_sweep_of_interventions_is_refused_and_not_listed_as_a_weakening(tmp_path):
    (tmp_path / "patched").mkdir()
    axes = {"order": ("most relevant", "random 0"), "k": (0, 8), "seed": (1,), "prompt": (0,)}
    folder = sweep_of(tmp_path / "patched", axes, {"sweep": "patched"})
    with pytest.raises(UnreadableFile, match='of kind "interventions".*headwise benchmark questions'):
        report(folder)
    assert RunStore(tmp_path).all() == []


def test_the_page_of_strengthening_is_not_that_of_editing(tmp_path):
    (tmp_path / "strengthen").mkdir()
    axes = {"method": ("plain", "sum"), "measure": Editing.METRICS, "seed": (1,), "pair": (0, 1)}
    settings = {"attributes": ["Color", "Color"], "relevance": {"sum": None}}
    page = report(sweep_of(tmp_path / "strengthen", axes, settings)).read_text()
    assert "What does strengthening a word change" in page and "Which editing method" not in page
    (run,) = RunStore(tmp_path).all()
    assert (run.kind, run.state) == ("strengthening", "finished")


def test_the_short_name_of_the_function_is_kept():
    import headwise.report

    assert headwise.report.report is report
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        headwise.report.nothing  # noqa: B018
