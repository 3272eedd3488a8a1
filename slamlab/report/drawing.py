"""A figure in both formats, with the same bytes every time, and what its marks stand for.

Whatever the user's matplotlibrc says, every figure has one style. What a mark stands for goes along as a
:class:`Spot`, which a page tells when it is pointed at.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, VERMILLION, INK, GREY = "#0072B2", "#E69F00", "#D55E00", "#1B1F24", "#6B7280"
"""Of Okabe and Ito, and two greys for what is no data."""
STYLE = {
    "figure.figsize": (4.7, 3.6),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "slamlab",
}


@dataclass(frozen=True, kw_only=True)
class Spot:
    """What a mark in a figure stands for.

    Attributes:
        axes: Where the mark is.
        x, y: Its place, in data coordinates.
        head: First lines of what is told, which many spots share; the page holds them once.
        text: Last lines of what is told.
        aside_points: How far to the right of its place it is drawn.
    """

    axes: Axes
    x: float
    y: float
    head: str
    text: str
    aside_points: float = 0


@dataclass(frozen=True, kw_only=True)
class Image:
    """A figure in both formats.

    Attributes:
        spots: By head: x and y in the SVG's user units, and text.
    """

    svg: bytes
    png: bytes
    spots: Mapping[str, Sequence[tuple[float, float, str]]] = field(default_factory=dict)

    def inline(self, prefix: str) -> str:
        """Return the SVG for use inside a page: no XML head, ids that are unique under a prefix, and its spots."""
        text = self.svg.decode()
        text = text[text.index("<svg") :]
        text = re.sub(r'\bid="', f'id="{prefix}-', text)
        text = re.sub(r'href="#', f'href="#{prefix}-', text)
        text = re.sub(r"url\(#", f"url(#{prefix}-", text)
        spots = escape(json.dumps(self.spots, ensure_ascii=False, separators=(",", ":")), quote=False)
        return text.replace("<svg", "<svg data-spots='{}'".format(spots.replace("'", "&#39;")), 1)


def render_figure(draw: Callable[[Figure], Iterable[Spot]], size_inches: tuple[float, float] | None = None) -> Image:
    """Draw on a fresh figure in a fixed style, whatever the user's matplotlibrc says, and write both formats.

    Args:
        draw: Draws, and returns what the marks stand for.
        size_inches: Width and height, None for those of the style.
    """
    with style.context(["default", STYLE]):
        figure = Figure(figsize=size_inches)
        spots = draw(figure)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        placed = _place(figure, spots)  # now: saving has laid out the axes, and does so anew for each format
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Image(svg=svg.getvalue(), png=png.getvalue(), spots=placed)


def _place(figure: Figure, spots: Iterable[Spot]) -> dict[str, list[tuple[float, float, str]]]:
    """Return spots by head, in the user units of an SVG: points (1/72 inch), from its upper left corner."""
    placed: dict[str, list[tuple[float, float, str]]] = {}
    for spot in spots:
        x, y = spot.axes.transData.transform((spot.x, spot.y)) * 72 / figure.dpi
        at = (round(float(x) + spot.aside_points, 1), round(72 * figure.get_figheight() - float(y), 1))
        placed.setdefault(spot.head, []).append((*at, spot.text))
    return placed
