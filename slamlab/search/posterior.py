"""What all looks at one decoder say about every block of it: a Gaussian process over its cells, blocks and rungs.

A degradation enters as its response g = log((degradation + C) / (tolerance + C)): 0 at the tolerance, about linear in
the number of layers removed. What a look errs in by about one size is the logarithm u of its ratio to the base,
log((1 + degradation) / (1 + tolerance)); the response is taken to follow it by the line through both at the tolerance
and at the degradation that all looks together expect. The latent response of a full heal is a line in the share of
layers removed and in the excess that the redundancy map gives the block, plus smooth functions of where the block
begins and ends, plus effects of what cells have in common, plus what is a cell's own: most of what the cells (encoder,
task, language) of one decoder show they share (coregionalisation; Bonilla et al. 2007). A cheaper rung shows that same
function plus a bias of its own (Kennedy and O'Hagan 2000).

How rough the functions are, how alike the cells, how noisy the heals and how misleading the cheap rungs is learned:
each group of terms has a multiplier, found by maximum a posteriori. A response implausibly bad against all others (a
heal that diverged and still gave a number) has its noise widened until it no longer is.

The noise has two parts. That of the test set is shared: wholly by the looks at one block, in part by those of one cell.
That of a heal's seed is not, and only it is averaged away by healing a block again.

Shapes: N looks, Q blocks asked about.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtri, dtrtrs
from scipy.special import ndtr

from slamlab.search.common import Blocks, Common
from slamlab.search.evidence import RUNGS, Look, Rung, SearchSpace, State
from slamlab.search.prior import ANY, GROUPS, Points, covariances, geometry, kinship, weigh
from slamlab.search.responses import MAX_DEGRADATION, C, degradation_of, held, response, secant
from slamlab.search.threads import on_one_thread

SEED_SD = 0.008  # of u; beside it a seed is taken to matter as much as the test set,
MAX_SEED_SD = 0.1  # but for a test set that tells little
TYPICAL_SE = 0.024  # of u, where no look has told yet

STEPS = (0.35, 0.6, 1.0, 1.7, 2.8)
LOG_SD = 0.7  # of a multiplier, a priori
OUTLIER_Z = 3.5
MAX_WIDENINGS = 10
NUGGET = 1e-8
NUM_NEAREST, OWN_LOOKS, MAX_LOOKS = 240, 4, 1000
"""Looks that are taken into account: those nearest to the tolerance, some of every cell though, and at most in all.

Many looks far from the tolerance, where the model is less true, would count for more than the few that matter. A cell
whose looks are left out learns nothing from its heals, and asks for more of them until it may have none.
"""
MAX_FITTED = 120
"""Looks that multipliers are learned from: the nearest of these."""

Row = tuple[int, Look]


class Posterior:
    """The process given looks.

    Args:
        spaces: The decoder's cells.
        looks: Looks by cell. Running ones tell where there will be knowledge, failed ones nothing.
    """

    _points: Points  # of the looks
    _test_variance: np.ndarray  # of the looks' responses [N], and the seed's part of it, without its multiplier
    _seed: np.ndarray
    _factor: np.ndarray  # of the covariance of the responses [N, N], and the inverse of that covariance times
    _weights: np.ndarray  # what they show beyond the prior mean [N]
    _common: Common | None  # once it is asked for

    @on_one_thread
    def __init__(self, spaces: Sequence[SearchSpace], looks: Sequence[Sequence[Look]]) -> None:
        self._spaces, self._num_layers = spaces, spaces[0].num_layers
        self._excess, self._factors = geometry(tuple(spaces))
        self._typical: dict[tuple[int, Rung], float] = {}
        complete = _in_state(looks, "complete")
        self.scale = dict.fromkeys(GROUPS, 1.0)
        self._load(self._nearest(complete))
        if complete:
            self._learn()
        del self._groups, self._kinship  # large, and of no more use
        self._expect(_in_state(looks, "running"))

    @on_one_thread
    def expecting(self, looks: Sequence[Sequence[Look]]) -> Posterior:
        """Return what is known where the running ones of these looks, by cell, are under way as well."""
        found = copy.copy(self)
        found._expect(_in_state(looks, "running"))
        return found

    def p_within(self, cell: int, blocks: Blocks) -> np.ndarray:
        """Return the probability [Q] that the degradation of blocks of a cell is within its tolerance."""
        expected, variance = self.predict(cell, blocks)
        return ndtr(-expected / np.sqrt(variance))

    @on_one_thread
    def predict(self, cell: int, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance [Q] of the latent responses of full heals of blocks of a cell."""
        seen = self._known.of_cell(cell, blocks)
        return seen.mean, seen.left

    @on_one_thread
    def outlook(self, cell: int, blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what one more full heal of each block would tell.

        Returns:
            Means and variances of the latent responses [Q], their covariances [Q] with what the heal will show, and the
            variances [Q] of what it will show.
        """
        seen = self._known.of_cell(cell, blocks)
        test, seed = self.noise(cell)
        shown = seen.part.copy()  # of what the heal will show, which has its error in common with the cell's looks
        shown[:, 2:] += np.minimum(test, self._test_variance[seen.mine]) * seen.kinship
        together = seen.prior - seen.product(seen.part, shown)
        variance = seen.prior + test + seed - seen.product(shown, shown)
        return seen.mean, seen.left, together, np.maximum(variance, 1e-10)

    @on_one_thread
    def joint(self, rows: Sequence[Row], shown: Sequence[Row] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return means [Q + S] and covariance [Q + S, Q + S] of latent responses, and of what other looks show.

        Args:
            rows: The (cell, look) pairs [Q] whose latent responses are asked for, on their rungs.
            shown: The looks [S] whose responses are, with the errors of test set and seed; none of them is among the
                looks that are known. Complete ones have the noise that their standard errors tell, others a
                typical one.
        """
        points = self._points_of([*rows, *shown])
        expected, half = self._given_looks(points)
        covariance = weigh(covariances(points.along(-1), points.along(-2)), self.scale)
        if shown:
            new, seen = slice(len(rows), None), self._points_of(shown)
            test, seed = np.array([self._noise_of(*pair) for pair in zip(shown, expected[new], strict=True)]).T
            shared = np.minimum.outer(test, self._test_variance) * kinship(seen.along(-1), self._points.along(-2))
            expected[new] += shared @ self._weights
            half[new] += solve_triangular(self._factor, shared.T, lower=True, check_finite=False).T
            covariance[new, new] += np.minimum.outer(test, test) * kinship(seen.along(-1), seen.along(-2))
            covariance[new, new] += np.diag(seed)
        return expected, covariance - half @ half.T

    @on_one_thread
    def shown(self, rows: Sequence[Row]) -> np.ndarray:
        """Return the responses [S] that complete looks show which are not among those that are known."""
        if not rows:
            return np.zeros(0)
        tolerance = np.array([self._spaces[cell].tolerance for cell, _ in rows])
        expected, _ = self._given_looks(self._points_of(rows))
        log_ratio = np.log((1 + _degradations(rows)) / (1 + tolerance))
        return secant(degradation_of(expected, tolerance), tolerance) * log_ratio

    def noise(self, cell: int, rung: Rung = "full") -> tuple[float, float]:
        """Return the variances that test set and seed will give a response, at the tolerance, of a look to come."""
        tolerance = self._spaces[cell].tolerance
        test, seed = _variances(self._typical_se(cell, rung), secant(tolerance, tolerance))
        return test, self.scale["seed"] ** 2 * seed

    def _typical_se(self, cell: int, rung: Rung) -> float:
        """Return the standard error that a look's u would have: the median of its cell's, else of all cells'."""
        if (cell, rung) not in self._typical:
            mine = self._points.rung == RUNGS.index(rung)
            known = self._se[mine if cell == ANY else mine & (self._points.cell == cell)]
            otherwise = TYPICAL_SE if cell == ANY else self._typical_se(ANY, rung)
            self._typical[cell, rung] = median(known.tolist()) if len(known) else otherwise
        return self._typical[cell, rung]

    def _noise_of(self, row: Row, latent: float) -> tuple[float, float]:
        """Return the variances that test set and seed give the response of a look, where this is the latent one."""
        cell, look = row
        if look.state != "complete":
            return self.noise(cell, look.rung)
        tolerance = self._spaces[cell].tolerance
        test, seed = _variances(
            look.se / (1 + held(look.degradation)), secant(degradation_of(latent, tolerance), tolerance)
        )
        return test, self.scale["seed"] ** 2 * seed

    def _points_of(self, rows: Sequence[Row]) -> Points:
        told = [(cell, RUNGS.index(look.rung), look.start, look.depth) for cell, look in rows]
        return self._locate(*np.array(told, dtype=int).reshape(-1, 4).T)

    def _locate(self, cell: np.ndarray, rung: np.ndarray, start: np.ndarray, depth: np.ndarray) -> Points:
        return Points(
            cell=cell,
            rung=rung,
            start=start / self._num_layers,
            depth=depth / self._num_layers,
            excess=self._excess[cell, start, depth] / self._num_layers,
            factors=self._factors[:, cell],
        )

    def _nearest(self, rows: Sequence[Row]) -> list[Row]:
        """Return as many rows as are taken into account, in their order."""
        if len(rows) <= NUM_NEAREST:
            return list(rows)
        tolerance = np.array([self._spaces[cell].tolerance for cell, _ in rows])
        far = np.abs(response(_degradations(rows), tolerance))
        cheap = np.array([look.rung != RUNGS[-1] for _, look in rows])  # of a cell its heals count first
        turn, num_before = np.zeros(len(rows), dtype=int), Counter[int]()
        for i in np.lexsort((far, cheap)).tolist():
            cell, _ = rows[i]
            turn[i] = num_before[cell]
            num_before[cell] += 1
        num = min(max(NUM_NEAREST, int((turn < OWN_LOOKS).sum())), MAX_LOOKS)
        return [rows[i] for i in np.sort(np.lexsort((far, np.minimum(turn, OWN_LOOKS)))[:num])]

    def _load(self, rows: Sequence[Row]) -> None:
        """Take up complete looks."""
        self._tolerance = np.array([self._spaces[cell].tolerance for cell, _ in rows])
        degradation = _degradations(rows)
        self._se = np.minimum([look.se for _, look in rows], MAX_DEGRADATION) / (1 + degradation)
        self._log_ratio = np.log((1 + degradation) / (1 + self._tolerance))
        self._extra = np.zeros(len(rows))
        self._relate(self._points_of(rows))
        self._follow(degradation)
        # Once more by the degradation that all looks together expect, not by the one that happened to be seen: luck
        # must not make a look seem sure or unsure. Again when it is known which looks to believe.
        self._follow(self._expected_degradation())

    def _expected_degradation(self) -> np.ndarray:
        """Return what all looks together expect each one's degradation to be [N]."""
        latent = weigh(self._groups, self.scale) @ self._weights + self._points.mean
        return degradation_of(latent, self._tolerance)

    def _expect(self, running: Sequence[Row]) -> None:
        """Take up running looks as if they showed just what is expected: less is left to know, and no mean moves."""
        if not running:
            return
        points = self._points_of(running)
        tolerance = np.array([self._spaces[cell].tolerance for cell, _ in running])
        expected, _ = self._given_looks(points)
        se = np.array([self._typical_se(cell, look.rung) for cell, look in running])
        test, seed = _variances(se, secant(degradation_of(expected, tolerance), tolerance))
        self._se = np.append(self._se, se)
        self._test_variance = np.append(self._test_variance, test)
        self._typical = {}
        self._weights = np.append(self._weights, np.zeros(len(running)))
        self._points = self._points.and_(points)
        ours, all_ = points.along(-1), self._points.along(-2)
        below = weigh(covariances(ours, all_), self.scale)  # [running, N + running]
        below += np.minimum.outer(test, self._test_variance) * kinship(ours, all_)
        num = len(self._factor)
        own = below[:, num:] + np.diag(self.scale["seed"] ** 2 * seed + NUGGET)
        half = solve_triangular(self._factor, below[:, :num].T, lower=True, check_finite=False).T
        above = np.zeros((num, len(running)))
        self._factor = np.block([[self._factor, above], [half, np.linalg.cholesky(own - half @ half.T)]])
        self._common = None

    def _relate(self, points: Points) -> None:
        """Work out what the looks at points have in common."""
        self._points = points
        self._groups = covariances(points.along(-1), points.along(-2))
        self._kinship = kinship(points.along(-1), points.along(-2))

    def _follow(self, degradation: np.ndarray) -> None:
        """Work out what looks [N] show, and how surely, if these are their true degradations; solve for the weights."""
        slope = secant(degradation, self._tolerance)
        self._residual = slope * self._log_ratio - self._points.mean
        self._test_variance, self._seed = _variances(self._se, slope)
        self._solve()

    def _solve(self) -> None:
        self._factor, self._common = np.linalg.cholesky(self._observed()), None
        self._weights = cho_solve((self._factor, True), self._residual, check_finite=False)

    def _observed(self) -> np.ndarray:
        """Return the covariance [N, N] of the observed responses."""
        covariance = weigh(self._groups, self.scale) + self._test
        covariance[np.diag_indices_from(covariance)] += self.scale["seed"] ** 2 * self._seed + self._extra + NUGGET
        return covariance

    @property
    def _test(self) -> np.ndarray:
        """Covariance [N, N] of the test set's errors."""
        # Of two errors in common the smaller is: with the product, equal errors of unequal size would cancel out.
        return np.minimum.outer(self._test_variance, self._test_variance) * self._kinship

    def _learn(self) -> None:
        """Find the multipliers, and widen what is implausibly bad, until nothing is."""
        for _ in range(MAX_WIDENINGS):
            self.scale = self._fit()
            self._solve()
            if not self._widen():
                break
        self._follow(self._expected_degradation())

    def _fit(self) -> dict[str, float]:
        """Return the multipliers of greatest posterior probability, climbing a grid along one axis after the other."""
        far = np.abs(self._residual + self._points.mean)
        picked = np.sort(np.argsort(far, kind="stable")[:MAX_FITTED])
        steps = np.array(STEPS)
        cut, residual = np.ix_(picked, picked), self._residual[picked]
        names = [name for name in GROUPS[:-1] if name in self._groups] + ["seed"]
        terms = np.stack([self._groups[name][cut] for name in names[:-1]] + [np.diag(self._seed[picked])])
        fixed = self._groups["fixed"][cut] + self._test[cut] + np.diag(self._extra[picked] + NUGGET)

        def objective(scale: np.ndarray) -> float:
            covariance = fixed + np.tensordot(scale**2, terms, axes=1)
            factor, failed = dpotrf(covariance.T, lower=1, clean=0, overwrite_a=1)  # .T: in the order of LAPACK
            if failed:
                return -math.inf
            white, _ = dtrtrs(factor, residual, lower=1)
            prior = np.square(np.log(scale) / LOG_SD).sum()
            return -0.5 * float(white @ white + prior) - float(np.log(np.diag(factor)).sum())

        at = np.full(len(names), STEPS.index(1.0))
        best = objective(steps[at])
        before = at - 1
        while (at != before).any():
            before = at
            for group in range(len(names)):
                for way in (1, -1):
                    while 0 <= at[group] + way < len(STEPS):
                        tried = at + way * (np.arange(len(names)) == group)
                        if (found := objective(steps[tried])) <= best + 1e-9:
                            break
                        best, at = found, tried
        return {**dict.fromkeys(GROUPS, 1.0), **dict(zip(names, steps[at].tolist(), strict=True))}

    def _widen(self) -> bool:
        """Widen the noise of the looks that are implausibly bad given all others; say whether there were any."""
        inverse, _ = dtrtri(self._factor, lower=1)
        variance = 1 / np.square(inverse).sum(axis=0)
        surprise = self._weights * variance  # what a look says, less what the others expect of it
        z = surprise / np.sqrt(variance)
        odd = z >= OUTLIER_Z
        confirmed = ((self._kinship == 1) & odd).sum(axis=1) > 1  # by another heal of the block: no accident
        odd &= ~confirmed & (z >= 0.7 * z.max())
        self._extra = self._extra + np.where(odd, surprise**2, 0.0)
        if odd.any():
            self._solve()
        return bool(odd.any())

    def _given_looks(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the means [Q] of latent responses, and their whitened covariance [Q, N] with the looks."""
        cross = weigh(covariances(points.along(-1), self._points.along(-2)), self.scale)
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False).T
        return points.mean + cross @ self._weights, half

    @property
    def _known(self) -> Common:
        """What is common to all cells."""
        if self._common is None:
            self._common = Common(
                excess=self._excess,
                factors=self._factors,
                looks=self._points,
                factor=self._factor,
                weights=self._weights,
                scale=self.scale,
            )
        return self._common


def _variances(se: Any, slope: Any) -> tuple[Any, Any]:
    """Return the variances that test set and seed give a response, the seed's a priori.

    Args:
        se: Standard error of u.
        slope: Of the response on u.
    """
    return (se * slope) ** 2, (SEED_SD**2 + np.minimum(se, MAX_SEED_SD) ** 2) * slope**2


def _degradations(rows: Sequence[Row]) -> np.ndarray:
    """Return the degradations [N] of looks, held as :func:`held` does."""
    shown = [math.inf if look.degradation is None else look.degradation for _, look in rows]
    return np.clip(shown, -C / 2, MAX_DEGRADATION)


def _in_state(looks: Sequence[Sequence[Look]], state: State) -> list[Row]:
    return [(cell, look) for cell, own in enumerate(looks) for look in own if look.state == state]
