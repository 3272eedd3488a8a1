from __future__ import annotations

import pytest

from slamlab.report import writing
from slamlab.scoring.metrics import METRICS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (writing.percent(0.25), "25.0 %"),
        (writing.percent(0.031, sign=True), "+3.1 %"),
        (writing.percent(-0.0001, sign=True), "0.0 %"),
        (writing.interval([-0.0312, 0.2722]), "[−3.1, +27.2]"),
        (writing.interval([8.1, None]), "[+810.0, ∞)"),
        (writing.interval([None, 0.1]), "(−∞, +10.0]"),
        (writing.degradation({"relative_degradation": None, "ci95": [0.0, None]}), "unbounded [0.0, ∞)"),
        (writing.metric_value(0.05312, "wer"), "5.31 %"),
        (writing.metric_value(0.05312, "cer"), "5.31 %"),
        (writing.metric_value(31.24, "bleu"), "31.2"),
        (writing.metric_value(61.27, "chrf"), "61.3"),
        (writing.metric_name("cer"), "CER"),
        (writing.metric_name("chrf"), "chrF"),
        (writing.count(134_515_008), "135 M"),
        (writing.count(812), "812"),
        (writing.duration(41.2), "41 s"),
        (writing.duration(190), "3.2 min"),
        (writing.duration(5400), "1.5 h"),
        (writing.layers(6, 4), "6–9"),
        (writing.layers(0, 1), "0"),
    ],
)
def test_numbers_are_written(text: str, expected: str) -> None:
    assert text.replace(writing.NBSP, " ") == expected


def test_every_metric_has_a_value_and_a_name() -> None:
    for metric in METRICS:
        assert writing.metric_value(0.5, metric) and writing.metric_name(metric).lower() == metric


@pytest.mark.parametrize(
    ("language", "metric", "piece"),
    [("zh", "cer", "character"), ("en", "cer", "word"), ("en", "wer", "word"), ("tlh", "cer", "word")],
)
def test_texts_hold_characters_only_where_the_language_has_no_spaces(language: str, metric: str, piece: str) -> None:
    assert writing.piece_of({"language": language, "metric": metric}) == piece
