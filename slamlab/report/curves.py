"""Degradation against depth, in words, tables and figures: what a sweep of curves has to say.

A curve is one method's block at every depth, healed or as it is cut. All of it is measured on the selection split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from markupsafe import Markup

from slamlab.report.curve_figures import Panel, draw_curves
from slamlab.report.curve_points import METHODS, RUNGS, SURE, Curves, largest, median_interval, read_curves, sign_test
from slamlab.report.curve_tables import fractions_table, num_scored, points_table
from slamlab.report.drawing import Image
from slamlab.report.results import cell_key, cell_verdict
from slamlab.report.tables import Table, cell_name, decoder_name, question_name
from slamlab.report.views import Figure
from slamlab.report.writing import DASH, NBSP, metric_name, metric_value, percent

WHERE = {
    "paper": "where the angular distance is least",
    "deepest": "from the deepest layers but the very last",
    "random": "at a random start",
}


@dataclass(frozen=True, kw_only=True)
class CurveView:
    """What the page says about the curves of one cell.

    Attributes:
        anchor: Its id in the page.
        lead: Sentences on what can be read off.
        figure: None where nothing was measured.
        fractions: Largest fraction within tolerances.
        points: Everything measured, by depth and method.
        notes: Sentences on what is lacking.
    """

    anchor: str
    name: str
    lead: tuple[str, ...]
    figure: Figure | None
    fractions: Table | None
    points: Table | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CurvesPart:
    """What the page says about curves: of all cells, then of each.

    Attributes:
        headline: The first sentence of the page.
        grid: All cells in one figure, None where there is one cell.
    """

    headline: str
    grid: Figure | None
    cells: tuple[CurveView, ...]


def view_curves(results: Mapping[str, Any], images: dict[str, Image]) -> CurvesPart:
    """Return what the page says about the curves of a sweep.

    Args:
        results: Records, with `curves`.
        images: Takes the figures, by path without suffix.
    """
    tolerance = results["sweep"]["tolerance"]
    found = read_curves(results)
    views = [_view(curves, f"curve-{i:02d}", tolerance, images) for i, curves in enumerate(found, 1)]
    drawn = [curves for curves in found if curves.points]
    grid = None
    if len(drawn) > 1:
        caption = (
            "Relative degradation on the selection split against the fraction of layers removed: rows by decoder, "
            "columns by what is asked of it. Bars are 95 % intervals; carets stand for points beyond the scale. Each "
            "cell is drawn larger below."
        )
        grid = _figure("figures/00-curves", draw_curves(_panels(drawn), METHODS, tolerance), caption, images)
    return CurvesPart(headline=_headline(found, tolerance), grid=grid, cells=tuple(views))


def _view(curves: Curves, anchor: str, tolerance: float, images: dict[str, Image]) -> CurveView:
    cell, notes = curves.cell, []
    name = cell_name(cell)
    nothing = CurveView(anchor=anchor, name=name, lead=(), figure=None, fractions=None, points=None, notes=())
    if cell_verdict(cell) == "failed":
        reason = str(cell.get("reason") or "not run").rstrip(".")
        return replace(nothing, notes=(f"There is no curve: {reason}.",))
    if lacking := _lacking(curves):
        notes.append(lacking)
    if not curves.points:
        return replace(nothing, notes=tuple(notes))
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(cell_key(cell))).strip("-.").lower()
    image = draw_curves(_panels([curves]), METHODS, tolerance)
    figure = _figure(f"figures/{anchor.removeprefix('curve-')}-{slug}-curves", image, _caption(curves), images)
    return CurveView(
        anchor=anchor,
        name=name,
        lead=tuple(_sentences(curves, tolerance)),
        figure=figure,
        fractions=fractions_table(curves, tolerance),
        points=points_table(curves),
        notes=tuple(notes),
    )


def _figure(path: str, image: Image, caption: str, images: dict[str, Image]) -> Figure:
    images[path] = image
    prefix = path.removeprefix("figures/").replace(".", "-")
    return Figure(path=path, caption=caption, inline=Markup(image.inline(f"c{prefix}")))


def _panels(drawn: Sequence[Curves]) -> list[Panel]:
    several = len({curves.cell["encoder"] for curves in drawn}) > 1
    return [
        Panel(
            row=decoder_name(curves.cell),
            column=question_name(curves.cell) + (f", {curves.cell['encoder']}" if several else ""),
            num_layers=curves.cell["num_layers"],
            lines=curves.lines,
            failed=tuple(
                dict.fromkeys(
                    (method, block[1])
                    for method, blocks in curves.blocks.items()
                    for block in blocks
                    for rung in curves.rungs
                    if (block, rung) in curves.failed and (block, rung) not in curves.points
                )
            ),
        )
        for curves in drawn
    ]


def _headline(found: Sequence[Curves], tolerance: float) -> str:
    """Return what can be removed within the tolerance, by the first method, healed and as cut."""
    drawn = [curves for curves in found if curves.points]
    if not drawn:
        return "No curve was measured."
    method, cell = next(iter(drawn[0].blocks)), drawn[0].cell
    told = [(RUNGS[rung], span) for rung in drawn[0].rungs if (span := _span(drawn, method, rung, tolerance))]
    if not told:
        return "No curve of the first method was measured."
    (how, best), *others = told
    one_decoder = len({decoder_name(curves.cell) for curves in drawn}) == 1
    whose = f" of the {decoder_name(cell)} decoder" if one_decoder else ""
    over = question_name(cell) if len(drawn) == 1 else f"{len(drawn)} cells"
    besides = "".join(f"; {also}, {span}" for also, span in others)
    return (
        f"Removed {WHERE.get(method, method)} and {how}, {best} of the layers{whose} can go within a relative "
        f"degradation of {percent(tolerance)} for {over}{besides} (point estimates on the selection split, of the "
        "depths tried)."
    ).replace("and as cut", "and scored as they are cut")


def _span(drawn: Sequence[Curves], method: str, rung: str, tolerance: float) -> str:
    """Write the largest share of layers within a tolerance, or its range over cells."""
    lines = [(curves.lines.get((method, rung)), curves.cell["num_layers"]) for curves in drawn]
    found = [(largest(points, tolerance), num_layers) for points, num_layers in lines if points]
    if not found:
        return ""
    if len(found) == 1:
        ((depth, num_layers),) = found
        return f"{percent(depth / num_layers)} ({depth} of {num_layers})"
    shares = sorted({depth / num_layers for depth, num_layers in found})
    return " to ".join(map(percent, dict.fromkeys((shares[0], shares[-1]))))


def _sentences(curves: Curves, tolerance: float) -> list[str]:
    """Return what can be read off the curves of a cell."""
    method, cell = next(iter(curves.blocks)), curves.cell
    base = (cell.get("selection") or {}).get("baseline")
    told = []
    if base:
        value = metric_value(base["value"], cell["metric"])
        told.append(
            f"Unpruned, the model scores {metric_name(cell['metric'])} {value} on the selection split "
            f"(n{NBSP}={NBSP}{base['num_utterances']})."
        )
    for rung in curves.rungs:
        if points := curves.lines[method, rung]:
            by_estimate, by_bound = (largest(points, tolerance, by_bound=bound) for bound in (False, True))
            told.append(
                f"Of the blocks removed {WHERE.get(method, method)}, {RUNGS[rung]}, the deepest within "
                f"{percent(tolerance)} has {by_estimate} of {cell['num_layers']} layers by point estimate, {by_bound} "
                f"by the upper end of the 95{NBSP}% interval (n{NBSP}={NBSP}{num_scored(points)}; the deepest tried "
                f"has {max(point.depth for point in points)})."
            )
    if len(curves.rungs) > 1:
        told.append(_healing(curves))
    rung = curves.rungs[0]
    told += [_versus(curves, method, other, rung) for other in curves.blocks if other != method]
    return [sentence for sentence in told if sentence]


def _healing(curves: Curves) -> str:
    """Return what healing does to the blocks that were looked at both ways."""
    blocks = dict.fromkeys(block for blocks in curves.blocks.values() for block in blocks)
    pairs = [
        (curves.points[block, "full"], curves.points[block, "unhealed"])
        for block in blocks
        if (block, "full") in curves.points and (block, "unhealed") in curves.points
    ]
    if not pairs:
        return ""
    differences = [_difference(healed.degradation, cut.degradation) for healed, cut in pairs]
    better = sum(one < 0 for one in differences)
    return (
        f"Healing lowers the degradation of {better} of {_many(len(pairs), 'block')} that were scored both ways"
        f"{_tested(differences)}: healed on {num_scored([healed for healed, _ in pairs])} utterances, as cut on "
        f"{num_scored([cut for _, cut in pairs])}."
    )


def _versus(curves: Curves, method: str, other: str, rung: str) -> str:
    """Return which of two methods degrades less at equal depth, where they name different blocks."""
    name, rival = METHODS.get(method, method), METHODS.get(other, other)
    rivals = {block[1]: block for block in curves.blocks[other]}
    both = [(one, rivals[one[1]]) for one in curves.blocks[method] if rivals.get(one[1], one) != one]
    pairs = [
        (curves.points[one, rung], curves.points[two, rung])
        for one, two in both
        if (one, rung) in curves.points and (two, rung) in curves.points
    ]
    if not pairs:
        return f"No depth was measured at which the {name} and the {rival} name different blocks."
    differences = [_difference(one.degradation, two.degradation) for one, two in pairs]
    less, more = (sum(sign * one < 0 for one in differences) for sign in (1, -1))
    outcome = "That does not tell them apart"
    if sign_test(differences) <= SURE:
        outcome = f"The {name if less > more else rival} is the better"
    return (
        f"{RUNGS[rung].capitalize()} and at equal depth, the {name} degrades less than the {rival} at {less} and more "
        f"at {more} of {_many(len(pairs), 'depth')} where they name different blocks{_tested(differences)}. {outcome}."
    )


def _tested(differences: Sequence[float]) -> str:
    """Write a sign test and the median difference, as a parenthesis."""
    points, ends = _points(median(differences)), median_interval(differences)
    width = f"[{_points(ends[0])}, {_points(ends[1])}]" if ends else "too few for an interval"
    return f" (sign test p = {sign_test(differences):.2g}; median difference {points} points, {width})"


def _difference(one: float, two: float) -> float:
    return 0.0 if one == two else one - two


def _points(difference: float) -> str:
    """Write a difference of degradations in percentage points."""
    if math.isnan(difference):
        return DASH
    if math.isinf(difference):
        return "+∞" if difference > 0 else "−∞"
    return f"{100 * difference:+.1f}".replace("-", "−")


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _caption(curves: Curves) -> str:
    caption = (
        f"{metric_name(curves.cell['metric'])}: relative degradation on the selection split against the fraction of "
        "layers removed, a line a method. "
    )
    told = {"full": "Solid and filled: healed", "unhealed": "Dashed and hollow: as cut"}
    for rung in curves.rungs:
        own = [point for (_, looked), point in curves.points.items() if looked == rung]
        caption += f"{told[rung]} (n{NBSP}={NBSP}{num_scored(own)}). " if own else ""
    return caption + "Bars are 95 % intervals; carets at the edge stand for points beyond the scale."


def _lacking(curves: Curves) -> str:
    """Return how many looks are not there, as a sentence, else nothing."""
    asked = {(block, rung) for blocks in curves.blocks.values() for block in blocks for rung in curves.rungs}
    missing = asked - curves.points.keys()
    if not missing:
        return ""
    failed = len(missing & curves.failed)
    details = [f"{failed} failed"] * bool(failed) + [f"{len(missing) - failed} not run"] * (len(missing) > failed)
    return f"Of {len(asked)} looks at blocks, {' and '.join(details)}: lines pass over them."
