"""What is taken to hold of any decoder before the first look: how the responses of its blocks vary together.

The terms are those of :mod:`slamlab.search.posterior`, in groups; each group has a multiplier there.

Shapes: N looks, Q blocks asked about, F factors; a and b below broadcast to [N, N], [Q, N] or [N].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from slamlab.search.evidence import RUNGS, SearchSpace

# Lengths are shares of the decoder's layers; SLOPE makes responses of them: what removing all layers would add to the
# response. The literature's decoders lose 6 to 44 % of their layers within a tolerance of 25 %.
SLOPE = 8.0
EDGE, EDGE_SD, SLOPE_SD = 0.3, 0.12, 0.45
TRUST, TRUST_SD = 0.5, 0.5  # of the map: layers worse in truth for each layer that a block seems worse
FIELD_SD, PAIR_SD, LENGTH = 0.03, 0.025, 0.12  # of where a block begins and ends
DEPTH_SD, BLOCK_SD = 0.004, 0.006  # of a depth, and of a block, in all cells alike
FACTOR_SD = 0.025
CELL_SD, CELL_SLOPE_SD, CELL_TRUST_SD, CELL_PAIR_SD = 0.02, 0.1, 0.15, 0.01
OWN_SD = 0.012  # of a block in one cell
RUNG_SD, RUNG_SLOPE_SD, RUNG_TRUST_SD, RUNG_PAIR_SD, RUNG_CELL_SD = 0.125, 0.5, 0.5, 0.06, 0.04
RUNG_OWN_SD = 0.04  # of a block in one cell: what a cheap rung shows beside the truth and its neighbours
TEST_SHARED = 0.5  # of the test set's variance: what the looks at all blocks of a cell have in common

GROUPS = ("field", "factor", "cell", "own", "rung", "rung_own", "seed")
"""What has a multiplier of its own: of the covariance of latent responses, and of the noise of a heal's seed."""
ANY = -1
"""Stands for all cells."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Where the process is known, or asked about.

    Attributes:
        cell: Number of the cell [N], or [1] where it is the same for all.
        rung: Index into `RUNGS`, likewise.
        start, depth: The block, as shares of the decoder's layers [N].
        excess: How much deeper the map makes the block seem, as a share [N].
        factors: Codes of the cell's factors [F, N] or [F, 1].
    """

    cell: np.ndarray
    rung: np.ndarray
    start: np.ndarray
    depth: np.ndarray
    excess: np.ndarray
    factors: np.ndarray

    def along(self, axis: int) -> Points:
        """Return the points as a column (axis -1) or as a row (axis -2), which broadcast to a matrix."""
        at = (..., slice(None), None) if axis == -1 else (..., None, slice(None))
        return Points(**{field.name: getattr(self, field.name)[at] for field in fields(self)})

    def and_(self, others: Points) -> Points:
        """Return these points, then others."""
        both = {field.name: (getattr(self, field.name), getattr(others, field.name)) for field in fields(self)}
        return Points(**{name: np.concatenate(pair, axis=-1) for name, pair in both.items()})

    @property
    def mean(self) -> np.ndarray:
        """Prior mean of the latent responses [N]."""
        return SLOPE * (self.depth - EDGE + TRUST * self.excess)


def covariances(a: Points, b: Points) -> dict[str, np.ndarray]:
    """Return the prior covariance of latent responses by the groups that there are, without multipliers."""
    line = (a.depth - EDGE) * (b.depth - EDGE)
    trust = a.excess * b.excess
    begin, end = _near(a.start, b.start), _near(a.start + a.depth, b.start + b.depth)
    pair = begin * end
    cell = a.cell == b.cell
    depth = a.depth == b.depth
    block = depth & (a.start == b.start)
    cheap = (a.rung == b.rung) & (a.rung < len(RUNGS) - 1)
    found = {
        "fixed": EDGE_SD**2 + SLOPE_SD**2 * line + TRUST_SD**2 * trust,
        "field": FIELD_SD**2 * (begin + end) + PAIR_SD**2 * pair + DEPTH_SD**2 * depth + BLOCK_SD**2 * block,
        "factor": FACTOR_SD**2 * num_shared(a.factors, b.factors),
        "cell": cell * (CELL_SD**2 + CELL_SLOPE_SD**2 * line + CELL_TRUST_SD**2 * trust + CELL_PAIR_SD**2 * pair),
        "own": OWN_SD**2 * (cell & block),
    }
    if cheap.any():
        found["rung"] = cheap * (
            RUNG_SD**2
            + RUNG_SLOPE_SD**2 * line
            + RUNG_TRUST_SD**2 * trust
            + RUNG_PAIR_SD**2 * pair
            + RUNG_CELL_SD**2 * cell
        )
        found["rung_own"] = RUNG_OWN_SD**2 * (cheap & cell & block)
    for covariance in found.values():
        covariance *= SLOPE**2
    return found


def weigh(groups: Mapping[str, Any], scale: Mapping[str, float]) -> np.ndarray:
    """Return the covariance that its groups make up with their multipliers; groups that are not there count as 0."""
    return groups["fixed"] + sum(scale[name] ** 2 * groups[name] for name in GROUPS if name in groups)


def _near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how much places in the decoder say about each other, from 0 to 1 [...]."""
    places, which = np.unique(a, return_inverse=True)  # there are as many as layers, and points by the hundred
    if a.ndim == 2 and len(places) < len(a):
        near: np.ndarray = np.exp(-0.5 * ((places[:, None] - b) / LENGTH) ** 2)[which.ravel()]
        return near
    return np.exp(-0.5 * ((a - b) / LENGTH) ** 2)


def num_shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how many of the factors [F, ...] two points share."""
    shared = np.zeros(np.broadcast_shapes(a.shape[1:], b.shape[1:]))
    for one, other in zip(a, b, strict=True):
        shared += one == other
    return shared


def kinship(a: Points, b: Points) -> np.ndarray:
    """Return which share of the test set's error two looks have in common."""
    alike = (a.cell == b.cell) & (a.rung == b.rung)
    same = alike & (a.start == b.start) & (a.depth == b.depth)
    return TEST_SHARED * alike + (1 - TEST_SHARED) * same


@lru_cache(maxsize=64)
def geometry(spaces: tuple[SearchSpace, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the excess [cells, L, L+1] of cells' blocks, and the codes [F, cells] of what the cells are."""
    names = sorted({name for space in spaces for name in space.factors})
    values = [[space.factors.get(name, "") for name in names] for space in spaces]
    codes = {value: code for code, value in enumerate(sorted({value for row in values for value in row}))}
    factors = np.array([[codes[value] for value in row] for row in values], dtype=int).T
    return np.stack([space.excess for space in spaces]), factors
