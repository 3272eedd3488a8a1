from __future__ import annotations

from slamlab.report.early import ending, how_stopped, num_scored, saving
from slamlab.report.joints import costs_table
from slamlab.report.writing import NBSP

DELTA = {"num_beams": 1, "resample": "utterance", "early_stop": 0.001}


def _look(seen: int, planned: int, stopped: str | None, dropped: int = 0) -> dict:
    return {
        "num_utterances": seen - dropped,
        "num_empty_references": dropped,
        "num_planned": planned,
        "stopped_early": stopped,
    }


def _told(*arguments) -> str:
    return " ".join(how_stopped(*arguments)).replace(NBSP, " ")


def test_what_was_spared_is_what_was_planned_and_not_decoded() -> None:
    looks = [
        _look(64, 240, "hopeless", dropped=3),
        _look(200, 240, "safe"),
        _look(240, 240, None, dropped=5),
        {"num_utterances": 60},  # of an older record
    ]
    found = saving(looks)
    assert (found.num_looks, found.num_hopeless, found.num_safe, found.num_stopped) == (3, 1, 1, 2)
    assert (found.num_spared, found.num_planned) == (176 + 40, 720)
    assert str(found).replace(NBSP, " ") == "216 of 720 utterances (30.0 %)"
    assert str(saving([])).startswith("0 of 0 utterances")


def test_the_end_of_scoring_is_written() -> None:
    assert ending(_look(64, 240, "hopeless", dropped=1)) == "stopped: hopeless after 64 of 240"
    assert ending(_look(240, 240, None)) == "whole"
    assert ending({"num_utterances": 240}) == ""
    stopped, whole = _look(64, 240, "safe", dropped=1), _look(240, 240, None)
    assert num_scored({"baseline": whole, "pruned": stopped}).replace(NBSP, " ") == "240 → 63"
    assert num_scored({"baseline": whole, "pruned": whole}) == num_scored({"baseline": whole}) == "240"


def test_the_bound_is_that_of_the_metric() -> None:
    both = _told(DELTA, {"cer", "wer", "bleu"}, [], [])
    assert "For WER and CER the bound is a betting martingale" in both and "arXiv:2006.04347" in both
    assert "at most delta = 0.001 for either" in both
    assert (
        "For BLEU, no sum over utterances, the paired bootstrap" in both and "delta / looks, with delta = 0.001" in both
    )
    rates = _told(DELTA, {"wer"}, [], [])
    assert "martingale" in rates and "bootstrap" not in rates
    others = _told({**DELTA, "early_stop": 0.02}, {"chrf"}, [], [])
    assert "For chrF" in others and "martingale" not in others and "delta = 0.02" in others


def test_the_sum_over_all_probes_is_told(scored) -> None:
    results, _ = scored
    told = _told(results["sweep"]["scoring"], {"wer", "bleu"}, results["probes"], [])
    assert (
        "Over all probes of the sweep, 416 of 1680 utterances (24.8 %) were spared that way: 2 of 7 probes were "
        "stopped as hopeless, 1 as safe." in told
    )
    assert "tend to exaggerate" in told


def test_nothing_is_said_to_be_spared_where_nothing_was_stopped(scored) -> None:
    told = _told(DELTA, {"wer"}, [_look(240, 240, None)], [])
    assert "0 of 240 utterances (0.0 %)" in told and "exaggerate" not in told
    assert _told({**DELTA, "early_stop": 0}, {"wer"}, [_look(240, 240, None)], []).startswith("Early stopping was off")
    assert how_stopped(None, {"wer"}, [{"num_utterances": 60}], []) == []


def test_joint_heals_count_where_they_are_recorded(joint) -> None:
    joints = joint[0]["joints"]
    probes = [_look(64, 240, "hopeless")]
    assert "joint heals is not recorded" in _told(DELTA, {"wer"}, probes, joints)
    for heal in joints[0]["heals"][:2]:
        for member in heal["members"]:
            member |= _look(240, 240, None)
    joints[0]["heals"][1]["members"][2] |= _look(32, 240, "hopeless")
    told = _told(DELTA, {"wer"}, probes, joints)
    assert "Over all scorings of probes and joint heals of the sweep, 384 of 1680 utterances" in told
    assert "2 of 7 scorings" in told and "not recorded" not in told
    costs = [[text.replace(NBSP, " ") for text in row.texts] for row in costs_table(joints[0]).rows]
    assert costs[2][2] == "unbounded [+90.0, ∞) (stopped: hopeless after 32 of 240)"
    assert "stopped" not in costs[0][2]
