import math

import pytest

from slamlab.errors import OptionError
from slamlab.scoring.bootstrap import Degradation
from slamlab.scoring.verdict import judge


def _degradation(p_within, tolerance=0.25):
    return Degradation(
        value=0.2,
        ci95=(0.1, 0.3),
        tolerance=tolerance,
        p_within=p_within,
        se=0.05,
        num_drawn=100,
        num_resamples=1000,
        seed=0,
    )


@pytest.mark.parametrize(
    ("p_within", "verdict"),
    [
        (1.0, "feasible"),
        (0.95, "feasible"),
        (0.949, "undecided"),
        (0.051, "undecided"),
        (0.05, "infeasible"),
        (0.0, "infeasible"),
    ],
)
def test_verdict_needs_certainty_on_either_side(p_within, verdict):
    assert judge(_degradation(p_within), 0.25) == verdict


def test_alpha_moves_the_bar():
    assert judge(_degradation(0.92), 0.25, alpha=0.1) == "feasible"
    assert judge(_degradation(0.99), 0.25, alpha=0.001) == "undecided"


def test_zero_tolerance_is_allowed():
    assert judge(_degradation(0.97, tolerance=0.0), 0.0) == "feasible"


@pytest.mark.parametrize("tolerance", [-0.01, math.nan, 0.3])
def test_tolerances_out_of_range_or_unlike_the_estimate_are_refused(tolerance):
    with pytest.raises(OptionError):
        judge(_degradation(0.5), tolerance)


@pytest.mark.parametrize("alpha", [0.0, 0.5, math.nan])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(OptionError, match="alpha"):
        judge(_degradation(0.5), 0.25, alpha=alpha)
