"""Figures: of every size of model, with the axes they promise, and no state left behind."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from headwise.benchmarks.weakening import Weakening
from headwise.errors import HeadwiseError, MissingExtra
from headwise.intervals import Interval
from headwise.measuring.agreement import Agreement
from headwise.measuring.explanation import Explanation
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, Layer
from headwise.report import plots
from headwise.report.explanation import short_address
from headwise.runs.scores import Scores
from helpers import sd_map, votes_on


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
    assert axes.get_xlabel() == "head, by block" and axes.get_title() == ""
    assert bar.get_xlabel() == "relevance (average head = 1)"
    top = np.quantile(relevance.values, 0.99)
    assert labels(bar.xaxis)[-1] == f"≥ {max(2, top):.1f}", "a clipped scale says so"


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
    axes = plots.concept_similarity(relevance).axes[0]
    row = labels(axes.yaxis).index("silent")
    assert not axes.get_images()[0].get_array()[row].any()


def test_reliability_is_ordered_and_shows_the_control(votes, relevance):
    axes = plots.reliability(relevance, Relevance.from_votes(votes_on(votes.head_map, 1))).axes[0]
    assert sorted(labels(axes.yaxis)) == sorted(relevance.concepts)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["measured", "control"]


def test_convergence_ends_at_the_number_of_pictures(votes, relevance):
    axes = plots.convergence(votes).axes[0]
    line = axes.get_lines()[0]
    assert axes.get_xlabel() == "images" and line.get_xdata()[-1] == len(votes)
    assert line.get_ydata()[-1] == pytest.approx(np.median(relevance.split_half))


@pytest.mark.parametrize(
    "draw", [plots.heat_map, plots.layer_summary, plots.concept_similarity, plots.reliability]
)
def test_figures_become_files(relevance, draw):
    figure = draw(relevance)
    svg, png = plots.as_svg(figure), plots.as_png(figure)
    assert svg.startswith("<svg") and "Time &lt;of&gt; Day" in svg
    with Image.open(io.BytesIO(png)) as picture:
        inches = figure.get_size_inches()
        assert picture.format == "PNG" and np.allclose(picture.size, inches * 120, atol=1)
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20, "it is not blank"
    assert plots.as_svg(draw(relevance)) == svg, "the same figure is the same text"


def test_a_relevance_without_a_head_map_is_drawn_too():
    relevance = Relevance.from_votes(np.random.default_rng(0).integers(1, 9, (3, 20)), ["a", "b", "c"])
    axes = plots.heat_map(relevance).axes[0]
    assert np.array_equal(axes.get_images()[0].get_array(), relevance.values)
    assert labels(axes.xaxis) == ["0"], "a single unnamed layer"


ORDERS = (
    "most relevant",
    "least relevant",
    "most relevant layers",
    "least relevant layers",
    "random 0",
    "random 1",
)


def weakened(seed=0):
    """Scores of six orders at four k, two seeds and five prompts."""
    values = np.random.default_rng(seed).uniform(size=(6, 4, 2, 5))
    axes = {"order": ORDERS, "k": (0, 2, 4, 8), "seed": (0, 1), "prompt": (0, 1, 2, 3, 4)}
    return Weakening(Scores(values, axes, {"concept": "Color"}))


def test_weakening_curves_are_the_means_and_random_orders_are_numbered_from_1():
    weakening = weakened()
    axes = plots.weakening_curves(weakening).axes[0]
    for order, line in zip(ORDERS, axes.get_lines(), strict=True):
        assert tuple(line.get_xdata()) == weakening.ks
        assert np.allclose(line.get_ydata(), weakening.scores.values[ORDERS.index(order)].mean((1, 2)))
    assert len(axes.collections) == 4, "bands of the four orders by relevance"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "most relevant first", "least relevant first", "most relevant layers first",
        "least relevant layers first", "random order 1", "random order 2",
    ]  # fmt: skip
    assert len({line.get_linestyle() for line in axes.get_lines()[4:]}) == 2, "random orders differ"


def test_weakening_areas_are_ordered_and_beside_their_controls():
    named = {name: weakened(seed) for seed, name in enumerate("abc")}
    areas = {name: weakening.area() for name, weakening in named.items()}
    order = sorted(areas, key=lambda name: areas[name].value)
    axes = plots.weakening_areas(named).axes[0]
    assert labels(axes.yaxis) == order
    bars, marks, random, layers = axes.collections[:4]
    assert np.allclose([s[:, 0] for s in bars.get_segments()], [areas[n][1:] for n in order])
    assert np.allclose(marks.get_offsets()[:, 0], [areas[n].value for n in order])
    assert np.allclose(random.get_offsets()[:, 0], [named[n].random().value for n in order])
    of_layers = [named[n].area("most relevant layers", "least relevant layers").value for n in order]
    assert np.allclose(layers.get_offsets()[:, 0], of_layers)


METHODS = {
    "relevance × 1": (Interval(0.4, 0.3, 0.5), Interval(0.2, 0.1, 0.4)),
    "plain": (Interval(0.1, -0.3, 0.5), Interval(0.21, 0.1, 0.4)),
}


def test_a_tradeoff_has_both_intervals_and_a_mark_of_each_method():
    axes = plots.tradeoff(METHODS, "kept", "changed").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("kept", "changed")
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.get_lines()]
    for across, up in METHODS.values():
        assert ((across.low, across.high), (up.value, up.value)) in lines
        assert ((across.value, across.value), (up.low, up.high)) in lines
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(METHODS)
    ours, plain = axes.collections
    assert not np.array_equal(ours.get_facecolor(), plain.get_facecolor())
    assert len(ours.get_paths()[0]) != len(plain.get_paths()[0]), "marks differ in shape too"


def test_intervals_stand_in_the_order_given_and_rates_go_from_0_to_1():
    values = {name: across for name, (across, _) in METHODS.items()}
    axes = plots.intervals(values, "share").axes[0]
    assert labels(axes.yaxis) == list(values) and list(axes.get_yticks()) == [1, 0], "the first on top"
    bars, marks = axes.collections
    assert [tuple(s[:, 0]) for s in bars.get_segments()] == [(0.3, 0.5), (-0.3, 0.5)]
    assert marks.get_offsets().tolist() == [[0.4, 1], [0.1, 0]]
    assert len(axes.get_lines()) == 1, "a line at 0, as an interval goes below"
    assert plots.rates(values, "share").axes[0].get_xlim() == (0, 1)


def test_lines_have_their_points_their_band_and_the_goal():
    curves = {"lean": [(10.0, 0.1, 0.05, 0.2), (100.0, 0.5, 0.4, 0.6)], "paper": [(10.0, 0.3, 0.2, 0.4)] * 2}
    axes = plots.lines(curves, "rows", "agreement", goal=0.95).axes[0]
    *drawn, goal = axes.get_lines()
    assert [line.get_xydata().tolist() for line in drawn] == [
        [list(p[:2]) for p in c] for c in curves.values()
    ]
    band = axes.collections[0].get_paths()[0].vertices
    assert {(10, 0.05), (10, 0.2), (100, 0.4), (100, 0.6)} <= set(map(tuple, band.tolist()))
    assert list(goal.get_ydata()) == [0.95, 0.95] and axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["lean", "paper"]


def test_agreements_are_ordered_and_show_their_ceiling():
    by_concept = {"a": Agreement(0.9, 0.95, 8), "b": Agreement(-0.3, 0.8, 1), "c": Agreement(0.5, 1.0, 4)}
    axes = plots.agreements(by_concept).axes[0]
    assert labels(axes.yaxis) == ["b", "c", "a"]
    _, reached, ceiling = axes.collections
    assert reached.get_offsets()[:, 0].tolist() == [-0.3, 0.5, 0.9]
    assert ceiling.get_offsets()[:, 0].tolist() == [0.8, 1.0, 0.95]
    assert axes.get_xlim() == pytest.approx((-0.33, 1.02)), "nothing is cut off"


def test_every_figure_is_offered():
    from headwise.report import certainty, curves, explanation, maps, marks

    modules = (certainty, curves, maps, marks)
    offered = {"explanation", "as_svg", "as_png", "style"}
    assert explanation.explanation is plots.explanation
    assert set(plots.__all__) == offered.union(*(module.__all__ for module in modules))


def test_without_matplotlib_the_install_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in [name for name in sys.modules if name.startswith("headwise.report.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingExtra, match=r"pip install 'headwise\[plots\]'"):
        __import__("headwise.report.plots")


def explained(head_map, words=("red", "car")):
    random = np.random.default_rng(0)
    shares = random.normal(0, 0.1, (len(words), head_map.all_heads))
    maps = random.random((len(words), 3, 3, 4))
    return Explanation(
        image=Image.new("RGB", (32, 24), "red"),
        prompt="a red car",
        words=words,
        shares=shares,
        by_step=shares[:, None],
        steps=(3,),
        strengths=np.linspace(1, 0.5, len(words)),
        heads=np.argsort(-np.abs(shares), 1)[:, :3],
        maps=maps,
        word_maps=np.zeros((len(words), 3, 4)),  # a word that does nothing
        maps_by_step=maps[:, :, None],
        word_maps_by_step=np.zeros((len(words), 1, 3, 4)),
        head_map=head_map,
    )


@pytest.mark.parametrize("head_map", [sd_map(), sdxl_map()], ids=["128", "1300"])
def test_an_explanation_shows_shares_by_layer_and_head_and_maps_of_the_largest(head_map):
    explanation = explained(head_map)
    figure = plots.explanation(explanation, maps=2)
    axes = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(axes) == 1 + 2 * 2 + 2 * 3
    bars, strip = axes[1], axes[2]
    heights = [bar.get_height() for bar in bars.patches]
    assert np.allclose(heights, explanation.by_layer[0])
    (image,) = strip.get_images()
    assert np.array_equal(image.get_array()[0], explanation.shares[0])
    assert image.norm.vmin == -image.norm.vmax
    head, address, share = explanation.top("car")[0]
    title = axes[-2].get_title()
    assert title.endswith(f"{share:+.2f}".replace("-", "−")) and title.startswith(address.split("_")[0])
    assert axes[-3].get_title() == "all\nheads"
    assert len(plots.explanation(explanation, ["car"]).axes) == 2 + 2 + 4
    assert plots.as_png(figure).startswith(b"\x89PNG")


def test_an_explanation_without_a_picture_or_word_is_refused():
    explanation = explained(sd_map())
    with pytest.raises(HeadwiseError, match="'dog' was not explained"):
        plots.explanation(explanation, ["dog"])
    with pytest.raises(HeadwiseError, match="expected a Pillow image"):
        plots.explanation(replace(explanation, image=np.zeros((3, 4, 4))))


def test_short_addresses_of_one_model_differ():
    for head_map in (sd_map(), sdxl_map()):
        addresses = [head_map.address(h) for h in range(head_map.all_heads)]
        assert len(set(map(short_address, addresses))) == len(addresses)
    assert short_address(sd_map().address(0)) == "down 0.0[0]"
    assert short_address("transformer_blocks.3.attn2[1]") == "transformer 3[1]"
