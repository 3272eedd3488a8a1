"""How rungs rank blocks, against scipy's Kendall tau."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from slamlab.search.agreement import rank_agreement
from slamlab.search.evidence import Look


def _looks(cheap, full, rung="short"):
    looks = []
    for start, (low, high) in enumerate(zip(cheap, full, strict=True)):
        looks += [Look(start=start, depth=2, rung=rung, degradation=low), Look(start=start, depth=2, degradation=high)]
    return looks


@pytest.mark.parametrize("seed", range(5))
def test_tau_of_one_cell_is_scipys(seed):
    cheap, full = np.random.default_rng(seed).random((2, 12))
    found = rank_agreement([_looks(cheap, full)], "short")
    assert found.tau == pytest.approx(kendalltau(cheap, full).statistic)
    assert (found.num_blocks, found.num_pairs) == (12, 66)
    assert found.ci95[0] <= found.tau <= found.ci95[1]


def test_cells_are_not_compared_with_each_other():
    """Both rungs tell the cells apart, and neither ranks within one as the other does."""
    found = rank_agreement([_looks([1, 2], [11, 10]), _looks([101, 102], [111, 110])], "short")
    assert (found.num_blocks, found.num_pairs, found.tau) == (4, 2, -1.0)


def test_only_blocks_that_both_rungs_have_seen_count():
    looks = _looks([1, 2, 3], [1, 2, 3])
    looks += [Look(start=7, depth=2, rung="short", degradation=9.0), Look(start=8, depth=2, degradation=0.0)]
    looks += [Look(start=9, depth=2, rung="short", state="failed"), Look(start=9, depth=2, degradation=0.0)]
    looks += [Look(start=9, depth=2, rung="unhealed", degradation=0.0)]
    found = rank_agreement([looks], "short")
    assert (found.num_blocks, found.num_pairs, found.tau) == (3, 3, 1.0)


def test_repeats_are_averaged_and_the_unbounded_ranks_last():
    looks = [*_looks([1, 2, 3], [0.1, 0.4, 0.2]), Look(start=1, depth=2, degradation=0.0), Look(start=2, depth=2)]
    found = rank_agreement([looks], "short")
    assert found.tau == 1.0  # means of 0.1, 0.2 and infinity


def test_without_a_pair_there_is_no_tau():
    for looks in ([], [[]], [_looks([1], [1])]):
        found = rank_agreement(looks, "short")
        assert (found.num_pairs, found.tau, found.ci95) == (0, None, None)
