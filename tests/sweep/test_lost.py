"""Trials whose workers are lost: begun again as if they never were, but not for ever."""

from collections import Counter

import pytest
from small_world import World, cell, drive, open_campaign, small_sweep, told

from slamlab.sweep.campaign import Campaign
from slamlab.sweep.ledger import MAX_ATTEMPTS, MAX_LOST
from slamlab.sweep.store import Store

EN, LLAMA = cell(), cell(family="llama")
EDGES = {EN: 4, LLAMA: 0}
REASON = "the worker died"


def _lossy(settings, world, losses, *, reopened=False):
    """Drive a sweep one trial at a time whose workers are lost so many times a trial, by a driver or by many."""
    lost, campaign = Counter(), open_campaign(settings)
    while (request := campaign.next()) is not None:
        campaign.begin(request)
        what = (request.kind, request.cell, request.start, request.depth)
        if lost[what] < losses(request):
            lost[what] += 1
            campaign.lose(request, REASON)
            if reopened:
                campaign = Campaign(settings, Store(settings.store))
        else:
            campaign.complete(request, world.run(request))
    return campaign


@pytest.mark.parametrize("sampler", ["bisect", "frontier"])
@pytest.mark.parametrize("reopened", [False, True])
def test_losses_leave_no_trace_in_the_answer(tmp_path, sampler, reopened):
    alone, lossy = (small_sweep(tmp_path / name, cells=(EN, LLAMA), sampler=sampler) for name in ("alone", "lossy"))
    expected = told(drive(alone, World(alone, EDGES)))
    world = World(lossy, EDGES)
    assert told(_lossy(lossy, world, lambda request: MAX_LOST, reopened=reopened)) == expected
    assert max(Counter(world.computed).values()) == 1
    assert told(Campaign(lossy, Store(lossy.store))) == expected


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("kind", ["base", "probe", "final"])
def test_a_trial_that_loses_every_worker_is_given_up(tmp_path, kind, reopened):
    settings = small_sweep(tmp_path / "runs", cells=(EN,))
    world, num_lost = World(settings, EDGES), []

    def losses(request):
        if request.kind == kind and (kind != "probe" or request.depth == 3):
            num_lost.append(request.attempt)
            return 99
        return 0

    campaign = _lossy(settings, world, losses, reopened=reopened)
    assert campaign.finished
    assert num_lost == [1] * (MAX_LOST + 1) + [2], "as often as it may, then as often as it may fail"
    (known,) = [
        one for one in (*campaign.ledgers[EN].singles.values(), *campaign.ledgers[EN].probes.values()) if one.reasons
    ]
    assert known.failed
    assert known.reasons == [REASON] * MAX_ATTEMPTS
