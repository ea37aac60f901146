"""Chapter 7, pages: self-contained HTML of what was measured, and the figures in it.

plots         figures, from results alone
page          one page: its parts and its template
measurement   of a measurement
claims        of ordered weakening and polysemy
methods       of editing and multi-subject benchmarks
questions     of the open questions
"""
