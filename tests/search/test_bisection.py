import math
import random

import numpy as np
import pytest

from slamlab.errors import DataError, ModelError
from slamlab.search.bisection import (
    LayerProposal,
    Probe,
    Recommendation,
    best_start,
    expected_num_probes,
    max_num_probes,
    next_depth,
    recommend,
)

DEPTHS = [*range(1, 17), 24, 28, 32, 80]


def _map(num_layers, seed=0):
    distance = np.random.default_rng(seed).random((num_layers + 1, num_layers + 1))
    distance[np.tril_indices(num_layers + 1)] = np.nan  # never to be read
    return distance


def _feasible_up_to(edge, beyond):
    return lambda depth: "feasible" if depth <= edge else beyond


def _search(num_layers, distance, verdict):
    """Run a search to its end; `verdict` maps a depth to what a probe of it gives."""
    probes = []
    while (proposal := next_depth(num_layers, distance, probes)) is not None:
        probes.append(Probe(start=proposal.start, depth=proposal.depth, verdict=verdict(proposal.depth)))
        assert len(probes) <= num_layers
    return probes


@pytest.mark.parametrize("num_layers", DEPTHS)
@pytest.mark.parametrize("beyond", ["infeasible", "undecided", "failed"])
def test_every_edge_is_found_exactly_within_the_bound(num_layers, beyond):
    distance = _map(num_layers)
    bound = math.ceil(math.log2(num_layers)) + 2
    lengths = []
    for edge in range(num_layers):
        probes = _search(num_layers, distance, _feasible_up_to(edge, beyond))
        answer = recommend(probes, tolerance=0.25)
        assert answer.depth == edge
        assert answer.verdict == ("feasible" if edge else "none")
        if edge:
            assert answer.start == best_start(num_layers, distance, edge)
        assert len({probe.depth for probe in probes}) == len(probes) <= bound
        assert all(1 <= probe.depth < num_layers for probe in probes)
        lengths.append(len(probes))
    assert max_num_probes(num_layers) == max(lengths)
    assert expected_num_probes(num_layers) == pytest.approx(np.mean(lengths))


@pytest.mark.parametrize("num_layers", [7, 16, 28])
def test_search_is_stateless(num_layers):
    distance = _map(num_layers)
    for edge in range(num_layers):
        probes = _search(num_layers, distance, _feasible_up_to(edge, "failed"))
        for length, probe in enumerate(probes):
            prefix = probes[:length]
            random.Random(edge).shuffle(prefix)
            assert next_depth(num_layers, distance, prefix) == LayerProposal(start=probe.start, depth=probe.depth)


def test_any_outcomes_whatsoever_terminate_within_the_bound():
    for seed in range(300):
        rng = random.Random(seed)
        num_layers = rng.randint(1, 40)
        probes = _search(
            num_layers,
            _map(num_layers),
            lambda _, rng=rng: rng.choice(["feasible", "infeasible", "failed"]),
        )
        assert len(probes) <= max_num_probes(num_layers) <= math.ceil(math.log2(num_layers)) + 2


def test_contradicting_probes_leave_the_deepest_feasible_as_the_floor():
    probes = [
        Probe(start=0, depth=4, verdict="infeasible", degradation=0.3),
        Probe(start=2, depth=8, verdict="feasible", degradation=0.2),
    ]
    proposal = next_depth(28, _map(28), probes)
    assert proposal is not None
    assert proposal.depth > 8
    assert recommend(probes, 0.25) == Recommendation(start=2, depth=8, verdict="feasible")


def test_first_looks_are_at_a_quarter_then_at_half():
    depths = [probe.depth for probe in _search(28, _map(28), _feasible_up_to(11, "failed"))]
    assert depths[:2] == [7, 14]


def test_start_is_the_smallest_distance_of_that_depth():
    distance = np.ones((9, 9))
    distance[3, 5] = 0.1
    distance[6, 8] = 0.05
    distance[8, 6] = 0.0  # below the diagonal: never read
    assert best_start(8, distance, 2) == 6
    distance[3, 5] = 0.05
    assert best_start(8, distance, 2) == 3  # the first among equals
    distance[:] = 1
    distance[5, 8] = 0.2
    assert best_start(8, distance, 3) == 5  # the last start at which the block fits


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="29 x 29, got 25 x 25"):
        next_depth(28, _map(24), [])
    distance = _map(28)
    distance[4, 11] = np.nan
    with pytest.raises(DataError, match="start 4 and depth 7"):
        next_depth(28, distance, [])
    with pytest.raises(ModelError):
        next_depth(0, _map(0), [])


def test_an_undecided_block_is_recommended_only_without_a_feasible_one():
    inside = Probe(start=3, depth=4, verdict="undecided", degradation=0.24)
    deeper_outside = Probe(start=1, depth=6, verdict="undecided", degradation=0.26)
    shallower = Probe(start=5, depth=2, verdict="undecided", degradation=0.1)
    failed = Probe(start=0, depth=9, verdict="failed")
    doubtful = [failed, shallower, deeper_outside, inside]
    assert recommend(doubtful, 0.25) == Recommendation(start=3, depth=4, verdict="undecided")
    feasible = Probe(start=7, depth=1, verdict="feasible", degradation=0.0)
    assert recommend([*doubtful, feasible], 0.25) == Recommendation(start=7, depth=1, verdict="feasible")
    assert recommend([failed, deeper_outside], 0.25) == Recommendation(start=0, depth=0, verdict="none")
    assert recommend([], 0.25) == Recommendation(start=0, depth=0, verdict="none")


def test_recommendation_does_not_depend_on_the_order_of_arrival():
    probes = [Probe(start=start, depth=5, verdict="feasible", degradation=0.1) for start in (4, 2, 9)]
    assert (
        recommend(probes, 0.25) == recommend(probes[::-1], 0.25) == Recommendation(start=2, depth=5, verdict="feasible")
    )
