"""Answers against their controls, on the page and in words."""

import copy

import pytest

from slamlab.errors import DataError
from slamlab.report import controls
from slamlab.report.page import render
from slamlab.report.results import check_results

ENGLISH = "Against the same heal with nothing removed (4.10 % WER) it is +49.6 % WER [+21.3, +81.0]: infeasible."


def _compared(baseline, value, degradation, ci95, verdict):
    return {
        "baseline": {**baseline, "ci95": [0.0352, 0.0471]},
        "pruned": {
            "value": value,
            "relative_degradation": degradation,
            "ci95": ci95,
            "p_within": 0.031,
            "verdict": verdict,
            "hypotheses": "hypotheses/x.jsonl",
        },
    }


@pytest.fixture
def controlled(sweep):
    results, store = sweep
    english = results["cells"][0]
    baseline = {**english["baseline"], "value": 0.041}
    english["control"] = {
        "receiver": 5,
        "splits": {
            "test": _compared(baseline, english["pruned"]["value"], 0.496, [0.213, 0.81], "infeasible"),
            "test-voices": _compared(baseline, 0.1087, 0.2, [0.05, 0.34], "undecided"),
        },
    }
    return results, store


def test_the_answer_says_what_pruning_alone_costs(controlled, tmp_path):
    results, store = controlled
    render(results, store, tmp_path)
    for file in ("report.md", "index.html"):
        page = (tmp_path / file).read_text().replace("\N{NO-BREAK SPACE}", " ").replace("\\", "").replace("−", "-")
        assert ENGLISH in page
        assert "that of layer 5 (counted from 0)" in page
        assert controls.HEADING in page
    table = controls.cell_table(results["cells"][0])
    assert [row.texts[0] for row in table.rows] == ["test (reported)", "test, unheard voices"]
    assert table.rows[0].texts[2].replace("\N{NO-BREAK SPACE}", " ") == "4.10 % WER [3.52 %, 4.71 %]"
    assert table.rows[0].texts[4].startswith("+49.6")


def test_several_answers_are_counted_against_their_controls(controlled):
    cells = controlled[0]["cells"]
    assert controls.headline(cells) == " Against the same heals with nothing removed: 1 infeasible."
    cells[1]["control"] = cells[0]["control"]
    assert controls.headline(cells) == " Against the same heals with nothing removed: 2 infeasible."
    assert controls.headline([{**cells[0], "control": None}]) == ""


def test_a_healed_model_better_than_its_base_without_a_control_is_not_let_pass(sweep):
    cell = sweep[0]["cells"][0]
    assert controls.sentence(cell) == ""
    cell["pruned"] |= {"relative_degradation": -0.3, "ci95": [-0.5, -0.1]}
    assert "its heal was also more training" in controls.sentence(cell)
    assert "--control" in controls.sentence(cell)
    cell["control"] = {"reason": "out of memory."}
    assert controls.sentence(cell) == " What the same heal does with nothing removed is not known: out of memory."


def test_without_controls_nothing_is_shown_of_them(sweep, tmp_path):
    results, store = sweep
    render(results, store, tmp_path)
    assert "nothing removed" not in (tmp_path / "report.md").read_text()


def test_a_joint_answer_is_compared_for_every_cell(joint, tmp_path):
    results, store = joint
    answer = results["joints"][0]
    splits = [
        {"test": _compared(cell["baseline"], test["test"]["value"], 0.1, [0.0, 0.2], "feasible")}
        for cell, test in zip(results["cells"], answer["tests"], strict=True)
    ]
    answer["control"] = {"receiver": 6, "splits": splits}
    render(results, store, tmp_path)
    assert "Against the same joint heal with nothing removed" in (tmp_path / "report.md").read_text()
    table = controls.joint_table(answer, {})
    assert [row.texts[0] for row in table.rows] == [
        "English speech recognition",
        "German to English speech translation",
        "German speech recognition",
    ]
    answer["control"] = {"reason": "out of memory"}
    render(results, store, tmp_path)
    assert "is not known: out of memory." in (tmp_path / "report.md").read_text()
    answer["control"] = {"receiver": 6, "splits": splits[:2]}
    with pytest.raises(DataError, match=r"joints\[0\].control.splits is a list of 3"):
        check_results(results, "here")


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [
        (("receiver",), "five", "receiver"),
        (("splits",), {}, "splits.test"),
        (("splits", "test", "baseline"), None, "splits.test.baseline"),
        (("splits", "test", "pruned", "verdict"), "none", "splits.test.pruned.verdict"),
        (("splits", "test", "pruned", "ci95"), [0.3], "splits.test.pruned.ci95"),
    ],
)
def test_a_broken_control_is_named(controlled, at, value, named):
    results = copy.deepcopy(controlled[0])
    inner = results["cells"][0]["control"]
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = value
    with pytest.raises(DataError, match=rf"cells\[0\].control.{named}"):
        check_results(results, "here")
