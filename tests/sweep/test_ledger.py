import json
import shutil
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from small_world import World, cell, drive, events, small_sweep

from slamlab.sweep.campaign import Campaign
from slamlab.sweep.ledger import INTERRUPTED, JUDGED, MAX_ATTEMPTS, Attempts, open_ledger
from slamlab.sweep.settings import Request
from slamlab.sweep.store import Store

EN, LLAMA = cell(), cell(family="llama")
EDGES = {EN: 4, LLAMA: 0}
ANSWER = (7, 4)


def _studies(settings):
    storage = optuna.storages.RDBStorage(Store(settings.store).ledger_url)
    return {study.study_name: study for study in optuna.get_all_study_summaries(storage)}


def _study(settings, one=EN):
    storage = optuna.storages.RDBStorage(Store(settings.store).ledger_url)
    (name,) = [name for name in optuna.get_all_study_names(storage) if f"| {one.name} |" in name]
    return optuna.load_study(study_name=name, storage=storage)


def _ledgers(settings):
    return open_ledger(settings, Store(settings.store), settings.cells)


def _answer(campaign):
    best = campaign.recommendation(EN)
    return best.start, best.depth


def _run_until(settings, world, event, times=1):
    """Drive a sweep up to an event, then drop its driver."""
    running = events(Campaign(settings, Store(settings.store).open(min_free_bytes=0)), world)
    for seen in running:
        times -= seen == event
        if not times:
            return running.close()
    raise AssertionError(f"never came to: {event}")


def test_a_cell_has_a_study_named_after_sweep_cell_and_question(make_settings):
    settings = make_settings(cells=(EN, LLAMA))
    drive(settings, World(settings, EDGES))
    names = {f"tiny | {one.name} | {settings.question(one)[:12]}" for one in (EN, LLAMA)}
    found = _studies(settings)
    assert found.keys() == names
    study = _study(settings, LLAMA)
    assert study.user_attrs["cell"] == LLAMA.as_dict()
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    base = Store(settings.store).read_record(study.user_attrs["base"])
    assert (base["kind"], base["cell"]) == ("base", LLAMA.as_dict())
    assert "final" not in study.user_attrs, "no block of this cell may go"


def test_a_probe_is_an_optuna_trial_with_value_constraint_and_attributes(make_settings):
    settings = make_settings(tolerance=0.3)
    campaign = drive(settings, World(settings, EDGES))
    trials = {trial.params["depth"]: trial for trial in _study(settings).trials}
    assert sorted(trials) == [3, 4, 5, 6]
    for depth, trial in trials.items():
        record = campaign.ledgers[EN].probes[depth, 11 - depth, "full", 0].record
        assert trial.state == TrialState.COMPLETE
        assert trial.params == {"depth": depth, "start": 11 - depth, "rung": "full"}
        assert trial.value == pytest.approx(depth / 12)
        assert trial.constraints == {"degradation": pytest.approx(record["relative_degradation"] - 0.3)}
        assert (trial.constraints["degradation"] <= 0) == (depth <= 4)
        assert set(trial.user_attrs) == {"fingerprint", "wall_seconds", "repeat", *JUDGED}
        assert all(trial.user_attrs[name] == record[name] for name in trial.user_attrs)
        assert Store(settings.store).read_record(trial.user_attrs["fingerprint"])["depth"] == depth
    # Optuna itself, and so any dashboard, comes to the same answer.
    assert _study(settings).best_trial.params == {"depth": 4, "start": 7, "rung": "full"}


def test_what_is_read_again_is_what_was_noted(make_settings):
    settings = make_settings()
    campaign = drive(settings, World(settings, EDGES, failures={("probe", EN, 3): 1, ("final", EN, 4): 1}))
    ledger = _ledgers(settings)[EN]
    for noted, read in (
        (campaign.ledgers[EN].probes, ledger.probes),
        (campaign.ledgers[EN].singles, ledger.singles),
    ):
        assert noted.keys() == read.keys()
        for key, attempts in noted.items():
            assert read[key].reasons == attempts.reasons
            assert read[key].record == json.loads(json.dumps(attempts.record))


def test_a_failure_keeps_its_reason(make_settings):
    settings = make_settings()
    drive(settings, World(settings, EDGES, failures={("probe", EN, 3): 1, ("base", EN, 0): 1}))
    failed = [trial for trial in _study(settings).trials if trial.state == TrialState.FAIL]
    assert [(trial.params, trial.user_attrs) for trial in failed] == [
        ({"depth": 3, "start": 8, "rung": "full"}, {"repeat": 0, "reason": "the probe would not work"})
    ]
    assert _study(settings).user_attrs["base_failures"] == ["the base would not work"]


def test_what_a_dead_driver_left_running_is_closed_and_no_failure(make_settings):
    settings = make_settings()
    world = World(settings, EDGES)
    _run_until(settings, world, "probe began")
    (left,) = _study(settings).trials
    assert left.state == TrialState.RUNNING
    ledger = _ledgers(settings)[EN]
    request = Request(kind="probe", cell=EN, **left.params)
    assert ledger.attempts(request) == Attempts()
    assert ledger.probes == {}
    (closed,) = _study(settings).trials
    assert (closed.state, closed.user_attrs) == (TrialState.FAIL, {"repeat": 0, INTERRUPTED: True})
    campaign = drive(settings, world)
    assert campaign.ledgers[EN].attempts(request).reasons == []
    assert [one.attempt for one in world.computed] == [1] * len(world.computed)
    assert all(trial.state != TrialState.RUNNING for trial in _study(settings).trials)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the settings of a finished sweep, whose store is to be copied before it is damaged."""
    settings = small_sweep(tmp_path_factory.mktemp("whole") / "runs")
    drive(settings, World(settings, EDGES))
    return settings


def _copy(whole, tmp_path):
    return replace(whole, store=shutil.copytree(whole.store, tmp_path / "runs"))


def _damage(store, kind, how, depth=4):
    (path,) = [
        store.root / "trials" / f"{record['fingerprint']}.json"
        for record in store.records()
        if record["kind"] == kind and record.get("depth", depth) == depth
    ]
    path.unlink() if how == "lost" else path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("how", ["lost", "cut"])
@pytest.mark.parametrize("kind", ["base", "probe", "final"])
def test_a_damaged_record_is_computed_again_and_nothing_else(whole, tmp_path, kind, how):
    settings = _copy(whole, tmp_path)
    store = Store(settings.store)
    num_records = len(store.records())
    _damage(store, kind, how)
    world = World(settings, EDGES)
    after = drive(settings, world)
    assert [request.kind for request in world.computed] == [kind]
    assert _answer(after) == ANSWER
    assert len(store.records()) == num_records
    assert Campaign(settings, store).finished


def test_changed_settings_are_another_study_and_the_first_stays(whole, tmp_path):
    settings = _copy(whole, tmp_path)
    for changed in ({"tolerance": 0.5}, {"heal": {"num_steps": 3}}, {"seed": 7}):
        other = replace(settings, **changed)
        assert _ledgers(other)[EN].probes == {}
    assert len(_studies(settings)) == 4
    assert len(_ledgers(settings)[EN].probes) == 4


def test_changed_hands_go_on_with_the_study(whole, tmp_path):
    settings = _copy(whole, tmp_path)
    again = replace(settings, workers=8)
    assert len(_ledgers(again)[EN].probes) == 4
    assert len(_studies(settings)) == 1


def test_attempts_settle_with_a_record_or_after_the_last_failure():
    assert not Attempts().settled
    assert not Attempts(reasons=["once"]).settled
    assert Attempts(reasons=["once"] * MAX_ATTEMPTS).failed
    late = Attempts(reasons=["once"] * MAX_ATTEMPTS, record={})
    assert late.settled
    assert not late.failed
