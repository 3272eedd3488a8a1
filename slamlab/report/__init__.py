"""Figures, tables and the page of a sweep, from records alone.

In: `results.json` and, where present, the hypotheses and maps of a store. Out: `report.md`, a self-contained
`index.html`, and `figures/`. The same records give the same bytes. May import zoo and scoring; neither torch nor Ray.
"""
