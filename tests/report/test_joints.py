from __future__ import annotations

import copy
from typing import Any

import pytest

from slamlab.report.answers import cell_answer
from slamlab.report.joints import (
    as_members,
    costs_table,
    joint_answer,
    joint_facts,
    joint_headline,
    joint_heals_table,
    members_table,
    predicted,
)
from slamlab.report.results import cell_key
from slamlab.report.writing import NBSP


def _known(results: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    return {cell_key(cell): cell for cell in as_members(results["cells"], results["joints"])}


def _answer(results: dict[str, Any], **changes: Any) -> str:
    return joint_answer({**results["joints"][0], **changes}, _known(results), 0.25).replace(NBSP, " ")


def test_each_verdict_has_its_sentence(joint) -> None:
    results, _ = joint
    assert _answer(results) == (
        "All 3 cells of qwen mini on whisper-base can together lose 3 of 12 layers (25.0 %), each within a relative "
        "loss of 25.0 %; the binding cell is German speech recognition, at +16.5 % WER [+8.5, +24.5] on the test split "
        "(n = 300). The healed model has 14.4 % fewer parameters (3.51 M of 4.1 M); how fast it decodes was not "
        "measured."
    )
    undecided = _answer(results, verdict="undecided", reason="not scored on the test split: not run", tests=None)
    assert undecided == (
        "It is undecided whether all 3 cells of qwen mini on whisper-base can together lose 3 of 12 layers (25.0 %): "
        "not scored on the test split: not run; the binding cell is German speech recognition."
    )
    none = _answer(results, verdict="none", tests=None)
    assert none.startswith(
        "No block of layers is known that all 3 cells of qwen mini on whisper-base can together lose"
    )
    assert "within the tolerance of 25.0 %: 3 blocks were healed jointly; the binding cell is" in none
    failed = _answer(results, verdict="failed", reason="the unpruned model of a member was not scored")
    assert failed.endswith("for qwen mini on whisper-base: the unpruned model of a member was not scored.")


def test_a_joint_sweep_cut_short_has_no_answer(joint) -> None:
    empty = {"verdict": "none", "heals": [], "tests": None, "binding": None, "reason": None}
    assert _answer(joint[0], **empty).endswith("whisper-base: no joint heal was scored.")


@pytest.mark.parametrize(("num", "words"), [(1, "The one cell of qwen"), (2, "Both cells of qwen")])
def test_few_members_are_named_as_such(joint, num: int, words: str) -> None:
    results, _ = joint
    members, tests = results["joints"][0]["members"][:num], results["joints"][0]["tests"][:num]
    assert _answer(results, members=members, tests=tests, binding=None).startswith(words)


def test_bleu_and_a_perfect_base_cannot_mislead(joint) -> None:
    results, _ = joint
    one = copy.deepcopy(results["joints"][0])
    one["binding"]["member"] = one["members"][1]
    assert "at a BLEU loss of +8.8" in joint_answer(one, _known(results), 0.25)
    assert "at a BLEU loss of +8.8" in joint_answer(one, {}, 0.25)  # the task tells, where the cell is not recorded
    one["tests"][1]["test"] |= {"relative_degradation": None, "ci95": [0.1, None]}
    assert "at an unbounded loss of BLEU on the test split" in joint_answer(one, _known(results), 0.25)


def test_the_headline_is_the_answer_of_one_base_and_hides_none_of_several(joint) -> None:
    one = joint[0]["joints"][0]
    deeper = {**one, "scale": "7b", "num_layers": 28, "max_depth": 8, "max_fraction": 8 / 28}
    none = {**one, "verdict": "none", "max_fraction": None}
    assert joint_headline([none, one], ["a", "b"], 0.25) == "b"
    assert joint_headline([none], ["a"], 0.25) == "a"
    several = joint_headline([one, none, deeper], ["a", "b", "c"], 0.25).replace(NBSP, " ")
    assert several.startswith("In 2 of 3 bases, all cells can together lose a block of layers, each within")
    assert several.endswith("the largest is 8 of 28 layers (28.6 %), of qwen 7b on whisper-base.")
    assert "each of the 2 bases" in joint_headline([one, deeper], ["a", "b"], 0.25)


def test_a_member_that_was_searched_only_is_not_doubted(joint) -> None:
    results, _ = joint
    before = copy.deepcopy(results["cells"])
    english, translated, german = as_members(results["cells"], results["joints"])
    for cell in (english, translated):
        assert cell["verdict"] == "feasible" and cell["searched_only"] and "reason" not in cell
    assert german == before[2]
    assert results["cells"] == before  # the records stay as they are
    assert as_members(results["cells"], []) == before


@pytest.mark.parametrize(
    "doubt",
    [
        {"reason": "the unpruned model itself scores WER 0.9: it has learned too little"},
        {"pruned": {"relative_degradation": 0.3}, "reason": "feasible on the selection split, undecided on the test"},
        {"selection": {"pruned": None}},
    ],
)
def test_a_member_that_is_doubted_for_another_reason_stays_so(joint, doubt: dict[str, Any]) -> None:
    results, _ = joint
    results["cells"][0] |= doubt
    cell = as_members(results["cells"], results["joints"])[0]
    assert cell["verdict"] == "undecided" and "searched_only" not in cell


def test_what_limits_a_member_is_kept(joint) -> None:
    results, _ = joint
    open_depths = "deeper blocks are open, as the probe of depth 8 failed"
    results["cells"][0] |= {"verdict": "feasible", "reason": open_depths}
    cell = as_members(results["cells"], results["joints"])[0]
    assert cell["searched_only"] and cell["reason"] == open_depths
    assert cell_answer(cell, 4, 0.25).endswith(
        "for the joint model. Deeper blocks are open, as the probe of depth 8 failed."
    )


def test_a_member_undecided_on_its_own_split_stays_undecided(joint) -> None:
    results, _ = joint
    results["cells"][0]["selection"]["pruned"]["verdict"] = "undecided"
    cell = as_members(results["cells"], results["joints"])[0]
    assert cell["verdict"] == "undecided" and cell["searched_only"]


def test_members_stand_beside_what_they_lose_alone(joint) -> None:
    results, _ = joint
    one, known = results["joints"][0], _known(results)
    table = members_table(one, known, {cell_key(one["members"][0]): "cell-01"})
    rows = [[text.replace(NBSP, " ") for text in row.texts] for row in table.rows]
    assert {len(row) for row in rows} == {len(table.columns)}
    assert rows[0][2:5] == ["5.31 % WER", "5.77 %", "+8.6 % [+0.6, +16.6]"]
    assert [row[-1] for row in rows] == ["4 of 12 (33.3 %)", "3 of 12 (25.0 %)", "none found"]
    assert [row.anchor for row in table.rows] == ["cell-01", "", ""]
    assert rows[0][5] == "+12.2 % [−0.9, +25.1]" and rows[1][5] == "–"
    for splits in one["tests"]:
        splits.pop("test-voices", None)
    assert len(members_table(one, known, {}).columns) == len(table.columns) - 1


def test_members_are_listed_before_anything_was_scored(joint) -> None:
    results, _ = joint
    one = {**results["joints"][0], "tests": None}
    assert {row.texts[1] for row in members_table(one, _known(results), {}).rows} == {"–"}
    assert {row.texts[-1] for row in members_table(one, {}, {}).rows} == {"–"}


def test_joint_heals_name_the_cell_that_they_harmed_most(joint) -> None:
    one = joint[0]["joints"][0]
    table = joint_heals_table(one)
    assert "Heal" not in table.columns
    harmed, cost = table.columns.index("Most harmed cell"), table.columns.index("P(all evidence)")
    assert [row.texts[harmed] for row in table.rows] == ["German speech recognition"] * 2 + ["–"]
    assert [row.texts[cost] for row in table.rows] == ["0.953", "0.000", "–"]
    one["heals"].append({**one["heals"][0], "repeat": 1})
    again = joint_heals_table(one)
    heal = again.columns.index("Heal")
    assert [row.texts[heal] for row in again.rows] == ["1", "1", "1", "2"]
    for made in (table, again):
        assert {len(row.texts) for row in made.rows} == {len(made.columns)}
    costs = costs_table(one)
    assert [column.replace(NBSP, " ") for column in costs.columns[1:]] == [
        "layers 7–9",
        "layers 6–10",
        "layers 7–9, heal 2",
    ]
    assert {len(row.texts) for row in costs.rows} == {4} and len(costs.rows) == 3


def test_what_the_cells_foretold_is_said(joint) -> None:
    one = joint[0]["joints"][0]
    assert predicted(one).endswith("harmless to all of them is layers 6–9 (4 of 12, probability 0.587).")
    assert "no block is more likely" in predicted({**one, "prediction": {"start": 0, "depth": 0, "p_feasible": 0.0}})
    single = {"start": 5, "depth": 1, "p_feasible": None}
    assert predicted({**one, "num_layers": None, "prediction": single}).endswith("is layer 5.")
    assert predicted({**one, "prediction": None}) == ""


def test_facts_of_a_joint_answer(joint) -> None:
    results, _ = joint
    facts = {name: value.replace(NBSP, " ") for name, value in joint_facts(results["joints"][0], _known(results))}
    assert facts["Parameters, encoder not counted"] == "4,104,192 → 3,514,112 (−14.4 %)"
    assert facts["Models healed jointly"] == "2"
    assert {"0.953", "0.956", "checkpoints/fedcba9876543210"} <= set(facts.values())
