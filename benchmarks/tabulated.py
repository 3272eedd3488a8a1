"""A small world to search: 2 decoders of 6 cells each, in which the true degradation of every block stands in a table.

A block costs the worth of its layers, and degrades by the tolerance where it costs what its cell can bear. A heal shows
the true degradation with two errors, that of the cell's test set, which repeats of a block share, and that of the heal.
Both are functions of (seed, cell, block, repeat), so that all strategies meet the same luck.

Shapes: L layers; a table is [L, L+1] by (start, depth), NaN where no block fits.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 0.25
DECODERS = {"shallow": 12, "deep": 16}
TASKS = ("asr", "st")
LANGUAGES = ("en", "de", "fr")
POWER = 2.5
"""Of what a block costs, in its degradation: little is lost at first, much at once in the end."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a world is like.

    Attributes:
        test_sd, heal_sd: Errors of a degradation at the tolerance, of the test set and of the heal.
        mislead: How far the angle by which a layer turns is from its worth, standard deviation of the logarithm.
        unlike: How far what a cell can bear is from its decoder's, likewise.
        uneven: How far a block costs other than its layers do, likewise.
        p_fail: Probability that a heal gives no number.
    """

    test_sd: float = 0.015
    heal_sd: float = 0.01
    mislead: float = 0.15
    unlike: float = 0.06
    uneven: float = 0.03
    p_fail: float = 0.0


CONDITIONS = {
    "standard": Condition(),
    "certain": Condition(test_sd=0, heal_sd=0, mislead=0, uneven=0),
    "misleading": Condition(mislead=0.8),
    "failing": Condition(p_fail=0.1),
}


class Query(NamedTuple):
    """A block to heal; full heals alone, which the third field says."""

    start: int
    depth: int
    fid: int = 3


class Result(NamedTuple):
    """What a heal gave: a degradation and the standard error that the test set leaves, or neither."""

    query: Query
    ok: bool
    delta: float
    se: float


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a strategy may know of a cell.

    Attributes:
        cid: Number of the cell.
        backbone: Number of its decoder.
        L: Layers of the decoder.
        attrs: What the cell is.
        f0: Angular distances [L, L+1] by (start, depth).
        n_cap: Deepest block that is searched.
        threshold: The tolerance.
    """

    cid: int
    backbone: int
    L: int
    attrs: dict[str, str]
    f0: np.ndarray
    n_cap: int
    threshold: float = TOLERANCE


class World:
    """Twelve cells under a condition.

    Args:
        condition: One of :data:`CONDITIONS`.
        seed: Of everything in it.
    """

    def __init__(self, condition: str = "standard", seed: int = 0) -> None:
        self.condition, self.seed = CONDITIONS[condition], seed
        self.views: list[View] = []
        self.backbones: list[list[int]] = []  # their cells
        self._truths: list[np.ndarray] = []
        rng = np.random.default_rng(seed)
        for backbone, (scale, L) in enumerate(DECODERS.items()):
            layer = np.arange(L)
            worth = np.exp(rng.normal(0, 0.25, L)) * (1 + 4 * np.exp(-layer) + 2 * np.exp(layer - L + 1))
            angle = _sums(worth * np.exp(self.condition.mislead * rng.standard_normal(L)))
            cost = _sums(worth) * np.exp(self.condition.uneven * rng.standard_normal((L, L + 1)))
            self.backbones.append([])
            bearable = rng.uniform(0.25, 0.45) * L * np.median(worth)
            for task, language in itertools.product(TASKS, LANGUAGES):
                bears = bearable * np.exp(self.condition.unlike * rng.standard_normal())
                self.backbones[-1].append(len(self.views))
                self._truths.append(TOLERANCE * (cost / bears) ** POWER)
                self.views.append(
                    View(
                        cid=len(self.views),
                        backbone=backbone,
                        L=L,
                        attrs={"family": "tabulated", "scale": scale, "task": task, "lang": language},
                        f0=1 - np.exp(-angle / L),
                        n_cap=int(0.7 * L),
                    )
                )

    @property
    def joint_delta(self) -> list[np.ndarray]:
        """True degradations [L, L+1] of each decoder's worst cell."""
        return [np.max([self._truths[cid] for cid in cells], axis=0) for cells in self.backbones]

    @property
    def joint_n(self) -> list[int]:
        """Depth of the deepest block that all cells of each decoder can lose together."""
        harmless = [(worst <= TOLERANCE).any(axis=0) for worst in self.joint_delta]
        return [int(np.flatnonzero(depths).max(initial=0)) for depths in harmless]

    def evaluate(self, cid: int, query: Query, repeat: int = 0) -> Result:
        """Heal a block for the `repeat`-th time."""
        start, depth, _ = query
        condition = self.condition
        heal = np.random.default_rng([self.seed, cid, start, depth, repeat])
        if heal.random() < condition.p_fail:
            return Result(query, False, float("nan"), float("nan"))
        test = np.random.default_rng([self.seed, cid, start, depth])
        truth = float(self._truths[cid][start, depth])
        grown = (1 + truth) / (1 + TOLERANCE)
        error = condition.test_sd * test.standard_normal() + condition.heal_sd * heal.standard_normal()
        return Result(query, True, truth + grown * error, grown * condition.test_sd)

    def score(self, cid: int, answer: tuple[int, int] | None) -> dict[str, Any]:
        """Compare an answer (start, depth) with the truth.

        Returns:
            `n_star` and `n`, the deepest harmless depth and the answer's; `fa`, whether the answer does harm; `exact`
            and `within1`, whether it is as deep as can be, and about so.
        """
        harmless = np.flatnonzero((self._truths[cid] <= TOLERANCE).any(axis=0))
        n_star = min(int(harmless.max(initial=0)), self.views[cid].n_cap)
        start, depth = answer or (0, 0)
        harmful = depth > 0 and bool(self._truths[cid][start, depth] > TOLERANCE)
        return {
            "n_star": n_star,
            "n": depth,
            "fa": harmful,
            "exact": depth == n_star and not harmful,
            "within1": abs(depth - n_star) <= 1,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a campaign gave: a row a cell, its score and the heals `f3` it took; and how long it took, in heals."""

    rows: list[dict[str, Any]]
    makespan: float


def run_campaign(world: World, factory: Callable[[View, dict], Any], workers: int = 8) -> Outcome:
    """Drive a strategy over all cells, as heals end; each takes one unit of time.

    Args:
        world: The cells.
        factory: From a view, and a dict that all cells share, to a strategy with `ask`, `tell`, `done` and `answer`.
        workers: Heals at a time.
    """
    shared: dict = {}
    searches = [factory(view, shared) for view in world.views]
    healed: Counter[tuple[int, Query]] = Counter()
    order = itertools.count()
    running: list[tuple[float, int, int, Result]] = []  # a heap by time of ending
    now = 0.0
    while True:
        for cid, search in enumerate(searches):
            free = workers - len(running)
            for query in [] if search.done or not free else search.ask(free):
                result = world.evaluate(cid, query, healed[cid, query])
                healed[cid, query] += 1
                heapq.heappush(running, (now + 1, next(order), cid, result))
        if not running:
            break
        now, _, cid, result = heapq.heappop(running)
        searches[cid].tell(result)
    heals = Counter(cid for cid, _ in healed.elements())
    rows = [world.score(cid, search.answer()) | {"cid": cid, "f3": heals[cid]} for cid, search in enumerate(searches)]
    return Outcome(rows=rows, makespan=now)


def _sums(layers: np.ndarray) -> np.ndarray:
    """Return the sum over each block [L, L+1] of what its layers have [L]."""
    L = len(layers)
    ends = np.concatenate([[0.0], layers.cumsum()])
    sums = np.full((L, L + 1), np.nan)
    for start in range(L):
        sums[start, : L - start + 1] = ends[start:] - ends[start]
    return sums
