"""The benchmark of searches, on its own small world, and on another where one is at hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from scripts import load_script

from slamlab.search.strategies import SAMPLERS, SamplerOptions

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "search.py"
BENCH = ROOT.parent / "shared" / "bench" / "simulator.py"


@pytest.fixture(scope="module", autouse=True)
def quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def search():
    return load_script("benchmarks/search.py")


@pytest.fixture(scope="module")
def tabulated(search):
    return search.load_simulator(search.TABULATED)


def _campaign(search, simulator, world, strategy, workers=8, **options):
    def factory(view, shared):
        return search.make_strategy(view, shared, strategy, SamplerOptions(names=search.NAMES, **options))

    return simulator.run_campaign(world, factory, workers)


def _mean(outcome, name):
    return np.mean([row[name] for row in outcome.rows])


# The world


def test_the_world_is_a_function_of_its_seed(tabulated):
    query = tabulated.Query(3, 4)
    heals = [tabulated.World(seed=seed).evaluate(7, query, repeat) for seed in (0, 0, 1) for repeat in (0, 1)]
    assert heals[:2] == heals[2:4]
    assert len({heal.delta for heal in heals}) == 4


def test_repeats_share_the_error_of_the_test_set(tabulated):
    """The mean over many repeats of a heal stays off the truth by what its standard error says."""
    world = tabulated.World()
    off = []
    for cid, start in [(cid, start) for cid in range(12) for start in range(1, 7)]:
        heals = [world.evaluate(cid, tabulated.Query(start, 3), repeat) for repeat in range(40)]
        off.append((np.mean([h.delta for h in heals]) - world._truths[cid][start, 3]) / heals[0].se)
    assert np.std(off) == pytest.approx(1, abs=0.25)


def test_answers_are_judged_by_the_truth(tabulated):
    world = tabulated.World("certain")
    start, depth = 0, world.score(0, None)["n_star"]
    best = int(np.nanargmin(world._truths[0][:, depth]))
    assert world.score(0, (best, depth)) | {"n": depth} == {
        "n_star": depth, "n": depth, "fa": False, "exact": True, "within1": True
    }  # fmt: skip
    assert world.score(0, (start, depth))["fa"]  # the first layers are worth most
    assert not world.score(0, (start, depth))["exact"]
    assert not world.score(0, None)["exact"]


def test_a_view_becomes_a_space_with_the_same_distances(search, tabulated):
    view = tabulated.World().views[6]
    space = search.space_of(view)
    assert (space.num_layers, space.max_depth, space.tolerance) == (view.L, view.n_cap, view.threshold)
    assert set(space.factors) == {"task", "lang"}
    assert all(space.distance_of(start, depth) == view.f0[start, depth] for start, depth in space.blocks)


def test_what_a_decoder_s_cells_bear_together_is_what_its_worst_does(tabulated):
    world = tabulated.World()
    for cells, worst, depth in zip(world.backbones, world.joint_delta, world.joint_n, strict=True):
        assert {world.views[cid].backbone for cid in cells} == {world.views[cells[0]].backbone}
        assert 0 < depth <= min(world.score(cid, None)["n_star"] for cid in cells)
        start = int(np.nanargmin(worst[:, depth]))
        assert not any(world.score(cid, (start, depth))["fa"] for cid in cells)
        for deeper in range(world.views[cells[0]].L - depth):
            assert any(world.score(cid, (deeper, depth + 1))["fa"] for cid in cells)


# Strategies at work


@pytest.mark.parametrize("strategy", ["grid", "paper", "bisect"])
def test_where_nothing_is_left_to_chance_the_truth_is_found(search, tabulated, strategy):
    outcome = _campaign(search, tabulated, tabulated.World("certain"), strategy, alpha=0.5)
    assert _mean(outcome, "exact") == 1
    assert _mean(outcome, "fa") == 0


def test_frontier_finds_more_with_less(search, tabulated):
    worlds = [tabulated.World("standard", seed) for seed in (0, 1)]
    bisect = [_campaign(search, tabulated, world, "bisect", alpha=0.5) for world in worlds]
    frontier = [tabulated.run_campaign(world, search.make_strategy, 8) for world in worlds]
    heals, least = (np.mean([_mean(outcome, "f3") for outcome in ran]) for ran in (frontier, bisect))
    assert heals < least
    assert np.mean([_mean(outcome, "within1") for outcome in frontier]) > 0.9
    assert np.mean([_mean(outcome, "fa") for outcome in frontier]) < 0.1


@pytest.mark.parametrize("strategy", ["frontier", "paper", "bisect", "random"])
def test_failed_heals_stop_no_campaign(search, tabulated, strategy):
    outcome = _campaign(search, tabulated, tabulated.World("failing"), strategy, max_heals=6)
    assert len(outcome.rows) == 12
    assert _mean(outcome, "within1") > (0.1 if strategy == "random" else 0.8)


def test_time_goes_by_with_the_slowest_worker(search, tabulated):
    world = tabulated.World("certain")
    alone, many = (_campaign(search, tabulated, world, "paper", workers) for workers in (1, 64))
    heals = [row["f3"] for row in alone.rows]
    assert alone.makespan == sum(heals)
    assert many.makespan == max(heals)
    assert [row["n"] for row in alone.rows] == [row["n"] for row in many.rows]


def test_a_cell_alone_is_an_optuna_study(search, tabulated):
    """As a driver of Optuna samplers sees it: parameters n, start and fidelity, an answer (start, depth)."""
    world = tabulated.World("certain")
    sampler = search.make_sampler(world.views[0], "bisect")
    study = optuna.create_study(direction="maximize", sampler=sampler)
    while not sampler.should_stop(study):
        assert sampler.ready(study)
        trial = study.ask()
        depth = trial.suggest_int("n", 1, world.views[0].n_cap)
        start = trial.suggest_int("start", 0, world.views[0].L - 1)
        fidelity = trial.suggest_categorical("fidelity", [1, 2, 3])
        heal = world.evaluate(0, tabulated.Query(start, depth, fidelity))
        trial.set_user_attr("delta", heal.delta)
        trial.set_user_attr("se", heal.se)
        study.tell(trial, depth)
    assert world.score(0, sampler.recommend(study))["exact"]


# The script


def _run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_the_script_prints_a_table_and_writes_the_numbers(tmp_path):
    options = ["--conditions", "certain", "--strategies", "paper,bisect", "--seeds", "0,1", "--workers", "8,1"]
    done = _run(*options, "--json", str(tmp_path / "numbers.json"))
    assert done.returncode == 0, done.stderr
    assert "bisect" in done.stdout
    paper, bisect = json.loads((tmp_path / "numbers.json").read_text())
    assert (paper["strategy"], paper["condition"], paper["seeds"], paper["num_cells"]) == (
        "paper",
        "certain",
        [0, 1],
        24,
    )
    assert paper["exact"] == bisect["exact"] == 1
    assert paper["exact_ci95"] == [pytest.approx(0.025 ** (1 / 24)), 1]
    assert bisect["heals"] < paper["heals"] == 9.5
    assert paper["makespan"]["1"] == 12 * 9.5


def test_joint_searches_follow_where_they_are_asked_for(tmp_path):
    options = ["--conditions", "certain", "--strategies", "frontier", "--workers", "8", "--seeds", "0,1", "--joint"]
    done = _run(*options, "--json", str(tmp_path / "numbers.json"))
    assert done.returncode == 0, done.stderr
    assert "Joint: 4 decoders" in done.stdout
    (row,) = json.loads((tmp_path / "numbers.json").read_text())
    joint = row["joint"]
    assert (joint["num_decoders"], joint["exact"], joint["fa"]) == (4, 1, 0)
    assert 6 <= joint["heals"] <= 3 * 6


def test_suggestions_are_timed_in_studies_that_grow(search, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr(search, "NUM_TRIALS", (5, 40))
    monkeypatch.setattr(search, "NUM_TIMED", 3)
    times = search.time_suggestions("frontier")
    assert list(times) == [5, 40]
    assert all(time > 0 for time in times.values())  # which is longer is for an idle machine to say
    done = CliRunner().invoke(search.app, ["--strategies", "bisect", "--suggestions"])
    assert done.exit_code == 0
    assert "40 trials" in done.stdout and "bisect" in done.stdout and "1.0x" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        (("--strategies", "best"), "got 'best': "),
        (("--conditions", "easy"), "got 'easy': "),
        (("--workers", "0"), "got 0: "),
        (("--seeds", "zero"), "got zero: "),
        (("--simulator", "nowhere.py"), "got nowhere.py: "),
    ],
)
def test_mistakes_are_answered_with_one_line(search, arguments, received):
    from typer.testing import CliRunner

    done = CliRunner().invoke(search.app, list(arguments))
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and received in line


@pytest.mark.skipif(not BENCH.is_file(), reason="no other simulator at hand")
@pytest.mark.parametrize("strategy", [name for name in SAMPLERS if name not in ("grid", "gp")])
def test_another_simulator_drives_the_same_face(search, strategy):
    bench = search.load_simulator(BENCH)
    world = bench.World("standard", 0)
    cells = world.backbones[0][:6]
    options = SamplerOptions(names=search.NAMES, alpha=0.2, max_heals=12)
    outcome = bench.run_campaign(
        world, lambda view, shared: search.make_strategy(view, shared, strategy, options), 4, cells=cells
    )
    assert all(row["f3"] for row in outcome.rows)
    row = bench.run_optuna_cell(world, cells[0], search.make_sampler, space="fid")
    assert row["f3"] > 0


@pytest.mark.skipif(not BENCH.is_file(), reason="no other simulator at hand")
def test_another_simulator_is_searched_jointly(search):
    bench = search.load_simulator(BENCH)
    world = bench.World("standard", 0)
    cells, searches = world.backbones[3][:8], {}

    def factory(view, shared):
        searches[view.cid] = search.make_strategy(view, shared)
        return searches[view.cid]

    bench.run_campaign(world, factory, 8, cells=cells)
    row = search.search_jointly(world, cells, searches, 0.15)
    assert row["f3"] in range(8, 8 * 4, 8)
    assert row["n"] >= row["n_star"] - 1  # of some cells: as deep as all can bear, or deeper


def test_the_file_can_be_loaded_by_its_path_alone():
    spec = importlib.util.spec_from_file_location("not_registered", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.make_strategy)
    assert callable(module.make_sampler)
