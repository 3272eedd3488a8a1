"""Whole sweeps of curves, driven without Ray: what is looked at, shared, resumed, planned, recorded and shown."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from scripts import load_script
from small_world import World, cell, drive, events, open_campaign, results_of, small_sweep, told
from typer.testing import CliRunner

from slamlab.errors import OptionError
from slamlab.report.page import render
from slamlab.report.results import check_results
from slamlab.search.curve import Curve
from slamlab.sweep.plan import estimate
from slamlab.sweep.plan_table import table
from slamlab.sweep.store import Store

pytestmark = pytest.mark.usefixtures("no_look_ups")

ROOT = Path(__file__).parents[2]
EN, DE_EN, LLAMA = cell(), cell("de", "st"), cell(family="llama")
EDGES = {EN: 4, DE_EN: 3, LLAMA: 1}
CURVE = Curve(depths=("1", "3", "6", "9"))


def _looks(world):
    return [(one.cell, one.rung, one.start, one.depth) for one in world.computed if one.kind == "probe"]


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    settings = small_sweep(tmp_path_factory.mktemp("curves") / "runs", cells=tuple(EDGES), curve=CURVE)
    world = World(settings, EDGES, steepness=0.8)
    return drive(settings, world), world


def test_every_block_is_looked_at_once_each_way_and_nothing_else_is_done(driven):
    campaign, world = driven
    asked = {
        (one, rung, *block)
        for one in EDGES
        for blocks in campaign.samplers[one].by_method.values()
        for block in blocks
        for rung in ("unhealed", "full")
    }
    looks = _looks(world)
    assert Counter(looks) == Counter(asked)
    assert Counter(one.kind for one in world.computed) == {"base": 3, "probe": len(asked)}, "no test split, no answer"
    assert open_campaign(campaign.settings).finished


def test_the_random_start_is_the_same_in_all_cells(driven):
    campaign, _ = driven
    assert len({tuple(campaign.samplers[one].by_method["random"]) for one in EDGES}) == 1


def test_the_records_name_the_blocks_of_every_curve(driven):
    campaign, _ = driven
    results = results_of(campaign)
    check_results(results, "here")
    assert results["sweep"]["sampler"] == "curve"
    assert results["sweep"]["search"] == {
        "rungs": ["unhealed", "full"],
        "methods": ["paper", "deepest", "random"],
        "depths": ["1", "3", "6", "9"],
    }
    measured = {
        (*one["cell"].values(), one["start"], one["depth"], one["rung"]): one["num_utterances"]
        for one in results["probes"]
    }
    for curve in results["curves"]:
        key = [curve[name] for name in ("family", "scale", "encoder", "task", "language")]
        assert [block["depth"] for block in curve["methods"]["paper"]] == [1, 3, 6, 9]
        assert [block["start"] for block in curve["methods"]["deepest"]] == [10, 8, 5, 2]
        for blocks in curve["methods"].values():
            for block in blocks:
                assert measured[*key, block["start"], block["depth"], "full"] == 40
                assert measured[*key, block["start"], block["depth"], "unhealed"] == 10
    for one in results["cells"]:
        assert (one["verdict"], one["max_depth"], one["pruned"]) == ("none", 0, None)
        assert one["reason"].endswith("max_prune.py searches for one")


def test_the_report_is_a_function_of_the_records(driven, tmp_path):
    campaign, _ = driven
    results, store = results_of(campaign), campaign.settings.store
    for name in ("a", "b"):
        render(results, store, tmp_path / name)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("a", "b")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 3 + 2 * 4, "both formats of a figure of all cells and one of each"
    markdown = (tmp_path / "a" / "report.md").read_text()
    assert markdown.startswith("# Removed where the angular distance is least and healed, ")
    assert "No pruned model has seen the test split" in markdown
    assert "Every cell" not in markdown


@pytest.mark.parametrize(("workers", "order"), [(3, None), (8, 1)])
def test_the_number_of_workers_and_their_order_change_nothing(make_settings, driven, workers, order):
    settings = make_settings(cells=tuple(EDGES), curve=CURVE, workers=workers)
    world = World(settings, EDGES, steepness=0.8)
    assert told(drive(settings, world, workers, order)) == told(driven[0])
    assert max(Counter(world.computed).values()) == 1


def test_an_interruption_anywhere_repeats_nothing_and_changes_nothing(make_settings, tmp_path):
    settings = make_settings(curve=Curve(depths=("1", "2")), workers=2)
    whole, world = open_campaign(settings), World(settings, EDGES, num_layers=4)
    left = [
        (event, copytree(settings.store, tmp_path / str(number)), list(world.computed))
        for number, event in enumerate(events(whole, world, workers=2))
    ]
    expected = told(whole)
    assert len(left) > 20
    for event, snapshot, computed in left:
        resumed = replace(settings, store=snapshot)
        hands = World(resumed, EDGES, num_layers=4)
        assert told(drive(resumed, hands, 2)) == expected, f"interrupted when {event}"
        again = Counter([*computed, *(replace(request, attempt=1) for request in hands.computed)])
        assert set(again.values()) == {1}, f"interrupted when {event}"


def test_a_curve_goes_on_over_what_other_sweeps_of_the_store_know(make_settings, driven):
    first = make_settings(sampler="paper", name="paper")
    drive(first, World(first, EDGES))
    settings = make_settings(curve=CURVE, name="curves")
    world = World(settings, EDGES)
    drive(settings, world)
    healed = {look[2:] for look in _looks(world) if look[1] == "full"}
    by_method = driven[0].samplers[EN].by_method
    assert healed == {*by_method["deepest"], *by_method["random"]} - {*by_method["paper"]}
    assert all(request.kind == "probe" for request in world.computed), "the base was known"


def test_a_heal_that_fails_for_good_leaves_a_gap(make_settings, tmp_path):
    settings = make_settings(curve=Curve(depths=("1", "6"), methods=("deepest",)))
    world = World(settings, EDGES, failures={("probe", EN, 6): 9})
    campaign = drive(settings, world)
    results = results_of(campaign)
    assert {one["rung"] for one in results["probes"] if one["status"] == "failed"} == {"unhealed", "full"}
    render(results, settings.store, tmp_path / "out")
    assert "Of 4 looks at blocks, 2 failed: lines pass over them." in (tmp_path / "out" / "report.md").read_text()


def test_a_cell_without_a_base_has_no_curve_and_the_others_have(make_settings, tmp_path):
    settings = make_settings(cells=(EN, LLAMA), curve=Curve(depths=("1",)))
    world = World(settings, EDGES, failures={("base", LLAMA, 0): 9})
    results = results_of(drive(settings, world))
    assert [len(curve["methods"]) for curve in results["curves"]] == [3, 0]
    render(results, settings.store, tmp_path / "out")
    assert "There is no curve: the base would not work" in (tmp_path / "out" / "report.md").read_text()


def test_a_curve_cut_short_is_shown_as_far_as_it_is(make_settings, tmp_path):
    settings = make_settings(curve=CURVE)
    campaign = open_campaign(settings)
    running = events(campaign, World(settings, EDGES))
    for event in running:
        num_probes = len(campaign.ledgers[EN].probes)
        if event == "base is in the ledger" or (event == "probe is in the ledger" and num_probes in (1, 15)):
            render(results_of(campaign), settings.store, tmp_path / "out")
        if num_probes == 15:
            break
    running.close()
    assert "not run: lines pass over them." in (tmp_path / "out" / "report.md").read_text()


# Plans and options


def test_a_sweep_stays_within_its_plan(make_settings):
    settings = make_settings(cells=(EN, LLAMA), curve=CURVE)
    expected = estimate(settings, Store(settings.store))
    world = World(settings, EDGES)
    drive(settings, world)
    looks = Counter(look[1] for look in _looks(world))
    assert looks["full"] <= expected.max_trials - 2 <= 2 * 12
    assert looks["unhealed"] <= expected.num_looks <= 2 * 12
    assert f"{expected.num_looks} looks at most without a heal besides" in table(expected).caption
    timed = estimate(settings, Store(settings.store))
    assert timed.device_s != expected.device_s, "recorded timings serve, though no final was ever run"


def test_a_plan_without_heals_has_none(make_settings):
    expected = estimate(make_settings(curve=replace(CURVE, healed=False)), Store(make_settings().store))
    assert (expected.num_expected, expected.max_trials) == (1, 1)
    assert expected.num_looks > 0
    assert expected.device_s > 0


def test_a_depth_beyond_some_decoder_is_refused_before_anything_runs(make_settings):
    large = replace(EN, scale="7b")
    make_settings(cells=(large,), curve=Curve(depths=("20",)))
    with pytest.raises(OptionError, match="between 1 and 11 of 12 layers, got 20: "):
        make_settings(cells=(large, EN), curve=Curve(depths=("20",)))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    module = load_script("sweeps/curves.py")
    folder = tmp_path_factory.mktemp("store")

    def invoke(*arguments):
        options = ["--plan", "--profile", "pocket", "--store", str(folder / "runs"), *arguments]
        return CliRunner().invoke(module.app, options, env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})

    return invoke


@pytest.mark.parametrize(
    ("options", "received"),
    [
        (["--depths", "0"], "got '0'"),
        (["--depths", "1,12"], "got 12"),
        (["--depths", "1.5"], "got '1.5'"),
        (["--depths", "half"], "got 'half'"),
        (["--methods", "paper,best"], "got best"),
        (["--methods", ","], "got none"),
        (["--early-stop", "0.5"], "got 0.5"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(command, options, received):
    done = command(*options)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert received in line


def test_options_of_searches_are_not_offered_nor_those_of_curves_elsewhere(command):
    shown = command("--help").stdout
    for option in ("--methods", "--depths", "--no-heal"):
        assert f" {option} " in shown
    for option in ("--sampler", "--price", "--max-heals", "--rungs"):
        assert option not in shown
        assert command(option, "1").exit_code == 2
    assert "relative degradation against the fraction" in shown
    module = load_script("sweeps/max_prune.py")
    shown = CliRunner().invoke(module.app, ["--help"], env={"COLUMNS": "250", "TERM": "dumb"}).stdout
    assert "--sampler" in shown
    assert "--depths" not in shown


def test_a_plan_says_how_many_heals_and_looks(command):
    done = command("--task", "asr", "--language", "en", "--depths", "1,3", "--methods", "deepest,paper")
    assert done.exit_code == 0, done.output
    assert "4 looks at most without a heal besides" in done.stdout
    done = command("--task", "asr", "--language", "en", "--depths", "1,3", "--methods", "deepest,paper", "--no-heal")
    assert "About 1 trials, at most 1" in done.stdout
