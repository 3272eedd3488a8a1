"""The usual strategies, to be had and to be compared with: every block, every depth, bisection, chance, TPE, a GP.

They take full looks alone, and know of a block what its own looks said: one is feasible when that is probable enough,
whatever its neighbours suggest. An alpha of 0.5 is the rule of publications, the point estimate. A block whose heal
failed is tried again, and barred when it failed :data:`MAX_FAILURES` times.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, variance

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from slamlab.errors import OptionError
from slamlab.search.evidence import MAX_FAILURES, Look, Proposal, Recommendation, Rung, SearchSpace
from slamlab.search.frontier import MAX_HEALS as MAX_FRONTIER_HEALS
from slamlab.search.frontier import PRICE, FrontierSampler, Pool
from slamlab.search.sampler import BlockSampler, Names

MAX_HEALS = 16
"""Full looks of a strategy that does not know by itself when to stop."""
FRONTIER_HEALS = 3.0
"""Of a cell, expected: between 4 for a cell alone and 2 where many cells share a decoder (benchmarks/search.py)."""
MAX_RANK = 8
"""Starts of a depth, from the most redundant on, that TPE and GP choose among."""
MAX_DRAWS = 8
"""Draws of TPE or GP before chance takes over, where all fell on blocks that cannot be taken now."""
HOPELESS = 10.0
"""Degradation beyond which TPE and GP are not told how much worse it was."""

Block = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Tries:
    """The looks that were taken at one block, on one rung.

    Attributes:
        complete: Those that gave a number, or told that it is infinite.
        num_failed: Those that gave none.
        running: Whether one is being taken.
    """

    complete: tuple[Look, ...]
    num_failed: int
    running: bool

    @property
    def barred(self) -> bool:
        """Whether it failed too often."""
        return self.num_failed >= MAX_FAILURES

    @property
    def settled(self) -> bool:
        """Whether it is known, or never will be."""
        return bool(self.complete) or self.barred

    @property
    def num_looks(self) -> int:
        """Looks of whatever state."""
        return len(self.complete) + self.num_failed + self.running

    @property
    def degradation(self) -> float:
        """Mean degradation of the complete looks."""
        return fmean(math.inf if look.degradation is None else look.degradation for look in self.complete)

    def p_within(self, tolerance: float) -> float:
        """Return the probability that the degradation is within a tolerance.

        A single look's own count of resamples is taken where it has one, else the normal law. Repeats share the test
        set, so that its error is not averaged away; their spread is the heals' error, of which the mean has a part.
        """
        if len(self.complete) == 1 and self.complete[0].p_within is not None:
            return self.complete[0].p_within
        mean = self.degradation
        heals = 0.0
        if len(self.complete) > 1 and math.isfinite(mean):
            heals = variance(look.degradation or 0.0 for look in self.complete) / len(self.complete)
        sd = math.sqrt(fmean(look.se**2 for look in self.complete) + heals)
        if sd == 0 or math.isinf(mean):
            return float(mean <= tolerance)
        return NormalDist(mean, sd).cdf(tolerance)


class PlainSampler(BlockSampler):
    """A strategy of full looks that judges each block by its own.

    Args:
        space: The blocks of the cell.
        alpha: A block is feasible when it is so with probability 1 - alpha; 0.5 is the point estimate.
        max_running: Looks at a time.
        names: How the study calls things.

    Raises:
        OptionError: An alpha out of range, or no look at a time.
    """

    def __init__(
        self, space: SearchSpace, *, alpha: float = 0.05, max_running: int = 1, names: Names | None = None
    ) -> None:
        super().__init__(space, alpha=alpha, names=names)
        if max_running < 1:
            raise OptionError("a search takes 1 look or more at a time", max_running, "use 1")
        self.max_running = max_running

    @abstractmethod
    def choose(self, tried: Mapping[Block, Tries]) -> Block | None:
        """Return the block to look at next, none that is running or barred, or None."""

    def suggest(self, study: Study) -> Proposal | None:
        """Return the block to look at now; None where nothing is worth it, or running looks must end first."""
        tried = self.tried(study)
        if sum(tries.running for tries in tried.values()) >= self.max_running:
            return None
        block = self.choose(tried)
        return None if block is None else Proposal(start=block[0], depth=block[1])

    def recommend(self, study: Study) -> Recommendation:
        """Return the deepest feasible block; without one, the deepest undecided one whose degradation is in tolerance.

        Of the starts at one depth the likeliest is preferred, the earliest among equals.
        """
        tolerance = self.space.tolerance
        measured = {block: tries for block, tries in self.tried(study).items() if tries.complete}
        p = {block: tries.p_within(tolerance) for block, tries in measured.items()}
        feasible = [block for block in measured if p[block] >= 1 - self.alpha]
        undecided = [block for block in measured if p[block] > self.alpha and measured[block].degradation <= tolerance]
        if not (found := feasible or undecided):
            return Recommendation(start=0, depth=0, verdict="none")
        start, depth = max(found, key=lambda block: (block[1], p[block], -block[0]))
        return Recommendation(
            start=start, depth=depth, verdict="feasible" if feasible else "undecided", p_feasible=p[start, depth]
        )

    def p_feasible(self, study: Study, blocks: Sequence[Block]) -> np.ndarray:
        """Return what each block's own looks say."""
        tried = self.tried(study)
        return np.array([tried[block].p_within(self.space.tolerance) for block in blocks])

    def tried(self, study: Study, rung: Rung = "full") -> dict[Block, Tries]:
        """Return what looks were taken on a rung, by block, in the order of the first."""
        looks: dict[Block, list[Look]] = {}
        for look in self.looks(study):
            if look.rung == rung:
                looks.setdefault((look.start, look.depth), []).append(look)
        return {
            block: Tries(
                complete=tuple(look for look in taken if look.state == "complete"),
                num_failed=sum(look.state == "failed" for look in taken),
                running=any(look.state == "running" for look in taken),
            )
            for block, taken in looks.items()
        }


class GridSampler(PlainSampler):
    """Every block once, shallow to deep: the truth, where it can be afforded."""

    def choose(self, tried: Mapping[Block, Tries]) -> Block | None:
        """Return the first block that is not known."""
        return _first_open(self.space.blocks, tried)


class PaperSampler(PlainSampler):
    """Every depth once, shallow to deep, at the start of least angular distance.

    Source: Moumen, Sun, Woodland, arXiv 2603.05121; the start is that of Gromov et al. 2024 (arXiv 2403.17887,
    section 3): the block whose input and output differ least in angle.
    """

    def choose(self, tried: Mapping[Block, Tries]) -> Block | None:
        """Return the block of the shallowest depth that is not known."""
        return _first_open((_likeliest(self.space, depth) for depth in range(1, self.space.max_depth + 1)), tried)


class BisectSampler(PlainSampler):
    """Bisection over the depth, at the start of least angular distance, on the assumption that deeper is worse.

    The first looks are at a quarter, then at half of the layers: decoders in the literature lose 6 to 44 %, so that a
    bisection that began at half would mostly spend its first look on a heal that fails. One look at a time, as each
    depends on the last.
    """

    def __init__(self, space: SearchSpace, *, alpha: float = 0.05, names: Names | None = None) -> None:
        super().__init__(space, alpha=alpha, names=names)

    def choose(self, tried: Mapping[Block, Tries]) -> Block | None:
        """Return the block between the deepest feasible depth and the next that is not; None where they touch."""
        space = self.space
        feasible = {
            depth
            for (_, depth), tries in tried.items()
            if tries.complete and tries.p_within(space.tolerance) >= 1 - self.alpha
        }
        known = {block[1] for block, tries in tried.items() if tries.settled and block == _likeliest(space, block[1])}
        depth = _bisect(space.num_layers, space.max_depth, feasible, known - feasible)
        return None if depth is None else _likeliest(space, depth)


class BudgetedSampler(PlainSampler):
    """A strategy that stops after so many full looks that gave a number, or failed for good.

    Args:
        space: The blocks of the cell.
        alpha: A block is feasible when it is so with probability 1 - alpha.
        max_heals: The budget.
        seed: Of its draws, with the number of looks so far.
        max_running: Looks at a time.
        names: How the study calls things.

    Raises:
        OptionError: An option out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        alpha: float = 0.05,
        max_heals: int = MAX_HEALS,
        seed: int = 0,
        max_running: int = 1,
        names: Names | None = None,
    ) -> None:
        super().__init__(space, alpha=alpha, max_running=max_running, names=names)
        if max_heals < 1:
            raise OptionError("a search takes 1 heal or more", max_heals, f"use {MAX_HEALS}")
        self.max_heals, self.seed = max_heals, seed

    @abstractmethod
    def draw(self, tried: Mapping[Block, Tries], seed: np.random.SeedSequence) -> Block | None:
        """Return a block that is neither running nor barred, or None where there is none."""

    def choose(self, tried: Mapping[Block, Tries]) -> Block | None:
        """Return a block that failed and may be tried again, else one that is drawn, as long as the budget lasts."""
        spent = sum(max(len(tries.complete), tries.settled) + tries.running for tries in tried.values())
        if spent >= self.max_heals:
            return None
        again = (block for block, tries in tried.items() if tries.num_failed)
        num_looks = sum(tries.num_looks for tries in tried.values())
        return _first_open(again, tried) or self.draw(tried, np.random.SeedSequence([self.seed, num_looks]))


class RandomSampler(BudgetedSampler):
    """Any block that was not looked at, each as likely as another."""

    def draw(self, tried: Mapping[Block, Tries], seed: np.random.SeedSequence) -> Block | None:
        """Return a block without a look."""
        fresh = [block for block in self.space.blocks if block not in tried]
        return fresh[np.random.default_rng(seed).integers(len(fresh))] if fresh else None


class OptunaSampler(RandomSampler):
    """One of Optuna's samplers, over the depth and the rank of the start among those of that depth.

    The rank brings in the angular distance. What is maximised is the share of layers removed, under the constraint
    that the degradation is within the tolerance. Optuna's samplers keep a state, and write to the study that they are
    asked about; so each question goes to a new one, about a study of its own that is made of the looks. It may well ask
    for a block again.
    """

    _last: tuple[object, Block | None] = (None, None)  # the latest question and its answer, as each is asked repeatedly

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """Return the sampler that is wrapped."""

    def draw(self, tried: Mapping[Block, Tries], seed: np.random.SeedSequence) -> Block | None:
        """Return what the wrapped sampler would look at; a block by chance where it insists on what cannot be taken."""
        question = tuple(tried.items())
        if self._last[0] != question:
            self._last = question, self._ask(tried, seed) or super().draw(tried, seed)
        return self._last[1]

    def _ask(self, tried: Mapping[Block, Tries], seed: np.random.SeedSequence) -> Block | None:
        sampler = self.build(int(seed.generate_state(1)[0]))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space: dict[str, BaseDistribution] = {
            "depth": IntDistribution(1, self.space.max_depth),
            "rank": IntDistribution(0, min(MAX_RANK, self.space.num_layers) - 1),
        }
        study.add_trials(trial for block, tries in tried.items() for trial in self._trials(block, tries, space))
        for _ in range(MAX_DRAWS):
            params = study.ask(fixed_distributions=space).params
            starts = self.space.starts(params["depth"])
            block = int(starts[min(params["rank"], len(starts) - 1)]), params["depth"]
            if block not in tried or not (tried[block].running or tried[block].barred):
                return block
        return None

    def _trials(self, block: Block, tries: Tries, space: dict[str, BaseDistribution]) -> list[FrozenTrial]:
        """Return the looks at a block as trials of the wrapped sampler, none where it does not know of the block."""
        start, depth = block
        rank = self.space.starts(depth).tolist().index(start)
        if rank >= MAX_RANK:
            return []
        params = {"depth": depth, "rank": rank}
        trials = [
            create_trial(
                params=params,
                distributions=space,
                value=depth / self.space.num_layers,
                constraints={"degradation": _held(look) - self.space.tolerance},
            )
            for look in tries.complete
        ]
        if tries.running:
            trials.append(create_trial(params=params, distributions=space, state=TrialState.RUNNING))
        return trials


class TpeSampler(OptunaSampler):
    """Tree-structured Parzen estimator, aware of the constraint (Watanabe and Hutter, arXiv 2211.14411)."""

    def build(self, seed: int) -> BaseSampler:
        """Return Optuna's TPE."""
        return TPESampler(seed=seed)


class GpSampler(OptunaSampler):
    """Optuna's Gaussian process with constrained expected improvement; needs torch."""

    def build(self, seed: int) -> BaseSampler:
        """Return Optuna's Gaussian process."""
        return GPSampler(seed=seed)


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """What a strategy may be told; each takes what it knows.

    Attributes:
        alpha: A block is feasible when it is so with probability 1 - alpha.
        max_running: Looks at a time, where they need not wait for each other.
        max_heals: Budget of random, tpe and gp; most that frontier takes for a cell. None for the strategy's own.
        seed: Of their draws.
        price: Of frontier: layers that a heal must promise.
        rungs: Of frontier: looks that it may take.
        pool: Of frontier: the cells that share the decoder.
        names: How the study calls things.
    """

    alpha: float = 0.05
    max_running: int = 1
    max_heals: int | None = None
    seed: int = 0
    price: float = PRICE
    rungs: Sequence[Rung] = ("full",)
    pool: Pool | None = None
    names: Names = field(default_factory=Names)


def _frontier(space: SearchSpace, told: SamplerOptions) -> BlockSampler:
    return FrontierSampler(
        space,
        alpha=told.alpha,
        price=told.price,
        pool=told.pool,
        max_running=told.max_running,
        rungs=told.rungs,
        max_heals=_given(told.max_heals, MAX_FRONTIER_HEALS),
        names=told.names,
    )


def _plain(kind: type[PlainSampler]) -> Callable[[SearchSpace, SamplerOptions], BlockSampler]:
    return lambda space, told: kind(space, alpha=told.alpha, max_running=told.max_running, names=told.names)


def _budgeted(kind: type[BudgetedSampler]) -> Callable[[SearchSpace, SamplerOptions], BlockSampler]:
    return lambda space, told: kind(
        space,
        alpha=told.alpha,
        max_heals=_given(told.max_heals, MAX_HEALS),
        seed=told.seed,
        max_running=told.max_running,
        names=told.names,
    )


SAMPLERS: dict[str, Callable[[SearchSpace, SamplerOptions], BlockSampler]] = {
    "frontier": _frontier,
    "grid": _plain(GridSampler),
    "paper": _plain(PaperSampler),
    "bisect": lambda space, told: BisectSampler(space, alpha=told.alpha, names=told.names),
    "tpe": _budgeted(TpeSampler),
    "gp": _budgeted(GpSampler),
    "random": _budgeted(RandomSampler),
}
"""The strategies by the names that users call them by."""


def build_sampler(name: str, space: SearchSpace, options: SamplerOptions) -> BlockSampler:
    """Return the sampler of a strategy.

    Raises:
        OptionError: No such strategy, or an option out of range.
    """
    _check_name(name)
    return SAMPLERS[name](space, options)


def expected_num_heals(name: str, num_layers: int, max_depth: int, max_heals: int | None = None) -> tuple[float, int]:
    """Return how many heals a strategy is expected to take for a cell, and at most, failures aside.

    Args:
        name: The strategy.
        num_layers: L.
        max_depth: Deepest block that is searched.
        max_heals: As in :class:`SamplerOptions`.

    Raises:
        OptionError: No such strategy.
    """
    _check_name(name)
    if name == "frontier":
        at_most = _given(max_heals, MAX_FRONTIER_HEALS)
        return min(FRONTIER_HEALS, at_most), at_most
    if name == "bisect":  # each answer from 0 to the deepest being as likely as another
        counts = [_num_bisections(num_layers, max_depth, edge) for edge in range(max_depth + 1)]
        return fmean(counts), max(counts)
    if name == "grid":
        at_most = sum(num_layers - depth + 1 for depth in range(1, max_depth + 1))
    else:
        at_most = max_depth if name == "paper" else _given(max_heals, MAX_HEALS)
    return float(at_most), at_most


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_name(name: str) -> None:
    if name not in SAMPLERS:
        raise OptionError(f"a strategy is one of {', '.join(SAMPLERS)}", name, "choose one of them")


def _first_open(blocks: Iterable[Block], tried: Mapping[Block, Tries]) -> Block | None:
    """Return the first block that is neither known nor running."""
    return next(
        (block for block in blocks if block not in tried or not (tried[block].settled or tried[block].running)), None
    )


def _likeliest(space: SearchSpace, depth: int) -> Block:
    """Return the block of a depth that the angular distance names."""
    return int(space.starts(depth)[0]), depth


def _held(look: Look) -> float:
    return HOPELESS if look.degradation is None else min(look.degradation, HOPELESS)


def _bisect(num_layers: int, max_depth: int, feasible: set[int], infeasible: set[int]) -> int | None:
    """Return a depth strictly between the deepest feasible one and the next that is not, or None."""
    low = max(feasible, default=0)
    beyond = max_depth + 1
    high = min((depth for depth in infeasible if depth > low), default=beyond)
    if high == beyond:
        for landmark in (num_layers // 4, num_layers // 2):
            if low < landmark <= max_depth:
                return landmark
    return (low + high) // 2 if high - low > 1 else None


def _num_bisections(num_layers: int, max_depth: int, edge: int) -> int:
    """Count the looks of a bisection whose deepest feasible depth is `edge`."""
    feasible: set[int] = set()
    infeasible: set[int] = set()
    while (depth := _bisect(num_layers, max_depth, feasible, infeasible)) is not None:
        (feasible if depth <= edge else infeasible).add(depth)
    return len(feasible) + len(infeasible)
