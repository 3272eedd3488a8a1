"""Kills at random moments of a sweep whose trials are simulated: the same answer, nothing twice, nobody left behind."""

import multiprocessing
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing, suppress

import arena
import psutil
import pytest
import simulated

ACTOR = "ray::ResourceTrainable"  # what Tune calls it
WORKER = f"{ACTOR}.train"
NUM_STRIKES, LONGEST_PAUSE_S = 2, 1.0
fork = multiprocessing.get_context("forkserver")
fork.set_forkserver_preload(["simulated"])


@pytest.fixture(scope="module", autouse=True)
def _path():
    """Let the server that forks drivers find what it loads beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", arena.PATH)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return what the sweep tells that nobody disturbs, its trials, and how long it took."""
    store = tmp_path_factory.mktemp("undisturbed") / "runs"
    _go(store).join()
    again = store.with_name("timed")
    began_s = time.monotonic()
    _go(again).join()
    took_s = time.monotonic() - began_s
    told = simulated.answer(store)
    assert told == simulated.answer(again)
    return told, _trials(store).keys(), took_s


def _go(store):
    process = fork.Process(target=simulated.go, args=(store,))
    process.start()
    return process


def _trials(store):
    """Return when each trial's record was written."""
    return {path.name: path.stat().st_mtime_ns for path in (store / "trials").glob("*.json")}


def _assert_nothing_twice(store):
    """Look into the ledger's file: every probe that ended stands there once, and none runs."""
    with closing(sqlite3.connect(store / "ledger.db")) as ledger:
        rows = ledger.execute(
            "SELECT t.study_id, t.state, a.value_json FROM trials t "
            "LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'fingerprint'"
        ).fetchall()
    complete = [(study, known) for study, state, known in rows if state == "COMPLETE"]
    assert complete
    assert len(set(complete)) == len(complete), "a trial was counted twice"
    assert all(state != "RUNNING" for _, state, _ in rows)


def test_a_driver_killed_at_a_random_moment_goes_on_to_the_same_answer(undisturbed, tmp_path, request, record_property):
    told, trials, took_s = undisturbed
    num_seeds, num_struck = request.config.getoption("--chaos-seeds"), 0
    for seed in range(num_seeds):
        draw, store = random.Random(seed), tmp_path / str(seed)
        for _ in range(1 + seed % 2):  # once, or twice over the same sweep
            driver = _go(store)
            arena.pause(draw, took_s)
            driver.kill()
            driver.join()
            num_struck += driver.exitcode == -signal.SIGKILL
        before = _trials(store)
        last = _go(store)
        last.join()
        assert last.exitcode == 0, f"seed {seed}"
        after = _trials(store)
        assert simulated.answer(store) == told, f"seed {seed}"
        assert after.keys() == trials, f"seed {seed}"
        assert {name: after[name] for name in before} == before, f"seed {seed}: a finished trial was repeated"
        _assert_nothing_twice(store)
        shutil.rmtree(store)
    assert num_struck >= num_seeds
    record_property("faults", ("driver of simulated trials", num_struck, num_struck))


def test_under_ray_drivers_workers_and_a_hang_change_nothing(undisturbed, tmp_path, record_property):
    told, trials, _ = undisturbed
    draw, store = random.Random(0), tmp_path / "runs"

    def start(name):
        return arena.Driver([arena.HERE / "simulated.py", store, 0], tmp_path / f"{name}.log")

    killed = start("killed")
    killed.until(lambda: _trials(store))
    arena.pause(draw, LONGEST_PAUSE_S)
    killed.kill()
    assert killed.orphans(agents=False) == []
    before = _trials(store)

    last, num_killed = start("last"), 0
    for _ in range(NUM_STRIKES):
        last.until(lambda: last.named(WORKER))
        arena.pause(draw, LONGEST_PAUSE_S)
        workers = last.until(lambda: last.named(WORKER))
        arena.strike(workers)
        num_killed += len(workers)
        last.until(lambda workers=workers: not any(one.is_running() for one in workers))
    last.until(lambda: last.named(WORKER))
    arena.pause(draw, LONGEST_PAUSE_S)
    arena.strike(last.until(lambda: last.named(WORKER))[:1], signal.SIGSTOP)
    assert last.ends() == 0, last.said
    assert last.orphans() == killed.orphans() == []
    assert last.said.count("CUT SHORT: the worker died") >= NUM_STRIKES
    num_hung = last.said.count("FAILED: no sign of life for 0.25 minutes")
    assert num_hung >= 1

    after = _trials(store)
    assert after.keys() == trials
    assert {name: after[name] for name in before} == before
    found = simulated.answer(store)
    assert _without_attempts(found) == _without_attempts(told)
    assert found["sweep"]["num_trials"] == told["sweep"]["num_trials"] + num_hung, "a hang is a failed attempt"
    _assert_nothing_twice(store)
    for what, count in (("driver under Ray", 1), ("worker under Ray", num_killed), ("worker that hangs", num_hung)):
        record_property("faults", (what, count, count))


def test_a_trial_that_gets_no_memory_is_tried_again(undisturbed, tmp_path, record_property):
    told, trials, _ = undisturbed
    store = tmp_path / "runs"
    (tmp_path / simulated.WANTS_MUCH).touch()
    driver = arena.Driver([arena.HERE / "simulated.py", store, 0], tmp_path / "driver.log")
    assert driver.ends() == 0, driver.said
    assert driver.said.count("FAILED: MemoryError") == 1
    assert driver.orphans() == []
    assert _trials(store).keys() == trials
    assert _without_attempts(simulated.answer(store)) == _without_attempts(told)
    record_property("faults", ("trial that gets no memory", 1, 1))


def test_a_sweep_on_several_nodes_does_without_one_that_is_lost(undisturbed, tmp_path, record_property):
    told, trials, _ = undisturbed
    store, hold = tmp_path / "runs", tmp_path / simulated.HOLD
    hold.touch()
    driver = arena.Driver([arena.HERE / "simulated.py", store, 3, 5], tmp_path / "driver.log")

    def nodes():
        found = {}
        for worker in driver.named(ACTOR):
            with suppress(psutil.NoSuchProcess):
                found[worker.ppid()] = worker.parent()
        return list(found.values()) if len(found) == 2 else []

    node = driver.until(nodes)[0]
    arena.strike([node, *node.children(recursive=True)])
    hold.unlink()
    assert driver.ends() == 0, driver.said
    assert driver.orphans() == []
    assert "CUT SHORT: the worker died" in driver.said
    assert _trials(store).keys() == trials
    assert simulated.answer(store) == told
    _assert_nothing_twice(store)
    record_property("faults", ("node of several", 1, 1))


def _without_attempts(results):
    return {
        **results,
        "sweep": {name: value for name, value in results["sweep"].items() if name != "num_trials"},
        "probes": [
            {name: value for name, value in probe.items() if name not in ("num_failed_attempts", "reason")}
            for probe in results["probes"]
        ],
    }
