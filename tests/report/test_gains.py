from __future__ import annotations

import copy
from typing import Any

import pytest

from slamlab.report.answers import cell_answer, headline
from slamlab.report.gains import gain, gain_facts, gains, sizes_of, speedup
from slamlab.report.joints import joint_answer, joint_facts, joint_headline
from slamlab.report.results import cell_key
from slamlab.report.tables import cells_table
from slamlab.report.writing import NBSP


def _speed(*ratios: float, **changes: Any) -> dict[str, Any]:
    """Return what a healed model was timed at: as fast with one utterance, and by these ratios with eight."""
    one = {"batch_size": 1, "num_tokens": 1, "ratios": [1.0, 1.0]}
    several = {"batch_size": 8, "num_tokens": 24, "ratios": list(ratios)}
    return {"device": "cpu", "dtype": "float32", "num_threads": 2, "runs": [one, several], **changes}


SIZES = (2_500_000, 1_550_000)


def test_smaller_and_faster_are_told_with_their_counts() -> None:
    assert gain(SIZES, _speed(1.5, 1.6, 1.7, 1.62, 1.55)).replace(NBSP, " ") == (
        " The healed model has 38.0 % fewer parameters (1.55 M of 2.5 M) and decodes 1.60 times as fast (1.50–1.70, "
        "5 paired runs, batch 8, cpu)."
    )


def test_where_nothing_was_shown_to_be_faster_that_is_said() -> None:
    assert gain(SIZES, _speed(0.9, 1.1, 1.4)).endswith("batch 8, cpu), which does not show that it is faster.")
    assert gain(SIZES, _speed(0.7, 0.8, 0.9)).endswith("batch 8, cpu): it is slower.")


def test_what_was_not_recorded_is_not_told() -> None:
    assert gain(SIZES, None).replace(NBSP, " ").endswith("(1.55 M of 2.5 M); how fast it decodes was not measured.")
    assert gain((None, None), _speed(2.0, 2.0)).startswith(" The healed model decodes 2.00 times as fast")
    assert gain((2_500_000, None), None) == "" == gain((None, None), None)
    assert gain_facts((None, None), None) == []


def test_an_answer_says_what_it_buys(sweep) -> None:
    cell = copy.deepcopy(sweep[0]["cells"][0])
    cell["pruned"]["speed"] = _speed(1.2, 1.3)
    told = cell_answer({**cell, "reason": "deeper blocks are open"}, 4, 0.25).replace(NBSP, " ")
    bought = (
        "(n = 300). The healed model has 19.8 % fewer parameters (3.29 M of 4.1 M) and decodes 1.25 times as fast "
        "(1.20–1.30, 2 paired runs, batch 8, cpu)."
    )
    assert f"{bought} Deeper blocks are open." in told
    assert "fewer parameters" not in cell_answer({**cell, "verdict": "undecided"}, 4, 0.25)


def test_a_headline_of_several_cells_spans_what_they_gain(sweep) -> None:
    cell = sweep[0]["cells"][0]
    quick, doubtful, untimed = (copy.deepcopy(cell) for _ in range(3))
    quick["pruned"]["speed"], doubtful["pruned"]["speed"] = _speed(1.5, 1.7, 1.6, 1.6), _speed(0.9, 1.1)
    doubtful["num_parameters"] = {"base": 4_000_000, "pruned": 2_000_000}
    told = headline([quick, doubtful, untimed], list("abc"), 0.25).replace(NBSP, " ")
    assert told.endswith(
        "in all 3 cells. The healed models have 19.8 % to 50.0 % fewer parameters and decode 1.00 to 1.60 times as "
        "fast (2 of 3 timed, 2 paired runs each or more, cpu); in 1 of them the runs do not show that it is faster."
    )
    assert (
        headline([untimed, untimed], ["a", "b"], 0.25)
        .replace(NBSP, " ")
        .endswith("The healed models have 19.8 % fewer parameters; how fast they decode was not measured.")
    )
    assert gains([{"pruned": None}]) == ""


def test_every_cell_has_its_speed_up_where_one_was_timed(sweep) -> None:
    cells = copy.deepcopy(sweep[0]["cells"])
    anchors = list("abcd")
    untimed = cells_table(cells, anchors)
    cells[0]["pruned"]["speed"] = _speed(1.5, 1.7)
    timed = cells_table(cells, anchors)
    assert timed.columns == (*untimed.columns, "Times as fast [range]")
    assert [row.texts[-1] for row in timed.rows] == [speedup(_speed(1.5, 1.7)), "–", "–", "–"]
    assert {len(row.texts) for row in timed.rows} == {len(timed.columns)}
    assert timed.rows[0].texts[-1].replace(NBSP, " ") == "1.60 [1.50, 1.70]"
    assert timed.rows[0].texts[-2].replace(NBSP, " ") == "4.1 M → 3.29 M (−19.8 %)"


def test_facts_say_how_speed_was_measured(sweep) -> None:
    cell = sweep[0]["cells"][0]
    facts = dict(gain_facts(sizes_of(cell), _speed(1.5, 1.7)))
    assert facts["Parameters, encoder not counted"].replace(NBSP, " ") == "4,104,192 → 3,290,112 (−19.8 %)"
    assert (
        facts["Times as fast as unpruned, batch 1, first token"].replace(NBSP, " ")
        == "1.00 [1.00, 1.00], 2 paired runs"
    )
    assert (
        facts["Times as fast as unpruned, batch 8, 24 tokens"].replace(NBSP, " ") == "1.60 [1.50, 1.70], 2 paired runs"
    )
    assert "float32 on cpu, 2 threads;" in facts["How speed was measured"]
    assert dict(gain_facts(sizes_of(cell), None))["Times as fast as unpruned"] == "not measured"


def test_times_are_told_of_a_gpu_alone(sweep) -> None:
    speed = _speed(1.5, 1.7, device="NVIDIA H100", dtype="bfloat16")
    speed["runs"][1] |= {"unpruned_seconds": 0.8125, "pruned_seconds": 0.508}
    facts = dict(gain_facts(SIZES, speed))
    assert (
        facts["Times as fast as unpruned, batch 8, 24 tokens"].replace(NBSP, " ")
        == "1.60 [1.50, 1.70] (812 → 508 ms), 2 paired runs"
    )
    assert "bfloat16 on NVIDIA H100;" in facts["How speed was measured"]


def test_a_joint_answer_says_what_it_buys(joint) -> None:
    results, _ = joint
    one = {**results["joints"][0], "speed": _speed(1.2, 1.3)}
    cells = {cell_key(cell): cell for cell in results["cells"]}
    assert (
        joint_answer(one, cells, 0.25)
        .replace(NBSP, " ")
        .endswith(
            "(n = 300). The healed model has 14.4 % fewer parameters (3.51 M of 4.1 M) and decodes 1.25 times as fast "
            "(1.20–1.30, 2 paired runs, batch 8, cpu)."
        )
    )
    assert dict(joint_facts(one, cells))["Times as fast as unpruned, batch 8, 24 tokens"]
    assert "1.25 times as fast" in joint_headline([one, one], ["a", "b"], 0.25)
    assert "fewer" not in joint_answer({**one, "verdict": "undecided"}, cells, 0.25)


@pytest.mark.parametrize("cells", [[], [{"num_parameters": None}]])
def test_a_base_of_unknown_size_has_no_share(joint, cells: list[dict[str, Any]]) -> None:
    one = joint[0]["joints"][0]
    known = {cell_key(one["members"][0]): cell for cell in cells}
    assert "fewer" not in joint_answer(one, known, 0.25)
