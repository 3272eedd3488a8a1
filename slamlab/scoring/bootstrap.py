"""Paired bootstrap of a relative degradation over utterances (Koehn 2004, "Statistical significance tests for
machine translation evaluation"; Bisani and Ney 2004 for WER).

Both models decoded the same utterances, so a resample draws utterances and scores both models on the draw: what
makes an utterance hard for either cancels. A draw enters as the number of times each utterance occurs, which turns
the sums over a resample into a matrix product.

Utterances of one speaker are alike, so that few speakers tell less than their utterances seem to. Where statistics
name blocks, such as speakers, a resample draws whole blocks (as sclite's and NeMo's do): a block's sums take the place
of an utterance's, and nothing else changes.

Shapes: N utterances or blocks, R resamples, K statistics each (:mod:`slamlab.scoring.metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slamlab.errors import DataError, OptionError
from slamlab.scoring.metrics import REFERENCE_LENGTH, Metric, find_metric

CHUNK_BYTES = 32_000_000  # of draws held at a time; the counts made of them take twice as much again
NUM_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What each utterance adds to a corpus score.

    Attributes:
        ids: N utterance ids, each once.
        values: Integers [N, K]; column 1 is the length of the reference, whatever the metric.
        blocks: N names of what is drawn as a whole, such as speakers; none to draw utterances.
    """

    ids: Sequence[str]
    values: np.ndarray
    blocks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """How much worse a pruned model is than its base, relative to the base; below 0 where it is better.

    Attributes:
        value: On the utterances as they are. `inf` where a base without an edit was made worse.
        ci95: Percentile interval; an end may be infinite, never NaN.
        tolerance: The relative degradation that is accepted.
        p_within: Fraction of resamples in which the tolerance is kept.
        se: Standard error of the value: the standard deviation (n - 1) of the finite degradations among the
            resamples, 0 where fewer than two are finite.
        num_drawn: Utterances or blocks that a resample draws.
    """

    value: float
    ci95: tuple[float, float]
    tolerance: float
    p_within: float
    se: float
    num_drawn: int
    num_resamples: int
    seed: int


def paired_relative_degradation(
    base: Statistics,
    pruned: Statistics,
    metric: str,
    *,
    tolerance: float,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Degradation:
    """Estimate the relative degradation from `base` to `pruned`, with its uncertainty.

    An error rate degrades by (pruned - base) / base, BLEU and chrF by (base - pruned) / base. Where the base scores 0
    the quotient is 0 if both are equal, else infinite with the sign of the change; `p_within` is counted without the
    division and needs no such rule: for an error rate it is the share of resamples in which the sum of
    (edits of pruned - (1 + tolerance) * edits of base) is 0 or less. The order of the utterances has no effect.

    Args:
        base: Statistics of the unpruned model.
        pruned: Statistics of the pruned model on the same utterances.
        metric: Name of one of :data:`slamlab.scoring.metrics.METRICS`.
        tolerance: Relative degradation accepted, e.g. 0.25.
        num_resamples: R.
        seed: Of the generator that draws utterances.

    Raises:
        DataError: The two were not scored on the same utterances and references, or are of fewer than 2 blocks.
        OptionError: An unknown metric, a negative tolerance, or no resample.
    """
    known = _check(metric, tolerance, num_resamples)
    both = _pair(base, pruned)  # [N, 2K]
    point, _ = _degrade(both.sum(axis=0, keepdims=True).astype(float), known, tolerance)
    degraded, within = _degrade(_resampled_sums(both, num_resamples, seed), known, tolerance)
    degraded.sort()
    tail = num_resamples // 40  # 2.5 %; order statistics, as interpolation between infinities would give NaN
    finite = degraded[np.isfinite(degraded)]
    return Degradation(
        value=float(point[0]),
        ci95=(float(degraded[tail]), float(degraded[num_resamples - 1 - tail])),
        tolerance=tolerance,
        p_within=float(within.mean()),
        se=float(finite.std(ddof=1)) if len(finite) > 1 else 0.0,
        num_drawn=len(both),
        num_resamples=num_resamples,
        seed=seed,
    )


def score_interval(
    statistics: Statistics, metric: str, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of one model's own score, by bootstrap over utterances or blocks.

    Args:
        statistics: Statistics of the model.
        metric: Name of one of :data:`slamlab.scoring.metrics.METRICS`.
        num_resamples: R.
        seed: Of the generator that draws utterances.

    Raises:
        DataError: Statistics of fewer than 2 blocks.
        OptionError: An unknown metric, or no resample.
    """
    known = _check(metric, 0.0, num_resamples)
    sums = _resampled_sums(_by_block(statistics.values, statistics.blocks), num_resamples, seed)  # [R, K]
    values = np.sort(known.of_sums(sums))
    tail = num_resamples // 40  # 2.5 %
    return float(values[tail]), float(values[num_resamples - 1 - tail])


def _resampled_sums(values: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Draw N of N utterances with replacement R times and return the sums [R, C] of integers [N, C]."""
    num_utterances = len(values)
    generator = np.random.default_rng(seed)
    weights = values.astype(float)  # exact: integers, and their sums, far below 2^53
    sums = np.empty((num_resamples, values.shape[1]))
    num_rows = max(1, CHUNK_BYTES // (8 * num_utterances))
    for start in range(0, num_resamples, num_rows):
        stop = min(start + num_rows, num_resamples)
        draws = generator.integers(0, num_utterances, size=(stop - start, num_utterances))
        draws += num_utterances * np.arange(stop - start)[:, None]  # a range of its own for each row
        counts = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
        sums[start:stop] = counts @ weights  # [rows, N] @ [N, C]
    return sums


def _degrade(sums: np.ndarray, metric: Metric, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return relative degradation [R] and whether it is within tolerance [R], of sums [R, 2K], base first."""
    base_sums, pruned_sums = np.split(sums, 2, axis=1)
    if metric.is_error_rate:
        # The references are the same on both sides, so rates are to each other as edits are, and integers stay exact.
        base, loss = base_sums[:, 0], pruned_sums[:, 0] - base_sums[:, 0]
    else:
        base = metric.of_sums(base_sums)
        loss = base - metric.of_sums(pruned_sums)
    # Where the base is 0: 0 for no change, else an infinity with the sign of the change.
    limit = np.where(loss == 0, 0.0, np.copysign(np.inf, loss))
    quotient = np.divide(loss, base, out=limit, where=base > 0)
    # The slack keeps rounding of `tolerance * base` from turning a degradation of just the tolerance away.
    return quotient, loss <= (tolerance + 1e-12) * base


def _pair(base: Statistics, pruned: Statistics) -> np.ndarray:
    """Return both values side by side [N, 2K], in the order of sorted ids or of the base's sorted blocks."""
    base_rows, pruned_rows = _rows(base), _rows(pruned)
    if base_rows.keys() != pruned_rows.keys() or not base_rows:
        odd = sorted(base_rows.keys() ^ pruned_rows.keys())
        raise DataError(
            "base and pruned are scored on the same utterances, one at least",
            f"{len(odd)} that only one of them has, such as {odd[0]!r}" if odd else "none",
            "score both on the same split with the same limit",
        )
    ids = sorted(base_rows)
    order = [base_rows[id_] for id_ in ids]
    base_values, pruned_values = base.values[order], pruned.values[[pruned_rows[id_] for id_ in ids]]
    unequal = base_values[:, REFERENCE_LENGTH] != pruned_values[:, REFERENCE_LENGTH]
    if unequal.any():
        raise DataError(
            "an utterance has the same reference for base and pruned",
            f"references of unequal length for {ids[int(unequal.argmax())]!r}",
            "score both on the same revision of the data, with the same normaliser",
        )
    both = np.concatenate([base_values, pruned_values], axis=1)
    return _by_block(both, [base.blocks[row] for row in order] if base.blocks else ())


def _by_block(values: np.ndarray, blocks: Sequence[str]) -> np.ndarray:
    """Return the sums over each block [B, C] of values [N, C], or the values where there are no blocks."""
    if not blocks:
        return values
    names, block_of_row = np.unique(np.asarray(blocks, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            "a bootstrap over speakers needs 2 of them or more",
            f"{len(names)}, {str(names[0])!r}",
            "resample utterances, or bring recordings of more speakers",
        )
    sums = np.zeros((len(names), values.shape[1]), dtype=values.dtype)
    np.add.at(sums, block_of_row, values)
    return sums


def _rows(statistics: Statistics) -> dict[str, int]:
    """Map each id to its row."""
    rows = {id_: row for row, id_ in enumerate(statistics.ids)}
    lengths = {len(statistics.values), len(statistics.ids), len(statistics.blocks) or len(statistics.ids)}
    if lengths != {len(rows)}:
        raise DataError(
            "an utterance id occurs once, with one row of statistics and in one block",
            f"{len(rows)} different ids among {len(statistics.ids)}, and {len(statistics.values)} rows",
            "give every utterance an id of its own",
        )
    return rows


def _check(metric: str, tolerance: float, num_resamples: int) -> Metric:
    if not tolerance >= 0:
        raise OptionError("the tolerance is 0 or more", tolerance, "give a fraction such as 0.25")
    if num_resamples < 1:
        raise OptionError("the bootstrap takes 1 resample or more", num_resamples, f"use {NUM_RESAMPLES}")
    return find_metric(metric)
