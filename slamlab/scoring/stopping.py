"""When to stop scoring a pruned model: as soon as more utterances would not change what is known.

Utterances come in random order, so what is scored so far is a sample without replacement of the whole split, and the
question is whether its total stays within the tolerance. For an error rate the total is a sum over utterances of

    d_i = edits of pruned - (1 + tolerance) * edits of base,        within the tolerance where sum d_i <= 0,

whose answer a betting martingale tests after every utterance (Waudby-Smith and Ramdas 2020, "Confidence sequences for
sampling without replacement", arXiv:2006.04347; 2024, "Estimating means of bounded random variables by betting"). If
the total were 0 the next utterance would have mean m = -(sum so far) / (utterances left); who bets against that starts
with 1 and multiplies by 1 + bet * (d_i - m). The stake never exceeds what the least possible d_i can lose, so capital
never falls below 0, and by Ville's inequality it ever reaches 1 / delta with probability delta at most if the total is
0 or less. This holds at any number of utterances and however often one looks: no normal approximation, no schedule.
The base is scored before, so that its edits, and with them the least d_i of the utterances left, are known; where even
these keep the total above 0, there is nothing to bet on.

`hopeless` bets that the total is above 0, `safe` that it is not. The latter needs a bound on the longest answer: one
runaway answer in fifty can spoil a model that looks perfect on the first forty, and a rule that did not know of it
would be wrong. It therefore stops late, and never on small sets.

BLEU and chrF are no sums. There the paired bootstrap over utterances is asked at each of a planned number of looks
whether hopeless, at delta divided by their number: for small deltas, whether no resample is within the tolerance. It
is approximate, as the bootstrap is, and never `safe`.

Shapes: N utterances of the split, n of them scored, K statistics, B stakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from slamlab.errors import OptionError
from slamlab.scoring.bootstrap import Statistics, paired_relative_degradation
from slamlab.scoring.metrics import find_metric

Reason = Literal["hopeless", "safe"]
SLACK = 1e-12
"""As the bootstrap's: keeps rounding of `tolerance * edits` from turning a total of just the tolerance away."""
ROUNDING = 1e-9
STAKES = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95])
"""Shares of the largest stake, one gambler each with an equal part of the capital: nobody knows the best beforehand."""


def early_stop(
    base: Statistics,
    pruned: Statistics,
    metric: str,
    *,
    tolerance: float,
    delta: float,
    num_looks: int,
    longest: Sequence[float] | None = None,
    seed: int = 0,
) -> Reason | None:
    """Say whether scoring may stop with the utterances scored so far, and which way.

    Args:
        base: Statistics of the unpruned model on the whole split, in the random order of scoring [N, K].
        pruned: Statistics of the pruned model on the first n of them [n, K].
        metric: Name of one of :data:`slamlab.scoring.metrics.METRICS`.
        tolerance: Relative degradation accepted, 0 or more.
        delta: Chance that a stop contradicts the whole split, above 0 and below 0.5.
        num_looks: How often this will be asked on the way, 1 or more; counts for BLEU and chrF alone.
        longest: Most edits that an answer to each utterance can have [N]; None where there is no bound.
        seed: Of the bootstrap of BLEU and chrF.

    Returns:
        `hopeless`: the tolerance is exceeded. `safe`: it is kept. None: go on; also where everything is scored.

    Raises:
        OptionError: Tolerance, delta or looks out of range, or utterances that are not the first n.
    """
    if not (tolerance >= 0 and 0 < delta < 0.5 and num_looks >= 1):
        raise OptionError(
            "the tolerance is 0 or more, delta between 0 and 0.5, looks 1 or more",
            f"{tolerance}, {delta}, {num_looks}",
            "try a tolerance of 0.25 and a delta of 0.001",
        )
    total, seen = len(base.ids), len(pruned.ids)
    if tuple(pruned.ids) != tuple(base.ids[:seen]):
        raise OptionError("what is scored first comes first in the order", "another order", "score in the base's order")
    if seen in (0, total):
        return None
    if not find_metric(metric).is_error_rate:
        scored = Statistics(ids=base.ids[:seen], values=base.values[:seen])
        shown = paired_relative_degradation(scored, pruned, metric, tolerance=tolerance, seed=seed)
        return "hopeless" if shown.p_within <= delta / num_looks else None
    accepted = (1 + tolerance + SLACK) * base.values[:, 0]  # [N]
    excess = pruned.values[:, 0] - accepted[:seen]  # d, [n]
    if _largest_capital(excess, -accepted) >= 1 / delta:
        return "hopeless"
    if longest is None or (pruned.values[:, 0] > np.asarray(longest)[:seen]).any():  # no bound, or a broken one
        return None
    return "safe" if _largest_capital(-excess, accepted - np.asarray(longest)) >= 1 / delta else None


def _largest_capital(scored: np.ndarray, least: np.ndarray) -> float:
    """Return the most that betting on a total above 0 has ever held; infinite where the total must be above 0.

    Args:
        scored: Values of the utterances scored so far [n].
        least: Least value that each utterance can have [N], scored ones first.
    """
    num_scored, total = len(scored), len(least)
    if scored.sum() + least[num_scored:].sum() > ROUNDING * total:
        return float("inf")  # even the least values of all that is left keep the total above 0
    before = np.concatenate([[0.0], np.cumsum(scored)[:-1]])  # sum of what came before each [n]
    mean = -before / (total - np.arange(num_scored))  # of the utterances left, if the total is 0 [n]
    # What is left, this one included, has no value below this one, whichever comes next.
    floor = np.minimum.accumulate(least[::-1])[::-1][:num_scored]
    room = mean - floor  # the most that a bet can lose [n]
    # Without room the total is 0 only if each of the rest has its least value: nothing is staked on that.
    bets = room > ROUNDING * (1 + np.abs(before))
    gains = np.where(bets, np.log1p(STAKES[:, None] * (scored - mean) / np.where(bets, room, np.inf)), 0.0)  # [B, n]
    capital = np.logaddexp.reduce(np.cumsum(gains, axis=1), axis=0) - np.log(len(STAKES))  # logarithm, [n]
    return float(np.exp(min(capital.max(), 700.0)))
