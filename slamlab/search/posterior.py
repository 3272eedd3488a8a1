"""What all looks at one decoder say about every block of it: a Gaussian process over its cells, blocks and rungs.

A degradation enters as its response g = log((degradation + C) / (tolerance + C)): 0 at the tolerance, about linear in
the number of layers removed, with noise of about one size. The latent response of a full heal is a line in the share of
layers removed and in the excess that the redundancy map gives the block, plus smooth functions of where the block
begins and ends, plus effects of what cells have in common, plus what is a cell's own: most of what the cells (encoder,
task, language) of one decoder show they share (coregionalisation; Bonilla et al. 2007). A cheaper rung shows that same
function plus a bias of its own (Kennedy and O'Hagan 2000).

How rough the functions are, how alike the cells, how noisy the heals and how misleading the cheap rungs is learned:
each group of terms has a multiplier, found by maximum a posteriori. A response implausibly bad against all others (a
heal that diverged and still gave a number) has its noise widened until it no longer is.

The noise has two parts. That of the test set is shared: wholly by the looks at one block, in part by those of one cell.
That of a heal's seed is not, and only it is averaged away by healing a block again.

Shapes: N looks, Q blocks asked about, F factors; a and b below broadcast to [N, N], [Q, N] or [N].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import ndtr

from slamlab.search.evidence import RUNGS, Look, Rung, SearchSpace

C = 0.05
"""Keeps the logarithm finite where nothing is lost, and the response linear where little is."""
MAX_DEGRADATION = 10.0
"""Beyond it a block is hopeless, and how hopeless tells nothing."""

# The prior. Its lengths are shares of the decoder's layers; SLOPE makes responses of them: what removing all layers
# would add to the response. The literature's decoders lose 6 to 44 % of their layers within a tolerance of 25 %.
SLOPE = 8.0
EDGE, EDGE_SD, SLOPE_SD = 0.3, 0.12, 0.45
TRUST, TRUST_SD = 0.5, 0.5  # of the map: layers worse in truth for each layer that a block seems worse
FIELD_SD, PAIR_SD, LENGTH = 0.03, 0.025, 0.12  # of where a block begins and ends
DEPTH_SD, BLOCK_SD = 0.004, 0.006  # of a depth, and of a block, in all cells alike
FACTOR_SD = 0.025
CELL_SD, CELL_SLOPE_SD, CELL_TRUST_SD, CELL_PAIR_SD = 0.02, 0.1, 0.15, 0.01
OWN_SD = 0.004  # of a block in one cell
RUNG_SD, RUNG_SLOPE_SD, RUNG_TRUST_SD, RUNG_PAIR_SD, RUNG_CELL_SD = 0.125, 0.5, 0.5, 0.06, 0.04

SEED_SD = 0.01  # of a degradation at the tolerance; beside it a seed is taken to matter as much as the test set
TYPICAL_SE = 0.03  # of a degradation at the tolerance, where no look has told yet
TEST_SHARED = 0.5  # of the test set's variance: what the looks at all blocks of a cell have in common

GROUPS = ("field", "factor", "cell", "own", "rung", "seed")
STEPS = (0.35, 0.6, 1.0, 1.7, 2.8)
LOG_SD = 0.7  # of a multiplier, a priori
OUTLIER_Z = 3.5
MAX_WIDENINGS = 10
MAX_LOOKS, MAX_FITTED = 300, 150
"""Looks that are taken into account, and that multipliers are learned from: those nearest to the tolerance."""

Row = tuple[int, Look]
Block = tuple[int, int]


def response(degradation: float, tolerance: float) -> float:
    """Return the response g of a degradation: 0 at the tolerance, above 0 where the block does harm."""
    return math.log((_held(degradation) + C) / (tolerance + C))


def degradation_of(g: float, tolerance: float) -> float:
    """Return the degradation of a response."""
    return min(math.exp(g) * (tolerance + C) - C, MAX_DEGRADATION)


def _held(degradation: float | None) -> float:
    """Return a degradation inside what responses can tell apart; None is unbounded."""
    return MAX_DEGRADATION if degradation is None else min(max(degradation, -C / 2), MAX_DEGRADATION)


@dataclass(frozen=True, kw_only=True)
class Points:
    """Where the process is known, or asked about.

    Attributes:
        cell: Number of the cell [N].
        rung: Index into `RUNGS` [N].
        start, depth: The block, as shares of the decoder's layers [N].
        excess: How much deeper the map makes the block seem, as a share [N].
        factors: Codes of the cell's factors [N, F].
    """

    cell: np.ndarray
    rung: np.ndarray
    start: np.ndarray
    depth: np.ndarray
    excess: np.ndarray
    factors: np.ndarray

    def along(self, axis: int) -> Points:
        """Return the points with a new axis, so that two sets of them broadcast to a matrix."""
        return Points(**{field.name: np.expand_dims(getattr(self, field.name), axis) for field in fields(self)})

    @property
    def mean(self) -> np.ndarray:
        """Prior mean of the latent responses [N]."""
        return SLOPE * (self.depth - EDGE + TRUST * self.excess)


def covariances(a: Points, b: Points) -> dict[str, np.ndarray]:
    """Return the prior covariance of latent responses by group, without the multipliers."""
    line = (a.depth - EDGE) * (b.depth - EDGE)
    trust = a.excess * b.excess
    begin = np.exp(-0.5 * ((a.start - b.start) / LENGTH) ** 2)
    end = np.exp(-0.5 * ((a.start + a.depth - b.start - b.depth) / LENGTH) ** 2)
    pair = begin * end
    cell = a.cell == b.cell
    depth = a.depth == b.depth
    block = depth & (a.start == b.start)
    cheap = (a.rung == b.rung) & (a.rung < len(RUNGS) - 1)
    found = {
        "fixed": EDGE_SD**2 + SLOPE_SD**2 * line + TRUST_SD**2 * trust,
        "field": FIELD_SD**2 * (begin + end) + PAIR_SD**2 * pair + DEPTH_SD**2 * depth + BLOCK_SD**2 * block,
        "factor": FACTOR_SD**2 * (a.factors == b.factors).sum(axis=-1),
        "cell": cell * (CELL_SD**2 + CELL_SLOPE_SD**2 * line + CELL_TRUST_SD**2 * trust + CELL_PAIR_SD**2 * pair),
        "own": OWN_SD**2 * (cell & block),
        "rung": cheap
        * (
            RUNG_SD**2
            + RUNG_SLOPE_SD**2 * line
            + RUNG_TRUST_SD**2 * trust
            + RUNG_PAIR_SD**2 * pair
            + RUNG_CELL_SD**2 * cell
        ),
    }
    return {group: SLOPE**2 * covariance for group, covariance in found.items()}


def kinship(a: Points, b: Points) -> np.ndarray:
    """Return which share of the test set's error two looks have in common."""
    alike = (a.cell == b.cell) & (a.rung == b.rung)
    same = alike & (a.start == b.start) & (a.depth == b.depth)
    return TEST_SHARED * alike + (1 - TEST_SHARED) * same


class Posterior:
    """The process given looks.

    Args:
        spaces: The decoder's cells.
        looks: Looks by cell. Running ones tell where there will be knowledge, failed ones nothing.
    """

    def __init__(self, spaces: Sequence[SearchSpace], looks: Sequence[Sequence[Look]]) -> None:
        self._spaces, self._num_layers = spaces, spaces[0].num_layers
        names = sorted({name for space in spaces for name in space.factors})
        values = [[space.factors.get(name, "") for name in names] for space in spaces]
        codes = {value: code for code, value in enumerate(sorted({value for row in values for value in row}))}
        self._factors = np.array([[codes[value] for value in row] for row in values], dtype=int).reshape(
            len(spaces), -1
        )
        rows = [(cell, look) for cell, own in enumerate(looks) for look in own]
        complete = [row for row in rows if row[1].state == "complete"]
        running = [row for row in rows if row[1].state == "running"]
        self.scale = dict.fromkeys(GROUPS, 1.0)
        self._extra = np.zeros(0)
        self._load(self._nearest(complete))
        if complete:
            self._learn()
        if running:
            self._load([*self._rows, *self._expected(running)])

    def p_within(self, cell: int, blocks: Sequence[Block]) -> np.ndarray:
        """Return the probability [Q] that the degradation of blocks of a cell is within its tolerance."""
        expected, variance = self.predict(cell, blocks)
        return ndtr(-expected / np.sqrt(variance))

    def predict(self, cell: int, blocks: Sequence[Block], rung: Rung = "full") -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance [Q] of the latent responses of blocks of a cell."""
        points = self._points_of([(cell, Look(start=start, depth=depth, rung=rung)) for start, depth in blocks])
        expected, half = self._given_looks(points)
        return expected, self._left(points, half)

    def outlook(self, cell: int, blocks: Sequence[Block]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what one more full heal of each block would tell.

        Returns:
            Means and variances of the latent responses [Q], their covariances [Q] with what the heal will show, and the
            variances [Q] of what it will show.
        """
        points = self._points_of([(cell, Look(start=start, depth=depth)) for start, depth in blocks])
        test, seed = self.noise(cell)
        expected, half = self._given_looks(points)
        shared = np.minimum(test, self._test_variance) * kinship(points.along(1), self._points.along(0))  # [Q, N]
        seen = half + solve_triangular(self._factor, shared.T, lower=True, check_finite=False)
        prior = self._weigh(covariances(points, points))
        together = prior - np.einsum("ij,ij->j", half, seen)
        shown = prior + test + seed - np.einsum("ij,ij->j", seen, seen)
        return expected, self._left(points, half), together, np.maximum(shown, 1e-10)

    def joint(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        """Return means [Q] and covariance [Q, Q] of the latent responses of (cell, look) pairs, on their rungs."""
        points = self._points_of(rows)
        expected, half = self._given_looks(points)
        prior = self._weigh(covariances(points.along(1), points.along(0)))
        return expected, prior - half.T @ half

    def noise(self, cell: int, rung: Rung = "full") -> tuple[float, float]:
        """Return the variances that test set and seed will give a response, at the tolerance, of a look to come."""
        tolerance, mine = self._spaces[cell].tolerance, self._points.rung == RUNGS.index(rung)
        known = self._se[mine & (self._points.cell == cell)]
        known = known if len(known) else self._se[mine]
        se = float(np.median(known)) if len(known) else TYPICAL_SE
        return (se / (tolerance + C)) ** 2, self.scale["seed"] ** 2 * _seed_variance(tolerance, tolerance, se)

    def _points_of(self, rows: Sequence[Row]) -> Points:
        cell = np.array([cell for cell, _ in rows], dtype=int)
        excess = [self._spaces[cell].excess[look.start, look.depth] for cell, look in rows]
        return Points(
            cell=cell,
            rung=np.array([RUNGS.index(look.rung) for _, look in rows], dtype=int),
            start=np.array([look.start for _, look in rows]) / self._num_layers,
            depth=np.array([look.depth for _, look in rows]) / self._num_layers,
            excess=np.array(excess) / self._num_layers,
            factors=self._factors[cell],
        )

    def _nearest(self, rows: Sequence[Row]) -> list[Row]:
        """Return as many rows as are taken into account, in their order."""
        far = np.abs([response(_held(look.degradation), self._spaces[cell].tolerance) for cell, look in rows])
        return [rows[i] for i in sorted(np.argsort(far, kind="stable")[:MAX_LOOKS])]

    def _load(self, rows: list[Row]) -> None:
        """Take up rows; what was widened of the first ones stays so."""
        self._rows, self._points = rows, self._points_of(rows)
        self._tolerance = np.array([self._spaces[cell].tolerance for cell, _ in rows])
        self._degradation = np.array([_held(look.degradation) for _, look in rows])
        y = np.array([response(*pair) for pair in zip(self._degradation, self._tolerance, strict=True)])
        self._residual = y - self._points.mean
        # Errors grow with the degradation, about as 1 + degradation: kept as they would be at the tolerance.
        self._se = np.array([look.se for _, look in rows]) * (1 + self._tolerance) / (1 + self._degradation)
        self._extra = np.concatenate([self._extra, np.zeros(len(rows) - len(self._extra))])
        self._groups = covariances(self._points.along(1), self._points.along(0))
        self._kinship = kinship(self._points.along(1), self._points.along(0))
        self._set_noise(self._degradation)
        # Once more with the noise of the degradation that all looks together expect, not of the one that happened to
        # be seen: luck must not make a look seem sure or unsure.
        latent = self._weigh(self._groups) @ self._weights + self._points.mean
        self._set_noise(np.array([degradation_of(*pair) for pair in zip(latent, self._tolerance, strict=True)]))

    def _set_noise(self, degradation: np.ndarray) -> None:
        """Work out the noise of looks [N] whose true degradations are these, and solve for the weights."""
        degradation = np.maximum(degradation, -C / 2)
        se = self._se * (1 + degradation) / (1 + self._tolerance)
        self._test_variance = (se / (degradation + C)) ** 2
        self._seed = _seed_variance(degradation, self._tolerance, se)
        # Of two errors in common the smaller is: with the product, equal errors of unequal size would cancel out.
        self._test = np.minimum.outer(self._test_variance, self._test_variance) * self._kinship
        self._solve()

    def _solve(self) -> None:
        self._factor = np.linalg.cholesky(self._covariance(self.scale, np.arange(len(self._rows))))
        self._weights = cho_solve((self._factor, True), self._residual, check_finite=False)

    def _learn(self) -> None:
        """Find the multipliers, and widen what is implausibly bad, until nothing is."""
        for _ in range(MAX_WIDENINGS):
            self.scale = self._fit()
            self._solve()
            if not self._widen():
                break

    def _weigh(self, groups: Mapping[str, np.ndarray]) -> np.ndarray:
        return groups["fixed"] + sum(self.scale[name] ** 2 * groups[name] for name in GROUPS if name in groups)

    def _covariance(self, scale: Mapping[str, float], picked: np.ndarray) -> np.ndarray:
        """Return the covariance of the observed responses of some rows."""
        cut = np.ix_(picked, picked)
        found = self._groups["fixed"][cut] + self._test[cut]
        for name in GROUPS[:-1]:
            found += scale[name] ** 2 * self._groups[name][cut]
        found[np.diag_indices_from(found)] += scale["seed"] ** 2 * self._seed[picked] + self._extra[picked] + 1e-8
        return found

    def _fit(self) -> dict[str, float]:
        """Return the multipliers of greatest posterior probability, on a grid, one after the other, twice."""
        far = np.abs(self._residual + self._points.mean)
        picked = np.sort(np.argsort(far, kind="stable")[:MAX_FITTED])
        residual = self._residual[picked]

        def objective(scale: Mapping[str, float]) -> float:
            factor, _ = cho_factor(self._covariance(scale, picked), lower=True, check_finite=False)
            white = solve_triangular(factor, residual, lower=True, check_finite=False)
            prior = sum((math.log(value) / LOG_SD) ** 2 for value in scale.values())
            return -0.5 * float(white @ white) - float(np.log(np.diag(factor)).sum()) - 0.5 * prior

        scale = dict.fromkeys(GROUPS, 1.0)
        best = objective(scale)
        groups = [name for name in GROUPS if name != "rung" or (self._points.rung < len(RUNGS) - 1).any()]
        for _ in range(2):
            before = dict(scale)
            for group in groups:
                for value in STEPS:
                    if value != scale[group]:
                        tried = {**scale, group: value}
                        if (found := objective(tried)) > best + 1e-9:
                            best, scale = found, tried
            if scale == before:
                break
        return scale

    def _widen(self) -> bool:
        """Widen the noise of the looks that are implausibly bad given all others; say whether there were any."""
        inverse = cho_solve((self._factor, True), np.eye(len(self._rows)), check_finite=False)
        variance = 1 / np.diag(inverse)
        surprise = self._weights * variance  # what a look says, less what the others expect of it
        z = surprise / np.sqrt(variance)
        odd = z >= max(OUTLIER_Z, 0.7 * z.max())
        self._extra = self._extra + np.where(odd, surprise**2, 0.0)
        if odd.any():
            self._solve()
        return bool(odd.any())

    def _expected(self, running: Sequence[Row]) -> list[Row]:
        """Return running looks as if they had shown what is expected of them."""
        expected, _ = self._given_looks(self._points_of(running))
        found = []
        for g, (cell, look) in zip(expected, running, strict=True):
            tolerance = self._spaces[cell].tolerance
            degradation = degradation_of(g, tolerance)
            test, _ = self.noise(cell, look.rung)
            se = math.sqrt(test) * (tolerance + C) * (1 + degradation) / (1 + tolerance)
            found.append((cell, replace(look, state="complete", degradation=degradation, se=se)))
        return found

    def _given_looks(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the means [Q] of latent responses, and the looks' whitened covariance [N, Q] with them."""
        cross = self._weigh(covariances(points.along(1), self._points.along(0)))
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        return points.mean + cross @ self._weights, half

    def _left(self, points: Points, half: np.ndarray) -> np.ndarray:
        """Return the variances [Q] that the looks leave."""
        return np.maximum(self._weigh(covariances(points, points)) - np.einsum("ij,ij->j", half, half), 1e-10)


def _seed_variance(degradation: np.ndarray | float, tolerance: np.ndarray | float, se: np.ndarray | float):
    """Return the variance that a heal's seed gives a response, a priori."""
    sd = SEED_SD * (1 + degradation) / (1 + tolerance)
    return (sd**2 + se**2) / (degradation + C) ** 2
