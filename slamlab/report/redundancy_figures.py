"""The figures of a report of maps: the maps of a cell side by side, best distance against depth, agreement of all.

The maps follow Figure 1 of "Measuring the Redundancy of Decoder Layers in SpeechLLMs" (arXiv 2603.05121). Colours are
Okabe and Ito's, cividis and RdBu; lines differ in marker and dashes too, and the matrix carries its numbers. Figures
carry no names, so that no text of a user meets mathtext: maps stand there by number, and are named where pointed at.

Shapes: L layers, M maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from slamlab.report.drawing import BLUE, GREY, INK, ORANGE, VERMILLION, Image, Spot, render_figure
from slamlab.report.figures import block_name, by_depth, map_spots
from slamlab.report.writing import correlation

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": ORANGE, "marker": "D", "linestyle": "--"},
    {"color": VERMILLION, "marker": "^", "linestyle": "-."},
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Distance of the least distant block at each depth 1 ... L.

    Attributes:
        label: What of, in the report's own words.
        look: Index in :data:`LOOKS`.
        starts: First layer of each block.
        distance: [L].
        band: Lower and upper ends [2, L], None where there are too few resamples.
    """

    label: str
    look: int
    starts: Sequence[int]
    distance: np.ndarray
    band: np.ndarray | None


def draw_panels(panels: Sequence[tuple[str, np.ndarray | str]]) -> Image:
    """Draw maps side by side on one scale, with the start of the least distant block of each depth.

    Args:
        panels: Title, and map [L+1, L+1] or, in its place, what became of it; one map at least.
    """
    drawn = [shown for _, shown in panels if not isinstance(shown, str)]
    top = max(float(distance.max()) for distance in drawn)
    num_layers = max(len(distance) - 1 for distance in drawn)

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for i, (axes, (title, distance)) in enumerate(zip(row, panels, strict=True)):
            axes.set_title(title, fontsize=9.5, color=INK)
            axes.set(xlim=(-0.5, num_layers - 0.5), ylim=(0.5, num_layers + 0.5), aspect="equal")
            axes.set_xlabel("first layer of the block")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            if isinstance(distance, str):
                axes.text(0.5, 0.5, distance, transform=axes.transAxes, ha="center", va="center", color=GREY)
                continue
            image = axes.imshow(
                np.ma.masked_invalid(by_depth(distance)),
                origin="lower",
                extent=(-0.5, len(distance) - 1.5, 0.5, len(distance) - 0.5),
                cmap=matplotlib.colormaps["cividis"].resampled(32),
                vmin=0,
                vmax=top or 1,
                interpolation="none",
                gid=f"map-{i}",  # an id made of what is shown would be the same for maps that look the same
            )
            axes.set(xlim=(-0.5, num_layers - 0.5), ylim=(0.5, num_layers + 0.5))
            _draw_path(axes, distance)
            spots += map_spots(axes, distance, f"{title}\nangular distance")
        row[0].set_ylabel("layers in the block")
        bar = figure.colorbar(image, ax=list(row), label="angular distance", aspect=26, pad=0.01)
        bar.outline.set_visible(False)
        named = next(axes for axes, (_, shown) in zip(row, panels, strict=True) if not isinstance(shown, str))
        figure.legend(*named.get_legend_handles_labels(), loc="outside lower center")
        _settle(figure)
        return spots

    return render_figure(draw, (3.1 * len(panels) + 1.0, 3.7))


def _settle(figure: Figure) -> None:
    """Lay out twice what keeps its aspect: the first time leaves the titles outside, and only drawing lays out."""
    figure.set_layout_engine("compressed")
    for _ in range(2):
        figure.draw_without_rendering()


def _draw_path(axes: Axes, distance: np.ndarray) -> None:
    least = np.nanargmin(by_depth(distance), axis=1)  # [L]: every depth has a block
    depths = np.arange(1, len(least) + 1)
    axes.plot(least, depths, color=INK, linewidth=2.2, alpha=0.5)
    look: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": INK, "markeredgewidth": 0.5}
    axes.plot(least, depths, color="white", linewidth=1.0, marker="o", label="least distance of each depth", **look)


def draw_depths(lines: Sequence[Line]) -> Image:
    """Draw the distance of the least distant block against its depth, with intervals as bands."""

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.add_subplot()
        for line in lines:
            look, depths = LOOKS[line.look], np.arange(1, len(line.distance) + 1)
            if line.band is not None:
                axes.fill_between(depths, *line.band, color=look["color"], alpha=0.18, linewidth=0)
            axes.plot(depths, line.distance, **look, markersize=3.5, linewidth=1.4, label=line.label)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("layers in the block")
        axes.set_ylabel("angular distance")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
        axes.legend(loc="upper left")  # distance grows with depth, so that this corner is free
        return [spot for line in lines for spot in _line_spots(axes, line)]

    return render_figure(draw)


def _line_spots(axes: Axes, line: Line) -> list[Spot]:
    """Return what the points of a line stand for."""
    num_layers, spots = len(line.distance), []
    for i, (start, distance) in enumerate(zip(line.starts, line.distance, strict=True)):
        text = f"{block_name(start, i + 1, num_layers)}: {distance:.4f}"
        if line.band is not None:
            text += f" [{line.band[0, i]:.4f}, {line.band[1, i]:.4f}]"
        spots.append(Spot(axes=axes, x=i + 1, y=float(distance), head=f"{line.label}\nangular distance", text=text))
    return spots


def draw_matrix(tau: np.ndarray, identical: np.ndarray, numbers: Sequence[int], names: Sequence[str]) -> Image:
    """Draw how well every two maps agree, with the number in each cell.

    Args:
        tau: [M, M], NaN where two maps cannot be compared.
        identical: [M, M], whether two maps are one: such cells say `=`.
        numbers: Of the maps, along both axes.
        names: What the maps are of, told where a cell is pointed at.
    """
    called = [f"map {number}: {name}" for number, name in zip(numbers, names, strict=True)]
    size = 1.9 + 0.4 * len(numbers)

    def draw(figure: Figure) -> list[Spot]:
        axes, spots = figure.add_subplot(), []
        colours = matplotlib.colormaps["RdBu"].with_extremes(bad="#EEEEEE")
        shown = axes.imshow(np.ma.masked_invalid(tau), cmap=colours, vmin=-1, vmax=1, interpolation="none")
        for i, j in np.ndindex(*tau.shape):
            text = "=" if identical[i, j] else correlation(float(tau[i, j]) if np.isfinite(tau[i, j]) else None)
            colour = "white" if np.isfinite(tau[i, j]) and abs(tau[i, j]) > 0.6 else INK
            axes.text(j, i, text.removeprefix("+"), ha="center", va="center", color=colour, fontsize=7)
            told = f"tau within depths: {text}" if np.isfinite(tau[i, j]) else "not comparable: other numbers of layers"
            told = "one and the same map" if identical[i, j] else told
            spots.append(Spot(axes=axes, x=j, y=i, head=called[i], text=told if i == j else f"{called[j]}\n{told}"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(len(numbers)), labels=[str(number) for number in numbers])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("map")
        axes.set_ylabel("map")
        bar = figure.colorbar(shown, ax=axes, label="tau within depths", aspect=26, pad=0.02, shrink=0.8)
        bar.outline.set_visible(False)
        _settle(figure)
        return spots

    return render_figure(draw, (size + 0.9, size))
