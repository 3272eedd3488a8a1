"""What a search knows: the blocks there are, and the looks that were taken at some of them.

Shapes: L layers; a map of angular distances is [L+1, L+1], entry (l, l+n) the distance over the n layers from l on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from slamlab.errors import DataError, ModelError, OptionError

Rung = Literal["unhealed", "short", "full"]
RUNGS: tuple[Rung, ...] = ("unhealed", "short", "full")
"""From the cheapest look to the one that counts."""
State = Literal["complete", "failed", "running"]
MAX_FAILURES = 2
"""A block whose heal failed as often is not tried again."""
MAX_TOLERANCE = 5.0
"""A loss that is still told from a hopeless one."""


CONVENTIONS = ("gromov", "streamline")
"""What a block is judged by beforehand: the distance over its own layers (Gromov et al., arXiv 2403.17887), or over
these and the layer before them, which is kept and receives the heal (LLM-Streamline, Chen et al., arXiv 2403.19135)."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A block to look at next, and how closely."""

    start: int
    depth: int
    rung: Rung = "full"


@dataclass(frozen=True, kw_only=True)
class Look:
    """A block that was removed and scored, or is about to be.

    Attributes:
        start: First layer removed, zero-based.
        depth: Number of layers removed.
        rung: How closely it was looked at.
        state: `failed` where the look gave no score.
        degradation: Relative degradation, positive where the pruned model is worse; None where there is none,
            infinite where a perfect base got worse.
        se: Standard error of the degradation that the choice of test utterances leaves (paired bootstrap).
        p_within: Share of the bootstrap's resamples in which the tolerance is kept, where it was counted.
    """

    start: int
    depth: int
    rung: Rung = "full"
    state: State = "complete"
    degradation: float | None = None
    se: float = 0.0
    p_within: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The block to remove; depth 0 and verdict `none` where no block is known to do no harm.

    Attributes:
        p_feasible: Probability, given all evidence, that its degradation is within the tolerance.
    """

    start: int
    depth: int
    verdict: Literal["feasible", "undecided", "none"]
    p_feasible: float = 0.0


def by_convention(distance: np.ndarray, convention: str) -> np.ndarray:
    """Return a map [L+1, L+1] whose entry (l, l+n) is what a convention judges the layers l to l+n-1 by.

    The first layer has none before it, so that a block there is judged by the greatest distance there is, 1.

    Raises:
        OptionError: The convention is unknown.
    """
    if convention not in CONVENTIONS:
        raise OptionError(f"a convention is {' or '.join(CONVENTIONS)}", convention, "choose one of them")
    if convention == "gromov":
        return distance
    moved = np.ones_like(distance)
    moved[1:] = distance[:-1]
    return moved


@lru_cache
def _blocks(num_layers: int, max_depth: int) -> list[tuple[int, int]]:
    """Return the blocks of a decoder: one list for all its cells."""
    return [(start, depth) for depth in range(1, max_depth + 1) for start in range(num_layers - depth + 1)]


@lru_cache
def _block_array(num_layers: int, max_depth: int) -> np.ndarray:
    blocks = np.array(_blocks(num_layers, max_depth))
    blocks.setflags(write=False)  # it is every cell's
    return blocks


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchSpace:
    """The blocks of one cell.

    Attributes:
        num_layers: L.
        distance: Angular distances [L+1, L+1] of the unpruned decoder; only entries above the diagonal are read.
        tolerance: Relative degradation that is accepted.
        max_depth: Deepest block that is searched.
        factors: What the cell shares with some other cells of its decoder: encoder, task, language.

    Raises:
        ModelError: A decoder of less than 2 layers, or a depth that leaves none of them.
        DataError: A map of another shape, or one that lacks a distance.
        OptionError: A tolerance out of range.
    """

    num_layers: int
    distance: np.ndarray
    tolerance: float
    max_depth: int
    factors: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_layers < 2:
            raise ModelError("a search needs a decoder of 2 layers or more", self.num_layers, "take a larger decoder")
        if not 1 <= self.max_depth < self.num_layers:
            raise ModelError(
                f"a search removes between 1 and {self.num_layers - 1} of {self.num_layers} layers",
                self.max_depth,
                "choose a depth between, or a decoder with more layers",
            )
        if not 0 <= self.tolerance <= MAX_TOLERANCE:
            raise OptionError(
                f"the tolerance of a search is between 0 and {MAX_TOLERANCE:g}",
                self.tolerance,
                "give a fraction such as 0.25",
            )
        if self.distance.shape != (self.num_layers + 1, self.num_layers + 1):
            raise DataError(
                f"a redundancy map of {self.num_layers} layers is {self.num_layers + 1} x {self.num_layers + 1}",
                " x ".join(map(str, self.distance.shape)),
                "compute the map of this decoder",
            )
        starts, ends = np.triu_indices(self.num_layers + 1, k=1)
        bad = ~np.isfinite(self.distance[starts, ends])
        if bad.any():
            start, end = int(starts[bad][0]), int(ends[bad][0])
            raise DataError(
                "a redundancy map has a distance for every block",
                f"{self.distance[start, end]} for start {start} and depth {end - start}",
                "compute the map again, in float32 or wider",
            )

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Every (start, depth) that may be tried, by depth, then by start."""
        return _blocks(self.num_layers, self.max_depth)

    @property
    def block_array(self) -> np.ndarray:
        """The same as an array [Q, 2]."""
        return _block_array(self.num_layers, self.max_depth)

    def distance_of(self, start: int, depth: int) -> float:
        """Return the angular distance over a block."""
        return float(self.distance[start, start + depth])

    def starts(self, depth: int) -> np.ndarray:
        """Return the starts of a depth, the most redundant first, the earlier first among equals."""
        return np.argsort(np.diagonal(self.distance, offset=depth)[: self.num_layers - depth + 1], kind="stable")

    @cached_property
    def excess(self) -> np.ndarray:
        """Return, as [L, L+1] by (start, depth), how many layers deeper a block seems than it is.

        The least distance of each depth is the ruler: a block as far as the best one of n + k layers is, by the map,
        k layers worse than the best of its own depth n, and L layers at most.
        """
        depths = np.arange(self.num_layers + 1)
        ruler = np.array([0.0, *(np.diagonal(self.distance, offset=n).min() for n in depths[1:])])
        ruler = np.maximum.accumulate(ruler) + 1e-9 * depths  # strictly increasing, as interpolation wants it
        rate = (ruler[-1] - ruler[-2]) or 1e-9
        starts, ends = np.triu_indices(self.num_layers + 1, k=1)
        distances = self.distance[starts, ends]
        beyond = np.maximum(distances - ruler[-1], 0) / max(rate, ruler[-1] / self.num_layers)
        found = np.zeros((self.num_layers, self.num_layers + 1))
        found[starts, ends - starts] = np.interp(distances, ruler, depths) + beyond - (ends - starts)
        return np.clip(found, 0.0, self.num_layers)
