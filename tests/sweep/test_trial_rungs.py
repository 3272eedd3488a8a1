"""Cheaper looks, repeated heals and joint heals, on real speech."""

import json
from dataclasses import replace

import pytest
from real_trials import (
    BASE,
    CELL,
    FINAL,
    GERMAN,
    JOINT,
    JOINT_FINAL,
    LLAMA,
    PROBE,
    checkpoint_of,
    finish,
    hypotheses_of,
    run_all,
    score_again,
    without_times,
)

import slamlab
from slamlab.model.surgery import LayerBlock, skipping
from slamlab.sweep.store import fingerprint
from slamlab.zoo.profiles import RUNGS


@pytest.fixture(scope="module")
def looked(new_bench):
    """Look at one block on every rung, with enough utterances for each to score other ones."""
    bench = new_bench(num_selection=24)
    records, stages = {}, {}
    for rung in RUNGS:
        records[rung], stages[rung] = finish(bench.run(replace(PROBE, rung=rung)))
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
        assert checkpoint_of(bench, replace(PROBE, rung=rung)).exists() == (rung == "full")


def test_what_a_lower_rung_scores_is_part_of_what_a_higher_one_does(looked):
    bench, records, _ = looked
    scored = [hypotheses_of(bench, records[rung]).keys() for rung in RUNGS]
    assert scored[0] < scored[1] < scored[2]


def test_unhealed_is_the_base_with_its_block_skipped(looked):
    bench, records, _ = looked
    unhealed = replace(PROBE, rung="unhealed")
    whole = bench._base.model
    with skipping(whole.decoder, LayerBlock(PROBE.start, PROBE.depth)):
        score = score_again(bench, unhealed, whole)
    assert score == records["unhealed"]["scores"]["selection"]
    other = score_again(bench, unhealed, whole)
    assert other["hypotheses"] != score["hypotheses"], "with nothing removed the answers are others"


def test_unhealed_knows_no_seed(looked, new_bench):
    bench, records, _ = looked
    again = new_bench(bench.store.root, num_selection=24, seed=1, heal={"num_steps": 5})
    record, stages = finish(again.run(replace(PROBE, rung="unhealed", repeat=3)))
    assert stages == []
    assert record["fingerprint"] == records["unhealed"]["fingerprint"]
    assert record["repeat"] == 0


def test_a_repeat_is_another_heal_and_the_same_one_each_time(ran, new_bench):
    bench, records, _, _ = ran
    repeat, final = (replace(request, repeat=1) for request in (PROBE, FINAL))
    record, final_record = run_all(bench, repeat, final)
    assert record["repeat"] == final_record["repeat"] == 1
    assert record["losses"] != records["probe"]["losses"]
    assert record["fingerprint"] != records["probe"]["fingerprint"]
    own = checkpoint_of(bench, repeat)
    assert final_record["checkpoint"] == bench.store.relative(own) != records["final"]["checkpoint"]
    (elsewhere,) = run_all(new_bench(), repeat)
    assert without_times(json.loads(json.dumps(elsewhere))) == without_times(json.loads(json.dumps(record)))
    (seeded,) = run_all(new_bench(seed=1), PROBE)
    assert seeded["losses"] == record["losses"], "a repeat draws as the next seed does"


@pytest.fixture(scope="module")
def joined(new_bench):
    """Heal one model for two cells that share a base; a third has another base."""
    bench = new_bench(cells=(CELL, LLAMA, GERMAN))
    records, stages = {}, {}
    for request in (BASE, replace(BASE, cell=GERMAN), JOINT, JOINT_FINAL):
        records[request.kind], stages[request.kind] = finish(bench.run(request))
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
    model = slamlab.load(checkpoint_of(bench, JOINT)).to("cpu")
    assert model.decoder.config.num_hidden_layers == 9
    for cell, kept in ((CELL, english), (GERMAN, german)):
        assert score_again(bench, replace(PROBE, cell=cell), model) == kept


def test_a_joint_final_scores_that_model_on_the_splits_that_are_reported(joined):
    bench, records, stages = joined
    record = records["joint_final"]
    assert stages["joint_final"] == ["decode test", "decode test-voices", "speed"], "it heals no second time"
    assert {name: list(scores) for name, scores in record["scores"].items()} == {
        cell.name: ["test", "test-voices"] for cell in (CELL, GERMAN)
    }
    assert record["checkpoint"] == bench.store.relative(checkpoint_of(bench, JOINT))
    assert record["members"] == records["joint"]["members"]
    assert all(ratio > 0 for run in record["speed"]["runs"] for ratio in run["ratios"])


def test_an_equal_joint_is_read_not_run(joined, new_bench):
    bench, records, _ = joined
    again = new_bench(bench.store.root, cells=(CELL, GERMAN), name="other")
    for request in (JOINT, JOINT_FINAL):
        record, stages = finish(again.run(request))
        assert stages == []
        assert record == json.loads(json.dumps(records[request.kind]))
    for other in (new_bench(bench.store.root, cells=(CELL,)).run(JOINT), again.run(replace(JOINT, repeat=1))):
        assert next(other).stage == "features"
        other.close()


def test_a_joint_heal_of_one_cell_is_that_cells_own(ran, new_bench):
    (record,) = run_all(new_bench(), JOINT)
    own = ran[1]["probe"]
    assert record["losses"] == own["losses"]
    assert record["scores"] == {CELL.name: own["scores"]}


def test_a_joint_that_one_cell_cannot_accept_leaves_no_checkpoint(new_bench):
    bench = new_bench(cells=(CELL, GERMAN))
    english, _ = run_all(bench, BASE, replace(BASE, cell=GERMAN))
    english["scores"]["selection"]["value"] = 0.0  # as if it made no error: nothing random comes near
    bench.store.write_record(english)
    run_all(bench, JOINT)
    assert not checkpoint_of(bench, JOINT).exists()
