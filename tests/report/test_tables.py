from __future__ import annotations

import pytest

from slamlab.report import tables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (tables.percent(0.25), "25.0 %"),
        (tables.percent(0.031, sign=True), "+3.1 %"),
        (tables.percent(-0.0001, sign=True), "0.0 %"),
        (tables.interval([-0.0312, 0.2722]), "[−3.1, +27.2]"),
        (tables.interval([8.1, None]), "[+810.0, ∞)"),
        (tables.interval([None, 0.1]), "(−∞, +10.0]"),
        (tables.degradation({"relative_degradation": None, "ci95": [0.0, None]}), "unbounded [0.0, ∞)"),
        (tables.metric_value(0.05312, "wer"), "5.31 %"),
        (tables.metric_value(31.24, "bleu"), "31.2"),
        (tables.count(134_515_008), "135 M"),
        (tables.count(812), "812"),
        (tables.duration(41.2), "41 s"),
        (tables.duration(190), "3.2 min"),
        (tables.duration(5400), "1.5 h"),
        (tables.layers(6, 4), "6–9"),
        (tables.layers(0, 1), "0"),
    ],
)
def test_numbers_are_written(text: str, expected: str) -> None:
    assert text.replace(tables.NBSP, " ") == expected


def test_a_cell_is_named_in_words() -> None:
    cell = {"family": "qwen", "scale": "7b", "encoder": "wavlm-large", "task": "st", "language": "de"}
    assert tables.cell_name(cell) == "qwen 7b · wavlm-large · German to English speech translation"
    assert tables.question_name({**cell, "task": "asr", "language": "tlh"}) == "tlh speech recognition"


def test_every_row_has_a_text_for_every_column(sweep) -> None:
    cells = sweep[0]["cells"]
    made = [tables.cells_table(cells, ["a"] * len(cells)), *(tables.scores_table(cell) for cell in cells[:3])]
    made.append(tables.facts_table(sweep[0]["sweep"]))
    for table in made:
        assert {len(row.texts) for row in table.rows} == {len(table.columns)}


def test_cheap_looks_have_no_verdict(searched) -> None:
    results, _ = searched
    table = tables.probes_table(results["probes"], results["cells"])
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}
    at = {column: i for i, column in enumerate(table.columns)}
    cheap = [row.texts for row in table.rows if row.texts[at["Rung"]] != "full heal"]
    assert [row[at["Rung"]] for row in cheap] == ["unhealed look", "short heal"] * 2
    assert {row[at["Verdict"]] for row in cheap} == {row[at["P(all evidence)"]] for row in cheap} == {"–"}
    assert [row[at["Heal"]] for row in cheap] == ["–", "1"] * 2
    assert [row[at["n"]] for row in cheap] == ["60", "120"] * 2
    again = [row.texts for row in table.rows if row.texts[at["Heal"]] == "2"]
    assert [row[at["P(heal alone)"]] for row in again] == ["0.889"]
    assert [row[at["P(all evidence)"]] for row in again] == ["0.612"]


def test_what_no_probe_has_gets_no_column(sweep) -> None:
    table = tables.probes_table(sweep[0]["probes"], sweep[0]["cells"])
    assert not {"P(all evidence)", "Heal", "n"} & set(table.columns)
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}


def test_scores_say_what_all_evidence_says(searched, sweep) -> None:
    table = tables.scores_table(searched[0]["cells"][0])
    at = table.columns.index("P(all evidence)")
    assert [row.texts[at] for row in table.rows] == ["–", "–", "0.981"]
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}


def test_cells_can_be_shown_on_the_selection_split(joint) -> None:
    cells = joint[0]["cells"]
    rows = tables.cells_table(cells, ["a"] * 3, split="selection").rows
    assert [row.texts[3].replace(tables.NBSP, " ") for row in rows] == ["5.41 % WER", "30.9 BLEU", "8.31 % WER"]
    del cells[0]["selection"]
    assert {len(row.texts) for row in tables.cells_table(cells, ["a"] * 3, split="selection").rows} == {8}


def test_rank_agreement_is_written(searched) -> None:
    rows = [row.texts for row in tables.rungs_table(searched[0]["rungs"]).rows]
    assert rows == [
        ("qwen mini", "unhealed look", "−1.00", "[−1.00, +0.50]", "2", "1", "2"),
        ("qwen mini", "short heal", "–", "–", "1", "0", "2"),
    ]


def test_nested_settings_become_dotted_names() -> None:
    rows = tables.facts_table({"train": {"steps": 5}, "modules": ["up", "down"], "a": None}).rows
    assert [row.texts for row in rows] == [("a", "–"), ("modules", "up, down"), ("train.steps", "5")]
