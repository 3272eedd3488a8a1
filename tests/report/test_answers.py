from __future__ import annotations

import copy

from slamlab.report.answers import cell_answer, change, headline, verdict_counts
from slamlab.report.joints import as_members
from slamlab.report.results import cell_verdict
from slamlab.report.writing import NBSP


def test_each_verdict_has_its_sentence(sweep) -> None:
    feasible, undecided, none, failed = (cell_answer(cell, 2, 0.25).replace(NBSP, " ") for cell in sweep[0]["cells"])
    assert feasible == (
        "The qwen mini decoder can lose 4 of 12 layers (33.3 %) for English speech recognition, at +15.5 % WER "
        "[+2.1, +24.8] relative to the unpruned model (n = 300). The healed model has 19.8 % fewer parameters (3.29 M "
        "of 4.1 M); how fast it decodes was not measured."
    )
    assert undecided.startswith("It is undecided whether the qwen mini decoder can lose 3 of 12 layers (25.0 %)")
    assert "at a BLEU loss of +9.1 % [−3.1, +27.2] relative" in undecided
    assert none.endswith("within the tolerance of 25.0 %: 2 blocks were tried.")
    assert failed == (
        "There is no answer for the llama mini decoder in English speech recognition: "
        "the base's loss became NaN at step 812."
    )


def test_a_feasible_block_that_fails_on_test_is_said_to(sweep) -> None:
    cell = copy.deepcopy(sweep[0]["cells"][0])
    assert "beyond" not in cell_answer(cell, 4, 0.25)
    cell["pruned"]["relative_degradation"] = 0.2501
    assert "On the test split that is beyond the tolerance" in cell_answer(cell, 4, 0.25)
    cell["pruned"]["relative_degradation"] = None
    assert "WER was perfect before" in cell_answer(cell, 4, 0.25) and "beyond" in cell_answer(cell, 4, 0.25)


def test_an_undecided_cell_says_why(sweep) -> None:
    cell = {**sweep[0]["cells"][1], "pruned": None, "reason": "not scored on the test split: out of memory."}
    assert cell_answer(cell, 4, 0.25).endswith("speech translation: not scored on the test split: out of memory.")
    assert cell_answer({**cell, "reason": None}, 4, 0.25).endswith("on which side of the tolerance it lies.")


def test_a_cell_that_was_not_run_has_no_answer(sweep) -> None:
    cell = {**sweep[0]["cells"][3], "verdict": "none", "reason": "not run"}
    assert cell_answer(cell, 0, 0.25).endswith("English speech recognition: not run.")
    assert cell_verdict(cell) == "failed"


def test_a_cell_without_a_heal_is_not_said_to_have_been_tried(sweep) -> None:
    told = cell_answer(sweep[0]["cells"][2], 0, 0.25)
    assert told.startswith("No block of layers is known that") and told.endswith("none was healed for it.")


def test_a_depth_that_could_not_be_scored_is_told(sweep) -> None:
    for cell in (sweep[0]["cells"][0], sweep[0]["cells"][2]):
        told = cell_answer({**cell, "reason": "deeper blocks are open, as the probe of depth 8 failed"}, 2, 0.25)
        assert told.endswith(". Deeper blocks are open, as the probe of depth 8 failed.")


def test_a_cell_that_was_searched_only_says_so(joint) -> None:
    english, *_ = as_members(joint[0]["cells"], joint[0]["joints"])
    assert cell_answer(english, 4, 0.25).replace(NBSP, " ") == (
        "By itself, the qwen mini decoder can lose 4 of 12 layers (33.3 %) for English speech recognition, at +10.5 % "
        "WER [−1.1, +22.3] relative to the unpruned model (n = 200). This was searched on the selection split only: "
        "the test split is kept for the joint model."
    )
    told = cell_answer({**english, "verdict": "undecided"}, 4, 0.25)
    assert "decoder may lose 4" in told and "; that is undecided. This was searched" in told


def test_the_headline_of_one_feasible_cell_is_its_answer(sweep) -> None:
    cells = sweep[0]["cells"]
    undecided = {**cells[1], "max_fraction": 0.9}
    assert headline([cells[3], undecided, cells[0]], list("abc"), 0.25) == "c"
    assert headline([cells[3], cells[2]], list("ab"), 0.25) == "b"
    assert headline([], [], 0.25) == "This sweep has no cells."


def test_the_headline_of_several_feasible_cells_hides_none(sweep) -> None:
    cells = sweep[0]["cells"]
    cell, num_layers = cells[0], cells[0]["num_layers"]
    deeper = {**cell, "max_depth": cell["max_depth"] + 2}
    span = f"{cell['max_depth']} to {cell['max_depth'] + 2} of {num_layers} layers"
    assert span in headline([cell, cells[3], deeper], list("abc"), 0.25)
    assert "2 of 3 cells" in headline([cell, cells[3], deeper], list("abc"), 0.25)
    assert f"{cell['max_depth']} of {num_layers} layers" in headline([cell, cell], list("ab"), 0.25)
    assert "all 2 cells" in headline([cell, deeper], list("ab"), 0.25)


def test_verdicts_are_counted() -> None:
    counts = verdict_counts(["failed", "feasible", "none", "undecided", "feasible"])
    assert [(badge.verdict, number) for badge, number in counts] == [
        ("feasible", 2),
        ("undecided", 1),
        ("none", 1),
        ("failed", 1),
    ]


def test_a_loss_names_its_metric_and_its_sign_cannot_mislead() -> None:
    score = {"relative_degradation": 0.125, "ci95": [0.05, 0.2]}
    told = {metric: change(score, metric).replace(NBSP, " ") for metric in ("wer", "cer", "bleu", "chrf")}
    assert told == {
        "wer": "+12.5 % WER [+5.0, +20.0]",
        "cer": "+12.5 % CER [+5.0, +20.0]",
        "bleu": "a BLEU loss of +12.5 % [+5.0, +20.0]",
        "chrf": "a chrF loss of +12.5 % [+5.0, +20.0]",
    }
    assert change({**score, "relative_degradation": None}, "chrf") == "an unbounded loss of chrF"


def test_a_cell_that_was_searched_only_says_on_how_many(joint) -> None:
    english = joint[0]["cells"][0]
    stopped = {"num_utterances": 160, "num_planned": 200, "stopped_early": "safe"}
    english["selection"]["pruned"] |= stopped
    (english, *_) = as_members([english], joint[0]["joints"])
    assert f"(n{NBSP}={NBSP}160)" in cell_answer(english, 4, 0.25)
