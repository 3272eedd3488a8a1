"""Whole sweeps, driven without Ray: what is asked next, and that no way of being interrupted changes an answer."""

import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import sqlalchemy
from small_world import World, cell, drive, events, open_campaign, results_of, small_sweep, told

from slamlab.search.strategies import expected_num_heals
from slamlab.sweep.settings import Request
from slamlab.sweep.store import Store

pytestmark = pytest.mark.usefixtures("no_look_ups")

EN, DE, DE_EN, LLAMA = cell(), cell("de"), cell("de", "st"), cell(family="llama")
EDGES = {EN: 4, DE: 7, DE_EN: 1, LLAMA: 0}
FIRST_BLOCK = {"depth": 3, "start": 8}  # a quarter of 12 layers, ending before the last: as the world's map says


def _blocks(campaign):
    return {one: _block(campaign, one) for one in campaign.settings.cells}


def _block(campaign, one):
    found = campaign.recommendation(one)
    return found.depth, found.start, found.verdict


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the results of the sweep that others are compared with: one trial after the other."""
    settings = small_sweep(tmp_path_factory.mktemp("alone") / "runs", cells=tuple(EDGES))
    campaign = drive(settings, World(settings, EDGES))
    return campaign, told(campaign)


def test_the_deepest_harmless_block_is_found_in_every_cell(alone):
    assert _blocks(alone[0]) == {
        EN: (4, 7, "feasible"),
        DE: (7, 4, "feasible"),
        DE_EN: (1, 10, "feasible"),
        LLAMA: (0, 0, "none"),
    }


@pytest.mark.parametrize(("workers", "order"), [(2, None), (2, 1), (8, None), (8, 2)])
def test_the_number_of_workers_and_their_order_change_nothing(make_settings, alone, workers, order):
    settings = make_settings(cells=tuple(EDGES), workers=workers)
    world = World(settings, EDGES)
    assert told(drive(settings, world, workers, order)) == alone[1]
    assert max(Counter(world.computed).values()) == 1


def test_a_cell_goes_from_its_base_over_probes_to_its_final_one_at_a_time(make_settings):
    settings = make_settings(cells=tuple(EDGES))
    campaign, world = open_campaign(settings), World(settings, EDGES)
    for _ in events(campaign, world, workers=8):
        busy = [request.cell for request in campaign.running]
        assert len(busy) == len(set(busy)), "the next probe of a cell depends on the last"
    for one in settings.cells:
        kinds = [request.kind for request in world.computed if request.cell == one]
        found = campaign.recommendation(one).depth
        num_probes = len(kinds) - (2 if found else 1)
        assert kinds == ["base", *["probe"] * num_probes, *["final"] * bool(found)]
        assert 1 <= num_probes <= expected_num_heals("bisect", 12, 11)[1]


def test_the_first_probe_is_where_the_map_says(make_settings):
    settings = make_settings()
    campaign, world = open_campaign(settings), World(settings, EDGES)
    assert list(islice(events(campaign, world), 4))[-1] == "probe began"
    assert campaign.running == {Request(kind="probe", cell=EN, **FIRST_BLOCK)}


def test_the_cell_that_has_come_least_far_is_next(make_settings):
    settings = make_settings(cells=(EN, LLAMA))
    campaign, world = open_campaign(settings), World(settings, EDGES)
    for _ in events(campaign, world):
        known = [len(campaign.ledgers[one].probes) for one in settings.cells]
        searching = [campaign.ledgers[one].singles["final"].record is None for one in settings.cells]
        if all(searching) and campaign.recommendation(LLAMA).depth == 0 and known[1] < 2:
            assert abs(known[0] - known[1]) <= 1


@pytest.mark.parametrize("at", ["probe", "final", "base"])
def test_what_fails_once_is_tried_again_and_forgiven(make_settings, alone, at):
    settings = make_settings(cells=tuple(EDGES))
    depth = {"base": 0, "probe": 3, "final": 4}[at]
    world = World(settings, EDGES, failures={(at, EN, depth): 1})
    campaign = drive(settings, world, workers=2)
    assert _blocks(campaign) == _blocks(alone[0])
    request = Request(kind=at, cell=EN, depth=depth, start=11 - depth if depth else 0)
    assert campaign.ledgers[EN].attempts(request).reasons == [f"the {at} would not work"]
    (again,) = [one for one in world.computed if (one.kind, one.cell, one.depth) == (at, EN, depth)]
    assert again.attempt == 2
    results = results_of(campaign)
    assert results["sweep"]["num_failed"] == 0
    assert results["sweep"]["num_trials"] == results_of(alone[0])["sweep"]["num_trials"] + 1


def test_a_cell_whose_base_fails_twice_ends_and_others_go_on(make_settings, alone):
    settings = make_settings(cells=tuple(EDGES))
    world = World(settings, EDGES, failures={("base", LLAMA, 0): 9})
    campaign = drive(settings, world, workers=2)
    assert world.failures["base", LLAMA, 0] == 9 - 2
    assert all(request.cell != LLAMA for request in world.computed)
    assert {one: _blocks(campaign)[one] for one in (EN, DE, DE_EN)} == {
        one: _blocks(alone[0])[one] for one in (EN, DE, DE_EN)
    }
    reopened = open_campaign(settings)
    assert reopened.finished
    assert reopened.ledgers[LLAMA].singles["base"].reasons == ["the base would not work"] * 2


def test_a_probe_that_fails_twice_counts_against_its_depth(make_settings):
    settings = make_settings()
    world = World(settings, {EN: 9}, failures={("probe", EN, 6): 9})
    campaign = drive(settings, world)
    assert world.failures["probe", EN, 6] == 9 - 2, "it is tried twice, and no third time"
    assert _block(campaign, EN) == (5, 6, "feasible")
    assert all(key[0] <= 6 for key in campaign.ledgers[EN].probes)
    assert campaign.ledgers[EN].probes[6, 5, "full", 0].failed
    assert open_campaign(settings).finished


def test_a_final_that_fails_twice_ends_the_cell(make_settings):
    settings = make_settings()
    world = World(settings, {EN: 4}, failures={("final", EN, 4): 9})
    campaign = drive(settings, world)
    assert world.failures["final", EN, 4] == 9 - 2
    assert campaign.ledgers[EN].singles["final"].failed
    assert open_campaign(settings).finished


def test_failures_are_counted_over_interruptions(make_settings):
    settings = make_settings()
    world = World(settings, {EN: 4}, failures={("probe", EN, 3): 9})
    assert list(islice(events(open_campaign(settings), world), 5))[-1] == "probe failed"
    campaign = open_campaign(settings)
    assert campaign.next() == Request(kind="probe", cell=EN, attempt=2, **FIRST_BLOCK)
    for _ in events(campaign, world):
        pass
    assert world.failures["probe", EN, 3] == 9 - 2


def test_a_finished_campaign_asks_for_nothing(make_settings):
    settings = make_settings(cells=(EN, LLAMA))
    drive(settings, World(settings, EDGES))
    reopened = open_campaign(settings)
    assert reopened.finished
    assert reopened.next() is None


def test_a_running_trial_keeps_a_campaign_from_being_finished(make_settings):
    settings = make_settings()
    campaign = open_campaign(settings)
    assert not campaign.finished
    request = campaign.next()
    campaign.begin(request)
    assert campaign.next() is None
    assert not campaign.finished


# Interruptions: what a killed driver leaves is its store as it is at that moment, copied here to go on from.


def _resume(settings, edges, snapshot, computed, **world):
    """Go on from a copy of a store; return the campaign and how often each trial was computed in all."""
    resumed = replace(settings, store=snapshot)
    hands = World(resumed, edges, **world)
    campaign = drive(resumed, hands, settings.workers)
    return campaign, Counter([*computed, *(replace(request, attempt=1) for request in hands.computed)])


def test_an_interruption_anywhere_repeats_nothing_and_changes_nothing(make_settings, tmp_path):
    edges = {EN: 2, LLAMA: 1}
    settings = make_settings(cells=(EN, LLAMA), workers=2)
    whole, world = open_campaign(settings), World(settings, edges, num_layers=4)
    left = [("opened", shutil.copytree(settings.store, tmp_path / "opened"), [])]
    for number, event in enumerate(events(whole, world, workers=2)):
        left.append((event, shutil.copytree(settings.store, tmp_path / str(number)), list(world.computed)))
    expected = told(whole)
    assert len(left) == 1 + 3 * results_of(whole)["sweep"]["num_trials"]
    for event, snapshot, computed in left:
        resumed, times = _resume(settings, edges, snapshot, computed, num_layers=4)
        assert told(resumed) == expected, f"interrupted when {event}"
        assert set(times.values()) == {1}, f"interrupted when {event}"


@contextmanager
def _copied_before_each_commit(store, into):
    """Yield a list that grows by a copy of the store before whatever its ledger commits."""
    copies = []

    def copy(_):
        ledger = store / "ledger.db"
        if ledger.exists() and (not copies or ledger.read_bytes() != (copies[-1] / "ledger.db").read_bytes()):
            copies.append(shutil.copytree(store, into / f"commit-{len(copies)}"))

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", copy)
    try:
        yield copies
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "commit", copy)


def test_a_driver_killed_between_two_writes_to_its_ledger_loses_nothing(make_settings, tmp_path):
    edges, failures = {EN: 1}, {("probe", EN, 2): 1, ("base", EN, 0): 1}
    settings = make_settings()
    with _copied_before_each_commit(settings.store, tmp_path) as copies:
        world = World(settings, edges, num_layers=4, failures=failures)
        whole = drive(settings, world)
    expected = results_of(whole)["cells"]
    assert len(copies) > 10
    for snapshot in copies:
        known = [
            Request(kind=record["kind"], cell=EN, start=record.get("start", 0), depth=record.get("depth", 0))
            for record in Store(snapshot).records()
        ]
        resumed, times = _resume(settings, edges, snapshot, known, num_layers=4)
        for campaign in (resumed, open_campaign(resumed.settings)):  # as it was noted, and as it is read again
            assert campaign.finished
            assert results_of(campaign)["cells"] == expected, f"killed at {snapshot.name}"
        assert set(times.values()) == {1}, f"killed at {snapshot.name}"
        for attempts in resumed.ledgers[EN].probes.values():
            assert len(attempts.reasons) <= 1, "what was cut short is no failure"


def test_a_sweep_interrupted_at_every_event_comes_to_its_end(make_settings, alone):
    settings = make_settings(cells=tuple(EDGES))
    world, campaign = World(settings, EDGES), open_campaign(settings)
    while not campaign.finished:
        known = len(world.computed)
        running = events(campaign, world, workers=2)
        for _ in running:
            if len(world.computed) > known:  # each driver lives for one trial
                break
        running.close()
        campaign = open_campaign(settings)
    assert told(campaign) == alone[1]
    assert max(Counter(world.computed).values()) == 1


# Trials that are shared


def test_cells_that_share_a_base_never_train_it_twice_at_once(make_settings):
    settings = make_settings(cells=(EN, DE, DE_EN, LLAMA))
    campaign, world = open_campaign(settings), World(settings, EDGES)
    started = []
    while (request := campaign.next()) is not None:
        campaign.begin(request)
        started.append(request)
    # One cell trains for all of qwen; llama's base is another one.
    assert started == [Request(kind="base", cell=EN), Request(kind="base", cell=LLAMA)]
    assert not campaign.finished
    campaign.complete(started[1], world.run(started[1]))
    assert campaign.next() == Request(kind="probe", cell=LLAMA, **FIRST_BLOCK), "it waits for nobody"
    campaign.complete(started[0], world.run(started[0]))
    while (request := campaign.next()) is not None:
        campaign.begin(request)
    # Now the others only load and score it, at the same time.
    assert {Request(kind="base", cell=DE), Request(kind="base", cell=DE_EN)} <= campaign.running
    assert len(campaign.running) == 4
    for request in list(campaign.running):
        campaign.complete(request, world.run(request))
    for _ in events(campaign, world, workers=8):
        pass
    assert [request.cell for request in world.trained] == [LLAMA, EN]


def test_the_next_cell_trains_a_base_that_the_first_could_not(make_settings):
    settings = make_settings(cells=(EN, DE))
    world = World(settings, EDGES, failures={("base", EN, 0): 9})
    campaign = drive(settings, world, workers=8)
    assert [request.cell for request in world.trained] == [DE]
    assert campaign.recommendation(DE).depth == EDGES[DE]


def test_a_base_that_is_there_is_loaded_by_all_cells_at_once(make_settings, tmp_path):
    (tmp_path / "given").mkdir()
    settings = make_settings(cells=(EN, DE, DE_EN), base=str(tmp_path / "given"))
    campaign = open_campaign(settings)
    for one in settings.cells:
        assert campaign.next() == Request(kind="base", cell=one)
        campaign.begin(campaign.next())


def test_an_equal_trial_of_another_sweep_is_read_not_computed(make_settings):
    first = make_settings(cells=(EN, DE))
    drive(first, World(first, EDGES))
    second = make_settings(cells=(DE, EN), name="second")
    world = World(second, EDGES)
    campaign = drive(second, world)
    assert world.computed == []
    assert _blocks(campaign) == {EN: (4, 7, "feasible"), DE: (7, 4, "feasible")}


def test_a_record_is_judged_by_the_tolerance_of_each_sweep(make_settings):
    strict = make_settings(tolerance=0.25)
    world = World(strict, {EN: 4}, harm=1.6)
    assert drive(strict, world).recommendation(EN).depth == 4
    computed = len(world.computed)
    lenient = make_settings(tolerance=2.0, name="lenient")
    assert _block(drive(lenient, World(lenient, {EN: 4}, harm=1.6)), EN) == (11, 0, "feasible")
    # The shared records have been judged twice since; each sweep keeps to its own.
    assert open_campaign(strict).recommendation(EN).depth == 4
    assert open_campaign(strict).finished
    assert len(world.computed) == computed


def test_a_block_that_is_neither_clearly_within_nor_beyond_is_undecided(make_settings):
    settings = make_settings(tolerance=0.25)
    campaign = drive(settings, World(settings, {EN: 0}, harm=1.25))
    verdicts = {campaign.verdict(EN, start, depth)["verdict"] for depth, start, *_ in campaign.ledgers[EN].probes}
    assert verdicts == {"undecided"}
    assert campaign.recommendation(EN).verdict in ("undecided", "none")


def test_a_base_without_an_error_made_worse_is_judged_without_a_number(make_settings):
    settings = make_settings()
    campaign = drive(settings, World(settings, {EN: 4}, base_rate=0.0))
    assert _block(campaign, EN) == (4, 7, "feasible")
    for known in (campaign, open_campaign(settings)):
        for (depth, start, *_), attempts in known.ledgers[EN].probes.items():
            found = attempts.record | known.verdict(EN, start, depth)
            worse = depth > 4
            assert (found["relative_degradation"], found["ci95"]) == ((None, [None, None]) if worse else (0, [0, 0]))
            assert found["verdict"] == ("infeasible" if worse else "feasible")


def test_a_control_follows_each_answer_and_is_compared_with_it(make_settings):
    settings = make_settings(cells=(EN, LLAMA), control=True)
    world = World(settings, EDGES, training=0.5)
    campaign = drive(settings, world)
    # Layers 7-10 go, and 6 receives. Nothing can go from the other decoder, so nothing is to be compared there.
    (control,) = [one for one in world.computed if one.is_control]
    assert control == Request(kind="control", cell=EN, start=6)
    english, llama = results_of(campaign)["cells"]
    assert english["verdict"] == "feasible", "the answer is still that against the base"
    assert english["control"]["receiver"] == 6
    assert list(english["control"]["splits"]) == ["test", "test-voices"]
    for scores in english["control"]["splits"].values():
        # Half of the base's errors went by training alone.
        before, after = scores["baseline"]["value"], scores["pruned"]["value"]
        assert scores["pruned"]["relative_degradation"] == pytest.approx(after / before - 1)
        assert scores["pruned"]["relative_degradation"] > 0.5
        assert scores["pruned"]["verdict"] == "infeasible"
    assert english["control"]["splits"]["test"]["pruned"]["value"] == english["pruned"]["value"]
    assert "control" not in llama


def test_a_control_asked_for_later_is_all_that_is_computed(make_settings, alone):
    settings = make_settings(cells=(EN, DE))
    before = drive(settings, World(settings, EDGES))
    again = make_settings(cells=(EN, DE), control=True)
    world = World(again, EDGES)
    after = drive(again, world)
    assert [(one.kind, one.cell, one.start) for one in world.computed] == [("control", EN, 6), ("control", DE, 3)]
    changed = ("control", "cost", "device_seconds", "wall_seconds")
    told, without = (
        [{name: value for name, value in one.items() if name not in changed} for one in results_of(campaign)["cells"]]
        for campaign in (after, before)
    )
    assert told == without
    for one, other in zip(results_of(after)["cells"], results_of(before)["cells"], strict=True):
        assert one["device_seconds"] == other["device_seconds"] + 25.0, "a control costs what it costs"


def test_a_control_that_fails_twice_leaves_the_answer_as_it_is(make_settings):
    settings = make_settings(control=True)
    campaign = drive(settings, World(settings, EDGES, failures={("control", EN, 0): 2}))
    (english,) = results_of(campaign)["cells"]
    assert (english["verdict"], english["max_depth"]) == ("feasible", 4)
    assert english["control"] == {"reason": "the control would not work; then: the control would not work"}


def test_a_joint_answer_has_one_control_for_all_its_cells(make_settings):
    settings = make_settings(cells=(EN, DE), control=True, joint=True, sampler="frontier")
    world = World(settings, EDGES)
    results = results_of(drive(settings, world))
    (joint,) = results["joints"]
    (control,) = [one for one in world.computed if one.is_control]
    assert control.kind == "joint_control"
    assert joint["control"]["receiver"] == control.start == joint["start"] - 1
    assert len(joint["control"]["splits"]) == 2
    for splits, test in zip(joint["control"]["splits"], joint["tests"], strict=True):
        assert splits["test"]["pruned"]["value"] == test["test"]["value"]
        assert splits["test"]["baseline"]["value"] <= test["test"]["value"]


def test_a_convention_says_what_a_block_is_judged_by_beforehand(make_settings):
    settings = make_settings(convention="streamline", sampler="paper")
    campaign, world = open_campaign(settings), World(settings, EDGES)
    list(islice(events(campaign, world), 4))
    with np.load(campaign.store.root / campaign.ledgers[EN].singles["base"].record["map"]) as arrays:
        distance = arrays["distance"]
    space = campaign._space(EN)
    for start in range(1, 12):
        for depth in range(1, 13 - start):
            assert space.distance_of(start, depth) == distance[start - 1, start + depth]
    assert space.distance_of(0, 3) == 1.0
    assert settings.question(EN) != make_settings(sampler="paper").question(EN)
    assert "as LLM-Streamline does" in results_of(campaign)["sweep"]["convention"]
