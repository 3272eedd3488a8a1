"""Degradation against the fraction of layers removed as lines: Figure 2 of arXiv 2603.05121, with baselines.

A panel is a cell; several stand in a grid, rows by decoder and columns by encoder, task and language, on one scale.
Colour and marker tell the method (Okabe and Ito's colours), solid and filled what was healed, dashed and hollow what
was scored as it is cut. The scale is linear and ends where :mod:`slamlab.report.figures` ends it: points beyond stand
at its edge as carets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import offset_copy

from slamlab.report.curve_points import RUNGS as RUNG_NAMES
from slamlab.report.curve_points import Lines, Point
from slamlab.report.drawing import BLUE, GREY, INK, VERMILLION, Image, Spot, render_figure
from slamlab.report.figures import LINEAR_UP_TO, block_name
from slamlab.report.writing import NBSP, degradation, percent

LOOKS: dict[str, dict[str, Any]] = {
    "paper": {"color": BLUE, "marker": "o"},
    "deepest": {"color": VERMILLION, "marker": "s"},
    "random": {"color": "#009E73", "marker": "D"},
}
RUNGS: dict[str, dict[str, Any]] = {
    "unhealed": {"linestyle": (0, (3, 2)), "linewidth": 1.1, "markerfacecolor": "white", "markersize": 5},
    "full": {"linestyle": "-", "linewidth": 1.7, "markersize": 5.5},
}
"""In the order in which they are drawn: what was healed comes out on top."""
APART_POINTS = 2.5
"""Lines of different methods stand aside from each other, so that their bars do not hide each other."""
CARET_UP = 6


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The curves of one cell.

    Attributes:
        row, column: What it stands under in a grid.
        num_layers: Of the unpruned decoder.
        lines: What was measured.
        failed: (method, depth) of what could not be.
    """

    row: str
    column: str
    num_layers: int
    lines: Lines
    failed: tuple[tuple[str, int], ...] = ()


def draw_curves(panels: Sequence[Panel], names: Mapping[str, str], tolerance: float) -> Image:
    """Draw the curves of cells, one panel each; a grid where there are several.

    Args:
        panels: One cell each, one at least.
        names: What each method is called.
        tolerance: Largest relative degradation accepted, a fraction.
    """
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*((p.row, p.column) for p in panels), strict=True))
    size_inches = (6.0, 4.3) if len(panels) == 1 else (max(3.0 * len(columns) + 0.6, 6.0), 2.5 * len(rows) + 1.1)

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
        (bottom, top), deepest = _limits(panels, tolerance), max(map(_deepest, panels))
        for axes in grid.flat:
            axes.set_visible(False)
        for panel in panels:
            axes = grid[rows.index(panel.row), columns.index(panel.column)]
            axes.set_visible(True)
            axes.set(xlim=(-0.03, deepest + 0.05), ylim=(bottom, top))
            cell = f"{panel.row}, {panel.column}\n" if len(panels) > 1 else ""
            spots += _draw_panel(figure, axes, panel, names, tolerance, cell)
            if len(panels) > 1:  # names may be a user's: no mathematics is read into them
                axes.set_title(f"{panel.row}\n{panel.column}", fontsize=8.5, color=INK, parse_math=False)
                axes.tick_params(labelbottom=True, labelleft=True)
            if panel.row == rows[-1]:
                axes.set_xlabel("layers removed")
            if panel.column == columns[0]:
                axes.set_ylabel("relative degradation")
        keys = [key for panel in panels for key in panel.lines]
        failed = any(panel.failed for panel in panels)
        legend = _legend([key[0] for key in keys], [key[1] for key in keys], names, tolerance, failed=failed)
        figure.legend(handles=legend, loc="outside lower center", ncols=3, handletextpad=0.5, columnspacing=1.4)
        return spots

    return render_figure(draw, size_inches)


def _limits(panels: Sequence[Panel], tolerance: float) -> tuple[float, float]:
    """Return the ends of the scale: what was only cut stretches it where nothing was healed."""
    lines = [(rung, points) for panel in panels for (_, rung), points in panel.lines.items() if points]
    shown = [points for rung, points in lines if rung == "full"] or [points for _, points in lines]
    ends = [end for points in shown for one in points for end in (one.low, one.degradation, one.high)]
    known = [end for end in ends if math.isfinite(end)]
    cap = max(LINEAR_UP_TO, 2 * tolerance)
    top = 1.12 * min(max([*known, 1.6 * tolerance, 0.05]), cap)
    return max(min([*known, -0.1 * top]) * 1.12, -cap), top


def _deepest(panel: Panel) -> float:
    """Return the largest fraction of layers that was to be removed."""
    depths = [point.depth for points in panel.lines.values() for point in points]
    return max([*depths, *(depth for _, depth in panel.failed), 1]) / panel.num_layers


def _draw_panel(
    figure: Figure, axes: Axes, panel: Panel, names: Mapping[str, str], tolerance: float, cell: str
) -> list[Spot]:
    """Draw the curves of a cell, and return what their points stand for, each beginning with the cell's name."""
    bottom, top = axes.get_ylim()
    spots = []
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axhspan(bottom, tolerance, color=BLUE, alpha=0.06, linewidth=0)
    axes.axhline(tolerance, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    methods = list(dict.fromkeys(method for method, _ in panel.lines))
    for i, method in enumerate(methods):
        aside = APART_POINTS * (i - (len(methods) - 1) / 2)
        for rung, look in RUNGS.items():
            points = panel.lines.get((method, rung), ())
            if points:
                head = f"{cell}{names.get(method, method)}, {RUNG_NAMES[rung]}"
                spots += _draw_line(figure, axes, points, panel.num_layers, _look(method) | look, aside, head)
    edge = bottom + 0.03 * (top - bottom)
    for method, depth in panel.failed:
        x = depth / panel.num_layers
        axes.plot(x, edge, "x", color=_look(method)["color"], markersize=6)
        text = f"{depth} of {panel.num_layers} layers: failed"
        spots.append(Spot(axes=axes, x=x, y=edge, head=f"{cell}{names.get(method, method)}", text=text))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return spots


def _told(point: Point, num_layers: int) -> str:
    """Write the block of a point, and what removing it costs."""
    value, *ends = (end if math.isfinite(end) else None for end in (point.degradation, point.low, point.high))
    told = f"{block_name(point.start, point.depth, num_layers)}, {percent(point.depth / num_layers)}\n"
    told += degradation({"relative_degradation": value, "ci95": ends})
    return told if point.num_utterances is None else f"{told}\nn{NBSP}={NBSP}{point.num_utterances}"


def _draw_line(
    figure: Figure,
    axes: Axes,
    points: Sequence[Point],
    num_layers: int,
    look: Mapping[str, Any],
    aside: float,
    head: str,
) -> list[Spot]:
    """Draw a line from the unpruned model through its points, which leaves the axes where they do."""
    bottom, top = axes.get_ylim()
    edge, beyond = top - 0.03 * (top - bottom), 100 * top
    shifted = offset_copy(axes.transData, fig=figure, x=aside, units="points")
    x = [point.depth / num_layers for point in points]
    y = [min(point.degradation, beyond) for point in points]
    zorder = 3 if look["linestyle"] == "-" else 2
    stroke = {name: look[name] for name in ("color", "linestyle", "linewidth")}
    axes.plot([0.0, *x], [0.0, *y], transform=shifted, zorder=zorder, **stroke)
    for at, point in zip(x, points, strict=True):
        ends = (max(point.low, bottom), min(point.high, top))
        if ends[0] < top:
            axes.plot(
                [at, at], ends, color=look["color"], linewidth=0.9, alpha=0.75, transform=shifted, zorder=zorder - 1
            )
    mark = {name: value for name, value in look.items() if name not in ("linestyle", "linewidth")} | {"linestyle": ""}
    inside = [(at, value) for at, value in zip(x, y, strict=True) if value <= edge]
    carets = [(at, edge) for at, value in zip(x, y, strict=True) if value > edge]
    for marks, marker in ((inside, look["marker"]), (carets, CARET_UP)):
        if marks:
            axes.plot(*zip(*marks, strict=True), transform=shifted, zorder=zorder + 1, **(mark | {"marker": marker}))
    return [
        Spot(axes=axes, x=at, y=min(value, edge), head=head, text=_told(point, num_layers), aside_points=aside)
        for at, value, point in zip(x, y, points, strict=True)
    ]


def _look(method: str) -> dict[str, Any]:
    return LOOKS.get(method, {"color": GREY, "marker": "P"})


def _legend(
    methods: Iterable[str], rungs: Iterable[str], names: Mapping[str, str], tolerance: float, *, failed: bool
) -> list[Line2D]:
    shown = [
        Line2D([], [], label=names.get(method, method), linewidth=1.7, markersize=5.5, **_look(method))
        for method in dict.fromkeys(methods)
    ]
    drawn = set(rungs)
    told = [
        Line2D([], [], label=RUNG_NAMES[rung], color=GREY, marker="o", **look)
        for rung, look in reversed(RUNGS.items())
        if rung in drawn
    ]
    told.append(
        Line2D([], [], label=f"tolerance {100 * tolerance:g} %", color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    )
    if failed:
        told.append(Line2D([], [], label="failed", color=GREY, marker="x", markersize=6, linestyle=""))
    # A legend is filled column by column: methods come to stand in its first row.
    return [handle for pair in zip_longest(shown, told) for handle in pair if handle]
