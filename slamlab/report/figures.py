"""The two figures of a cell, as SVG and PNG with the same bytes every time.

Degradation against the fraction removed follows Figure 2, the angular-distance map Figure 1 of "Measuring the
Redundancy of Decoder Layers in SpeechLLMs" (Moumen, Sun, Woodland; arXiv 2603.05121). Colours are Okabe and Ito's and
cividis; every verdict has a marker of its own. Figures carry no names, so that no text of a user meets mathtext.

Shape legend: L layers of the unpruned decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import offset_copy

from slamlab.report.drawing import BLUE, GREY, INK, ORANGE, VERMILLION, Image, Spot, render_figure
from slamlab.report.results import is_full, rung_of
from slamlab.report.tables import RUNGS, heal_number
from slamlab.report.writing import NBSP, degradation, layers

MARKERS: dict[str, dict[str, Any]] = {
    "feasible": {"marker": "o", "color": BLUE, "markersize": 7},
    "undecided": {"marker": "D", "color": ORANGE, "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 1.8},
    "infeasible": {"marker": "X", "color": VERMILLION, "markersize": 8},
}
CHEAP: dict[str, dict[str, Any]] = {
    "unhealed": {"marker": "o", "label": "unhealed look"},
    "short": {"marker": "^", "label": "short heal"},
}
"""Cheaper looks than a full heal, which get no verdict: small, hollow, grey."""
HOLLOW: dict[str, Any] = {"markersize": 4, "color": GREY, "markerfacecolor": "none", "markeredgewidth": 0.9}
LINEAR_UP_TO = 1.0
"""Largest relative degradation drawn to scale, unless the tolerance asks for more; worse probes stand at the edge."""


def draw_degradation(
    probes: Sequence[Mapping[str, Any]], num_layers: int, tolerance: float, chosen: Mapping[str, Any] | None
) -> Image:
    """Draw relative degradation against the fraction of layers removed.

    Args:
        probes: Probes of one cell, complete or failed. Cheap looks do not stretch the axis; those beyond it stand at
            its edge.
        num_layers: L.
        tolerance: Largest relative degradation accepted, a fraction.
        chosen: `depth`, `relative_degradation` and `ci95` of the chosen block on the test split, None without one.
    """

    def draw(figure: Figure, axes: Axes) -> list[Spot]:
        complete = [probe for probe in probes if probe["status"] == "complete"]
        full = [probe for probe in complete if is_full(probe)]
        points = [*full, *([chosen] if chosen else [])]
        known = [end for point in points for end in (point["relative_degradation"], *point["ci95"]) if end is not None]
        cap = max(LINEAR_UP_TO, 2 * tolerance)
        top = 1.12 * min(max([*known, 1.6 * tolerance, 0.05]), cap)
        bottom = max(min([*known, -0.1 * top]) * 1.12, -cap)
        axes.set(xlim=(-0.03, max((point["depth"] / num_layers for point in [*probes, *points]), default=0) + 0.08))
        axes.set_ylim(bottom, top)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axhspan(bottom, tolerance, color=BLUE, alpha=0.06, linewidth=0)
        named = f"tolerance {100 * tolerance:g} %"
        axes.axhline(tolerance, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label=named)
        axes.plot(0, 0, marker="s", color=GREY, markersize=6, linestyle="", label="unpruned")
        spots = []
        for rung, look in CHEAP.items():
            spots += _draw_cheap(axes, [probe for probe in complete if rung_of(probe) == rung], num_layers, look)
        for verdict, look in MARKERS.items():
            judged = [probe for probe in full if probe["verdict"] == verdict]
            told = f"{RUNGS['full']}: {verdict}"
            spots += _draw_points(figure, axes, judged, num_layers, {**look, "label": verdict}, told)
        spots += _draw_failed(axes, [probe for probe in probes if probe["status"] == "failed"], num_layers)
        if chosen:
            told = "chosen, on test"
            star = {"marker": "*", "color": INK, "markersize": 11, "label": told}
            spots += _draw_points(figure, axes, [chosen], num_layers, star, told, aside_points=9)
        axes.set_xlabel("layers removed")
        axes.set_ylabel("relative degradation")
        axes.xaxis.set_major_formatter(FuncFormatter(_as_percent))
        axes.yaxis.set_major_formatter(FuncFormatter(_as_percent))
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.3, columnspacing=1.2)
        return spots

    return _render(draw)


def draw_map(distance: np.ndarray, start: int | None, depth: int) -> Image:
    """Draw the angular distance of every block, with the chosen one marked.

    Args:
        distance: Array [L+1, L+1]; entry [l, l+n] belongs to the block of n layers that starts at l.
        start: First layer of the chosen block, None where no block was chosen.
        depth: Its number of layers.
    """
    num_layers = len(distance) - 1

    def draw(figure: Figure, axes: Axes) -> list[Spot]:
        shown = by_depth(distance)
        edges = np.arange(num_layers + 1) - 0.5
        mesh = axes.pcolormesh(
            edges,
            edges + 1,
            np.ma.masked_invalid(shown),
            cmap=matplotlib.colormaps["cividis"].resampled(32),
            edgecolors="white",
            linewidth=0.4,
        )
        least = [int(np.nanargmin(row)) for row in shown if np.isfinite(row).any()]
        axes.plot(
            least,
            range(1, len(least) + 1),
            ".",
            color="white",
            markersize=5,
            markeredgecolor=INK,
            markeredgewidth=0.4,
            label="least distance of each depth",
        )
        if start is not None and depth > 0:
            square = Rectangle(
                (start - 0.5, depth - 0.5), 1, 1, fill=False, edgecolor=VERMILLION, linewidth=2.4, label="chosen block"
            )
            axes.add_patch(square).set_clip_on(False)
        axes.set_xlabel("first layer of the block")
        axes.set_ylabel("layers in the block")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=9))
        bar = figure.colorbar(mesh, ax=axes, label="angular distance", aspect=26, pad=0.02)
        bar.outline.set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, handletextpad=0.4, columnspacing=1.2)
        return map_spots(axes, distance, "angular distance")

    return _render(draw)


def by_depth(distance: np.ndarray) -> np.ndarray:
    """Return a map [L+1, L+1] as [depth - 1, start], L x L, NaN where no block of that depth starts."""
    num_layers = len(distance) - 1
    shown = np.full((num_layers, num_layers), np.nan)
    for n in range(1, num_layers + 1):
        shown[n - 1, : num_layers - n + 1] = np.diagonal(distance, n)
    return shown


def map_spots(axes: Axes, distance: np.ndarray, head: str) -> list[Spot]:
    """Return what every cell of a map [L+1, L+1] stands for, where it is drawn by :func:`by_depth`."""
    num_layers = len(distance) - 1
    return [
        Spot(axes=axes, x=start, y=n, head=head, text=f"{block_name(start, n, num_layers)}: {value:.4f}")
        for n in range(1, num_layers + 1)
        for start, value in enumerate(np.diagonal(distance, n))
        if np.isfinite(value)
    ]


def block_name(start: int, depth: int, num_layers: int) -> str:
    """Write a block with its share of the decoder: `layers 3–7 (5 of 12)`."""
    return f"layer{'s' * (depth > 1)} {layers(start, depth)} ({depth} of {num_layers})"


def _spot(axes: Axes, y: float, look: Mapping[str, Any], num_layers: int, told: str, aside_points: float = 0) -> Spot:
    """Return what the mark of a look at a block stands for; of the chosen block, only the depth may be told."""
    depth = look["depth"]
    head = block_name(look["start"], depth, num_layers) if "start" in look else f"{depth} of {num_layers} layers"
    head += f", heal {heal_number(look)}" if look.get("repeat") else ""
    if look.get("ci95"):
        told += f"\n{degradation(look)}"
    if look.get("num_utterances"):
        told += f"\nn{NBSP}={NBSP}{look['num_utterances']}"
    return Spot(axes=axes, x=depth / num_layers, y=y, head=head, text=told, aside_points=aside_points)


def _draw_failed(axes: Axes, probes: Sequence[Mapping[str, Any]], num_layers: int) -> list[Spot]:
    """Draw where probes failed, as strokes at the lower edge."""
    if not probes:
        return []
    x, (bottom, top) = [probe["depth"] / num_layers for probe in probes], axes.get_ylim()
    y = bottom + 0.04 * (top - bottom)
    axes.plot(x, [y] * len(x), "|", color=GREY, markersize=11, label="failed")
    return [_spot(axes, y, probe, num_layers, f"{_rung_name(probe)}: failed") for probe in probes]


def _rung_name(look: Mapping[str, Any]) -> str:
    return RUNGS.get(rung_of(look), rung_of(look))


def _draw_cheap(axes: Axes, looks: Sequence[Mapping[str, Any]], num_layers: int, look: Mapping[str, Any]) -> list[Spot]:
    """Draw looks that decide nothing, without intervals, and inside the axis wherever they fell."""
    if not looks:
        return []
    bottom, top = axes.get_ylim()
    margin = 0.02 * (top - bottom)
    degradations = [np.inf if one["relative_degradation"] is None else one["relative_degradation"] for one in looks]
    y = np.clip(degradations, bottom + margin, top - margin)
    axes.plot([one["depth"] / num_layers for one in looks], y, linestyle="", zorder=1.5, **HOLLOW, **look)
    return [_spot(axes, at, one, num_layers, _rung_name(one)) for at, one in zip(y, looks, strict=True)]


def _draw_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    num_layers: int,
    look: Mapping[str, Any],
    told: str,
    aside_points: float = 0,
) -> list[Spot]:
    """Draw points with their intervals; those above the axis stand at its edge with their value."""
    if not points:
        return []
    bottom, top = axes.get_ylim()
    aside = offset_copy(axes.transData, fig=figure, x=aside_points, units="points")
    edge = top - 0.05 * (top - bottom)
    x = [point["depth"] / num_layers for point in points]
    values = [point["relative_degradation"] for point in points]
    y = [edge if value is None else min(value, edge) for value in values]
    axes.plot(x, y, linestyle="", transform=aside, **look)
    for at, point, value in zip(x, points, values, strict=True):
        low, high = point["ci95"]
        ends = (bottom if low is None else low, top if high is None else high)
        axes.plot([at, at], ends, color=look["color"], linewidth=1.4, solid_capstyle="butt", transform=aside, zorder=1)
        if value is None or value > edge:
            text = "↑ unbounded" if value is None else f"↑ {100 * value:+.0f} %"
            place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate(text, (at, edge), (aside_points - 8, 0), color=INK, fontsize=8.5, **place)
    return [_spot(axes, at, point, num_layers, told, aside_points) for at, point in zip(y, points, strict=True)]


def _render(draw: Callable[[Figure, Axes], Iterable[Spot]]) -> Image:
    """Draw on fresh axes and write both formats."""
    return render_figure(lambda figure: draw(figure, figure.add_subplot()))


def _as_percent(fraction: float, _position: int | None) -> str:
    return f"{100 * fraction:.0f} %".replace("-", "−")
