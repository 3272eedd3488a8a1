"""What becomes of a heal that is killed, or for which there is too little memory."""

import json
from functools import partial
from itertools import takewhile

import pytest
import torch
from real_trials import PROBE, finish, without_times

from slamlab.data.features import FeatureStore
from slamlab.errors import TrialFailed
from slamlab.model.slam import SlamModel
from slamlab.sweep import healing
from slamlab.training.resume import Keeper

HEAL = {"num_steps": 6, "batch_size": 4, "r": 4, "num_train": 12, "dropout": 0.3}


@pytest.fixture(scope="module")
def undisturbed(new_bench):
    """Return the record of a probe whose heal ran in one go."""
    record, _ = finish(new_bench(heal=HEAL).run(PROBE))
    return json.loads(json.dumps(without_times(record)))


@pytest.fixture
def kept_often(monkeypatch):
    """Keep the state after every step: a heal of a test takes less than ten minutes."""
    monkeypatch.setattr(healing, "Keeper", partial(Keeper, every_s=0))


def heal_until(bench, step):
    """Run a probe until a step of its heal, as by a kill: nothing of it is told."""
    steps = bench.run(PROBE)
    list(takewhile(lambda progress: (progress.stage, progress.step) != ("heal", step), steps))
    steps.close()


def notes_of(steps):
    """Run a trial to its end; return its notes."""
    return [progress.note for progress in steps if progress.note]


def test_a_killed_heal_goes_on_and_ends_in_the_same_record(new_bench, undisturbed, kept_often, monkeypatch):
    bench = new_bench(heal=HEAL)
    heal_until(bench, 4)
    (state,) = (bench.store.root / "heals").iterdir()
    again, read = new_bench(bench.store.root, heal=HEAL), []
    get = FeatureStore.get
    monkeypatch.setattr(FeatureStore, "get", lambda self, of: read.append(len(of)) or get(self, of))
    steps = again.run(PROBE)
    told = list(takewhile(lambda progress: progress.stage != "decode selection", steps))
    list(steps)
    assert read[:2] == [4, 4], "the batches of the steps done are not read again"
    assert [p.note for p in told if p.note] == ["the heal goes on after step 4"]
    assert [p.step for p in told if p.stage == "heal" and not p.note] == [5, 6]
    record, stages = finish(again.run(PROBE))
    assert stages == []
    assert without_times(record) == undisturbed
    assert not state.exists()


def test_a_heal_that_goes_on_costs_what_it_had_cost(new_bench, kept_often):
    bench = new_bench(heal=HEAL)
    heal_until(bench, 3)
    (path,) = (bench.store.root / "heals").iterdir()
    key = healing.fingerprint(bench._model_facts(PROBE, bench._base))
    found = Keeper(path, key, lambda: (1000.0, 2000.0))
    assert found.state is not None
    assert found.state.wall_s > 0
    found.write(list(found.state.losses), found.state.tensors)
    record, _ = finish(new_bench(bench.store.root, heal=HEAL).run(PROBE))
    assert 1000 < record["wall_seconds"] < 1200
    assert 2000 < record["device_seconds"] < 2200
    assert not path.exists()


def test_a_damaged_state_is_said_and_the_heal_begins_anew(new_bench, undisturbed, kept_often):
    bench = new_bench(heal=HEAL)
    heal_until(bench, 4)
    (state,) = (bench.store.root / "heals").iterdir()
    state.write_bytes(state.read_bytes()[:-1])
    again = new_bench(bench.store.root, heal=HEAL)
    assert notes_of(again.run(PROBE)) == ["the heal that was kept is ignored, as it is damaged: it begins anew"]
    assert without_times(finish(again.run(PROBE))[0]) == undisturbed


def test_a_short_heal_keeps_no_state(new_bench):
    bench = new_bench(heal=HEAL)
    heal_until(bench, 4)
    assert not (bench.store.root / "heals").exists()


def test_a_state_that_outlived_its_heal_is_dropped(new_bench, kept_often):
    bench = new_bench(heal=HEAL)
    heal_until(bench, 4)
    (state,) = (bench.store.root / "heals").iterdir()
    content = state.read_bytes()
    record, _ = finish(bench.run(PROBE))
    state.write_bytes(content)  # as by a kill between the model and the end of its state
    (bench.store.root / "trials" / f"{record['fingerprint']}.json").unlink()
    (bench.store.root / "answers").rename(bench.store.root / "elsewhere")
    again, stages = finish(new_bench(bench.store.root, heal=HEAL).run(PROBE))
    assert stages == ["decode selection"]
    assert without_times(again) == without_times(record)
    assert not state.exists()


@pytest.fixture
def room_for(monkeypatch):
    """Have torch's own allocator fail for more than so many utterances at a time, from a step on."""

    def limit(num_utterances, from_call=0):
        forward, calls = SlamModel.forward, []

        def hungry(model, examples):
            calls.append(len(examples))
            if len(calls) > from_call and len(examples) > num_utterances:
                torch.empty(1 << 60, dtype=torch.uint8)
            return forward(model, examples)

        monkeypatch.setattr(SlamModel, "forward", hungry)

    return limit


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_heal_without_room_goes_on_with_half_as_many_at_a_time(new_bench, room_for, kept_often, zero_stage):
    heal = HEAL | {"dropout": 0.0, "zero_stage": zero_stage}
    whole, _ = finish(new_bench(heal=heal).run(PROBE))
    room_for(2, from_call=3)
    bench = new_bench(heal=heal)
    said = "the device ran out of memory at step 4 with 4 utterances at a time: from there on half as many"
    assert notes_of(bench.run(PROBE)) == [said, "the heal goes on after step 3"]
    record, _ = finish(bench.run(PROBE))
    assert record["notes"] == [said]
    assert record["losses"] == pytest.approx(whole["losses"], abs=1e-4), "equal gradients"
    assert record["fingerprint"] == whole["fingerprint"]


def test_a_second_time_without_room_fails_the_trial(new_bench, room_for):
    room_for(1)
    with pytest.raises(TrialFailed, match=r"at step 1 with 2 utterances at a time \(more were too many before\): pass"):
        finish(new_bench(heal=HEAL).run(PROBE))


def test_one_utterance_without_room_fails_the_trial(new_bench, room_for):
    room_for(0)
    with pytest.raises(TrialFailed, match="at step 1 with 1 utterances at a time"):
        finish(new_bench(heal=HEAL | {"batch_size": 1}).run(PROBE))
