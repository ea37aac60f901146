r"""Figures for papers and pages: of a relevance, of benchmarks, of one explained image.

Figures are matplotlib `Figure`s without a window or global state, so they can be made on a server, in a
thread, or in a notebook, which shows them. Every function takes

    width=     the printed width of a new figure in inches: 5.5 by default, 3.25 for a column; fonts are 6
               to 9 pt at that width
    ax=        your own axes to draw into; `explanation`, which needs several, takes figure=
    title=     a title; by default there is none, as papers have captions
    concepts=  for figures of concepts: which ones, in which order

and returns the figure, whose `savefig` writes PDF with TrueType fonts and SVG with real text. `as_svg` and
`as_png` return text and bytes. `style` gives your own figures the same settings.
"""

from headwise.report.certainty import convergence, reliability
from headwise.report.curves import lines, tradeoff_curves, weakening_curves
from headwise.report.explanation import explanation
from headwise.report.maps import concept_similarity, correlation, heat_map, layer_means, layer_summary
from headwise.report.marks import agreements, intervals, rates, tradeoff, weakening_areas
from headwise.report.style import as_png, as_svg, style

__all__ = [
    "agreements", "as_png", "as_svg", "concept_similarity", "convergence", "correlation", "explanation",
    "heat_map", "intervals", "layer_means", "layer_summary", "lines", "rates", "reliability", "style",
    "tradeoff", "tradeoff_curves", "weakening_areas", "weakening_curves",
]  # fmt: skip
