"""Whole sweeps by every strategy, driven without Ray: answers, rungs, repeats, interruptions, the joint block."""

from dataclasses import replace
from shutil import copytree

import pytest
from small_world import SPEED, World, cell, drive, events, open_campaign, results_of, small_sweep, told

from slamlab.search.evidence import RUNGS
from slamlab.search.strategies import SAMPLERS

pytestmark = pytest.mark.usefixtures("no_look_ups")

EN, DE, DE_EN, LLAMA = cell(), cell("de"), cell("de", "st"), cell(family="llama")
STEEP = 1.4
EDGES = {EN: 4, DE: 5, DE_EN: 3, LLAMA: 0}


def _blocks(campaign):
    found = {one: campaign.recommendation(one) for one in campaign.settings.cells}
    return {one: (best.depth, best.verdict) for one, best in found.items()}


@pytest.fixture(scope="module")
def frontier(tmp_path_factory):
    settings = small_sweep(tmp_path_factory.mktemp("frontier") / "runs", cells=tuple(EDGES), sampler="frontier")
    world = World(settings, EDGES, steepness=STEEP)
    return drive(settings, world), world


def test_frontier_finds_every_edge_to_a_layer_and_never_beyond_in_few_heals(frontier):
    campaign, world = frontier
    for one, (depth, verdict) in _blocks(campaign).items():
        assert EDGES[one] - 1 <= depth <= EDGES[one]
        assert verdict == ("feasible" if depth else "none")
    assert sum(request.kind == "probe" for request in world.computed) <= 4 * len(EDGES)


def test_answers_are_scored_when_no_cell_of_the_decoder_has_a_question_left(frontier):
    _, world = frontier
    kinds = [request.kind for request in world.computed if request.cell.family == "qwen"]
    assert kinds.index("final") > max(i for i, kind in enumerate(kinds) if kind == "probe")
    assert kinds.count("final") == 3


def test_a_frontier_sweep_killed_after_every_trial_comes_to_the_same_answer(frontier, make_settings):
    settings = make_settings(cells=tuple(EDGES), sampler="frontier")
    world, campaign = World(settings, EDGES, steepness=STEEP), open_campaign(settings)
    while not campaign.finished:
        known = len(world.computed)
        running = events(campaign, world)
        for _ in running:
            if len(world.computed) > known:  # each driver lives for one trial, and is killed before it is noted
                break
        running.close()
        campaign = open_campaign(settings)
    assert told(campaign) == told(frontier[0])
    assert len(set(world.computed)) == len(world.computed)


def test_a_frontier_sweep_is_gone_on_with_from_a_copy_of_any_moment(make_settings, tmp_path):
    edges = {EN: 2, DE: 1}
    settings = make_settings(cells=(EN, DE), sampler="frontier")
    whole, world = open_campaign(settings), World(settings, edges, num_layers=4, steepness=STEEP)
    copies = [copytree(settings.store, tmp_path / str(i)) for i, _ in enumerate(events(whole, world))]
    for copy in copies:
        resumed = replace(settings, store=copy)
        campaign = drive(resumed, World(resumed, edges, num_layers=4, steepness=STEEP))
        assert results_of(campaign)["cells"] == results_of(whole)["cells"], copy.name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_strategy_comes_to_an_end_and_recommends_no_harm(make_settings, sampler):
    settings = make_settings(cells=(EN, LLAMA), sampler=sampler, workers=3, max_heals=4)
    edges = {EN: 2, LLAMA: 0}
    campaign = drive(settings, World(settings, edges, num_layers=5, steepness=STEEP), workers=3, order=1)
    for one, (depth, verdict) in _blocks(campaign).items():
        assert depth <= edges[one]
        assert verdict == ("feasible" if depth else "none")
    if sampler in ("grid", "paper", "bisect", "frontier"):
        assert _blocks(campaign)[EN][0] >= (1 if sampler == "frontier" else 2)
    results = results_of(campaign)
    assert results["sweep"]["sampler"] == sampler
    assert results["sweep"]["finished"]


def test_strategies_that_need_not_wait_fill_the_workers(make_settings):
    settings = make_settings(sampler="paper", workers=4)
    campaign, world = open_campaign(settings), World(settings, {EN: 4})
    most = 0
    for _ in events(campaign, world, workers=4):
        most = max(most, len(campaign.running))
        assert len({(r.depth, r.start) for r in campaign.running}) == len(campaign.running)
    assert most == 4
    assert campaign.recommendation(EN).depth == 4


def test_cheap_rungs_really_run_and_their_agreement_is_told(make_settings):
    settings = make_settings(cells=(EN, DE, DE_EN), sampler="frontier", rungs=("full", "unhealed"))
    world = World(settings, EDGES, steepness=STEEP)
    campaign = drive(settings, world)
    cheap = [request for request in world.computed if request.rung == "unhealed"]
    assert cheap
    results = results_of(campaign)
    (told,) = results["rungs"]
    assert (told["rung"], told["num_looks"]) == ("unhealed", len(cheap))
    assert told["num_blocks"] >= 3
    for probe in results["probes"]:
        assert probe["rung"] in RUNGS
        assert ("verdict" in probe) == (probe["rung"] == "full")
    for one, (depth, verdict) in _blocks(campaign).items():
        assert EDGES[one] - 1 <= depth <= EDGES[one]
        assert verdict == "feasible"


def test_a_cheap_look_is_compared_on_the_utterances_that_it_scored(make_settings):
    settings = make_settings(sampler="frontier", rungs=("full", "unhealed"))
    campaign = drive(settings, World(settings, EDGES, steepness=STEEP))
    (depth, start, *_), attempts = next(
        (key, one) for key, one in campaign.ledgers[EN].probes.items() if key[2] == "unhealed"
    )
    base = campaign.ledgers[EN].singles["base"].record
    assert attempts.record["scores"]["selection"]["num_utterances"] < base["scores"]["selection"]["num_utterances"]
    assert attempts.record["relative_degradation"] is not None
    assert (depth, start, "full", 0) in campaign.ledgers[EN].probes, "the first blocks calibrate the rung"


def test_a_sweep_without_cheap_rungs_tells_of_none(frontier):
    assert results_of(frontier[0])["rungs"] == []
    assert results_of(frontier[0])["joints"] == []


def test_the_verdict_of_a_block_is_that_of_all_evidence(frontier):
    campaign, _ = frontier
    for probe in results_of(campaign)["probes"]:
        p, alpha = probe["p_feasible"], campaign.settings.alpha
        shown = probe["relative_degradation"] <= campaign.settings.tolerance
        expected = "feasible" if p >= 1 - alpha and shown else "infeasible" if p <= alpha else "undecided"
        assert probe["verdict"] == expected
        edge = EDGES[next(one for one in EDGES if one.as_dict() == probe["cell"])]
        assert probe["verdict"] in ("undecided", "feasible" if probe["depth"] <= edge else "infeasible")


# The joint block


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    settings = small_sweep(
        tmp_path_factory.mktemp("backbone") / "runs", cells=(EN, DE, DE_EN), sampler="frontier", joint=True
    )
    world = World(settings, EDGES, steepness=STEEP)
    return drive(settings, world), world


def test_the_joint_block_is_what_every_cell_bears(backbone):
    campaign, world = backbone
    (joint,) = results_of(campaign)["joints"]
    assert (joint["max_depth"], joint["verdict"]) == (3, "feasible")
    assert joint["binding"]["member"] == DE_EN.as_dict()
    assert joint["prediction"]["depth"] in (2, 3, 4)
    assert joint["checkpoint"]
    assert joint["speed"] == SPEED
    assert [test["test"]["verdict"] for test in joint["tests"]] == ["feasible"] * 3
    kinds = [request.kind for request in world.computed]
    assert kinds.count("joint_final") == 1
    assert "final" not in kinds, "a member has no final of its own"
    assert kinds.index("joint") > max(i for i, kind in enumerate(kinds) if kind == "probe")


def test_a_joint_heal_has_an_entry_for_every_member(backbone):
    campaign, _ = backbone
    (joint,) = results_of(campaign)["joints"]
    assert joint["heals"]
    for heal in joint["heals"]:
        assert [member["cell"] for member in heal["members"]] == [one.as_dict() for one in (EN, DE, DE_EN)]
        assert heal["verdict"] == ("feasible" if heal["depth"] <= 3 else heal["verdict"])


def test_a_joint_sweep_killed_after_every_trial_comes_to_the_same_answer(backbone, make_settings):
    settings = make_settings(cells=(EN, DE, DE_EN), sampler="frontier", joint=True)
    world, campaign = World(settings, EDGES, steepness=STEEP), open_campaign(settings)
    while not campaign.finished:
        known = len(world.computed)
        running = events(campaign, world)
        for _ in running:
            if len(world.computed) > known:
                break
        running.close()
        campaign = open_campaign(settings)
    assert told(campaign) == told(backbone[0])


def test_a_joint_sweep_reads_what_a_sweep_of_its_cells_has_computed(frontier, tmp_path):
    store = copytree(frontier[0].store.root, tmp_path / "runs")
    settings = small_sweep(store, name="backbone", cells=(EN, DE, DE_EN), sampler="frontier", joint=True)
    world = World(settings, EDGES, steepness=STEEP)
    drive(settings, world)
    assert {request.kind for request in world.computed} <= {"joint", "joint_final", "probe"}
    assert sum(request.kind == "probe" for request in world.computed) <= 2, "llama's cell is another decoder's"


def test_without_the_base_of_a_member_there_is_no_joint_answer(make_settings):
    settings = make_settings(cells=(EN, DE), sampler="frontier", joint=True)
    campaign = drive(settings, World(settings, EDGES, failures={("base", DE, 0): 9}))
    (joint,) = results_of(campaign)["joints"]
    assert joint["verdict"] == "failed"
    assert "member" in joint["reason"]


def test_a_joint_that_no_member_can_bear_is_none(make_settings):
    edges = {EN: 4, DE: 0}
    settings = make_settings(cells=(EN, DE), sampler="frontier", joint=True)
    campaign = drive(settings, World(settings, edges, num_layers=5, steepness=STEEP))
    (joint,) = results_of(campaign)["joints"]
    assert (joint["verdict"], joint["max_depth"], joint["tests"]) == ("none", 0, None)
