"""One trial from top to bottom: real speech, real encoder, a random miniature, real healing; nothing of it good."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import slamlab
from slamlab.data.grammar import sentences
from slamlab.errors import AssetError, ModelError
from slamlab.model.slam import SlamConfig, SlamModel
from slamlab.model.surgery import LayerBlock, skipping
from slamlab.scoring.records import encode_records, read_records
from slamlab.scoring.score import score_records
from slamlab.sweep import trial
from slamlab.sweep.cells import Cell, joint_cell
from slamlab.sweep.evaluate import Evaluation, decode_facts
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store, fingerprint
from slamlab.sweep.trial import Bench
from slamlab.zoo.corpora import open_corpus
from slamlab.zoo.decoders import find_decoder, new_mini, train_tokenizer
from slamlab.zoo.profiles import RUNGS

CELL = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en")
BASE = Request(kind="base", cell=CELL)
PROBE, FINAL = (Request(kind=kind, cell=CELL, start=4, depth=3) for kind in ("probe", "final"))
GERMAN, LLAMA = (replace(CELL, **changed) for changed in ({"task": "st", "language": "de"}, {"family": "llama"}))
JOINT, JOINT_FINAL = (replace(PROBE, kind=kind, cell=joint_cell(CELL)) for kind in ("joint", "joint_final"))


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Return where speech, frames and converted weights are made once for all stores of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return the folder of a random model of 12 layers."""
    tokenizer = train_tokenizer([" " + text for texts in sentences(200, 0) for text in texts.values()])
    config = SlamConfig(
        family="qwen", scale="mini", encoder="whisper-base", encoder_width=512, stack=5, projector_hidden=32
    )
    torch.manual_seed(0)
    decoder = new_mini(find_decoder("qwen", "mini"), tokenizer, seed=0)
    folder = tmp_path_factory.mktemp("base") / "qwen-mini"
    SlamModel(config, decoder, tokenizer).save(folder)
    return folder


@pytest.fixture(scope="module")
def new_bench(tmp_path_factory, speech, base):
    """Return a function that makes a bench on a store of its own, or on a given one."""

    def make(store=None, **changed):
        if store is None:
            store = Store(tmp_path_factory.mktemp("runs")).open(min_free_bytes=0).root
            (store / "cache").symlink_to(speech)
        given = {
            "name": "trial",
            "profile": "pocket",
            "cells": (CELL,),
            "corpus": "pocket",
            "corpus_fingerprint": open_corpus("pocket", speech, seed=0).fingerprint,
            "base": str(base),
            "heal": {"num_steps": 2, "batch_size": 2, "r": 4, "num_train": 4},
            "num_selection": 6,
            "num_test": 4,
            # Of an untrained model every answer is as bad as any: with this much tolerance a checkpoint is kept.
            "tolerance": 9.0,
        }
        return Bench(Settings(store=store, **(given | changed)))

    return make


def _finish(steps):
    """Run a trial to its end; return its record and the stages that it went through."""
    stages = []
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value, stages
        assert 0 <= progress.step <= progress.num_steps
        if progress.stage not in stages:
            stages.append(progress.stage)


def _run(bench, *requests):
    """Run trials one after the other and return their records."""
    return [_finish(bench.run(request))[0] for request in requests]


def _hypotheses(bench, record):
    """Return id to hypothesis on the selection split."""
    return {
        one.id: one.hypothesis for one in read_records(bench.store.root / record["scores"]["selection"]["hypotheses"])
    }


def _checkpoint(bench, request):
    """Return where the healed model of a request lies."""
    return bench.store.checkpoint_folder(fingerprint(bench._model_facts(request, bench._base)))


def _again(bench, request, model, split="selection"):
    """Return the score of a model on a split, from a journal of its own."""
    utterances = bench._scored(request.cell, split, request.rung)
    evaluation = Evaluation(request.cell, utterances, bench.store.journal(fingerprint(time.time())), bench.profile)
    list(evaluation.run(model, bench.features(request.cell.encoder), "decode"))
    return evaluation.score(bench.store)


def _weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _measured(record):
    """Return a record without what may differ from run to run."""
    return {name: value for name, value in record.items() if name not in ("wall_seconds", "device_seconds")}


@pytest.fixture(scope="module")
def ran(new_bench):
    """Run base, probe and final of one block, in the order of a sweep."""
    bench = new_bench()
    records, stages = {}, {}
    for request in (BASE, PROBE, FINAL):
        records[request.kind], stages[request.kind] = _finish(bench.run(request))
        if request.kind == "base":
            before = _weights(bench._base.model)
    return bench, records, stages, before


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
    assert stages["final"] == ["decode test", "decode test-voices"], "it heals no second time"
    assert record["checkpoint"] == bench.store.relative(_checkpoint(bench, PROBE))
    model = slamlab.load(bench.store.root / record["checkpoint"])
    assert model.decoder.config.num_hidden_layers == 9
    assert model.num_parameters() == record["num_parameters"] == records["probe"]["num_parameters"]


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
        record, stages = _finish(again.run(request))
        assert stages == []
        assert record == json.loads(json.dumps(records[request.kind])), "times included: nothing was run"


def test_a_probe_is_the_same_in_another_store_and_whatever_ran_before(ran, new_bench):
    _, records, _, _ = ran
    fresh = new_bench()
    torch.manual_seed(1234)  # a worker's state is no part of a trial
    other, _ = _finish(fresh.run(Request(kind="probe", cell=CELL, start=0, depth=1)))
    record, _ = _finish(fresh.run(PROBE))
    assert _measured(json.loads(json.dumps(record))) == _measured(json.loads(json.dumps(records["probe"])))
    assert other["fingerprint"] != record["fingerprint"]
    assert other["losses"] != record["losses"]


def test_a_final_without_a_checkpoint_heals_to_the_same_answers(ran, new_bench):
    bench, records, _, _ = ran
    checkpoint = bench.store.root / records["final"]["checkpoint"]
    moved = bench.store.root / "moved"
    checkpoint.rename(moved)
    (bench.store.root / "trials" / f"{records['final']['fingerprint']}.json").unlink()
    try:
        record, stages = _finish(new_bench(bench.store.root).run(FINAL))
        assert "heal" in stages
        assert _measured(json.loads(json.dumps(record))) == _measured(json.loads(json.dumps(records["final"])))
        assert (checkpoint / "slam.json").is_file()
    finally:
        shutil.rmtree(moved)


def test_what_cannot_win_leaves_no_checkpoint(new_bench):
    bench = new_bench(tolerance=0.5)
    base, _ = _finish(bench.run(BASE))
    base["scores"]["selection"]["value"] = 0.0  # as if it made no error: nothing random comes near
    bench.store.write_record(base)
    probe, _ = _finish(bench.run(PROBE))
    assert probe["scores"]["selection"]["value"] > 0
    assert not _checkpoint(bench, PROBE).exists()
    assert list(_checkpoint(bench, PROBE).parent.iterdir()) == [], "nor a part of one"


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
    record, stages = _finish(new_bench(ran[0].store.root, base=str(other)).run(PROBE))
    assert stages == []
    assert record["fingerprint"] == ran[1]["probe"]["fingerprint"]


@pytest.mark.parametrize("changed", [{"num_selection": 5}, {"tolerance": 0.1}, {"early_stop": 0.0}])
def test_what_is_scored_changes_the_trial_but_answers_are_not_given_twice(ran, new_bench, changed):
    bench, records, _, _ = ran
    record, stages = _finish(new_bench(bench.store.root, **changed).run(PROBE))
    assert record["fingerprint"] != records["probe"]["fingerprint"]
    assert stages == [], "a model was made, or an answer decoded"
    assert record["losses"] == records["probe"]["losses"]
    known = _hypotheses(bench, records["probe"])
    assert _hypotheses(bench, record).items() <= known.items()


def test_beams_and_what_is_drawn_are_part_of_a_trial(ran, new_bench):
    bench, records, _, _ = ran
    found = {}
    for changed in ({"num_beams": 2}, {"resample": "speaker"}):
        record, stages = _finish(new_bench(bench.store.root, **changed).run(PROBE))
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
    (record,) = _run(again, PROBE)
    assert record["scores"]["selection"]["num_utterances"] == 12
    assert len(record["losses"]) == 2
    whole = new_bench(num_selection=12)
    whole.profile = replace(whole.profile, eval_batch_size=4)
    (uninterrupted,) = _run(whole, PROBE)
    assert _measured(json.loads(json.dumps(record))) == _measured(json.loads(json.dumps(uninterrupted)))


def test_a_hopeless_probe_is_not_scored_to_its_end(new_bench, monkeypatch):
    monkeypatch.setattr(trial, "LOOK_EVERY", 4)
    bench = new_bench(num_selection=40, tolerance=0.25)
    base, _ = _finish(bench.run(BASE))
    score = base["scores"]["selection"]
    # As if the base were good: it says what was said.
    spoken = [
        replace(one, hypothesis=one.reference, hypothesis_normalized=one.reference_normalized)
        for one in read_records(bench.store.root / score["hypotheses"])
    ]
    score["hypotheses"] = bench.store.put_bytes("hypotheses", ".jsonl", encode_records(spoken))
    bench.store.write_record(base)
    probe, _ = _finish(bench.run(PROBE))
    scored = probe["scores"]["selection"]
    assert scored["stopped_early"] == "hopeless"
    assert not _checkpoint(bench, PROBE).exists(), "what is hopeless is not kept"
    assert scored["num_utterances"] < scored["num_planned"] == 40
    first = [one.id for one in bench.corpus.utterances("en", "selection", scored["num_utterances"])]
    assert list(_hypotheses(bench, probe)) == first, "the first of the shuffled order, not the shortest"
    patient = new_bench(bench.store.root, num_selection=40, tolerance=0.25, early_stop=0.0)
    whole, stages = _finish(patient.run(PROBE))
    assert whole["scores"]["selection"]["num_utterances"] == 40
    assert whole["scores"]["selection"]["stopped_early"] is None
    assert _hypotheses(bench, probe).items() <= _hypotheses(patient, whole).items()
    assert "decode selection" in stages


def test_the_batch_changes_neither_stop_nor_fingerprint(new_bench, ran):
    bench, records, _, _ = ran
    other = new_bench(bench.store.root)
    other.profile = replace(other.profile, eval_batch_size=3)
    record, stages = _finish(other.run(PROBE))
    assert (record["fingerprint"], stages) == (records["probe"]["fingerprint"], [])
    half = replace(other.profile, decode_precision="bf16")
    facts = [decode_facts(replace(half, eval_batch_size=size), 1) for size in (3, 4)]
    assert facts[0] != facts[1], "there rounding decides near-ties, and the batch rounding"


def test_a_stricter_sweep_takes_no_model_away(new_bench):
    bench = new_bench()
    base, _, final = _run(bench, BASE, PROBE, FINAL)
    checkpoint = bench.store.root / final["checkpoint"]
    strict = new_bench(bench.store.root, tolerance=0.0)
    base["scores"]["selection"]["value"] = 0.0  # nothing random comes near
    bench.store.write_record(base)
    record, stages = _finish(strict.run(PROBE))
    assert (record["scores"]["selection"]["value"] > 0, stages) == (True, [])
    assert (checkpoint / "slam.json").is_file()


def test_a_model_that_vanishes_is_made_again(new_bench, ran, monkeypatch):
    bench = new_bench()
    (probe,) = _run(bench, PROBE)
    shutil.rmtree(bench.store.root / "answers")
    (bench.store.root / "trials" / f"{probe['fingerprint']}.json").unlink()
    monkeypatch.setattr(trial, "load", _vanished)
    record, stages = _finish(bench.run(PROBE))
    assert "heal" in stages
    assert _measured(json.loads(json.dumps(record))) == _measured(json.loads(json.dumps(probe)))


def _vanished(folder):
    raise AssetError("a SLAM model's folder holds slam.json", folder, "give a folder that slamlab wrote")


def test_a_trial_costs_what_its_heal_cost_whoever_made_it(new_bench):
    bench = new_bench()
    (probe,) = _run(bench, PROBE)
    key = fingerprint(bench._model_facts(PROBE, bench._base))
    heal = bench.store.read_heal(key)
    for unit in ("wall_seconds", "device_seconds"):
        assert 0 < heal[unit] < probe[unit]
    bench.store.write_heal(key, heal["losses"], 1000.0, 2000.0)
    (again,) = _run(new_bench(bench.store.root, tolerance=0.5), PROBE)
    assert 1000 < again["wall_seconds"] < 1060
    assert 2000 < again["device_seconds"] < 2060


def test_who_asks_changes_no_fingerprint(ran, new_bench):
    bench, records, _, _ = ran
    other = new_bench(bench.store.root, name="other", workers=3, alpha=0.2)
    record, stages = _finish(other.run(PROBE))
    assert stages == []
    assert record["fingerprint"] == records["probe"]["fingerprint"]


def test_a_given_base_of_another_encoder_is_refused(new_bench):
    bench = new_bench()
    with pytest.raises(ModelError, match=r"listens through whisper-base \(512 wide\), got --encoder whisper-tiny\.en"):
        _finish(bench.run(Request(kind="base", cell=Cell(**(CELL.as_dict() | {"encoder": "whisper-tiny.en"})))))


@pytest.fixture(scope="module")
def looked(new_bench):
    """Look at one block on every rung, with enough utterances for each to score other ones."""
    bench = new_bench(num_selection=24)
    records, stages = {}, {}
    for rung in RUNGS:
        records[rung], stages[rung] = _finish(bench.run(replace(PROBE, rung=rung)))
    return bench, records, stages


def test_a_rung_heals_and_scores_its_share(looked):
    bench, records, stages = looked
    healed = ["features", "heal", "decode selection"]
    assert stages == {"unhealed": ["decode selection"], "short": healed, "full": healed}
    for rung, num_steps, num_scored in (("unhealed", 0, 10), ("short", 1, 12), ("full", 2, 24)):
        record = records[rung]
        assert (record["rung"], record["repeat"]) == (rung, 0)
        assert len(record["losses"]) == num_steps
        assert record["facts"]["num_selection"] == record["scores"]["selection"]["num_utterances"] == num_scored
        assert (record["facts"]["heal"] or {"train": {"num_steps": 0}})["train"]["num_steps"] == num_steps
        assert record["num_parameters"] == records["full"]["num_parameters"]
        assert _checkpoint(bench, replace(PROBE, rung=rung)).exists() == (rung == "full")


def test_what_a_lower_rung_scores_is_part_of_what_a_higher_one_does(looked):
    bench, records, _ = looked
    scored = [_hypotheses(bench, records[rung]).keys() for rung in RUNGS]
    assert scored[0] < scored[1] < scored[2]


def test_unhealed_is_the_base_with_its_block_skipped(looked):
    bench, records, _ = looked
    unhealed = replace(PROBE, rung="unhealed")
    whole = bench._base.model
    with skipping(whole.decoder, LayerBlock(PROBE.start, PROBE.depth)):
        score = _again(bench, unhealed, whole)
    assert score == records["unhealed"]["scores"]["selection"]
    other = _again(bench, unhealed, whole)
    assert other["hypotheses"] != score["hypotheses"], "with nothing removed the answers are others"


def test_unhealed_knows_no_seed(looked, new_bench):
    bench, records, _ = looked
    again = new_bench(bench.store.root, num_selection=24, seed=1, heal={"num_steps": 5})
    record, stages = _finish(again.run(replace(PROBE, rung="unhealed", repeat=3)))
    assert stages == []
    assert record["fingerprint"] == records["unhealed"]["fingerprint"]
    assert record["repeat"] == 0


def test_a_repeat_is_another_heal_and_the_same_one_each_time(ran, new_bench):
    bench, records, _, _ = ran
    repeat, final = (replace(request, repeat=1) for request in (PROBE, FINAL))
    record, final_record = _run(bench, repeat, final)
    assert record["repeat"] == final_record["repeat"] == 1
    assert record["losses"] != records["probe"]["losses"]
    assert record["fingerprint"] != records["probe"]["fingerprint"]
    own = _checkpoint(bench, repeat)
    assert final_record["checkpoint"] == bench.store.relative(own) != records["final"]["checkpoint"]
    (elsewhere,) = _run(new_bench(), repeat)
    assert _measured(json.loads(json.dumps(elsewhere))) == _measured(json.loads(json.dumps(record)))
    (seeded,) = _run(new_bench(seed=1), PROBE)
    assert seeded["losses"] == record["losses"], "a repeat draws as the next seed does"


@pytest.fixture(scope="module")
def joined(new_bench):
    """Heal one model for two cells that share a base; a third has another base."""
    bench = new_bench(cells=(CELL, LLAMA, GERMAN))
    records, stages = {}, {}
    for request in (BASE, replace(BASE, cell=GERMAN), JOINT, JOINT_FINAL):
        records[request.kind], stages[request.kind] = _finish(bench.run(request))
    return bench, records, stages


def test_a_joint_heal_is_one_model_scored_for_each_of_its_cells(joined):
    bench, records, stages = joined
    record = records["joint"]
    assert stages["joint"] == ["features", "heal", "decode selection"]
    assert record["cell"] == JOINT.cell.as_dict()
    assert record["members"] == [CELL.as_dict(), GERMAN.as_dict()]
    assert (record["start"], record["depth"], record["rung"], record["repeat"]) == (4, 3, "full", 0)
    assert record["num_layers"] == 12
    assert len(record["losses"]) == 2 * 2, "as many steps as its members' heals together"
    assert record["fingerprint"] == fingerprint(record["facts"])
    assert list(record["scores"]) == [CELL.name, GERMAN.name]
    english, german = (record["scores"][cell.name]["selection"] for cell in (CELL, GERMAN))
    assert (english["metric"], german["metric"]) == ("wer", "bleu")
    model = slamlab.load(_checkpoint(bench, JOINT)).to("cpu")
    assert model.decoder.config.num_hidden_layers == 9
    for cell, kept in ((CELL, english), (GERMAN, german)):
        assert _again(bench, replace(PROBE, cell=cell), model) == kept


def test_a_joint_final_scores_that_model_on_the_splits_that_are_reported(joined):
    bench, records, stages = joined
    record = records["joint_final"]
    assert stages["joint_final"] == ["decode test", "decode test-voices"], "it heals no second time"
    assert {name: list(scores) for name, scores in record["scores"].items()} == {
        cell.name: ["test", "test-voices"] for cell in (CELL, GERMAN)
    }
    assert record["checkpoint"] == bench.store.relative(_checkpoint(bench, JOINT))
    assert record["members"] == records["joint"]["members"]


def test_an_equal_joint_is_read_not_run(joined, new_bench):
    bench, records, _ = joined
    again = new_bench(bench.store.root, cells=(CELL, GERMAN), name="other")
    for request in (JOINT, JOINT_FINAL):
        record, stages = _finish(again.run(request))
        assert stages == []
        assert record == json.loads(json.dumps(records[request.kind]))
    for other in (new_bench(bench.store.root, cells=(CELL,)).run(JOINT), again.run(replace(JOINT, repeat=1))):
        assert next(other).stage == "features"
        other.close()


def test_a_joint_heal_of_one_cell_is_that_cells_own(ran, new_bench):
    (record,) = _run(new_bench(), JOINT)
    own = ran[1]["probe"]
    assert record["losses"] == own["losses"]
    assert record["scores"] == {CELL.name: own["scores"]}


def test_a_joint_that_one_cell_cannot_accept_leaves_no_checkpoint(new_bench):
    bench = new_bench(cells=(CELL, GERMAN))
    english, _ = _run(bench, BASE, replace(BASE, cell=GERMAN))
    english["scores"]["selection"]["value"] = 0.0  # as if it made no error: nothing random comes near
    bench.store.write_record(english)
    _run(bench, JOINT)
    assert not _checkpoint(bench, JOINT).exists()
