"""Chapter 7, pages: self-contained HTML pages of results, and the figures in them.

plots         all figures: of a relevance (maps, certainty), of benchmarks (curves, marks), of one image
              (explanation); they share canvas, style, labels and layers
page          one page: its sections and its template
measurement   `report`, which writes the page of any run; the page of a measurement
turned        its section of words turned down and up in their heads
claims        pages of ordered weakening and polysemy
methods       pages of editing and multi-subject benchmarks
questions     pages of the open questions
"""

from importlib import import_module


def __getattr__(name: str) -> object:
    if name != "report":
        raise AttributeError(f"module 'headwise.report' has no attribute {name!r}")
    return import_module("headwise.report.measurement").report
