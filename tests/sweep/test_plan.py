import io
from dataclasses import replace
from itertools import islice

import pytest
from rich.console import Console
from small_world import SECONDS, World, cell, drive, events

from slamlab.search.curve import Curve
from slamlab.search.joint import MAX_HEALS as MAX_JOINT_HEALS
from slamlab.search.strategies import expected_num_heals
from slamlab.sweep.bases import trained_folder
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import Cell
from slamlab.sweep.plan import JOINT_HEALS, estimate, hours
from slamlab.sweep.plan_table import maps_table, table
from slamlab.sweep.standing import clock
from slamlab.sweep.store import Store
from slamlab.zoo.profiles import PROFILES


def expected_num_probes(num_layers):
    return expected_num_heals("bisect", num_layers, num_layers - 1)[0]


def max_num_probes(num_layers):
    return expected_num_heals("bisect", num_layers, num_layers - 1)[1]


EN, DE, LLAMA = cell(), cell("de"), cell(family="llama")
LARGE = Cell(family="llama", scale="8b", encoder="wavlm-large", task="asr", language="en")


def _estimate(settings):
    return estimate(settings, Store(settings.store))


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _shown(expected, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(table(expected))
    return console.file.getvalue()


def test_the_numbers_of_heals_are_the_searchs(make_settings):
    expected = _estimate(make_settings(cells=(EN, LLAMA, LARGE)))
    assert [one.num_layers for one in expected.cells] == [12, 12, 32]
    assert [one.num_probes for one in expected.cells] == [expected_num_probes(n) for n in (12, 12, 32)]
    assert [one.max_probes for one in expected.cells] == [max_num_probes(n) for n in (12, 12, 32)]
    assert expected.num_expected == pytest.approx(sum(expected_num_probes(n) + 2 for n in (12, 12, 32)))
    assert expected.max_trials == sum(max_num_probes(n) + 2 for n in (12, 12, 32))


def test_a_sweep_stays_within_its_plan(make_settings):
    settings = make_settings(cells=(EN, DE, LLAMA))
    expected = _estimate(settings)
    world = World(settings, {EN: 7, DE: 11, LLAMA: 0})
    drive(settings, world)
    assert len(world.computed) <= expected.max_trials


def test_a_control_is_one_more_heal_a_cell(make_settings):
    without, asked = (_estimate(make_settings(cells=(EN, DE), control=control)) for control in (False, True))
    assert asked.num_expected == without.num_expected + 2
    # Two steps of 0.2 s; three scorings of 15 s: the selection split's is thought of, though a control has none.
    assert asked.device_s - without.device_s == pytest.approx(2 * (2 * 0.2 + 3 * 15.0))
    assert "a final scoring and a control for each cell" in " ".join(_shown(asked).split())


def test_planning_runs_nothing_and_writes_nothing(make_settings):
    settings = make_settings()
    _shown(_estimate(settings))
    assert not settings.store.exists()
    drive(settings, World(settings, {EN: 4}))
    before = _files(settings.store)
    _shown(_estimate(settings))
    assert _files(settings.store) == before


def test_recorded_timings_are_used_kind_by_kind(make_settings):
    settings = make_settings()
    drive(settings, World(settings, {EN: 4}))
    settings = make_settings(name="another")
    expected = _estimate(settings)
    measured = SECONDS["base"] + expected.cells[0].num_probes * SECONDS["probe"] + SECONDS["final"]
    assert expected.device_s == pytest.approx(measured)
    # Timings serve other cells of the scale, whatever the family, whose heals are as long.
    assert _estimate(make_settings(cells=(LLAMA,), base=str(settings.store))).device_s == pytest.approx(measured)
    longer = _estimate(make_settings(name="longer", heal={"num_steps": 1000}))
    heals_s = expected.cells[0].num_probes * (1000 * 0.2 + 15.0)
    assert longer.device_s == pytest.approx(SECONDS["base"] + heals_s + SECONDS["final"])
    for record in Store(settings.store).records():
        if record["kind"] == "final":
            (settings.store / "trials" / f"{record['fingerprint']}.json").unlink()
    assert _estimate(settings).device_s == pytest.approx(measured - SECONDS["final"] + 30.0)


def test_what_was_never_timed_is_worked_out_and_said_to_be(make_settings, tmp_path):
    settings = make_settings(cells=(EN, LARGE), base=str(tmp_path))
    small, large = _estimate(settings).cells
    assert (small.is_estimated, large.is_estimated) == (False, True)
    shown = " ".join(_shown(_estimate(settings)).split())
    assert f"~{clock(large.device_s)}" in shown
    assert f"~{clock(small.device_s)}" not in shown
    assert "worked out, not measured: one H100 SXM 80 GB at 30% of its peak" in shown
    assert "worked out" not in _shown(_estimate(make_settings(cells=(EN,))))


def test_the_arithmetic_of_a_heal_is_that_of_its_weights_and_tokens(make_settings, tmp_path):
    short, long = (
        _estimate(make_settings(cells=(LARGE,), base=str(tmp_path), heal={"num_steps": steps, "batch_size": 8})).cells[
            0
        ]
        for steps in (1000, 6000)
    )
    tokens = 5000 * 8 * (12 * 10 + 20 + 48)  # of what the longer heal does beside
    seconds = 4 * 8.03e9 * tokens / (0.3 * 989e12)
    assert long.device_s - short.device_s == pytest.approx(short.num_probes * seconds)


def test_timings_of_the_store_come_before_arithmetic(make_settings, tmp_path):
    settings = make_settings(cells=(LARGE,), base=str(tmp_path))
    drive(settings, World(settings, {LARGE: 9}))
    (known,) = _estimate(replace(settings, name="another")).cells
    assert not known.is_estimated
    assert known.device_s == pytest.approx(SECONDS["base"] + known.num_probes * SECONDS["probe"] + SECONDS["final"])


def test_a_price_is_named_where_one_is_given(make_settings):
    expected = _estimate(make_settings(cells=(LARGE,), gpu_price=2.5))
    price = 2.5 * expected.device_s / 3600
    assert f"at 2.5 each are {price:,.2f}." in " ".join(_shown(expected).split())
    assert "Price" not in _shown(_estimate(make_settings(cells=(LARGE,))))


def test_longer_healing_is_expected_to_take_longer(make_settings):
    short, long = (_estimate(make_settings(heal={"num_steps": steps})).device_s for steps in (10, 1000))
    assert long > short


def test_a_base_is_trained_once_for_the_cells_that_share_it(make_settings):
    settings = make_settings(cells=(EN, DE))
    first, second = _estimate(settings).cells
    assert (first.origin, second.origin) == ("to be trained", "to be trained")
    assert first.device_s > second.device_s
    assert first.disk_bytes > second.disk_bytes
    trained_folder(EN, settings, Store(settings.store)).mkdir(parents=True)
    first, second = _estimate(settings).cells
    assert (first.origin, second.origin) == ("trained", "trained")
    assert first.device_s == second.device_s


def test_the_origin_of_a_base(make_settings, tmp_path):
    (given,) = _estimate(make_settings(base=str(tmp_path))).cells
    assert given.origin == "given"
    (trained,) = _estimate(make_settings(base="train")).cells
    assert trained.origin == "to be trained"


def test_workers_share_the_work_but_a_cell_has_one_at_a_time(make_settings):
    alone = _estimate(make_settings(cells=(EN, DE, LLAMA)))
    assert alone.wall_s == pytest.approx(alone.device_s)
    # The two bases that are trained take long: with many workers, the longest cell is what is waited for.
    assert _estimate(make_settings(cells=(EN, DE, LLAMA), workers=2)).wall_s == pytest.approx(alone.device_s / 2)
    longest_s = max(one.device_s for one in alone.cells)
    assert longest_s > alone.device_s / 3
    assert _estimate(make_settings(cells=(EN, DE, LLAMA), workers=9)).wall_s == pytest.approx(longest_s)


HEAL_S, SCORE_S = 100 * 0.2, 15.0
"""Of 100 steps of a miniature, and of a split, on a core."""


@pytest.mark.parametrize(("devices", "heal_wall_s"), [(1, HEAL_S), (2, HEAL_S / 2), (4, HEAL_S / 4)])
@pytest.mark.parametrize("workers", [1, 2])
def test_devices_share_the_work_of_a_heal(make_settings, tmp_path, devices, heal_wall_s, workers):
    settings = make_settings(
        cells=(EN, DE), base=str(tmp_path), heal={"num_steps": 100}, devices=devices, workers=workers, control=True
    )
    expected = _estimate(settings)
    heals = expected_num_probes(12)
    device_s = 3 * SCORE_S + heals * (HEAL_S + SCORE_S) + 2 * SCORE_S + (HEAL_S + 3 * SCORE_S)
    wall_s = 3 * SCORE_S + heals * (heal_wall_s + SCORE_S) + 2 * SCORE_S + (heal_wall_s + 3 * SCORE_S)
    assert expected.device_s == pytest.approx(2 * device_s)
    assert expected.wall_s == pytest.approx(2 * wall_s / workers)
    assert expected.disk_bytes == _estimate(replace(settings, devices=1)).disk_bytes
    shown = " ".join(_shown(expected).split())
    assert (f"with {workers} at a time, each heal on {devices} devices" in shown) == (devices > 1)


def test_timings_of_other_numbers_of_devices_are_shared_out_anew(make_settings, tmp_path):
    settings = make_settings(base=str(tmp_path))
    drive(settings, World(settings, {EN: 4}))
    one, four = (_estimate(make_settings(base=str(tmp_path), name="another", devices=n)) for n in (1, 4))
    assert one.device_s == four.device_s
    scoring_s = SECONDS["base"] / 3
    saved_s = one.cells[0].num_probes * (SECONDS["probe"] - scoring_s) * 3 / 4
    assert one.wall_s - four.wall_s == pytest.approx(saved_s)


def test_only_what_is_left_counts(make_settings, tmp_path):
    settings = make_settings(cells=(EN, DE), base=str(tmp_path))
    fresh = _estimate(settings)
    campaign, world = Campaign(settings, Store(settings.store).open(min_free_bytes=0)), World(settings, {EN: 4, DE: 0})
    running = events(campaign, world)
    while len(world.computed) < 4:
        next(running)
    assert [one.kind for one in world.computed] == ["base", "base", "probe", "probe"]
    next(running)
    before = _files(settings.store)
    expected = _estimate(settings)
    assert _files(settings.store) == before, "a sweep that runs is not disturbed"
    assert expected.num_known == 4
    assert expected.num_expected == pytest.approx(fresh.num_expected - 4)
    assert expected.max_trials == fresh.max_trials - 4
    left = 2 * ((expected_num_probes(12) - 1) * SECONDS["probe"] + 30.0)  # of a final there is no timing yet
    assert expected.device_s == pytest.approx(left)
    assert expected.spent_s == 2 * (SECONDS["base"] + SECONDS["probe"])
    whole = round(fresh.num_expected)
    assert f"4 of about {whole} trials are in the store" in " ".join(_shown(expected).split())
    for _ in running:
        pass
    expected = _estimate(settings)
    assert (expected.num_expected, expected.device_s, expected.disk_bytes) == (0, 0, 0)
    assert "Nothing is left to compute." in " ".join(_shown(expected).split())


def test_a_search_that_goes_on_wants_one_more_heal_however_many_it_has_had(make_settings, tmp_path):
    settings = make_settings(base=str(tmp_path))
    campaign, world = Campaign(settings, Store(settings.store).open(min_free_bytes=0)), World(settings, {EN: 11})
    running = events(campaign, world)
    most = max_num_probes(12)
    while sum(one.kind == "probe" for one in world.computed) < most - 1:
        next(running)
    list(islice(running, 1))
    (expected,) = _estimate(settings).cells
    assert (expected.num_probes, expected.max_probes) == (1, 1)


def test_a_joint_sweep_and_a_sweep_of_curves_are_planned_with_what_they_have(make_settings, tmp_path):
    settings = make_settings(cells=(EN, DE), base=str(tmp_path), joint=True, sampler="frontier", control=True)
    *_, joint = _estimate(settings).cells
    assert (joint.num_probes, joint.max_probes, joint.num_others) == (JOINT_HEALS, MAX_JOINT_HEALS, 2)
    one_s = 2 * 0.2 + 15.0
    assert joint.device_s == pytest.approx(2 * (JOINT_HEALS * one_s + 30.0 + one_s + 30.0))
    drive(settings, World(settings, {EN: 4, DE: 5}, steepness=1.4))
    assert _estimate(settings).num_expected == 0
    curves = make_settings(base=str(tmp_path), name="curves", curve=Curve(depths=("2",)), seed=3)
    planned = _estimate(curves)
    looks, heals = planned.num_looks, planned.cells[0].num_probes
    assert 1 < looks == heals
    cut_s = 0.25 * SECONDS["base"] / 3
    assert planned.device_s == pytest.approx(SECONDS["base"] + heals * SECONDS["probe"] + looks * cut_s)
    drive(curves, World(curves, {EN: 4}))
    assert (_estimate(curves).num_looks, _estimate(curves).num_expected) == (0, 0)


def test_whether_a_budget_suffices_is_said(make_settings, tmp_path):
    settings = make_settings(base=str(tmp_path))
    needed_s = _estimate(settings).device_s

    def told(budget_s):
        return " ".join(_shown(_estimate(replace(settings, max_device_hours=budget_s / 3600))).split())

    assert f"The budget of {hours(needed_s)} device-hours is expected to suffice." in told(needed_s)
    assert f"not expected to suffice: {hours(60)} more would be needed" in told(needed_s - 60)
    assert "budget" not in " ".join(_shown(_estimate(settings)).split())
    drive(settings, World(settings, {EN: 4}))
    spent_s = _estimate(settings).spent_s
    assert f"{hours(spent_s)} of them spent, is expected to suffice" in told(spent_s)


def test_disk_is_that_of_the_base_and_of_healed_models(make_settings):
    (large,) = _estimate(make_settings(cells=(LARGE,))).cells
    weights = 8.03e9 * 4
    assert weights < large.disk_bytes <= weights * (1 + large.max_probes)


def test_the_plan_of_maps_shares_lora_among_the_cells_of_a_base(make_settings):
    settings = make_settings()
    (*_, steps, seconds) = (
        list(column.cells) for column in maps_table(settings, Store(settings.store), lora_steps=50).columns
    )
    assert steps == [str(50 * len(settings.cells))] * len(settings.cells)
    without = list(maps_table(settings, Store(settings.store), lora_steps=0).columns[-1].cells)
    training_s, lora_s = 2 * (1200 + 1000) * 0.2, len(steps) * 50 * 0.2
    assert seconds == [clock(training_s + lora_s + 45 + 15), *[clock(45 + 15)] * (len(steps) - 1)]
    assert without == [clock(training_s + 45), *[clock(45)] * (len(steps) - 1)]


def test_the_table_names_every_cell_and_the_totals(make_settings):
    shown = _shown(_estimate(make_settings(cells=(EN, LLAMA))))
    assert "Plan: nothing has been run" in shown
    for one in (EN, LLAMA):
        assert one.name in shown
    assert f"at most {2 * (max_num_probes(12) + 2)}" in " ".join(shown.split())
    assert PROFILES["pocket"].encoder in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.6, "1:00:00"), (36_061, "10:01:01")]
)
def test_a_clock(seconds, shown):
    assert clock(seconds) == shown
