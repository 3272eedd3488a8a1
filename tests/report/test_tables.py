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


def test_nested_settings_become_dotted_names() -> None:
    rows = tables.facts_table({"train": {"steps": 5}, "modules": ["up", "down"], "a": None}).rows
    assert [row.texts for row in rows] == [("a", "–"), ("modules", "up, down"), ("train.steps", "5")]
