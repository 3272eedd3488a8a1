"""Whose turn it is, and that finding it does not cost more where there are more cells."""

from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy
from small_world import World, cell, drive, events, open_campaign, small_sweep

from slamlab.search.strategies import BisectSampler
from slamlab.sweep.settings import Request

CELLS = tuple(cell(family=f"family{i}") for i in range(4))


def _probes(computed):
    return [request.cell for request in computed if request.kind == "probe"]


def test_every_cell_gets_a_base_then_they_take_turns(make_settings):
    settings = make_settings(cells=CELLS)
    world = World(settings, dict.fromkeys(CELLS, 4))
    drive(settings, world)
    assert [request.cell for request in world.computed[:4]] == list(CELLS)
    num_rounds = len(_probes(world.computed)) // len(CELLS)
    assert num_rounds > 1
    assert _probes(world.computed) == list(CELLS) * num_rounds


def test_a_resumed_sweep_goes_on_in_turn(make_settings):
    settings = make_settings(cells=CELLS)
    world = World(settings, dict.fromkeys(CELLS, 4))
    going = events(open_campaign(settings), world)
    while len(_probes(world.computed)) < 6:
        next(going)
    next(going)  # it is noted
    for _ in range(2):  # one driver is killed before it begins a probe, the next while one runs
        campaign = open_campaign(settings)
        request = campaign.next()
        assert (request.kind, request.cell) == ("probe", CELLS[2])
        campaign.begin(request)


def test_a_cell_of_which_less_runs_comes_first_and_a_resting_one_not_at_all(make_settings):
    campaign = open_campaign(make_settings(cells=CELLS))
    turns = campaign._turns
    turns.began(Request(kind="base", cell=CELLS[0]))
    assert list(turns.order()) == [*CELLS[1:], CELLS[0]]
    turns.rest(CELLS[2])
    assert list(turns.order()) == [CELLS[1], CELLS[3], CELLS[0]]
    turns.wake([CELLS[2]])
    turns.ended(Request(kind="base", cell=CELLS[0]))
    assert list(turns.order()) == [*CELLS[1:], CELLS[0]], "a cell with a base waits for those without"
    turns.began(Request(kind="probe", cell=CELLS[1], depth=1))
    turns.ended(Request(kind="probe", cell=CELLS[1], depth=1))
    assert list(turns.rotated(CELLS)) == [*CELLS[2:], *CELLS[:2]]


@pytest.fixture(scope="module", params=[4, 16])
def counted(request, tmp_path_factory):
    """Return, of a sweep of so many cells, what a trial took: searches asked, statements to the file, commits."""
    cells = tuple(replace(cell(), encoder=f"encoder{i}") for i in range(request.param))  # of one decoder
    settings = small_sweep(tmp_path_factory.mktemp("counted") / "runs", cells=cells)
    campaign, world, counts = open_campaign(settings), World(settings, dict.fromkeys(cells, 2), num_layers=4), Counter()
    choose = BisectSampler.choose

    def count_choice(self, tried):
        counts["choices"] += 1
        return choose(self, tried)

    def count_statement(*_):
        counts["statements"] += 1

    def count_commit(_):
        counts["commits"] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BisectSampler, "choose", count_choice)
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count_statement)
        sqlalchemy.event.listen(sqlalchemy.Engine, "commit", count_commit)
        try:
            for _ in events(campaign, world):
                pass
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count_statement)
            sqlalchemy.event.remove(sqlalchemy.Engine, "commit", count_commit)
    assert campaign.finished
    return {name: count / len(world.computed) for name, count in counts.items()}


def test_what_a_trial_takes_does_not_grow_with_the_number_of_cells(counted):
    assert counted["choices"] <= 6
    assert counted["statements"] <= 16
    assert counted["commits"] <= 2
