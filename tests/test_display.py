"""Results in notebooks and as tables: what they show, what they escape, how they are indexed."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from headwise.benchmarks.results import order_name
from headwise.display import DIVERGING, SEQUENTIAL, html_strip, html_table
from headwise.errors import HeadMapMismatch, MissingExtra, UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap
from helpers import HEADS, counted, sd_map
from test_plots import explained, weakened

ADDRESS = "mid_block.attn2[1]"


@pytest.fixture
def relevance():
    return Relevance.from_votes(counted(range(64)))


def pixels(html):
    """The images in a text of HTML, as colours by row and column."""
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            yield np.array(image.convert("RGB"))


def test_a_relevance_is_indexed_by_concept_and_by_head(relevance):
    for h in range(HEADS.all_heads):
        address = HEADS.address(h)
        assert HEADS.head(address) == h, "the inverse"
        assert np.array_equal(relevance[address], relevance.values[:, h])
        for c, name in enumerate(relevance):
            assert relevance[name, address] == relevance[name, h] == relevance[c, h] == relevance.values[c, h]
    assert list(relevance) == ["Color", "Animals", "Plants"]
    assert ADDRESS not in relevance and "Color" in relevance, "`in` is about concepts"


def test_a_relevance_without_a_head_map_is_indexed_by_the_number_of_a_head():
    relevance = Relevance.from_votes(np.array([[1, 2, 3], [3, 2, 2]]), ["a", "head 1"])
    assert relevance["a", "head 2"] == relevance["a", 2]
    assert np.array_equal(relevance["head 2"], relevance.values[:, 2])
    assert np.array_equal(relevance["head 1"], relevance.values[1]), "a concept of this name comes first"
    with pytest.raises(
        HeadMapMismatch, match="'head 3' is not a head. Give an address such as 'head 0', or an"
    ):
        relevance["head 3"]


@pytest.mark.parametrize(
    ("key", "error", "sentence"),
    [
        ("Colour", UnknownConcept, "Unknown concept 'Colour'. Did you mean 'Color'?"),
        (("Colour", 0), UnknownConcept, "Unknown concept 'Colour'. Did you mean 'Color'?"),
        ("mid_block.attn[1]", HeadMapMismatch, f"not the address of a head. Did you mean {ADDRESS!r}?"),
        (("Color", "mid.attn2[1]"), HeadMapMismatch, f"not the address of a head. Did you mean {ADDRESS!r}?"),
        ("mid_block.attn2[3]", HeadMapMismatch, "mid_block.attn2 has heads 0 to 2; 3 was asked for."),
        (
            "mid_block.attn2",
            HeadMapMismatch,
            "is a layer. Name one of its heads, as in 'mid_block.attn2[0]'.",
        ),
        (
            ("Color", 5),
            HeadMapMismatch,
            "5 is not a head. Give an address such as 'down_blocks.0.attn2[0]', or",
        ),
        (("Color", -1), HeadMapMismatch, "-1 is not a head."),
        (("Color", 1, 2), UnknownConcept, "was given; expected a concept and a head"),
    ],
)
def test_near_misses_are_told_what_is_near(relevance, key, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        relevance[key]


class Frame(SimpleNamespace):
    """Stands in for a data frame: keeps its columns, which must be of one length."""

    def __init__(self, columns):
        assert len({len(column) for column in columns.values()}) == 1
        super().__init__(columns=columns)


@pytest.mark.parametrize("head_map", [HEADS, None])
def test_a_data_frame_has_a_row_for_each_concept_and_head(relevance, head_map, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    relevance = replace(relevance, head_map=head_map)
    columns = relevance.to_frame().columns
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert len(rows) == relevance.values.size
    for row in rows:
        assert row["relevance"] == relevance[row["concept"], row["address"]]
        c = relevance.concepts.index(row["concept"])
        assert row["standard_error"] == relevance.standard_errors[c, row["head"]]
        assert row["layer"] == (row["address"].partition("[")[0] if head_map else "")


def test_real_pandas_takes_the_columns(relevance):
    pytest.importorskip("pandas", reason="pandas is for those who have it: pip install pandas")
    wide = relevance.to_frame().pivot(index="concept", columns="head", values="relevance")
    assert np.array_equal(wide.loc[list(relevance)].to_numpy(), relevance.values)


def test_without_pandas_the_install_line_is_told(relevance, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="needs pandas, which is not installed: pip install pandas"):
        relevance.to_frame()


def test_a_relevance_shows_its_heads_and_its_map(relevance):
    html = relevance._repr_html_()
    for name in relevance:
        first = relevance.top(name, 1)[0]
        row = html.split(f">{name}<")[1].split("</tr>")[0]
        assert f"{first.index} ({first.relevance:.1f})" in row and first.address in row
    strips = list(pixels(html))
    assert [strip.shape for strip in strips] == [(1, HEADS.all_heads, 3)] * len(relevance)
    for strip, values in zip(strips, relevance.values, strict=True):
        lightness = strip[0].sum(-1)
        assert np.array_equal(np.argsort(lightness, kind="stable"), np.argsort(values, kind="stable"))


def test_strips_have_the_colours_of_their_ends_and_middle():
    def colours(values, signed):
        (strip,) = pixels(html_strip(np.array(values), 2.0, signed, ""))
        return ["#" + bytes(pixel.tolist()).hex() for pixel in strip[0]]

    assert colours([0.0, 1.0, 2.0, 9.0], False) == [
        SEQUENTIAL[0],
        SEQUENTIAL[2],
        SEQUENTIAL[4],
        SEQUENTIAL[4],
    ]
    assert colours([-9.0, 0.0, 2.0], True) == [DIVERGING[0], DIVERGING[2], DIVERGING[4]]


def test_an_explanation_shows_its_image_and_shares():
    explanation = explained(sd_map(), ("red", "<b>car</b>"))
    html = explanation._repr_html_()
    image, *strips = pixels(html)
    assert image.shape == (24, 32, 3) and [strip.shape for strip in strips] == [(1, 128, 3)] * 2
    assert "<b>" not in html and "&lt;b&gt;car" in html
    assert explanation.top("red", 1)[0].address in html
    latents = replace(explanation, image=np.zeros((3, 4, 4)))
    assert len(list(pixels(latents._repr_html_()))) == 2, "what is not an image is left out"


def test_a_weakening_shows_its_orders_and_its_area():
    weakening = weakened()
    html = weakening._repr_html_()
    assert f"{weakening.area():+.3f}" in html
    for order in weakening.orders:
        assert f">{order_name(order)}</td>" in html and str(weakening.height(order)) in html
    assert order_name("random 0") == "random order 1"


def test_text_from_outside_is_escaped_and_nothing_is_asked_of_another_host():
    votes = np.arange(1, 7).reshape(2, 3)
    html = Relevance.from_votes(votes, ["<script>alert(1)</script>", '"quoted"'])._repr_html_()
    assert "<script>" not in html and "http" not in html
    assert html_table("<i>", ["<u>"], [["<s>"]], ["<p>"]).count("&lt;") == 4


def test_notebooks_show_results_without_matplotlib():
    script = (
        "import sys, headwise as hw; html = hw.Relevance.load(hw.emoji.RELEVANCE)._repr_html_(); "
        "print(len(html) < 40_000, 'matplotlib' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True False False\n"


def test_the_head_map_finds_heads_of_a_large_model():
    head_map = sd_map()
    assert all(head_map.head(head_map.address(h)) == h for h in range(head_map.all_heads))
    assert isinstance(head_map, HeadMap)
