from __future__ import annotations

import pytest

from slamlab.report.joints import as_members, members_table
from slamlab.report.results import cell_key
from slamlab.report.scores import guards_table, guards_warning, scores_table, signatures, stopped_notes
from slamlab.report.views import joint_scores
from slamlab.report.writing import NBSP

GUARDS = ("num_empty_hypotheses", "num_loops", "num_capped", "num_premature")


def _rows(table) -> list[list[str]]:
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}
    return [[text.replace(NBSP, " ") for text in row.texts] for row in table.rows]


def _column(table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in _rows(table)]


def test_scores_say_what_all_evidence_says(searched) -> None:
    table = scores_table(searched[0]["cells"][0])
    assert _column(table, "P(all evidence)") == ["–", "–", "0.981"]


def test_edits_are_counted_in_the_unit_of_the_metric(scored) -> None:
    english, translated, *_, chinese = scored[0]["cells"]
    assert _column(scores_table(chinese), "Characters") == ["2520"] and "Words" not in scores_table(chinese).columns
    assert _column(scores_table(chinese), "Unpruned") == ["7.12 %"]
    assert _column(scores_table(english), "Words")[0] == "2700"
    assert not {"Words", "Characters", "Ins / del / sub"} & set(scores_table(translated).columns)
    assert _column(scores_table({**translated, "metric": "chrf"}), "Pruned, healed")[0] == "28.4"


def test_chrf_stands_beside_bleu_where_it_was_recorded(scored) -> None:
    english, translated, *_ = scored[0]["cells"]
    assert _column(scores_table(translated), "chrF") == ["61.2 → 58.9", "–"]
    assert "chrF" not in scores_table(english).columns
    del translated["pruned"]["also"]
    assert _column(scores_table(translated), "chrF")[0] == "61.2"


def test_n_is_of_both_models_where_the_pruned_one_was_stopped(scored) -> None:
    english = scored[0]["cells"][0]
    assert _column(scores_table(english), "n") == ["300", "150", "238 → 190"]
    english["selection"]["pruned"]["num_words"] = 1434
    assert _column(scores_table(english), "Words") == ["2700", "1350", "1800 → 1434"]
    (note,) = stopped_notes(english)
    assert "stopped: safe after 192 of 240 utterances" in note
    english["selection"]["pruned"]["stopped_early"] = None
    assert _column(scores_table(english), "n")[-1] == "238" and stopped_notes(english) == []
    assert stopped_notes({**english, "selection": None}) == []


def test_guards_are_counted_by_split_and_model(scored) -> None:
    english, _, german, *_ = scored[0]["cells"]
    assert _rows(guards_table(english)) == [
        ["test", "unpruned", "1 (0.3 %)", "0", "0", "2 (0.7 %)", "2", "300"],
        ["test", "pruned", "1 (0.3 %)", "11 (3.7 %)", "3 (1.0 %)", "5 (1.7 %)", "2", "300"],
        ["selection", "unpruned", "0", "0", "0", "3 (1.3 %)", "2", "238"],
        ["selection", "pruned", "0", "1 (0.5 %)", "0", "2 (1.1 %)", "2", "190"],
    ]
    assert guards_table(german) is None
    english["test_voices"]["baseline"] |= dict.fromkeys(GUARDS, 0)
    assert _rows(guards_table(english))[2] == ["unheard voices", "unpruned", "0", "0", "0", "0", "–", "150"]


def test_older_records_count_some_guards_and_show_none(scored) -> None:
    german = scored[0]["cells"][2]
    german["baseline"] |= {"num_empty_hypotheses": 0, "num_loops": 9, "num_capped": 0, "num_empty_references": 0}
    assert guards_table(german) is None and guards_warning(german) == ""


def test_a_pruned_model_that_fails_in_its_own_way_is_told(scored) -> None:
    english, translated, german, *_, chinese = scored[0]["cells"]
    assert guards_warning(english).replace(NBSP, " ") == (
        "What the WER alone does not tell: of the 300 answers of the pruned model on the test split, 11 (3.7 %) loop "
        "(unpruned: 0 of 300), 5 (1.7 %) ended prematurely (unpruned: 2 of 300)."
    )
    assert guards_warning(translated) == guards_warning(german) == guards_warning(chinese) == ""
    english["selection"]["pruned"]["num_empty_hypotheses"] = 19
    told = guards_warning(english)
    assert told.endswith(f"on the selection split, 19 (10.0{NBSP}%) are empty (unpruned: 0 of 238).")


@pytest.mark.parametrize(
    ("loops", "before", "told"), [(3, 0, False), (4, 0, True), (4, 4, False), (40, 41, False), (41, 40, True)]
)
def test_a_warning_needs_more_than_a_percent_and_more_than_before(scored, loops: int, before: int, told: bool) -> None:
    cell = scored[0]["cells"][1]
    cell["baseline"]["num_loops"], cell["pruned"]["num_loops"] = before, loops
    assert bool(guards_warning(cell)) == told


def test_shares_are_compared_where_a_model_was_stopped(scored) -> None:
    english = scored[0]["cells"][0]
    # 3 of 190 are more than 4 of 300, although fewer.
    english["pruned"] |= {"num_loops": 0, "num_premature": 0}
    english["selection"]["baseline"] |= {"num_utterances": 300, "num_planned": 302, "num_loops": 4}
    english["selection"]["pruned"]["num_loops"] = 3
    assert "3 (1.6" in guards_warning(english)


def test_signatures_are_of_all_that_was_scored(scored) -> None:
    english, translated, *_ = scored[0]["cells"]
    assert [metric for metric, _ in signatures(translated)] == ["BLEU", "chrF"]
    assert len(signatures(english)) == 1
    english["pruned"]["signature"] = "wer|another"
    assert ("WER", "wer|another") in signatures(english)


def test_the_joint_model_stands_in_for_a_cells_own(joint) -> None:
    results, _ = joint
    english = results["cells"][0]
    splits = joint_scores(results["joints"])
    assert guards_table(english, splits[cell_key(english)]) is None
    english["baseline"] |= dict.fromkeys(GUARDS, 0)
    english["test_voices"]["baseline"] |= dict.fromkeys(GUARDS, 0)
    scores = splits[cell_key(english)]
    scores["test"] |= {**dict.fromkeys(GUARDS, 0), "num_empty_hypotheses": 6}
    scores["test-voices"] |= {**dict.fromkeys(GUARDS, 0), "num_utterances": 150, "num_capped": 3}
    scores["test"]["signature"] = "wer|joint"
    rows = _rows(guards_table(english, scores))
    assert [row[:2] for row in rows] == [
        ["test", "unpruned"],
        ["test", "jointly pruned"],
        ["unheard voices", "unpruned"],
        ["unheard voices", "jointly pruned"],
    ]
    told = guards_warning(english, scores).replace(NBSP, " ")
    assert "of the jointly pruned model on the test split, 6 (2.0 %) are empty" in told
    assert "on the unheard voices split, 3 (2.0 %) ran into the cap" in told
    assert ("WER", "wer|joint") in signatures(english, scores)


def test_chrf_stands_beside_the_bleu_of_a_joint_model(joint) -> None:
    results, _ = joint
    one = results["joints"][0]
    known = {cell_key(cell): cell for cell in as_members(results["cells"], results["joints"])}
    assert "chrF" not in members_table(one, known, {}).columns
    one["tests"][1]["test"]["also"] = {"chrf": {"value": 58.25, "signature": "chrf|x"}}
    assert _column(members_table(one, known, {}), "chrF") == ["–", "58.2", "–"]
