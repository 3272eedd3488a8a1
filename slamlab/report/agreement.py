"""Do two angular-distance maps say the same of which blocks of layers are redundant?

Distance grows with depth in any decoder, so that a correlation over all blocks is near 1 whatever the maps say of
where the redundant layers are. What counts is the order of the blocks of one depth: Kendall's tau over all pairs of
equally deep blocks, pooled over the depths. It reads as a share: at 0.8, the maps order 90 % of such pairs alike.

Intervals are percentiles of the maps' own bootstrap over utterances, resample by resample: maps over the same
utterances share their draws, so that what an utterance does to both cancels. A resample is noisier than the map, which
pulls tau towards 0, below the estimate where n is small; the interval is then widened to hold it. Agreement is
understated rather than overstated.

Shapes: L layers, B blocks of the depths compared, P pairs of equally deep ones, D such depths, R resamples,
M permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy.fft import dct, idct

from slamlab.errors import DataError, OptionError

AXES = ("family", "scale", "encoder", "task", "language", "decoder", "view", "selection")
"""What tells maps apart; a pair compared by :func:`compare_all` differs in one of them."""
MIN_STARTS = 3
"""Blocks that a depth needs to be compared: with two, chance orders them alike half of the time."""
MIN_RESAMPLES = 40
"""Without as many there is no interval: its ends would be the extremes of the resamples."""
CHUNK_ROWS = 256
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Map:
    """A distance map and what it is of.

    Attributes:
        key: Its name in the records.
        axes: Its value on each of :data:`AXES`.
        num_utterances: Those averaged over.
        distance: [L + 1, L + 1]; entry [l, l + n] belongs to the block of n layers that starts at l.
        resampled: The same of each bootstrap resample [R, L + 1, L + 1]; NaN where a resample saw no position.

    Raises:
        DataError: The arrays are no map, or too small to compare depths.
    """

    key: str
    axes: Mapping[str, str]
    num_utterances: int
    distance: np.ndarray
    resampled: np.ndarray

    def __post_init__(self) -> None:
        size = len(self.distance)
        if self.distance.shape != (size, size) or self.resampled.shape[1:] != (size, size):
            shapes = f"{self.distance.shape} and {self.resampled.shape} of {self.key}"
            raise DataError("a map is [L+1, L+1], its resamples [R, L+1, L+1]", shapes, "make the map again")
        if size - 1 < MIN_STARTS:
            rule = f"maps are compared over {MIN_STARTS} layers or more"
            raise DataError(rule, f"{size - 1} of {self.key}", "leave it out")
        if not np.isfinite(self.distance).all():
            raise DataError("distances are finite", f"NaN or infinity in {self.key}", "make the map again")

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.distance) - 1

    @cached_property
    def blocks(self) -> np.ndarray:
        """Distances of the blocks of the depths compared [1 + R, B]: the map, then its resamples."""
        grid = _grid(self.num_layers)
        rows = [one[..., grid.starts, grid.starts + grid.depths] for one in (self.distance, self.resampled)]
        return np.concatenate([rows[0][None], rows[1].astype(np.float64)])

    @cached_property
    def signs(self) -> np.ndarray:
        """Which of two equally deep blocks is the more distant, -1, 0 or 1 [1 + R, P], int8; 0 for all of a NaN."""
        return _signs(self.blocks, _grid(self.num_layers))

    @cached_property
    def best(self) -> np.ndarray:
        """First layer of the least distant block of each depth compared [1 + R, D]."""
        bounds = _grid(self.num_layers).bounds
        rows = np.where(np.isnan(self.blocks), np.inf, self.blocks)
        return np.stack([rows[:, low:high].argmin(1) for low, high in bounds], axis=1)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic of two maps: None where it is not defined, `ci95` None where there are too few resamples."""

    value: float | None
    ci95: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as records hold it."""
        return {"value": self.value, "ci95": None if self.ci95 is None else list(self.ci95)}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two maps agree.

    Attributes:
        within: Kendall's tau-b over pairs of equally deep blocks.
        overall: Kendall's tau-b over all pairs of these blocks: high for any two decoders.
        overlap: Intersection over union of the two least distant blocks of a depth, mean over the depths.
        chance: What `overlap` would be if both blocks started anywhere, each start as likely as another.
        p: Of `within` against :func:`permutation_p`'s null; None where tau is not defined.
        is_identical: The maps are one, number by number: of one decoder on the same input. Their agreement says
            nothing.
        num_utterances: The fewer of the two maps'.
        num_depths: D.
        num_blocks: B.
        num_pairs: P.
    """

    within: Estimate
    overall: float | None
    overlap: Estimate
    chance: float
    p: float | None
    is_identical: bool
    num_utterances: int
    num_layers: int
    num_depths: int
    num_blocks: int
    num_pairs: int
    num_permutations: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as records hold it."""
        told = dict(vars(self))
        return told | {name: told[name].as_dict() for name in ("within", "overlap")}


def compare(a: Map, b: Map, *, num_permutations: int = 2000, seed: int = 0) -> Agreement:
    """Compare two maps of equally many layers.

    Args:
        a: A map.
        b: Another; the permutations are of this one.
        num_permutations: M.
        seed: Of the permutations.

    Raises:
        OptionError: The maps have another number of layers each, or there are fewer than 19 permutations, of which
            none could be below 5 %.
    """
    if a.num_layers != b.num_layers:
        received = f"{a.num_layers} of {a.key} and {b.num_layers} of {b.key}"
        raise OptionError("maps are compared over equally many layers", received, "compare maps of one decoder")
    if num_permutations < 19:
        raise OptionError("a permutation test takes 19 permutations or more", num_permutations, "use 2000")
    grid = _grid(a.num_layers)
    # Only equally many resamples can be told to be of the same draws.
    rows = 1 + (len(a.resampled) if len(a.resampled) == len(b.resampled) else 0)
    seen = np.isfinite(a.blocks[:rows]).all(1) & np.isfinite(b.blocks[:rows]).all(1)
    within = pooled_tau(a.signs[:rows], b.signs[:rows])
    overall = overall_tau(a.blocks[0], b.blocks[0])
    return Agreement(
        within=_estimate(within, seen),
        overall=None if np.isnan(overall) else overall,
        overlap=_estimate(_overlap(a.best[:rows], b.best[:rows]), seen),
        chance=chance_overlap(a.num_layers),
        p=permutation_p(a, b, num_permutations=num_permutations, seed=seed),
        is_identical=bool(np.array_equal(a.distance, b.distance)),
        num_utterances=min(a.num_utterances, b.num_utterances),
        num_layers=a.num_layers,
        num_depths=len(grid.bounds),
        num_blocks=len(grid.starts),
        num_pairs=len(grid.left),
        num_permutations=num_permutations,
        seed=seed,
    )


def compare_all(
    maps: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    *,
    num_permutations: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare all pairs of maps that differ in exactly one axis.

    Args:
        maps: Records of maps, as `redundancy.json` lists them; those that were not run are passed over.
        arrays: `<key>.distance` and `<key>.resampled` of each.
        num_permutations: M, of each pair.
        seed: Of the permutations.

    Returns:
        One record a pair, in the order of the maps: `a`, `b` (keys), `axis`, `values` (theirs on it), `status`, and
        what :meth:`Agreement.as_dict` tells; or, `left out`, with a reason: maps of another number of layers.
    """
    complete = [one for one in maps if one["status"] == "complete"]
    known = {one["key"]: as_map(one, arrays) for one in complete}
    pairs = []
    for one, other in combinations(complete, 2):
        differing = [axis for axis in AXES if one[axis] != other[axis]]
        if len(differing) != 1:
            continue
        (axis,), a, b = differing, known[one["key"]], known[other["key"]]
        pair = {"a": a.key, "b": b.key, "axis": axis, "values": [one[axis], other[axis]]}
        if a.num_layers != b.num_layers:
            reason = f"{a.num_layers} and {b.num_layers} layers: no block of one is a block of the other"
            pairs.append({**pair, "status": "left out", "reason": reason})
            continue
        agreement = compare(a, b, num_permutations=num_permutations, seed=seed)
        pairs.append({**pair, "status": "complete", **agreement.as_dict()})
    return pairs


def as_map(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Map:
    """Return a map of the records with its arrays.

    Raises:
        DataError: An array is missing, or is no map.
    """
    found = []
    for name in ("distance", "resampled"):
        if f"{record['key']}.{name}" not in arrays:
            raise DataError("every complete map has its arrays", f"no {record['key']}.{name}", "make the maps again")
        found.append(np.asarray(arrays[f"{record['key']}.{name}"]))
    return Map(
        key=record["key"],
        axes={axis: record[axis] for axis in AXES},
        num_utterances=record["num_utterances"],
        distance=found[0].astype(np.float64),
        resampled=found[1],
    )


def pooled_tau(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b over pairs of equally deep blocks, NaN where all of either are ties.

    Every pair counts once, so that depths with many starts weigh more. With one depth it is that depth's tau.

    Args:
        a: Signs [..., P] of one map.
        b: Signs of the other, broadcast against them.
    """
    x, y = a.astype(np.float32), b.astype(np.float32)
    agreeing = np.einsum("...p,...p->...", x, y, dtype=np.float64)
    untied = np.abs(x).sum(-1, dtype=np.float64) * np.abs(y).sum(-1, dtype=np.float64)
    return np.divide(agreeing, np.sqrt(untied), out=np.full(agreeing.shape, np.nan), where=untied > 0)


def overall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Return Kendall's tau-b of two lists [B], NaN where either has ties alone."""
    above = np.triu_indices(len(a), 1)
    x, y = (np.sign(one[above[0]] - one[above[1]]) for one in (a, b))
    return float(pooled_tau(x, y))


def chance_overlap(num_layers: int) -> float:
    """Return the mean overlap of two blocks a depth whose starts are drawn uniformly, over the depths compared.

    With k starts at depth n, two starts lie d > 0 apart with probability 2 (k - d) / k^2, and then overlap by
    (n - d) / (n + d).
    """
    shares = []
    for depth in range(1, num_layers + 2 - MIN_STARTS):
        k = num_layers + 1 - depth
        apart = np.arange(1, min(k, depth))
        shares.append((k + (2 * (k - apart) * (depth - apart) / (depth + apart)).sum()) / k**2)
    return float(np.mean(shares))


def permutation_p(a: Map, b: Map, *, num_permutations: int, seed: int) -> float | None:
    """Return how often maps whose layers have nothing to do with another agree as well: p = (1 + #) / (1 + M).

    Neighbouring layers are alike, and blocks share layers. A null that shuffles layers, as Mantel's test of distance
    matrices does, destroys both and calls a third to a half of all unrelated smooth maps significant at 5 %. Here the
    null keeps them. What tells the blocks of one depth apart is written, by least squares over all depths at once, as
    the mean over a block's layers of one number a layer: how much more than others the layer turns the stream. That
    profile [L] is taken apart into cosines along the layers, and each one's sign is drawn anew. The random profile is
    as smooth as the map's own, in expectation and draw by draw, and its blocks overlap as the map's do; where its ups
    and downs lie is left to chance. The statistic is tau between `a` and the part of `b` that its profile tells.

    It is exact where the cosines' signs are symmetric and independent, as of a smooth stationary profile they nearly
    are: on simulated unrelated maps, 2.5 to 6.5 % of p are 5 % or less. It does not know that all decoders turn the
    stream more at both ends: two that agree in nothing but that are found to agree.

    Args:
        a: A map.
        b: The map whose profile is permuted.
        num_permutations: M.
        seed: Of the signs.

    Source: the cosines stand in for the Fourier surrogates of Theiler et al. 1992, "Testing for nonlinearity in time
    series: the method of surrogate data", as layers do not go round; p after Phipson and Smyth 2010.
    """
    null = _null_signs(b, num_permutations, seed)
    tau = pooled_tau(a.signs[0], null)  # [1 + M]
    if not a.signs[0].any() or not b.signs[0].any() or np.isnan(tau[0]):
        return None
    return float((1 + np.count_nonzero(tau[1:] >= tau[0] - ROUNDING)) / (1 + num_permutations))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """The blocks that are compared, depth by depth.

    Attributes:
        starts: First layers [B].
        depths: Depths [B].
        bounds: Where the blocks of each depth begin and end among all.
        left: One block of each pair of equally deep ones [P].
        right: The other.
        means: Mean over a block's layers of a number a layer, less the depth's mean, as a matrix [B, L].
    """

    starts: np.ndarray
    depths: np.ndarray
    bounds: list[tuple[int, int]]
    left: np.ndarray
    right: np.ndarray
    means: np.ndarray = field(repr=False)


@lru_cache(maxsize=8)
def _grid(num_layers: int) -> _Grid:
    blocks = [(n, s) for n in range(1, num_layers + 2 - MIN_STARTS) for s in range(num_layers + 1 - n)]
    depths, starts = np.array(blocks).T
    bounds, pairs = [], []
    layers = np.arange(num_layers)
    inside = (starts[:, None] <= layers) & (layers < (starts + depths)[:, None])  # [B, L]
    means = inside / depths[:, None]
    for n in np.unique(depths):
        low, high = np.flatnonzero(depths == n)[[0, -1]] + [0, 1]
        bounds.append((int(low), int(high)))
        pairs.append(low + np.stack(np.triu_indices(high - low, 1)))
        means[low:high] -= means[low:high].mean(0)
    left, right = np.concatenate(pairs, axis=1)
    return _Grid(starts=starts, depths=depths, bounds=bounds, left=left, right=right, means=means)


def _signs(blocks: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return the signs [..., P] of the differences between equally deep blocks [..., B], int8."""
    signs = np.empty((len(blocks), len(grid.left)), dtype=np.int8)
    for rows in _chunks(len(blocks)):
        difference = blocks[rows][:, grid.left] - blocks[rows][:, grid.right]
        signs[rows] = np.sign(np.nan_to_num(difference))
    return signs


def _chunks(num_rows: int) -> Iterator[slice]:
    yield from (slice(i, i + CHUNK_ROWS) for i in range(0, num_rows, CHUNK_ROWS))


@lru_cache(maxsize=1)
def _flips(num_layers: int, num_permutations: int, seed: int) -> np.ndarray:
    """Return signs [1 + M, L], the first row as the profile has them."""
    drawn = np.random.default_rng(seed).integers(2, size=(num_permutations, num_layers)) * 2 - 1
    return np.concatenate([np.ones((1, num_layers), dtype=drawn.dtype), drawn])


def _null_signs(b: Map, num_permutations: int, seed: int) -> np.ndarray:
    """Return the signs of what b's profile tells of its blocks, and of the random profiles [1 + M, P]."""
    grid = _grid(b.num_layers)
    centred = b.blocks[0].copy()
    for low, high in grid.bounds:
        centred[low:high] -= centred[low:high].mean()
        spread = centred[low:high].std()
        centred[low:high] /= spread if spread > 0 else 1  # no depth is louder than another
    profile = np.linalg.lstsq(grid.means, centred, rcond=1e-6)[0]  # [L]
    cosines = dct(profile, norm="ortho") * _flips(b.num_layers, num_permutations, seed)  # [1 + M, L]
    told = idct(cosines, norm="ortho", axis=1) @ grid.means.T  # [1 + M, B]
    return _signs(told, grid)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean IoU over depths 1 to D of blocks by their starts [..., D]."""
    depths = np.arange(1, a.shape[-1] + 1)
    shared = np.maximum(depths - np.abs(a - b), 0)
    return (shared / (2 * depths - shared)).mean(-1)


def _estimate(values: np.ndarray, seen: np.ndarray) -> Estimate:
    """Return the statistic of the maps [0] with the percentile interval of its resamples [1:], which holds it."""
    value = float(values[0])
    resampled = values[1:][seen[1:]]
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(value):
        return Estimate(value=None, ci95=None)
    if len(resampled) < MIN_RESAMPLES:
        return Estimate(value=value, ci95=None)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value=value, ci95=(min(float(low), value), max(float(high), value)))
