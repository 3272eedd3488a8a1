"""Is a degradation within tolerance, and are there utterances enough to tell?"""

from __future__ import annotations

from typing import Literal

from slamlab.errors import OptionError
from slamlab.scoring.bootstrap import Degradation

Verdict = Literal["feasible", "infeasible", "undecided"]
ALPHA = 0.05


def judge(degradation: Degradation, tolerance: float, alpha: float = ALPHA) -> Verdict:
    """Turn an estimate into a verdict: `undecided` unless the resamples are sure, either way.

    Args:
        degradation: Estimated for this tolerance.
        tolerance: Relative degradation accepted, 0 or more.
        alpha: Chance of error accepted on either side, above 0 and below 0.5.

    Raises:
        OptionError: A tolerance or alpha out of range, or a tolerance other than the one `p_within` was counted for.
    """
    if not tolerance >= 0:
        raise OptionError("the tolerance is 0 or more", tolerance, "give a fraction such as 0.25")
    if not 0 < alpha < 0.5:
        raise OptionError("alpha is above 0 and below 0.5", alpha, f"use {ALPHA}")
    if tolerance != degradation.tolerance:
        raise OptionError(
            f"a degradation estimated for tolerance {degradation.tolerance} is judged by it",
            tolerance,
            "estimate the degradation again for this tolerance",
        )
    if degradation.p_within >= 1 - alpha:
        return "feasible"
    return "infeasible" if degradation.p_within <= alpha else "undecided"
