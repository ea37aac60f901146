"""Figures in print: at the widths of a page and of a column no label is cut off or touches another.

Everything is asked of the renderer, which knows where words end up.
"""

import io
import re
from dataclasses import replace
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from headwise.errors import HeadwiseError, UnknownConcept
from headwise.intervals import Interval
from headwise.measuring.agreement import Agreement
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.report import plots
from helpers import sd_map, votes_on
from test_plots import explained, sdxl_map, weakened

PAGE, COLUMN = 5.5, 3.25
NAMES = ConceptSet.load("paper34").names
METHODS = (
    "plain",
    "prompt-to-prompt",
    "plug-and-play",
    "free-prompt",
    "masactrl",
    "relevance × 0.5",
    "relevance",
)
LONG = (
    "mean similarity of the parts of the image in which nothing was asked to change, by an image-text model"
)


def of_34_concepts(head_map, signed=False):
    random = np.random.default_rng(0)
    values = random.gamma(0.5, size=(len(NAMES), head_map.all_heads)) * 2
    relevance = Relevance.from_votes(values, NAMES, head_map)
    halves = replace(relevance, split_half=random.uniform(-0.2, 1, len(NAMES)))
    return replace(halves, values=values - 0.4) if signed else halves


SD, SDXL, EFFECT = of_34_concepts(sd_map()), of_34_concepts(sdxl_map()), of_34_concepts(sd_map(), True)
INTERVALS = {name: Interval(0.1 * i, 0.1 * i - 0.2, 0.1 * i + 0.15) for i, name in enumerate(METHODS)}
CURVES = {f"{k} steps, no guidance": [(10.0**i, i / 5, i / 6, i / 4) for i in range(5)] for k in range(8)}
AGREEMENTS = {name: Agreement(i / 40, 0.9, i) for i, name in enumerate(NAMES)}
FIGURES = {
    "heat_map": lambda **place: plots.heat_map(SD, **place),
    "heat_map of SDXL": lambda **place: plots.heat_map(SDXL, **place),
    "heat_map of one concept": lambda **place: plots.heat_map(SD, ["Color"], **place),
    "heat_map by effect": lambda **place: plots.heat_map(EFFECT, NAMES[:3], **place),
    "layer_summary": lambda **place: plots.layer_summary(SDXL, **place),
    "concept_similarity": lambda **place: plots.concept_similarity(SD, **place),
    "concept_similarity of few": lambda **place: plots.concept_similarity(SD, NAMES[:7], **place),
    "reliability": lambda **place: plots.reliability(SD, SD, **place),
    "convergence": lambda **place: plots.convergence(votes_on(sd_map()), **place),
    "weakening_curves": lambda **place: plots.weakening_curves(weakened(), **place),
    "weakening_areas": lambda **place: plots.weakening_areas(
        {name: weakened(i) for i, name in enumerate(NAMES[:6])}, **place
    ),
    "tradeoff": lambda **place: plots.tradeoff(
        {name: (each, each) for name, each in INTERVALS.items()}, LONG, LONG, **place
    ),
    "tradeoff_curves": lambda **place: plots.tradeoff_curves(
        {name: [(float(i), float(i**k)) for i in range(4)] for k, name in enumerate(METHODS)},
        "preservation",
        LONG,
        **place,
    ),
    "lines": lambda **place: plots.lines(CURVES, "rows that pass the denoiser", "agreement", 0.5, **place),
    "agreements": lambda **place: plots.agreements(AGREEMENTS, **place),
    "rates": lambda **place: plots.rates(INTERVALS, LONG, **place),
    "intervals": lambda **place: plots.intervals(
        INTERVALS | {LONG: Interval(0.5, 0.0, 1.0)}, "share", **place
    ),
}
DRAWN = FIGURES | {"explanation": lambda **place: plots.explanation(explained(sd_map()), **place)}


def texts_of(figure):
    """All words that are seen, with their boxes in pixels."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
    hidden = {label for axes in figure.axes for label in unseen_ticks(axes)}
    return [(text, text.get_window_extent()) for text in texts if text not in hidden]


def unseen_ticks(axes):
    """Labels that matplotlib keeps but never shows: of ticks outside the axes, or made in vain."""
    for axis in (axes.xaxis, axes.yaxis):
        drawn = {id(tick) for tick in axis._update_ticks()} if axes.axison and axes.get_visible() else set()
        for tick in [*axis.majorTicks, *axis.minorTicks]:
            if id(tick) not in drawn:
                yield from (tick.label1, tick.label2)


def touching(boxes):
    """Pairs of words that touch, a third of a pixel aside, which is how exactly they are placed."""
    for (a, first), (b, second) in combinations(boxes, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        if wide > 0.3 and high > 0.3:
            yield a.get_text(), b.get_text()


@pytest.mark.parametrize("width", [PAGE, COLUMN])
@pytest.mark.parametrize("name", DRAWN)
def test_no_word_leaves_the_figure_or_touches_another_and_all_can_be_read(name, width):
    figure = DRAWN[name](width=width)
    assert figure.get_figwidth() == width
    boxes = texts_of(figure)
    assert len(boxes) > 3
    edges = figure.bbox
    for text, box in boxes:
        inside = (
            edges.x0 <= box.x0 + 1
            and box.x1 <= edges.x1 + 1
            and edges.y0 <= box.y0 + 1
            and box.y1 <= edges.y1 + 1
        )
        assert inside, text.get_text()
        assert 6 <= text.get_fontsize() <= 9, text.get_text()
    assert list(touching(boxes)) == []
    around = figure.get_tightbbox()
    assert around.x0 > -0.02 and around.x1 < figure.get_figwidth() + 0.02
    assert around.y0 > -0.02 and around.y1 < figure.get_figheight() + 0.02


def test_words_that_touch_or_leave_would_be_seen():
    """The measure itself can fail."""
    figure = Figure(figsize=(COLUMN, 1), layout="constrained")
    axes = figure.subplots()
    axes.set_xticks(range(30), ["a long name"] * 30)
    assert list(touching(texts_of(figure)))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_into_axes_of_yours(name):
    yours = Figure(figsize=(8, 6), layout="constrained")
    left, right = yours.subplots(1, 2)
    figure = FIGURES[name](ax=right, title="Mine")
    assert figure is yours and right.get_title() == "Mine"
    assert right.has_data() and not left.has_data()
    with pytest.raises(
        HeadwiseError, match=r"width=5.5 was given together with axes .* Leave out one of the two"
    ):
        FIGURES[name](ax=right, width=PAGE)


def test_a_subfigure_is_drawn_into_too():
    yours = Figure(figsize=(8, 6), layout="constrained")
    left, right = yours.subfigures(1, 2)
    assert plots.explanation(explained(sd_map()), ["car"], figure=right) is yours
    assert right.subfigs and not left.subfigs
    assert plots.heat_map(SD, ax=left.subplots()) is yours
    assert left.axes
    with pytest.raises(HeadwiseError, match="width=5 was given together with axes or a figure"):
        plots.explanation(explained(sd_map()), figure=right, width=5)


@pytest.mark.parametrize("name", ["heat_map by effect", "weakening_areas", "tradeoff", "intervals"])
def test_a_title_is_there_if_asked_for_and_above_the_legend(name):
    assert FIGURES[name]().axes[0].get_title() == ""
    figure = FIGURES[name](
        title="A title of so many letters that they are too long for one line of a column", width=COLUMN
    )
    boxes = texts_of(figure)
    assert "A title" in figure.axes[0].get_title() and "\n" in figure.axes[0].get_title()
    assert list(touching(boxes)) == []
    legend = figure.axes[0].get_legend()
    if legend is not None:
        assert figure.axes[0].title.get_window_extent().y0 >= legend.get_window_extent().y1


def rows_of(figure):
    """The names of the rows, from top to bottom."""
    axes = figure.axes[0]
    labels = sorted(axes.get_yticklabels(), key=lambda label: -label.get_window_extent().y0)
    return [label.get_text() for label in labels]


OF_CONCEPTS = (
    "heat_map",
    "layer_summary",
    "concept_similarity",
    "reliability",
    "agreements",
    "weakening_areas",
)
OF_FUNCTION = {
    "agreements": AGREEMENTS,
    "weakening_areas": {name: weakened(i) for i, name in enumerate(NAMES[:4])},
}


@pytest.mark.parametrize("name", OF_CONCEPTS)
def test_concepts_are_those_asked_for_in_their_order(name):
    of, function = OF_FUNCTION.get(name, SD), getattr(plots, name)
    names = [NAMES[2], NAMES[0], NAMES[3]]
    figure = function(of, concepts=names)
    figure.draw_without_rendering()
    assert rows_of(figure) == names
    with pytest.raises(UnknownConcept, match="Unknown concept 'Animal'. Did you mean 'Animals'"):
        function(of, concepts=["Animal"])


def test_chosen_concepts_keep_their_values():
    names = [NAMES[2], NAMES[0]]
    for function, values in ((plots.heat_map, SD.values), (plots.layer_summary, plots.layer_means(SD))):
        shown = function(SD, names).axes[0].get_images()[0].get_array()
        assert np.array_equal(shown, values[[2, 0]])
    shown = plots.concept_similarity(SD, names).axes[0].get_images()[0].get_array()
    assert np.allclose(shown, plots.correlation(SD)[np.ix_([2, 0], [2, 0])])
    votes = votes_on(sd_map())
    (median, lowest) = plots.convergence(votes, ["Color"]).axes[0].get_lines()
    color = Relevance.from_votes(votes).split_half[list(votes.concepts.names).index("Color")]
    assert median.get_ydata()[-1] == lowest.get_ydata()[-1] == pytest.approx(color)


def saved(figure, kind):
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("name", ["weakening_curves", "explanation"])
def test_fonts_in_pdf_are_truetype_and_words_in_svg_are_words(name):
    figure = DRAWN[name](width=COLUMN)
    pdf = saved(figure, "pdf")
    assert b"/Subtype /Type3" not in pdf and b"/FontFile2" in pdf
    svg = saved(figure, "svg").decode()
    words = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert set(words) & {"Color", "most relevant first", "“a red car”"}
    assert matplotlib.rcParams["pdf.fonttype"] == 3, "your own settings are as they were"


def test_a_plain_figure_of_matplotlib_would_be_seen():
    figure = Figure()
    figure.subplots().set_title("Type 3")
    assert b"/Subtype /Type3" in saved(figure, "pdf")


def test_figures_of_your_own_may_have_the_same_style():
    with plots.style(COLUMN):
        figure = Figure(figsize=(COLUMN, 2), layout="constrained")
        plots.weakening_curves(weakened(), ax=figure.subplots())
        assert b"/Subtype /Type3" not in saved(figure, "pdf")
    assert {text.get_fontsize() for text, _ in texts_of(figure)} == {6, 7}


def test_figures_show_themselves_in_notebooks():
    figure = plots.heat_map(SD)
    assert "Time &lt;of&gt; Day" in plots.heat_map(Relevance.from_votes(votes_on(sd_map())))._repr_svg_()
    assert figure._repr_svg_().startswith("<svg")


@pytest.mark.parametrize("width", [0, 1.5, 300])
def test_a_width_that_is_not_in_inches_is_refused(width):
    with pytest.raises(HeadwiseError, match=rf"width={width} was given; expected inches, 2 or more"):
        plots.heat_map(SD, width=width)
