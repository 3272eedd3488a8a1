"""Tables of the curves of a cell: what fraction can go within each tolerance, and every point."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slamlab.report.curve_points import METHODS, RUNGS, Block, Curves, Point, largest
from slamlab.report.tables import DEGRADATION, Row, Table
from slamlab.report.writing import DASH, NBSP, degradation, layers, percent

TOLERANCES = (0.05, 0.10, 0.25, 0.50)


def fractions_table(curves: Curves, tolerance: float) -> Table:
    """Return one row a curve: the largest fraction within each tolerance, by estimate and by bound."""
    tolerances = sorted({*TOLERANCES, tolerance})
    columns = ("Method", "Scored", "Depths", "n", *(f"within {100 * one:g}{NBSP}%" for one in tolerances))
    rows = []
    for (method, rung), points in curves.lines.items():
        if not points:
            continue
        read = [(largest(points, one), largest(points, one, by_bound=True)) for one in tolerances]
        rows.append(
            Row(
                texts=(
                    METHODS.get(method, method),
                    RUNGS[rung],
                    f"{len(points)} of {len(curves.blocks[method])}",
                    num_scored(points),
                    *(f"{_share(curves, one)} / {_share(curves, two)}" for one, two in read),
                )
            )
        )
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(2, len(columns))))


def _share(curves: Curves, depth: int) -> str:
    return percent(depth / curves.cell["num_layers"]) if depth else "0"


def num_scored(points: Sequence[Point]) -> str:
    """Write on how many utterances points were measured."""
    known = sorted({point.num_utterances for point in points if point.num_utterances is not None})
    return DASH if not known else str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def cost(curves: Curves, block: Block, rung: str) -> str:
    """Write what removing a block costs, with its interval."""
    if (block, rung) not in curves.points:
        return "failed" if (block, rung) in curves.failed else "not run"
    point = curves.points[block, rung]
    ends = [None if math.isinf(end) else end for end in (point.low, point.high)]
    value = None if math.isinf(point.degradation) else point.degradation
    return degradation({"relative_degradation": value, "ci95": ends})


def points_table(curves: Curves) -> Table:
    """Return one row a depth and method: the block, and what removing it costs."""
    costs = (f"{DEGRADATION}, {RUNGS[rung]}" for rung in curves.rungs)
    columns = ("Depth", "Fraction", "Method", "Layers", *costs)
    rows = [
        (block[1], place, block, method)
        for place, (method, blocks) in enumerate(curves.blocks.items())
        for block in blocks
    ]
    return Table(
        columns=columns,
        rows=tuple(
            Row(
                texts=(
                    str(block[1]),
                    percent(block[1] / curves.cell["num_layers"]),
                    METHODS.get(method, method),
                    layers(*block),
                    *(cost(curves, block, rung) for rung in curves.rungs),
                )
            )
            for *_, block, method in sorted(rows)
        ),
        numeric=frozenset((1, 3, *range(4, len(columns)))),
    )
