"""The report of distance maps: which blocks change the residual stream least, and whether maps agree on it.

From `redundancy.json` and `maps.npz` alone, into the folder that holds them: `index.html`, `report.md`, `figures/` and
`maps.csv`. Nothing here runs a model or reads a clock; the same records give the same bytes. How well maps agree is in
the records (:mod:`slamlab.report.agreement` computes it); only the matrix over all maps is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from slamlab.report import redundancy_words as words
from slamlab.report.agreement import MIN_RESAMPLES, MIN_STARTS, pooled_tau
from slamlab.report.drawing import Image
from slamlab.report.page import environment, write_files
from slamlab.report.redundancy_figures import Line, draw_depths, draw_matrix, draw_panels
from slamlab.report.redundancy_records import Drawn, read_redundancy
from slamlab.report.redundancy_tables import (
    POSITIONS,
    axes_table,
    best_table,
    blocks_csv,
    maps_table,
    pairs_table,
    why_not,
)
from slamlab.report.tables import Table, cell_name, facts_table
from slamlab.report.views import Figure
from slamlab.report.writing import percent

PANELS = (
    ("text", "base", "text alone"),
    ("speech", "base", "speech, decoder as in the base"),
    ("speech", "lora", "speech, LoRA decoder"),
)
"""View, decoder and title of the maps that stand side by side, as in the paper's Figure 1."""
MATRIX_MAX = 24
"""With more maps than this the matrix shows those over all positions only."""
WIDE_FROM = 12
"""Maps from which the matrix takes the page's whole width."""
FOLDED_FROM = 12
"""Rows from which a table of pairs is folded."""
_IDENTITY = ("family", "scale", "encoder", "task", "language")


@dataclass(frozen=True, kw_only=True)
class CellView:
    """What the page says about one cell.

    Attributes:
        anchor: Its id in the page.
        leads: How its text and speech, base and LoRA agree, in sentences.
        best: The least distant blocks of its maps.
        missing: Which of its maps were not run or failed, and why.
    """

    anchor: str
    name: str
    leads: tuple[str, ...]
    figures: tuple[Figure, ...]
    best: Table
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AxisView:
    """What the page says about the pairs along one axis; `folded` where there are many."""

    name: str
    sentence: str
    table: Table
    folded: bool


def render_redundancy(folder: Path) -> None:
    """Write the report of the maps in a folder beside them.

    Args:
        folder: Holds `redundancy.json` and `maps.npz`; `index.html`, `report.md`, `maps.csv` and `figures/` in it are
            replaced.

    Raises:
        DataError: The records or the arrays lack a part, or hold a wrong one.
        StoreError: The folder cannot be written.
    """
    records, drawn = read_redundancy(folder)
    images: dict[str, Image] = {}
    context = _context(records, drawn, images)
    files = {
        folder / "report.md": environment(markdown=True).get_template("redundancy.md.jinja").render(context).encode(),
        folder / "index.html": environment(markdown=False)
        .get_template("redundancy.html.jinja")
        .render(context)
        .encode(),
        folder / "maps.csv": blocks_csv(drawn).encode(),
    }
    write_files(files, images, folder)


def _context(records: Mapping[str, Any], drawn: Sequence[Drawn], images: dict[str, Image]) -> dict[str, Any]:
    """Return what the templates show; figures drawn on the way go to `images` by path without suffix."""
    sweep, pairs = records["sweep"], records["agreement"]
    numbers = {one.record["key"]: one.number for one in drawn}
    cells: dict[tuple[str, ...], list[Drawn]] = {}
    for one in drawn:
        cells.setdefault(tuple(one.record[name] for name in _IDENTITY), []).append(one)
    anchors = {key: f"cell-{i:02d}" for i, key in enumerate(cells, 1)}
    views = [_view_cell(own, anchors[key], pairs, numbers, images) for key, own in cells.items()]
    sentences = {axis: words.axis_sentence(pairs, axis, numbers) for axis in words.AXES}
    return {
        "sweep": sweep,
        "headline": words.headline(pairs) if drawn else "This sweep has no maps.",
        "leads": [
            *words.best_sentences(drawn),
            *(sentence for axis, sentence in sentences.items() if sentence and axis != "selection"),
        ],
        "axes_table": axes_table(pairs),
        "cells": views,
        "matrix": _matrix(drawn, images),
        "matrix_is_wide": sum(one.map is not None for one in drawn) > WIDE_FROM,
        "axes": [
            AxisView(name=words.AXES[axis], sentence=sentences[axis], table=table, folded=len(table.rows) > FOLDED_FROM)
            for axis in words.AXES
            if (table := pairs_table(pairs, axis, numbers)).rows
        ],
        "left_out": _left_out(pairs, numbers),
        "maps_table": maps_table(drawn, [anchors[tuple(one.record[name] for name in _IDENTITY)] for one in drawn]),
        "method": _method(sweep, pairs),
        "caveats": _caveats(pairs),
        "run_table": facts_table({name: sweep[name] for name in sweep if name not in ("command", "versions")}),
        "versions_table": facts_table(sweep["versions"], ("Package", "Version")),
    }


def _view_cell(
    drawn: Sequence[Drawn],
    anchor: str,
    pairs: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, int],
    images: dict[str, Image],
) -> CellView:
    whole = [one for one in drawn if one.record["selection"] == "all"]
    keys = {one.record["key"] for one in whole}
    own = [pair for pair in pairs if {pair["a"], pair["b"]} <= keys]
    leads = [words.axis_sentence(own, axis, numbers) for axis in ("view", "decoder")]
    missing = {
        f"{one.record['status'].capitalize()}: {words.input_name(one.record)}: {why_not(one.record)}.": None
        for one in drawn
        if one.map is None
    }
    return CellView(
        anchor=anchor,
        name=cell_name(drawn[0].record),
        leads=tuple(filter(None, leads)),
        figures=tuple(_figures(whole, anchor, images)),
        best=best_table(whole),
        missing=tuple(missing),
    )


def _figures(drawn: Sequence[Drawn], anchor: str, images: dict[str, Image]) -> list[Figure]:
    """Return the maps of a cell side by side, and their least distances against depth; none where there is no map."""
    found = {(one.record["view"], one.record["decoder"]): one for one in drawn}
    panels = [(title, found.get((view, decoder))) for view, decoder, title in PANELS]
    shown = [(title, one) for title, one in panels if one is not None and one.map is not None]
    if not shown:
        return []
    stem = f"figures/{anchor.removeprefix('cell-')}"
    told = ", ".join(f"{title} is map {one.number} (n = {one.record['num_utterances']})" for title, one in shown)
    status = {title: one.record["status"] if one is not None else "not run" for title, one in panels}
    lacking = "".join(f"; {how}: {title}" for title, how in status.items() if how != "complete")
    image = draw_panels(
        [(title, status[title] if one is None or one.map is None else one.map.distance) for title, one in panels]
    )
    maps = _figure(
        f"{stem}-maps",
        image,
        "Angular distance between the residual stream entering a block and leaving it, by first layer and number of "
        "layers: dark blocks change it least. The path is the least distant block of each depth. From left to right: "
        f"{told}{lacking}.",
        images,
    )
    lines = [_line(one, title, i) for i, (title, one) in enumerate(panels) if one is not None and one.map is not None]
    banded = (
        "bands are 95 % intervals of a bootstrap over utterances, of that block"
        if any(line.band is not None for line in lines)
        else f"without bands, as there are fewer than {MIN_RESAMPLES} resamples"
    )
    depths = _figure(
        f"{stem}-depths",
        draw_depths(lines),
        f"Angular distance of the least distant block against its number of layers; {banded}.",
        images,
    )
    return [maps, depths]


def _line(one: Drawn, title: str, look: int) -> Line:
    assert one.map is not None
    depths = range(1, one.map.num_layers + 1)
    ends = [words.band(one.map, depth) for depth in depths]
    known = [end for end in ends if end is not None]
    return Line(
        label=title,
        look=look,
        starts=[words.best_start(one.map, depth) for depth in depths],
        distance=np.array([np.diagonal(one.map.distance, depth).min() for depth in depths]),
        band=np.array(known).T if len(known) == len(ends) else None,
    )


def _figure(path: str, image: Image, caption: str, images: dict[str, Image]) -> Figure:
    images[path] = image
    prefix = path.removeprefix("figures/")
    return Figure(path=path, caption=caption, inline=Markup(image.inline(f"figure-{prefix}")))


def _matrix(drawn: Sequence[Drawn], images: dict[str, Image]) -> Figure | None:
    """Return the agreement of every two maps as a figure, None with fewer than two maps."""
    complete = [one for one in drawn if one.map is not None]
    shown = complete
    if len(complete) > MATRIX_MAX:
        shown = [one for one in complete if one.record["selection"] == "all"]
    if len(shown) < 2:
        return None
    tau = np.full((len(shown),) * 2, np.nan)
    identical = np.eye(len(shown), dtype=bool)
    for i, one in enumerate(shown):
        for j, other in enumerate(shown):
            if one.map is not None and other.map is not None and one.map.num_layers == other.map.num_layers:
                tau[i, j] = float(pooled_tau(one.map.signs[0], other.map.signs[0]))
                identical[i, j] = np.array_equal(one.map.distance, other.map.distance)
    which = "all maps" if len(shown) == len(complete) else f"the {len(shown)} maps over all positions"
    blank = " A dash: maps of another number of layers each." if np.isnan(tau).any() else ""
    return _figure(
        "figures/agreement",
        draw_matrix(tau, identical, [one.number for one in shown], [_map_name(one.record) for one in shown]),
        f"Kendall's tau within depths between {which}, by their numbers in the table of maps: 1 where two maps order "
        f"all pairs of equally deep blocks alike, 0 where half of them. An equals sign: one and the same map.{blank}",
        images,
    )


def _map_name(record: Mapping[str, Any]) -> str:
    return f"{cell_name(record)}, {words.input_name(record)}, {POSITIONS[record['selection']]}"


def _left_out(pairs: Sequence[Mapping[str, Any]], numbers: Mapping[str, int]) -> str:
    """Say which pairs were not compared, and why."""
    left_out = [pair for pair in pairs if pair["status"] == "left out"]
    if not left_out:
        return ""
    first = left_out[0]
    count = "1 pair was" if len(left_out) == 1 else f"{len(left_out)} pairs were"
    which = f"maps {numbers[first['a']]} and {numbers[first['b']]}"
    return f"{count} not compared, {which}{' first' if len(left_out) > 1 else ''}: {first['reason']}."


def _method(sweep: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return, as paragraphs, what distances, intervals, agreement and verdicts are."""
    told = [
        "The angular distance across a block is arccos(cosine similarity) / pi between the residual stream entering "
        "its first layer and the one leaving its last, before the final norm, averaged over positions (Gromov et al., "
        f"arXiv 2403.17887; Moumen et al., arXiv 2603.05121): {sweep['convention']}. Text alone is the reference text "
        "through the decoder without audio or prompt; speech is audio, prompt and answer through the whole model.",
        f"Intervals are percentiles of {sweep['num_resamples']} bootstrap resamples of the utterances (seed "
        f"{sweep['seed']}). Maps over the same utterances share their draws, so that intervals of their agreement are "
        "paired. A resample is noisier than the map itself, which pulls agreement down: where n is small the interval "
        "lies low, and is widened to hold the estimate.",
        "Distance grows with depth in every decoder, so that all maps agree over all blocks. What counts is tau within "
        "depths: Kendall's tau over all pairs of blocks of one depth, pooled over the depths with "
        f"{MIN_STARTS} starts or more; (1 + tau) / 2 is the share of pairs that both maps order alike. Overlap is the "
        "intersection over union of the two least distant blocks of a depth, mean over the same depths; by chance it "
        "would be what the table says if both blocks started anywhere.",
    ]
    compared = [pair for pair in pairs if pair["status"] == "complete"]
    drawn = sorted({(pair["num_permutations"], pair["seed"]) for pair in compared})
    times = " or ".join(f"{number} random profiles (seed {seed})" for number, seed in drawn) or "random profiles"
    told.append(
        f"p compares tau within depths with that of {times}: what sets the blocks of one map apart is written as one "
        "number a layer, and the signs of the cosines that make up this profile are drawn anew. Random profiles are as "
        "smooth along the layers as the map, and their blocks overlap as the map's do, which a shuffling of layers "
        "would ignore. On unrelated smooth maps p is about uniform."
    )
    told.append(
        f"Two maps agree where the whole interval of tau within depths is {words.AGREES_FROM:g} or more (three of four "
        f"pairs ordered alike) and p is at most {percent(words.ALPHA)}; they differ where the whole interval is below "
        f"{words.AGREES_FROM:g}; otherwise, and with fewer than {words.MIN_UTTERANCES} utterances or no interval, it "
        "cannot be told."
    )
    return told


def _caveats(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader has to keep in mind."""
    kept = [
        "A small distance says that a block changes the residual stream little. Whether a model can lose it is told by "
        "healing and scoring it, not by a map.",
        "Decoders turn the stream more at both ends than between. Maps that share this and nothing else can pass the "
        "permutation test, and blocks between the ends overlap by more than the chance given.",
        "Intervals cover the choice of utterances, neither the luck of training nor the choice of positions.",
        "A map of a model that recognises badly says little about speech: its score stands in the table of maps.",
    ]
    if num := sum(pair["status"] == "complete" and not pair["is_identical"] for pair in pairs):
        kept.append(f"p is not corrected for the number of pairs, {num}: one in twenty unrelated ones has p below 5 %.")
    if any(pair["status"] == "complete" and pair["is_identical"] for pair in pairs):
        kept.append(
            "A decoder that was not trained further has one map of text, whichever encoder or task it serves: such "
            "pairs are one map, and count neither for nor against agreement."
        )
    return kept
