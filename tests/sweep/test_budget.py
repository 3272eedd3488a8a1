"""Sweeps with a budget: it is obeyed, what was found is scored and told, a larger one goes on to the same answer."""

import json
from dataclasses import replace
from functools import partial

import pytest
from small_world import SECONDS, World, cell, drive, events, open_campaign, results_of

from slamlab.report.costs import in_closing
from slamlab.report.page import render
from slamlab.search.curve import Curve
from slamlab.sweep.settings import Request

pytestmark = pytest.mark.usefixtures("no_look_ups")

EN, DE, LLAMA = cell(), cell("de"), cell(family="llama")
EDGES = {EN: 4, DE: 7, LLAMA: 0}


@pytest.fixture
def timed(make_settings, tmp_path):
    """Build settings of a sweep on a store that knows, of a sweep of another seed, what every kind of trial takes."""
    (tmp_path / "given").mkdir()
    build = partial(make_settings, base=str(tmp_path / "given"))
    known = build(seed=1, name="known", control=True)
    drive(known, World(known, EDGES))
    return build


def _with(settings, budget_s):
    return replace(settings, max_device_hours=None if budget_s is None else budget_s / 3600)


def _run(settings, budget_s, edges=EDGES, *, workers=1, order=None, world=None):
    """Run a sweep to the end of its budget, holding at each moment that what runs is expected to fit."""
    settings = _with(settings, budget_s)
    campaign, world = open_campaign(settings), world or World(settings, edges)
    for _ in events(campaign, world, workers, order):
        expected = sum(campaign.budget.expect(one).device_s for one in campaign.running)
        assert campaign.budget.spent_s + expected <= budget_s + 1e-6
    assert campaign.finished
    return campaign, world


def _told(results):
    """Return what a sweep found, whatever it cost."""
    costs = ("cost", "device_seconds", "wall_seconds")
    cells = [{name: value for name, value in one.items() if name not in costs} for one in results["cells"]]
    joints = [{name: value for name, value in one.items() if name not in costs} for one in results["joints"]]
    return json.dumps([cells, joints, results["probes"]], sort_keys=True)


def _cost(requests):
    return sum(SECONDS[request.kind] for request in requests)


@pytest.mark.parametrize(("workers", "order"), [(1, None), (3, 1), (3, 2)])
def test_a_budget_is_obeyed_and_a_larger_one_goes_on_to_the_same_answer(timed, tmp_path, workers, order):
    settings = timed(cells=tuple(EDGES), workers=workers)
    alone = replace(settings, store=tmp_path / "alone")
    whole = drive(alone, World(alone, EDGES), workers, order)
    computed = []
    for budget_s in [*range(0, int(whole.budget.spent_s), 65), None]:
        if budget_s is None:
            world = World(settings, EDGES)
            campaign = drive(settings, world, workers, order)
        else:
            campaign, world = _run(settings, budget_s, workers=workers, order=order)
            assert campaign.budget.spent_s <= budget_s
            assert campaign.is_cut == any("cut" in one for one in results_of(campaign)["cells"])
            for one in campaign.settings.cells:
                best = campaign.recommendation(one)
                assert best.depth == 0 or campaign.ledgers[one].singles["final"].record["depth"] == best.depth
        computed += world.computed
        assert campaign.budget.spent_s == _cost(computed)
        assert open_campaign(campaign.settings).budget.spent_s == campaign.budget.spent_s
        assert open_campaign(campaign.settings).finished
    assert not campaign.is_cut
    assert len(set(computed)) == len(computed), "nothing is computed twice"
    assert _told(results_of(campaign)) == _told(results_of(whole))


def test_a_budget_of_nothing_begins_nothing_and_is_told(timed, tmp_path):
    campaign, world = _run(timed(cells=(EN, LLAMA)), 0)
    assert world.computed == []
    results = results_of(campaign)
    assert results["sweep"]["finished"], "the budget was obeyed"
    assert results["sweep"]["cost"]["budget"]["cut"]
    for one in results["cells"]:
        assert (one["verdict"], one["reason"]) == ("failed", "the budget left no room for it")
        assert one["cut"]["kind"] == "base"
    assert any("it cut 2 of 2 searches short" in line for line in in_closing(results))
    render(results, campaign.store.root, tmp_path / "report")
    assert "the budget left no room for it" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(("short_s", "kinds"), [(1, []), (0, ["base", "probe", "final"])])
def test_a_cell_is_begun_where_an_answer_fits(timed, short_s, kinds):
    least = SECONDS["base"] + SECONDS["probe"] + SECONDS["final"]
    campaign, world = _run(timed(), least - short_s)
    assert [one.kind for one in world.computed] == kinds
    (english,) = results_of(campaign)["cells"]
    assert english["verdict"] == ("feasible" if kinds else "failed")
    assert english["max_depth"] == (3 if kinds else 0)


def test_of_two_cells_one_has_its_answer_where_one_fits(timed):
    _, world = _run(timed(cells=(EN, DE)), 60 + 45)
    assert {one.cell for one in world.computed} == {EN}
    _, world = _run(timed(cells=(EN, DE), name="both", seed=4), 2 * 60)
    assert sorted(one.kind for one in world.computed) == ["base", "base", "final", "final", "probe", "probe"]


def test_what_is_open_is_told(timed, tmp_path):
    campaign, _ = _run(timed(), 60)
    results = results_of(campaign)
    (english,) = results["cells"]
    assert english["cut"] == {"kind": "probe", "start": 5, "depth": 6, "rung": "full"}
    assert english["cost"] == {
        "device_seconds": 60.0,
        "failed_device_seconds": 0,
        "found_device_seconds": 0.0,
        "num_trials": 3,
        "num_heals": 1,
    }
    render(results, campaign.store.root, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text().replace("\u00a0", " ")
    assert "Deeper blocks are open: the budget cut the search short before a look at layers 5–10." in page
    assert "it cut 1 of 1 searches short" in page
    assert "Deeper blocks are open" in page.splitlines()[0], "the headline says so"


def test_a_cell_without_a_block_so_far_is_not_said_to_have_none(timed, tmp_path):
    campaign, world = _run(timed(), 60, {EN: 1})
    assert [one.kind for one in world.computed] == ["base", "probe"]
    results = results_of(campaign)
    assert results["cells"][0]["verdict"] == "none"
    render(results, campaign.store.root, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text().replace("\u00a0", " ")
    assert page.startswith("# No block of layers is known that the qwen mini decoder can lose")
    assert "Other blocks are open: the budget cut the search short before a look at layer 10." in page


def test_a_scoring_that_a_better_answer_replaced_was_paid_for(timed):
    settings = timed()
    first, _ = _run(settings, 60)
    assert first.ledgers[EN].singles["final"].record["depth"] == 3
    campaign = drive(settings, World(settings, EDGES))
    assert campaign.ledgers[EN].singles["final"].record["depth"] == 4
    kinds = [record["kind"] for record in campaign.ledgers[EN].records]
    assert kinds.count("final") == 2
    for known in (campaign, open_campaign(settings)):
        assert known.budget.spent_s == sum(SECONDS[kind] for kind in kinds)


def test_failed_attempts_count(timed):
    settings = timed()
    world = World(settings, EDGES, failures={("probe", EN, 3): 1, ("base", EN, 0): 1}, failed_s=7.0)
    campaign = drive(settings, world)
    for known in (campaign, open_campaign(settings)):
        assert known.budget.spent_s == _cost(world.computed) + 14.0
        (english,) = results_of(known)["cells"]
        assert english["cost"]["failed_device_seconds"] == 14.0
    tight = replace(settings, name="tight", seed=9)
    world = World(_with(tight, 66), EDGES, failures={("probe", EN, 3): 1}, failed_s=7.0)
    campaign, _ = _run(tight, 66, world=world)
    assert [one.kind for one in world.computed] == ["base"], "with the attempt that failed, no heal and its scoring fit"
    assert campaign.budget.spent_s == 37.0


def test_trials_of_another_sweep_cost_nothing(timed):
    first = timed(cells=(EN, DE))
    drive(first, World(first, EDGES))
    campaign, world = _run(replace(first, name="second"), 120)
    assert world.computed == []
    assert not campaign.is_cut
    assert campaign.budget.spent_s == 0
    results = results_of(campaign)
    assert results["sweep"]["cost"]["device_seconds"] == 0
    for one in results["cells"]:
        assert one["cost"]["found_device_seconds"] == one["device_seconds"] > 0


def test_records_that_do_not_say_whose_they_are_count(timed):
    settings = timed()
    campaign = drive(settings, World(settings, EDGES))
    for record in campaign.ledgers[EN].records:
        campaign.store.write_record({name: value for name, value in record.items() if name != "sweep"})
    assert open_campaign(settings).budget.spent_s == campaign.budget.spent_s > 0


def test_a_control_is_thought_of(timed):
    least = 60 + SECONDS["control"]
    _, world = _run(timed(control=True), least)
    assert [one.kind for one in world.computed] == ["base", "probe", "final", "control"]
    _, world = _run(timed(control=True, name="less", seed=5), least - 1)
    assert world.computed == []


def test_a_joint_sweep_keeps_room_for_the_joint_answer(timed):
    known = timed(cells=(EN, DE), joint=True, sampler="frontier", name="known-jointly", seed=7)
    whole = _drive_small(known)
    least_s = 2 * SECONDS["base"] + SECONDS["joint"] + SECONDS["joint_final"]
    for budget_s in (least_s - 1, least_s + 25):
        settings = replace(known, name=f"budget-{budget_s:g}", seed=8)
        campaign, world = _run(settings, budget_s, world=_small_world(_with(settings, budget_s)))
        (joint,) = results_of(campaign)["joints"]
        kinds = sorted(request.kind for request in world.computed)
        if budget_s < least_s:
            assert kinds == []
            assert joint["reason"].endswith("the budget left no room for it")
        else:
            assert kinds == ["base", "base", "joint", "joint_final", "probe"]
            assert campaign.is_cut
    last, alone = (_drive_small(one) for one in (settings, replace(settings, store=settings.store.with_name("alone"))))
    answers = [results_of(campaign)["joints"][0] for campaign in (last, alone)]
    told = [(one["max_depth"], one["start"], one["verdict"]) for one in answers]
    assert told[0] == told[1]
    assert told[0][0] == 2
    assert whole.budget.spent_s > least_s


def _small_world(settings):
    return World(settings, {EN: 2, DE: 3}, num_layers=6, steepness=1.4)


def _drive_small(settings):
    return drive(settings, _small_world(settings))


def test_a_sweep_of_curves_ends_with_what_fits(timed):
    settings = timed(curve=Curve(methods=("paper",), depths=("2", "4"), healed=True))
    look_s, heal_s = 0.05 * SECONDS["probe"], SECONDS["probe"]
    _, world = _run(settings, SECONDS["base"] + 2 * look_s + heal_s + 10)
    assert [one.rung for one in world.computed if one.kind == "probe"] == ["unhealed", "unhealed", "full"]
    campaign = drive(settings, World(settings, EDGES))
    assert not campaign.is_cut
    assert sum(key[2] == "full" for key in campaign.ledgers[EN].probes) == 2


def test_a_price_is_a_budget_too(make_settings):
    assert make_settings(max_price=5.0, gpu_price=2.5).budget_s == 2 * 3600
    assert make_settings(max_price=5.0, gpu_price=2.5, max_device_hours=1.0).budget_s == 3600
    assert make_settings(gpu_price=2.5).budget_s is None


def test_a_budget_is_no_part_of_the_question(make_settings):
    settings = make_settings()
    assert _with(settings, 60).question(EN) == settings.question(EN)


def test_a_first_trial_is_expected_to_train_its_base(make_settings):
    campaign = open_campaign(make_settings(cells=(EN, DE)))
    (first, second) = (campaign.budget.expect(Request(kind="base", cell=one)).device_s for one in (EN, DE))
    assert first == second == 45 + 2 * (1200 + 1000) * 0.2
