"""What the looks tell of full heals, worked out once for all cells of a decoder as far as it goes.

Cells ask about the same blocks. What a block's place says is the same for all of them; what a cell adds is of low rank.
So a question about every block of a cell is a few products, where the posterior itself would solve for each of them.

Shapes: N looks, Q blocks, M looks at the cell that is asked about, L layers, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular

from slamlab.search.evidence import RUNGS
from slamlab.search.prior import (
    ANY,
    CELL_TRUST_SD,
    FACTOR_SD,
    SLOPE,
    TRUST,
    TRUST_SD,
    Points,
    covariances,
    kinship,
    num_shared,
    weigh,
)

Blocks = Sequence[tuple[int, int]] | np.ndarray
"""Start and depth of each [Q, 2]."""


@dataclass(frozen=True, kw_only=True)
class OfCell:
    """What the looks tell of full heals of blocks of a cell.

    The whitened covariance [N] of a block with the looks is the common one plus a combination of 2 + M vectors: what
    the looks' maps say, what their factors say, and each look at the cell. So there is no need to work it out.

    Attributes:
        mine: Which looks are at the cell [M].
        mean, prior: Of the latent responses, and their variance before any look [Q].
        kinship: Which share of the test set's error a heal has in common with the looks at the cell [Q, M].
        length: Squared length of the common covariance [Q].
        along: Its products with the vectors [Q, 2 + M].
        inner: The vectors' products with each other [2 + M, 2 + M].
        part: How much there is of each vector [Q, 2 + M].
    """

    mine: np.ndarray
    mean: np.ndarray
    prior: np.ndarray
    kinship: np.ndarray
    length: np.ndarray
    along: np.ndarray
    inner: np.ndarray
    part: np.ndarray

    @property
    def left(self) -> np.ndarray:
        """Variances of the latent responses, given the looks [Q]."""
        return np.maximum(self.prior - self.product(self.part, self.part), 1e-10)

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the products [Q] of whitened covariances with these parts [Q, 2 + M] of the vectors."""
        return self.length + np.einsum("ij,ij->i", self.along, a + b) + np.einsum("ij,ij->i", a @ self.inner, b)


class Common:
    """What the looks tell of full heals of every block of a decoder, whatever the cell that is asked about.

    Args:
        excess: How much deeper maps make blocks seem, by cell [cells, L, L+1].
        factors: Codes of cells' factors [F, cells].
        looks: Where the looks are [N].
        factor: Of the covariance of what they show, lower triangular [N, N].
        weights: The inverse of that covariance times what they show beyond the prior mean [N].
        scale: The groups' multipliers.
    """

    def __init__(
        self,
        *,
        excess: np.ndarray,
        factors: np.ndarray,
        looks: Points,
        factor: np.ndarray,
        weights: np.ndarray,
        scale: Mapping[str, float],
    ) -> None:
        self._excess, self._factors, self._looks, self._weights, self._scale = excess, factors, looks, weights, scale
        self._num_layers = num_layers = excess.shape[1]
        depth, start = np.meshgrid(np.arange(1, num_layers + 1), np.arange(num_layers), indexing="ij")
        is_block = start + depth <= num_layers
        start, depth = start[is_block], depth[is_block]
        self._row = np.full((num_layers, num_layers + 1), len(start))  # of a block below, and beyond for what is none
        self._row[start, depth] = np.arange(len(start))
        blocks = Points(
            cell=np.array([ANY]),
            rung=np.array([len(RUNGS) - 1]),
            start=start / num_layers,
            depth=depth / num_layers,
            excess=np.zeros(len(start)),
            factors=np.full((len(factors), 1), ANY),
        )
        column, row = blocks.along(-1), replace(looks, cell=np.array([ANY])).along(-2)
        groups = covariances(column, row)  # what there is of `cell` and `own` is for looks at the cell alone
        cross = weigh({name: groups[name] for name in ("fixed", "field")}, scale)
        self._inverse = solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)  # [N, N]
        self._half = cross @ self._inverse.T  # whitened covariance with the looks [Q, N]
        self._length = np.einsum("ij,ij->i", self._half, self._half)
        self._by_map = (SLOPE * TRUST_SD) ** 2 * self._inverse @ looks.excess
        self._mean = blocks.mean + cross @ weights
        self._prior = weigh(covariances(blocks, blocks), scale)  # a point shares all factors with itself
        self._own = weigh({"fixed": 0.0, "cell": groups["cell"], "own": groups["own"]}, scale)
        self._kinship = kinship(column, row)

    def of_cell(self, cell: int, blocks: Blocks) -> OfCell:
        """Return what the looks tell of full heals of blocks of a cell."""
        looks, weights = self._looks, self._weights
        start, depth = np.asarray(blocks, dtype=int).reshape(-1, 2).T
        rows, excess = self._row[start, depth], self._excess[cell, start, depth] / self._num_layers
        trust, own_trust = (SLOPE * TRUST_SD) ** 2, (self._scale["cell"] * SLOPE * CELL_TRUST_SD) ** 2
        alike = num_shared(self._factors[:, [cell]], looks.factors)
        by_factor = (self._scale["factor"] * SLOPE * FACTOR_SD) ** 2 * alike
        mine = np.flatnonzero(looks.cell == cell)
        of_mine = np.ix_(rows, mine)
        own = self._own[of_mine] + own_trust * np.multiply.outer(excess, looks.excess[mine])
        vectors = np.vstack([self._by_map, self._inverse @ by_factor, self._inverse[:, mine].T])
        shift = excess * (SLOPE * TRUST + trust * looks.excess @ weights) + by_factor @ weights + own @ weights[mine]
        return OfCell(
            mine=mine,
            mean=self._mean[rows] + shift,
            prior=self._prior[rows] + (trust + own_trust) * excess**2,
            kinship=self._kinship[of_mine],
            length=self._length[rows],
            along=(self._half @ vectors.T)[rows],
            inner=vectors @ vectors.T,
            part=np.column_stack([excess, np.ones(len(rows)), own]),
        )
