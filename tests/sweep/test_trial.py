"""One trial from top to bottom, on real speech: base, probe and final, and what becomes of one that is interrupted."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from real_trials import (
    BASE,
    CELL,
    FINAL,
    PROBE,
    checkpoint_of,
    finish,
    hypotheses_of,
    run_all,
    weights_of,
    without_times,
)
from safetensors.torch import load_file, save_file

import slamlab
from slamlab.errors import AssetError, ModelError
from slamlab.scoring.records import encode_records, read_records
from slamlab.scoring.score import score_records
from slamlab.sweep import healing, trial
from slamlab.sweep.cells import Cell
from slamlab.sweep.evaluate import decode_facts
from slamlab.sweep.settings import Request
from slamlab.sweep.speed import NUM_TURNS
from slamlab.sweep.store import fingerprint


def test_a_base_is_scored_on_every_split_and_mapped(ran):
    bench, records, stages, _ = ran
    record = records["base"]
    assert list(record["scores"]) == ["selection", "test", "test-voices"]
    assert [score["num_utterances"] for score in record["scores"].values()] == [6, 4, 4]
    assert stages["base"] == ["decode selection", "decode test", "decode test-voices", "map"]
    assert (record["num_layers"], record["base"]["origin"]) == (12, "given")
    assert record["num_parameters"] == bench._base.model.num_parameters()
    with np.load(bench.store.root / record["map"]) as arrays:
        distance = arrays["distance"]
    assert distance.shape == (13, 13)
    above = distance[np.triu_indices(13, 1)]
    assert np.isfinite(above).all()
    assert (above > 0).all()


def test_a_probe_heals_and_is_scored_on_the_selection_split_alone(ran):
    _, records, stages, _ = ran
    record = records["probe"]
    assert list(record["scores"]) == ["selection"]
    assert stages["probe"] == ["features", "heal", "decode selection"]
    assert (record["start"], record["depth"], record["num_layers"]) == (4, 3, 12)
    assert len(record["losses"]) == 2
    assert all(0 < loss < 20 for loss in record["losses"])
    assert record["facts"]["block"] == {"start": 4, "depth": 3}
    assert record["facts"]["heal"]["train"]["num_steps"] == 2


def test_a_probe_has_fewer_weights_by_those_of_its_block(ran):
    bench, records, _, _ = ran
    layer = sum(p.numel() for p in bench._base.model.decoder.model.layers[0].parameters())
    assert records["probe"]["num_parameters"] == records["base"]["num_parameters"] - 3 * layer


def test_a_final_scores_the_probes_checkpoint_on_the_splits_that_are_reported(ran):
    bench, records, stages, _ = ran
    record = records["final"]
    assert list(record["scores"]) == ["test", "test-voices"]
    assert stages["final"] == ["decode test", "decode test-voices", "speed"], "it heals no second time"
    assert record["checkpoint"] == bench.store.relative(checkpoint_of(bench, PROBE))
    model = slamlab.load(bench.store.root / record["checkpoint"])
    assert model.decoder.config.num_hidden_layers == 9
    assert model.num_parameters() == record["num_parameters"] == records["probe"]["num_parameters"]


def test_a_final_times_the_healed_model_beside_the_unpruned_one(ran):
    _, records, _, _ = ran
    speed = records["final"]["speed"]
    assert speed["dtype"] == "float32"
    assert speed["num_threads"] == torch.get_num_threads()
    assert [(run["batch_size"], run["num_tokens"]) for run in speed["runs"]] == [(1, 1), (2, 3)]
    for run in speed["runs"]:
        assert len(run["ratios"]) == NUM_TURNS
        assert all(0 < ratio < float("inf") for ratio in run["ratios"])
        assert ("unpruned_seconds" in run) == torch.cuda.is_available()
    assert not any("speed" in records[kind] for kind in ("base", "probe"))


def test_a_final_that_was_never_timed_still_serves(ran, new_bench):
    bench, records, _, _ = ran
    older = {name: value for name, value in records["final"].items() if name != "speed"}
    bench.store.write_record(older)
    try:
        assert finish(new_bench(bench.store.root).run(FINAL)) == (json.loads(json.dumps(older)), [])
    finally:
        bench.store.write_record(records["final"])


def test_a_final_goes_without_a_speed_where_two_models_have_no_room(ran, new_bench, monkeypatch):
    bench, records, _, _ = ran

    def full(_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(slamlab.sweep.speed, "load", full)
    kept = bench.store.root / "trials" / f"{records['final']['fingerprint']}.json"
    kept.unlink()
    try:
        record, _ = finish(new_bench(bench.store.root).run(FINAL))
        assert "speed" not in record
        assert without_times(json.loads(json.dumps(record))) == without_times(json.loads(json.dumps(records["final"])))
    finally:
        bench.store.write_record(records["final"])


def test_a_control_is_the_same_heal_of_the_whole_decoder(ran, new_bench):
    bench, records, _, before = ran
    control = replace(FINAL, kind="control", start=3, depth=0)  # layer 3 receives what layers 4-6 leave
    bench = new_bench(bench.store.root)
    record, stages = finish(bench.run(control))
    assert [stage for stage in stages if stage != "features"] == ["heal", "decode test", "decode test-voices"]
    assert list(record["scores"]) == list(records["final"]["scores"])
    assert record["num_parameters"] == records["base"]["num_parameters"]
    facts, of_probe = record["facts"]["pruned"], records["probe"]["facts"]
    assert facts["block"] == {"start": 3, "depth": 0}
    assert {name: value for name, value in facts.items() if name != "block"} == {
        name: value for name, value in of_probe.items() if name != "block"
    }
    assert not checkpoint_of(bench, control).exists(), "it is there to be compared with, not to be used"
    after = weights_of(bench._base.model)
    assert all(torch.equal(before[name], after[name]) for name in before), "the base stays as it was"


def test_a_control_trains_the_layer_that_received_and_no_other(ran, new_bench):
    bench = new_bench(ran[0].store.root, seed=1)
    control = replace(FINAL, kind="control", start=3, depth=0)
    finish(bench.run(BASE))
    steps = bench._pruned_model(control, bench._base)
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    healed, base = end.value.value.decoder.state_dict(), bench._base.model.decoder.state_dict()
    changed = {name.split(".")[2] for name in base if not torch.equal(base[name], healed[name])}
    assert changed == {"3"}


def test_a_score_is_that_of_the_hypotheses_that_are_kept(ran):
    bench, records, _, _ = ran
    for record in records.values():
        for split, score in record["scores"].items():
            kept = read_records(bench.store.root / score["hypotheses"])
            again = score_records(kept, "en", "asr")
            assert score["value"] == again.value
            assert score["signature"] == again.signature
            assert score["ci95"][0] <= score["value"] <= score["ci95"][1]
            said = {u.id: u.text for u in bench.corpus.utterances("en", split, 6)}
            assert all(said[one.id] == one.reference for one in kept)


def test_a_record_is_in_the_store_as_it_was_returned(ran):
    bench, records, _, _ = ran
    for record in records.values():
        assert record["fingerprint"] == fingerprint(record["facts"])
        assert bench.store.read_record(record["fingerprint"]) == json.loads(json.dumps(record))
        assert record["wall_seconds"] > 0
        assert record["device_seconds"] > 0
        assert record["device"]


def test_the_base_in_memory_is_bit_for_bit_what_it_was(ran):
    bench, _, _, before = ran
    after = bench._base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert len(bench._base.model.decoder.model.layers) == 12


def test_an_equal_trial_is_read_not_run(ran, new_bench):
    bench, records, _, _ = ran
    again = new_bench(bench.store.root)
    for request in (BASE, PROBE, FINAL):
        record, stages = finish(again.run(request))
        assert stages == []
        assert record == json.loads(json.dumps(records[request.kind])), "times included: nothing was run"


def test_a_probe_is_the_same_in_another_store_and_whatever_ran_before(ran, new_bench):
    _, records, _, _ = ran
    fresh = new_bench()
    torch.manual_seed(1234)  # a worker's state is no part of a trial
    other, _ = finish(fresh.run(Request(kind="probe", cell=CELL, start=0, depth=1)))
    record, _ = finish(fresh.run(PROBE))
    assert without_times(json.loads(json.dumps(record))) == without_times(json.loads(json.dumps(records["probe"])))
    assert other["fingerprint"] != record["fingerprint"]
    assert other["losses"] != record["losses"]


def test_a_final_without_a_checkpoint_heals_to_the_same_answers(ran, new_bench):
    bench, records, _, _ = ran
    checkpoint = bench.store.root / records["final"]["checkpoint"]
    moved = bench.store.root / "moved"
    checkpoint.rename(moved)
    (bench.store.root / "trials" / f"{records['final']['fingerprint']}.json").unlink()
    try:
        record, stages = finish(new_bench(bench.store.root).run(FINAL))
        assert "heal" in stages
        assert without_times(json.loads(json.dumps(record))) == without_times(json.loads(json.dumps(records["final"])))
        assert (checkpoint / "slam.json").is_file()
    finally:
        shutil.rmtree(moved)


def test_what_cannot_win_leaves_no_checkpoint(new_bench):
    bench = new_bench(tolerance=0.5)
    base, _ = finish(bench.run(BASE))
    base["scores"]["selection"]["value"] = 0.0  # as if it made no error: nothing random comes near
    bench.store.write_record(base)
    probe, _ = finish(bench.run(PROBE))
    assert probe["scores"]["selection"]["value"] > 0
    assert not checkpoint_of(bench, PROBE).exists()
    assert list(checkpoint_of(bench, PROBE).parent.iterdir()) == [], "nor a part of one"


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"heal": {"num_steps": 3, "batch_size": 2, "r": 4, "num_train": 4}}],
    ids=["seed", "steps"],
)
def test_another_recipe_is_another_trial(ran, new_bench, changed):
    steps = new_bench(ran[0].store.root, **changed).run(PROBE)
    assert next(steps).stage == "features", "it was taken for one that the store has"
    steps.close()


def test_another_base_is_another_trial(ran, new_bench, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "base")
    projector = load_file(other / "projector.safetensors")
    projector["up.weight"].view(-1)[0] += 1
    save_file(projector, other / "projector.safetensors")
    steps = new_bench(ran[0].store.root, base=str(other)).run(PROBE)
    assert next(steps).stage == "features"
    steps.close()


def test_a_copied_base_with_a_card_is_the_same_base(ran, new_bench, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "base")
    (other / "README.md").write_text("All about it.")
    (other / "card.json").write_text("{}")
    record, stages = finish(new_bench(ran[0].store.root, base=str(other)).run(PROBE))
    assert stages == []
    assert record["fingerprint"] == ran[1]["probe"]["fingerprint"]


@pytest.mark.parametrize("changed", [{"num_selection": 5}, {"tolerance": 0.1}, {"early_stop": 0.0}])
def test_what_is_scored_changes_the_trial_but_answers_are_not_given_twice(ran, new_bench, changed):
    bench, records, _, _ = ran
    record, stages = finish(new_bench(bench.store.root, **changed).run(PROBE))
    assert record["fingerprint"] != records["probe"]["fingerprint"]
    assert stages == [], "a model was made, or an answer decoded"
    assert record["losses"] == records["probe"]["losses"]
    known = hypotheses_of(bench, records["probe"])
    assert hypotheses_of(bench, record).items() <= known.items()


def test_beams_and_what_is_drawn_are_part_of_a_trial(ran, new_bench):
    bench, records, _, _ = ran
    found = {}
    for changed in ({"num_beams": 2}, {"resample": "speaker"}):
        record, stages = finish(new_bench(bench.store.root, **changed).run(PROBE))
        found[record["fingerprint"]] = stages
    assert list(found.values()) == [["decode selection"], []]
    assert records["probe"]["fingerprint"] not in found


def test_a_killed_evaluation_goes_on_without_healing_again(new_bench, ran):
    bench = new_bench(num_selection=12)
    bench.profile = replace(bench.profile, eval_batch_size=4)
    for progress in (steps := bench.run(PROBE)):
        if progress.stage == "decode selection" and progress.step == 8:
            break
    steps.close()  # as by a kill: nothing of it is told
    again = new_bench(bench.store.root, num_selection=12)
    again.profile = replace(again.profile, eval_batch_size=4)
    told = [(progress.stage, progress.step) for progress in again.run(PROBE)]
    assert told == [("decode selection", 8)], "it healed, or decoded what was answered"
    (record,) = run_all(again, PROBE)
    assert record["scores"]["selection"]["num_utterances"] == 12
    assert len(record["losses"]) == 2
    whole = new_bench(num_selection=12)
    whole.profile = replace(whole.profile, eval_batch_size=4)
    (uninterrupted,) = run_all(whole, PROBE)
    assert without_times(json.loads(json.dumps(record))) == without_times(json.loads(json.dumps(uninterrupted)))


def test_a_hopeless_probe_is_not_scored_to_its_end(new_bench, monkeypatch):
    monkeypatch.setattr(trial, "LOOK_EVERY", 4)
    bench = new_bench(num_selection=40, tolerance=0.25)
    base, _ = finish(bench.run(BASE))
    score = base["scores"]["selection"]
    # As if the base were good: it says what was said.
    spoken = [
        replace(one, hypothesis=one.reference, hypothesis_normalized=one.reference_normalized)
        for one in read_records(bench.store.root / score["hypotheses"])
    ]
    score["hypotheses"] = bench.store.put_bytes("hypotheses", ".jsonl", encode_records(spoken))
    bench.store.write_record(base)
    probe, _ = finish(bench.run(PROBE))
    scored = probe["scores"]["selection"]
    assert scored["stopped_early"] == "hopeless"
    assert not checkpoint_of(bench, PROBE).exists(), "what is hopeless is not kept"
    assert scored["num_utterances"] < scored["num_planned"] == 40
    first = [one.id for one in bench.corpus.utterances("en", "selection", scored["num_utterances"])]
    assert list(hypotheses_of(bench, probe)) == first, "the first of the shuffled order, not the shortest"
    patient = new_bench(bench.store.root, num_selection=40, tolerance=0.25, early_stop=0.0)
    whole, stages = finish(patient.run(PROBE))
    assert whole["scores"]["selection"]["num_utterances"] == 40
    assert whole["scores"]["selection"]["stopped_early"] is None
    assert hypotheses_of(bench, probe).items() <= hypotheses_of(patient, whole).items()
    assert "decode selection" in stages


def test_the_batch_changes_neither_stop_nor_fingerprint(new_bench, ran):
    bench, records, _, _ = ran
    other = new_bench(bench.store.root)
    other.profile = replace(other.profile, eval_batch_size=3)
    record, stages = finish(other.run(PROBE))
    assert (record["fingerprint"], stages) == (records["probe"]["fingerprint"], [])
    half = replace(other.profile, decode_precision="bf16")
    facts = [decode_facts(replace(half, eval_batch_size=size), 1) for size in (3, 4)]
    assert facts[0] != facts[1], "there rounding decides near-ties, and the batch rounding"


def test_a_stricter_sweep_takes_no_model_away(new_bench):
    bench = new_bench()
    base, _, final = run_all(bench, BASE, PROBE, FINAL)
    checkpoint = bench.store.root / final["checkpoint"]
    strict = new_bench(bench.store.root, tolerance=0.0)
    base["scores"]["selection"]["value"] = 0.0  # nothing random comes near
    bench.store.write_record(base)
    record, stages = finish(strict.run(PROBE))
    assert (record["scores"]["selection"]["value"] > 0, stages) == (True, [])
    assert (checkpoint / "slam.json").is_file()


def test_a_model_that_vanishes_is_made_again(new_bench, ran, monkeypatch):
    bench = new_bench()
    (probe,) = run_all(bench, PROBE)
    shutil.rmtree(bench.store.root / "answers")
    (bench.store.root / "trials" / f"{probe['fingerprint']}.json").unlink()
    monkeypatch.setattr(healing, "load", _vanished)
    record, stages = finish(bench.run(PROBE))
    assert "heal" in stages
    assert without_times(json.loads(json.dumps(record))) == without_times(json.loads(json.dumps(probe)))


def _vanished(folder):
    raise AssetError("a SLAM model's folder holds slam.json", folder, "give a folder that slamlab wrote")


def test_a_trial_costs_what_its_heal_cost_whoever_made_it(new_bench):
    bench = new_bench()
    (probe,) = run_all(bench, PROBE)
    key = fingerprint(bench._model_facts(PROBE, bench._base))
    heal = bench.store.read_heal(key)
    for unit in ("wall_seconds", "device_seconds"):
        assert 0 < heal[unit] < probe[unit]
    bench.store.write_heal(key, heal["losses"], 1000.0, 2000.0)
    (again,) = run_all(new_bench(bench.store.root, tolerance=0.5), PROBE)
    assert 1000 < again["wall_seconds"] < 1060
    assert 2000 < again["device_seconds"] < 2060


def test_who_asks_changes_no_fingerprint(ran, new_bench):
    bench, records, _, _ = ran
    other = new_bench(bench.store.root, name="other", workers=3, alpha=0.2)
    record, stages = finish(other.run(PROBE))
    assert stages == []
    assert record["fingerprint"] == records["probe"]["fingerprint"]


def test_a_given_base_of_another_encoder_is_refused(new_bench):
    bench = new_bench()
    with pytest.raises(ModelError, match=r"listens through whisper-base \(512 wide\), got --encoder whisper-tiny\.en"):
        finish(bench.run(Request(kind="base", cell=Cell(**(CELL.as_dict() | {"encoder": "whisper-tiny.en"})))))
