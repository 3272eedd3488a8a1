"""Does a cheap rung rank blocks as the full heal does?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from slamlab.search.evidence import Look, Rung

NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a cheap rung and the full heal rank the blocks that both have looked at.

    Attributes:
        rung: The cheap rung.
        num_blocks: Blocks that both have looked at, over all cells.
        num_pairs: Pairs of such blocks of one cell.
        tau: Kendall's tau over these pairs: 1 where both rank every pair alike, -1 where never; None without a pair.
        ci95: Percentile interval by bootstrap over cells' blocks; None without a pair.
    """

    rung: Rung
    num_blocks: int
    num_pairs: int
    tau: float | None
    ci95: tuple[float, float] | None


def rank_agreement(looks: Sequence[Sequence[Look]], rung: Rung, seed: int = 0) -> Agreement:
    """Return how well a rung ranks blocks.

    Only blocks of one cell are compared: cells differ in how much they bear, on every rung alike, and pairs across them
    would credit the rung with knowing that. A tie counts for neither side.

    Args:
        looks: Looks by cell.
        rung: The cheap rung.
        seed: Of the bootstrap.

    Source: Kendall 1938, "A new measure of rank correlation".
    """
    cells = [_pairs_of(own, rung) for own in looks]
    num_blocks = sum(map(len, cells))
    signs = [_signs(cell) for cell in cells]
    num_pairs = sum(len(cell) * (len(cell) - 1) // 2 for cell in cells)
    if num_pairs == 0:
        return Agreement(rung=rung, num_blocks=num_blocks, num_pairs=0, tau=None, ci95=None)
    draw = np.random.default_rng(seed)
    resampled = []
    for _ in range(NUM_RESAMPLES):
        concordance, pairs = 0.0, 0.0
        for matrix in signs:
            weights = np.bincount(draw.integers(len(matrix), size=len(matrix)), minlength=len(matrix))
            weight = np.triu(np.outer(weights, weights), 1)
            concordance, pairs = concordance + float((weight * matrix).sum()), pairs + float(weight.sum())
        resampled.append(concordance / pairs if pairs else math.nan)
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    tau = sum(float(np.triu(matrix, 1).sum()) for matrix in signs) / num_pairs
    return Agreement(rung=rung, num_blocks=num_blocks, num_pairs=num_pairs, tau=tau, ci95=(float(low), float(high)))


def _pairs_of(looks: Sequence[Look], rung: Rung) -> list[tuple[float, float]]:
    """Return (cheap, full) mean degradations of the blocks of a cell that both rungs have looked at."""
    found: dict[tuple[int, int], dict[str, list[float]]] = {}
    for look in looks:
        if look.state == "complete" and look.rung in (rung, "full"):
            value = math.inf if look.degradation is None else look.degradation
            found.setdefault((look.start, look.depth), {}).setdefault(look.rung, []).append(value)
    return [(fmean(by[rung]), fmean(by["full"])) for by in found.values() if len(by) == 2]


def _signs(pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return [B, B]: 1 where both rank a pair of blocks alike, -1 where otherwise, 0 for a tie."""
    signs = np.zeros((len(pairs),) * 2)
    for i, j in combinations(range(len(pairs)), 2):
        (cheap_i, full_i), (cheap_j, full_j) = pairs[i], pairs[j]
        signs[i, j] = _sign(cheap_i, cheap_j) * _sign(full_i, full_j)
    return signs


def _sign(a: float, b: float) -> int:
    return (a > b) - (a < b)
