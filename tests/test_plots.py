"""Figures: of every size of model, with the axes they promise, and no state left behind."""

import sys

import numpy as np
import pytest

from headwise.errors import MissingExtra
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.heads import HeadMap, Layer
from headwise.report import plots


def sd_map():
    """SD 1.x: 16 layers of 8."""
    down = [(b, a) for b in range(3) for a in range(2)]
    up = [(b, a) for b in (1, 2, 3) for a in range(3)]
    layers = [*(f"down_blocks.{b}.attentions.{a}" for b, a in down), "mid_block.attentions.0"]
    layers += [f"up_blocks.{b}.attentions.{a}" for b, a in up]
    return HeadMap(tuple(Layer(f"{layer}.transformer_blocks.0.attn2", 8) for layer in layers))


def sdxl_map():
    """SDXL: 70 layers, 1300 heads."""
    places = [("down_blocks.1", 2, 2, 10), ("down_blocks.2", 2, 10, 20), ("mid_block", 1, 10, 20)]
    places += [("up_blocks.0", 3, 10, 20), ("up_blocks.1", 3, 2, 10)]
    return HeadMap(
        tuple(
            Layer(f"{place}.attentions.{a}.transformer_blocks.{b}.attn2", heads)
            for place, attentions, blocks, heads in places
            for a in range(attentions)
            for b in range(blocks)
        )
    )


def votes_on(head_map, seed=0):
    concepts = ConceptSet({name: ["word"] for name in ("Animals", "Color", "Time <of> Day", "Material")})
    drawn = np.random.default_rng(seed)
    taste = drawn.gamma(0.5, size=(head_map.all_heads, len(concepts)))
    blocks = drawn.poisson(20 * taste, size=(BLOCKS, *taste.shape)).astype(np.int64)
    return Votes(blocks.sum(0)[None], blocks, ((0, 64),), head_map, concepts, {"model": "drawn"})


@pytest.fixture(params=[sd_map, sdxl_map], ids=["128", "1300"], scope="module")
def votes(request):
    return votes_on(request.param())


@pytest.fixture
def relevance(votes):
    return Relevance.from_votes(votes)


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_the_maps_stand_for_the_real_models():
    assert (sd_map().all_heads, sdxl_map().all_heads, len(sdxl_map())) == (128, 1300, 70)


def test_heat_map_has_concepts_down_and_places_across(relevance):
    figure = plots.heat_map(relevance)
    axes, bar = figure.axes[:2]
    assert labels(axes.yaxis) == list(relevance.concepts)
    assert axes.get_images()[0].get_array().shape == relevance.values.shape
    assert [labels(child.xaxis) for child in axes.child_axes] == [["down", "mid", "up"]]
    assert axes.get_xlabel().startswith("layer") and axes.get_ylabel() == "concept"
    assert "99th percentile" in bar.get_ylabel(), "a clipped scale says so"


def test_blocks_are_named_once_each(relevance):
    names = labels(plots.heat_map(relevance).axes[0].xaxis)
    assert len(names) == (16 if relevance.values.shape[1] == 128 else 11)
    assert names[0] in ("0.0", "1.0") and "0" in names


def test_layer_summary_shows_means_of_layers(relevance):
    shown = plots.layer_summary(relevance).axes[0].get_images()[0].get_array()
    start, stop = relevance.head_map.slices[3]
    assert np.allclose(shown[:, 3], relevance.values[:, start:stop].mean(axis=1))


def test_similar_concepts_stand_side_by_side():
    values = np.random.default_rng(0).gamma(1.0, size=(2, 128))
    mixed = np.stack([values[0], values[1], values[0] + 0.1 * values[1], values[1] + 0.1 * values[0]])
    relevance = Relevance.from_votes(mixed, ["a", "x", "b", "y"])
    order = labels(plots.concept_similarity(relevance).axes[0].yaxis)
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("ab"), frozenset("xy")}


def test_a_concept_without_votes_resembles_nothing():
    relevance = Relevance.from_votes(np.array([[3, 1, 2], [0, 0, 0], [1, 2, 3]]), ["a", "silent", "b"])
    assert not plots.correlation(relevance)[1].any()
    assert len(plots.as_png(plots.concept_similarity(relevance))) > 1000


def test_reliability_is_ordered_and_shows_the_control(votes, relevance):
    axes = plots.reliability(relevance, Relevance.from_votes(votes_on(votes.head_map, 1))).axes[0]
    assert sorted(labels(axes.yaxis)) == sorted(relevance.concepts)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["measured", "control"]


def test_convergence_ends_at_the_number_of_pictures(votes, relevance):
    axes = plots.convergence(votes).axes[0]
    line = axes.get_lines()[0]
    assert axes.get_xlabel() == "pictures" and line.get_xdata()[-1] == len(votes)
    assert line.get_ydata()[-1] == pytest.approx(np.median(relevance.split_half))


@pytest.mark.parametrize(
    "draw", [plots.heat_map, plots.layer_summary, plots.concept_similarity, plots.reliability]
)
def test_figures_become_files(relevance, draw):
    figure = draw(relevance)
    svg, png = plots.as_svg(figure), plots.as_png(figure)
    assert svg.startswith("<svg") and "Time &lt;of&gt; Day" in svg
    assert png.startswith(b"\x89PNG") and len(png) > 5000
    assert plots.as_svg(draw(relevance)) == svg, "the same figure is the same text"


def test_a_relevance_without_a_head_map_is_drawn_too():
    relevance = Relevance.from_votes(np.random.default_rng(0).integers(1, 9, (3, 20)), ["a", "b", "c"])
    assert len(plots.as_png(plots.heat_map(relevance))) > 5000


def test_without_matplotlib_the_install_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in [name for name in sys.modules if name.startswith("headwise.report.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingExtra, match=r"pip install 'headwise\[plots\]'"):
        __import__("headwise.report.plots")
