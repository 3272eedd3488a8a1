"""The frontier search: a cell's deepest harmless block for about two heals, learning from every cell of its decoder.

What is known is in the posterior of :mod:`slamlab.search.posterior`; here is what is done with it.

Certify: a block is feasible only when it was healed in full and P(degradation <= tolerance | all looks) >= 1 - alpha.
Choose: for every depth, the posterior tells how probable it is that one more heal certifies its best block. Read as the
survival function of the deepest certifiable depth, these probabilities turn the search into a known problem, finding an
edge by comparisons that cost a price each; it is solved by dynamic programming, like an optimal search tree (Knuth
1971) whose leaves need not be reached. Its first move is the next heal, or to stop, though not before a first heal.
Race: where cheaper rungs are allowed, the best starts of that depth are compared by them first if what that should gain
exceeds what it costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from optuna.study import Study
from scipy.special import ndtr, ndtri

from slamlab.errors import OptionError
from slamlab.search.evidence import MAX_FAILURES, RUNGS, Look, Proposal, Recommendation, Rung, SearchSpace
from slamlab.search.posterior import Posterior
from slamlab.search.sampler import BlockSampler, Names

ALPHA, PRICE, MAX_HEALS = 0.05, 0.2, 6
NEVER, SURELY = 1e-3, 0.999
"""Depths that certify less or more probably are not worth telling from others."""
RUNG_COST: dict[Rung, float] = {"unhealed": 0.02, "short": 0.12, "full": 1.0}
"""What a look costs, in full heals."""
RACE = 4
"""Starts that a race compares."""
NUM_CALIBRATION = 8
"""Blocks of a decoder that are looked at by a cheap rung and in full before the rung has to earn its looks."""
NUM_DRAWS = 256

Block = tuple[int, int]


class Pool:
    """The cells of one decoder: their blocks and their studies, for samplers that learn from all of them.

    Args:
        is_told: Whether :meth:`changed` is called after each change of a study: then a study is read again only after
            one. Otherwise every study is read at every question, as anybody may have changed any.
        order: Names of the studies that may come, in the order in which they are numbered; where there are none, in
            that in which they come.
    """

    def __init__(self, *, is_told: bool = False, order: Sequence[str] = ()) -> None:
        self._is_told = is_told
        self._rank = {name: rank for rank, name in enumerate(order)}
        self._members: dict[str, tuple[SearchSpace, Study]] = {}
        self._numbers: dict[str, int] = {}
        self._looks: dict[str, list[Look]] = {}
        self._stale: set[str] = set()
        self.revision = 0
        """Of the posterior: for whoever remembers what followed from it and would not keep it, as it is large."""
        self._known: tuple[list[list[Look]], Posterior] | None = None
        self._learned: tuple[list[list[Look]], Posterior] | None = None  # from the complete looks alone

    def add(self, space: SearchSpace, study: Study) -> None:
        """Let a cell take part; every cell does before the first is asked about.

        Raises:
            OptionError: Its decoder has another number of layers than the others'.
        """
        first = next((member for member, _ in self._members.values()), space)
        if first.num_layers != space.num_layers:
            raise OptionError(
                f"the cells of a pool share a decoder, of {first.num_layers} layers",
                space.num_layers,
                "give each decoder a pool of its own",
            )
        name = study.study_name
        self._members[name] = (space, study)
        if self._rank:
            self._members = dict(sorted(self._members.items(), key=lambda one: self._rank[one[0]]))
        self._numbers = {name: number for number, name in enumerate(self._members)}
        self._looks = {name: self._looks.get(name, []) for name in self._members}
        self._stale.add(name)

    def changed(self, study: Study) -> None:
        """Note that a study may have other trials than when it was read last."""
        if study.study_name in self._members:
            self._stale.add(study.study_name)

    @property
    def cells(self) -> dict[str, SearchSpace]:
        """Return the cells' blocks, by the names of their studies, in the order of their numbers."""
        return {name: space for name, (space, _) in self._members.items()}

    def index(self, study: Study) -> int | None:
        """Return the number of a cell, None where it takes no part yet."""
        return self._numbers.get(study.study_name)

    def posterior(self, reader: BlockSampler) -> tuple[Posterior, list[list[Look]]]:
        """Return what all looks say, and the looks by cell; worked out anew only when there are new ones."""
        for name in self._stale if self._is_told else self._members:
            self._looks[name] = reader.looks(self._members[name][1])
        if self._known is None or self._stale or not self._is_told:
            self._stale.clear()
            looks = list(self._looks.values())
            if self._known is None or self._known[0] != looks:
                complete = [[look for look in own if look.state == "complete"] for own in looks]
                if self._learned is None or self._learned[0] != complete:
                    self._learned = complete, Posterior([space for space, _ in self._members.values()], complete)
                self._known = looks, self._learned[1].expecting(looks)
                self.revision += 1
        return self._known[1], self._known[0]


class FrontierSampler(BlockSampler):
    """The frontier search as an Optuna sampler.

    Args:
        space: The blocks of the cell.
        alpha: A block is feasible when it is so with probability 1 - alpha.
        price: What a full heal must be worth, in layers: at 0.2, one chance in five of one layer more.
        pool: The cells of the decoder, this one among them or added when it is first asked about; None for it alone.
        max_running: Looks at a time in this cell. Beyond the first they are taken only while no result of those that
            run could make them needless.
        rungs: Looks that may be taken; `full` always is.
        max_heals: Full heals of the cell, failed ones among them, however much another one promises.
        names: How the study calls things.

    Raises:
        OptionError: An option out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        alpha: float = ALPHA,
        price: float = PRICE,
        pool: Pool | None = None,
        max_running: int = 1,
        rungs: Sequence[Rung] = ("full",),
        max_heals: int = MAX_HEALS,
        names: Names | None = None,
    ) -> None:
        super().__init__(space, alpha=alpha, names=names)
        check_budget(price, max_running, max_heals)
        if unknown := [rung for rung in rungs if rung not in RUNGS]:
            raise OptionError(f"a rung is one of {', '.join(RUNGS)}", unknown[0], "choose among them")
        self.price, self.max_running, self.max_heals = price, max_running, max_heals
        self.cheap = [rung for rung in RUNGS[:-1] if rung in rungs]
        self.pool = Pool() if pool is None else pool
        self._last: tuple[int, int, Proposal | None] | None = None  # revision and cell asked about, and the answer

    def suggest(self, study: Study) -> Proposal | None:
        """Return the block to look at now; None where nothing is worth it, or running looks must end first."""
        posterior, cell, looks = self._known(study)
        if self._last is None or self._last[:2] != (self.pool.revision, cell):
            self._last = self.pool.revision, cell, self._suggest(posterior, cell, looks)
        return self._last[2]

    def recommend(self, study: Study) -> Recommendation:
        """Return the deepest certified block; without one, the deepest healed one that may be harmless."""
        posterior, cell, looks = self._known(study)
        return self._recommend(posterior, cell, looks[cell])

    def p_feasible(self, study: Study, blocks: Sequence[Block]) -> np.ndarray:
        """Return, for blocks [Q], the probability given all looks that their degradation is within the tolerance."""
        posterior, cell, _ = self._known(study)
        return posterior.p_within(cell, blocks)

    def _known(self, study: Study) -> tuple[Posterior, int, list[list[Look]]]:
        cell = self.pool.index(study)
        if cell is None:
            self.pool.add(self.space, study)
            cell = self.pool.index(study)
        posterior, looks = self.pool.posterior(self)
        assert cell is not None
        return posterior, cell, looks

    def _suggest(self, posterior: Posterior, cell: int, looks: Sequence[Sequence[Look]]) -> Proposal | None:
        own = looks[cell]
        running = [look for look in own if look.state == "running"]
        if len(running) >= self.max_running or any(look.rung != "full" for look in running):
            return None
        if sum(look.rung == "full" for look in own) >= self.max_heals:
            return None
        blocks = self.space.blocks
        outlook = posterior.outlook(cell, self.space.block_array)
        certified = self._recommend(posterior, cell, own)
        floor = certified.depth if certified.verdict == "feasible" else 0
        certifies = chance_to_certify(*outlook, self.alpha)
        chances = dict(zip(blocks, certifies.tolist(), strict=True)) | dict.fromkeys(_barred(own), 0.0)
        by_depth = groupby(blocks, key=lambda block: block[1])
        best = {depth: max(group, key=chances.__getitem__) for depth, group in by_depth if depth > floor}
        if not best:
            return None
        depths, likely = np.array(list(best)), np.array([chances[block] for block in best.values()])
        move = next_move(floor, depths, likely, self.price)
        if move is None and likely.any() and not any(look.rung == "full" and look.state != "failed" for look in own):
            # What was never healed is not known to do harm, whatever other cells and decoders show.
            move = Move(depth=int(depths[np.argmax(depths * likely)]), stake=0.0)
        if move is None or (running and move.depth <= max(look.depth for look in running)):
            return None
        start, depth = best[move.depth]
        return self._race(posterior, cell, looks, chances, move) or Proposal(start=start, depth=depth)

    def _recommend(self, posterior: Posterior, cell: int, own: Sequence[Look]) -> Recommendation:
        full = (look for look in own if look.rung == "full" and look.state == "complete")
        tolerance = self.space.tolerance
        kept = (look for look in full if look.degradation is not None and look.degradation <= tolerance)
        # Whatever its neighbours promise, a block that never showed a degradation within the tolerance is not taken.
        shown = list(dict.fromkeys((look.start, look.depth) for look in kept))
        return deepest(shown, posterior.p_within(cell, shown), self.alpha)

    def _race(
        self,
        posterior: Posterior,
        cell: int,
        looks: Sequence[Sequence[Look]],
        chances: Mapping[Block, float],
        move: Move,
    ) -> Proposal | None:
        """Return a cheap look that is worth taking before the depth's best start is healed, if there is one."""
        at = [block for block in chances if block[1] == move.depth]
        best = sorted(at, key=lambda block: (-chances[block], block))[:RACE]
        for rung in self.cheap:
            seen = {(look.start, look.depth) for look in looks[cell] if look.rung == rung}
            if best[0] not in seen and _num_pairs(looks, rung) < NUM_CALIBRATION:
                return Proposal(start=best[0][0], depth=best[0][1], rung=rung)
            fresh = [block for block in best if block not in seen]
            if not fresh:
                continue
            cost = self.price * RUNG_COST[rung] * len(fresh)
            if self._worth_of_race(posterior, cell, best, fresh, rung) * move.stake > cost:
                return Proposal(start=fresh[0][0], depth=fresh[0][1], rung=rung)
        return None

    def _worth_of_race(
        self, posterior: Posterior, cell: int, best: list[Block], fresh: list[Block], rung: Rung
    ) -> float:
        """Return by how much looks at `fresh` raise the chance that the then best of `best` is certified."""
        q = len(best)
        rows = [(cell, Look(start=start, depth=depth)) for start, depth in best]
        rows += [(cell, Look(start=start, depth=depth, rung=rung)) for start, depth in fresh]
        expected, covariance = posterior.joint(rows)
        shown = covariance[q:, q:] + sum(posterior.noise(cell, rung)) * np.eye(len(fresh))
        gain = np.linalg.solve(shown, covariance[q:, :q]).T  # [Q, fresh]: how latent responses follow the looks
        draws = np.random.default_rng(0).standard_normal((NUM_DRAWS, len(fresh))) @ np.linalg.cholesky(shown).T
        heal = sum(posterior.noise(cell))
        before = np.maximum(np.diag(covariance)[:q], 1e-9)
        left = np.maximum(before - np.einsum("ij,ji->i", gain, covariance[q:, :q]), 1e-9)
        now = chance_to_certify(expected[:q], before, before, before + heal, self.alpha)
        after = chance_to_certify(expected[:q] + draws @ gain.T, left, left, left + heal, self.alpha)  # [draws, Q]
        return float(after.max(axis=1).mean() - now.max())


def check_budget(price: float, max_running: int, max_heals: int) -> None:
    """Refuse what no search can be told.

    Raises:
        OptionError: An option out of range.
    """
    if not price > 0:
        raise OptionError("the price of a heal is above 0 layers", price, f"use {PRICE}")
    if max_running < 1:
        raise OptionError("at least 1 look runs at a time", max_running, "use 1")
    if max_heals < 1:
        raise OptionError("a search takes 1 heal or more", max_heals, f"use {MAX_HEALS}")


def deepest(blocks: Sequence[Block], p: Sequence[float] | np.ndarray, alpha: float) -> Recommendation:
    """Return the deepest of the blocks that are harmless with probability 1 - alpha; else the deepest that may be.

    Args:
        blocks: Blocks [Q] that were healed and did no harm.
        p: Probability that each is harmless [Q]; among those of one depth the likeliest is taken.
        alpha: Error that is accepted.
    """
    ranked = sorted(((depth, p[i], -start) for i, (start, depth) in enumerate(blocks)), reverse=True)
    bars: tuple[tuple[Literal["feasible", "undecided"], float], ...] = (("feasible", 1 - alpha), ("undecided", 0.5))
    for verdict, enough in bars:
        for depth, probability, minus_start in ranked:
            if probability >= enough:
                return Recommendation(
                    start=-minus_start,
                    depth=depth,
                    verdict=verdict,
                    p_feasible=float(probability),
                )
    return Recommendation(start=0, depth=0, verdict="none")


@dataclass(frozen=True, kw_only=True)
class Move:
    """A heal to make.

    Attributes:
        depth: Its depth.
        stake: Layers by which the search's value differs between its success and its failure.
    """

    depth: int
    stake: float


def next_move(floor: int, depths: np.ndarray, chances: np.ndarray, price: float) -> Move | None:
    """Return the first heal of the search of greatest expected depth less the price of its heals; None to stop.

    The deepest certifiable depth is a random variable, a heal at depth n tells whether it is n or more. The value of
    knowing that it lies in [a, b) is the greatest of `a` (stop) and, over n between, -price + P(n or more) x
    value[n, b) + P(less) x value[a, n).

    Args:
        floor: Depth that is certified.
        depths: Depths beyond it, ascending [D].
        chances: Probability that one heal certifies each [D].
        price: Layers that a heal costs.
    """
    # A depth that is less probable than a deeper one, as it harms for reasons of its own, is thereby passed over.
    survival = np.maximum.accumulate(chances[::-1])[::-1]
    last = int(np.flatnonzero(survival > NEVER).max(initial=-1))
    first = int(np.flatnonzero(survival >= SURELY).max(initial=0))
    window = slice(first, last + 1)
    depths, survival = depths[window], survival[window]
    num = len(depths)
    if num == 0:
        return None
    edge = np.array([floor, *depths], dtype=float)
    mass = np.array([1.0, *survival, 0.0])
    value = np.zeros((num + 2, num + 2))  # of knowing that the edge lies in [edge[a], edge[b])
    move = np.zeros((num + 2, num + 2), dtype=int)
    value[np.arange(num + 1), np.arange(1, num + 2)] = edge
    for width in range(2, num + 2):  # all intervals of a width at once
        a = np.arange(num + 2 - width)
        b, between = a + width, a[:, None] + np.arange(1, width)  # [intervals], [intervals, width - 1]
        inside = mass[a] - mass[b]
        p = (mass[between] - mass[b][:, None]) / np.where(inside < 1e-12, 1.0, inside)[:, None]
        tried = p * value[between, b[:, None]] + (1 - p) * value[a[:, None], between] - price
        found = np.argmax(tried, axis=1)
        best = tried[a, found]
        gains = (best > edge[a]) & (inside >= 1e-12)
        value[a, b], move[a, b] = np.where(gains, best, edge[a]), np.where(gains, between[a, found], 0)
    n = move[0, num + 1]
    return Move(depth=int(depths[n - 1]), stake=value[n, num + 1] - value[0, n]) if n else None


def chance_to_certify(
    expected: np.ndarray, variance: np.ndarray, together: np.ndarray, seen: np.ndarray, alpha: float
) -> np.ndarray:
    """Return the probability that one more heal makes P(response <= 0) at least 1 - alpha.

    Args:
        expected: Means of the latent responses.
        variance: Their variances.
        together: Their covariances with what the heal will show.
        seen: Variances of what it will show.
        alpha: Error that is accepted.
    """
    shift = np.maximum(together, 0.0) / np.sqrt(seen)
    left = np.sqrt(np.maximum(variance - shift**2, 0.0))
    return ndtr((ndtri(alpha) * left - expected) / np.maximum(shift, 1e-6))


def _barred(own: Sequence[Look]) -> set[Block]:
    """Return the blocks that are not healed in full again: those that run, and those that failed too often."""
    full = [look for look in own if look.rung == "full"]
    failed = Counter((look.start, look.depth) for look in full if look.state == "failed")
    barred = {block for block, count in failed.items() if count >= MAX_FAILURES}
    return barred | {(look.start, look.depth) for look in full if look.state == "running"}


def _num_pairs(looks: Sequence[Sequence[Look]], rung: Rung) -> int:
    """Count the blocks of a decoder's cells that a cheap rung and a full heal have both looked at."""
    taken = [{(k.start, k.depth, k.rung) for k in cell if k.state == "complete"} for cell in looks]
    return sum((start, depth, "full") in cell for cell in taken for start, depth, kind in cell if kind == rung)


__all__ = [
    "ALPHA",
    "PRICE",
    "FrontierSampler",
    "Move",
    "Pool",
    "chance_to_certify",
    "check_budget",
    "deepest",
    "next_move",
]
