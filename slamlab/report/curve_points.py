"""Curves as records hold them: which points they are made of, what is read off them, how two are compared.

A curve is one method's block at every depth, healed or as it is cut. Two are compared depth by depth: by a sign test,
and by the median of the differences with the interval that inverts that test, which holds whatever the differences are
distributed like. Depths are taken as independent there, although they share utterances and base.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slamlab.report.results import cell_key, rung_of

METHODS = {"paper": "least distance", "deepest": "deepest but the last", "random": "random start"}
RUNGS = {"full": "healed", "unhealed": "as cut"}
"""The best first: the curve that sentences are about, where there is one."""
SURE = 0.05
"""Chance of error of a sign test, and of the interval that inverts it, that passes as small."""
Block = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one look at a block gave.

    Attributes:
        depth: Layers removed.
        start: The first of them.
        degradation: Relative degradation, infinite where a perfect base got worse.
        low, high: Its 95 % interval.
        num_utterances: On how many it was measured, None where that is not recorded.
    """

    depth: int
    start: int
    degradation: float
    low: float
    high: float
    num_utterances: int | None


Lines = Mapping[tuple[str, str], Sequence[Point]]
"""Points by method and rung, shallow to deep."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The curves of one cell: its record, the blocks of each method, and what was measured of them."""

    cell: Mapping[str, Any]
    blocks: Mapping[str, Sequence[Block]]
    points: Mapping[tuple[Block, str], Point]
    failed: frozenset[tuple[Block, str]]
    rungs: tuple[str, ...]

    @property
    def lines(self) -> Lines:
        """Return the points by method and rung."""
        return {
            (method, rung): [self.points[block, rung] for block in blocks if (block, rung) in self.points]
            for method, blocks in self.blocks.items()
            for rung in self.rungs
        }


def largest(points: Iterable[Point], tolerance: float, *, by_bound: bool = False) -> int:
    """Return the deepest of the depths measured whose degradation is within a tolerance, 0 where none is.

    Args:
        points: A curve.
        tolerance: A fraction.
        by_bound: Whether the upper end of the 95 % interval has to be within it, not only the estimate.
    """
    within = (one.depth for one in points if (one.high if by_bound else one.degradation) <= tolerance)
    return max(within, default=0)


def sign_test(differences: Sequence[float]) -> float:
    """Return the two-sided exact p-value of a sign test: that positive and negative are as likely; zeros are left out.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed. 1999, section 3.4.
    """
    num_up, num_down = (sum(sign * one > 0 for one in differences) for sign in (1, -1))
    return min(1.0, 2 * _binomial_tail(num_up + num_down, min(num_up, num_down)))


def median_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return order statistics that hold the median with 95 % or more, None where there are too few (below 6).

    Source: Conover, as :func:`sign_test`, section 3.2.
    """
    n = len(differences)
    reached = [k for k in range(1, n // 2 + 1) if 2 * _binomial_tail(n, k - 1) <= SURE]
    if not reached:
        return None
    ordered = sorted(differences)
    return ordered[reached[-1] - 1], ordered[n - reached[-1]]


def _binomial_tail(n: int, k: int) -> float:
    """Return the probability of k heads or fewer in n throws of a fair coin."""
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def read_curves(results: Mapping[str, Any]) -> list[Curves]:
    """Return the curves of every cell; of a block that was looked at repeatedly, the first look."""
    cells = {cell_key(cell): cell for cell in results["cells"]}
    points: dict[tuple[str, ...], dict[tuple[Block, str], Point]] = {key: {} for key in cells}
    failed: dict[tuple[str, ...], set[tuple[Block, str]]] = {key: set() for key in cells}
    for probe in sorted(results["probes"], key=lambda probe: probe.get("repeat") or 0):
        key, look = cell_key(probe["cell"]), ((probe["start"], probe["depth"]), rung_of(probe))
        if probe["status"] == "complete":
            points.setdefault(key, {}).setdefault(look, _point(probe))
        else:
            failed.setdefault(key, set()).add(look)
    rungs = (results["sweep"].get("search") or {}).get("rungs") or tuple(RUNGS)
    return [
        Curves(
            cell=cells.get(key, {**curve, "verdict": "failed"}),
            blocks={
                method: [(block["start"], block["depth"]) for block in blocks]
                for method, blocks in sorted(curve["methods"].items(), key=lambda item: _place(item[0]))
            },
            points=points.get(key, {}),
            failed=frozenset(failed.get(key, ())),
            rungs=tuple(rung for rung in RUNGS if rung in rungs),
        )
        for curve in results["curves"]
        for key in [cell_key(curve)]
    ]


def _place(method: str) -> tuple[int, str]:
    return (list(METHODS).index(method) if method in METHODS else len(METHODS)), method


def _point(probe: Mapping[str, Any]) -> Point:
    low, high = probe["ci95"]
    value = probe["relative_degradation"]
    return Point(
        depth=probe["depth"],
        start=probe["start"],
        degradation=math.inf if value is None else value,
        low=-math.inf if low is None else low,
        high=math.inf if high is None else high,
        num_utterances=probe.get("num_utterances"),
    )
