import io

import pytest
from rich.console import Console
from small_world import SECONDS, World, cell, drive

from slamlab.search.strategies import expected_num_heals
from slamlab.sweep.bases import trained_folder
from slamlab.sweep.cells import Cell
from slamlab.sweep.plan import clock, estimate, maps_table, table
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


def test_recorded_timings_are_used_once_there_are_some_of_every_kind(make_settings):
    settings = make_settings()
    assumed = _estimate(settings).device_s
    drive(settings, World(settings, {EN: 4}))
    expected = _estimate(settings)
    measured = SECONDS["base"] + expected.cells[0].num_probes * SECONDS["probe"] + SECONDS["final"]
    assert expected.device_s == pytest.approx(measured)
    assert expected.device_s != pytest.approx(assumed)
    # Timings serve other cells of the scale, whatever the family; one that lacks a kind serves nobody.
    assert _estimate(make_settings(cells=(LLAMA,), base=str(settings.store))).device_s == pytest.approx(measured)
    for record in Store(settings.store).records():
        if record["kind"] == "final":
            (settings.store / "trials" / f"{record['fingerprint']}.json").unlink()
    assert _estimate(settings).device_s != pytest.approx(measured)


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
    (known,) = _estimate(settings).cells
    assert not known.is_estimated
    assert known.device_s == pytest.approx(SECONDS["base"] + known.num_probes * SECONDS["probe"] + SECONDS["final"])


def test_a_price_is_named_where_one_is_given(make_settings):
    expected = _estimate(make_settings(cells=(LARGE,)))
    console = Console(file=io.StringIO(), width=160)
    console.print(table(expected, 2.5))
    hours = expected.device_s / 3600
    assert f"at 2.5 each are {2.5 * hours:,.2f}." in " ".join(console.file.getvalue().split())
    assert "Price" not in _shown(expected)


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
    assert _estimate(make_settings(cells=(EN, DE, LLAMA), workers=2)).wall_s == pytest.approx(alone.device_s / 2)
    assert _estimate(make_settings(cells=(EN, DE, LLAMA), workers=9)).wall_s == pytest.approx(alone.device_s / 3)


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
