r"""Figures for papers and pages: of a relevance, of benchmarks, of one explained image.

Figures are matplotlib `Figure`s that belong to no window and no global state, so they can be made on a
server, in a thread, or in a notebook, which shows them. Every function takes

    width=     the width of a new figure in inches, as it will be printed: 5.5 if nothing is said, 3.25 for
               a column; fonts have 6 to 9 pt at that width
    ax=        axes of your own to draw into; `explanation`, which needs several, takes figure=
    title=     a title; by default there is none, as papers have captions
    concepts=  where there are concepts: which, in which order

and returns the figure, whose `savefig` writes PDF with TrueType fonts and SVG whose words stay text.
`as_svg` and `as_png` turn one into text and bytes. In figures of your own, `style` does the same.
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
