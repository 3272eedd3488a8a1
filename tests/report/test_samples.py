from __future__ import annotations

import json
from pathlib import Path

import pytest

from slamlab.report.samples import choose, read_hypotheses


def _record(reference: str, hypothesis: str) -> dict[str, str]:
    return {
        "reference": reference,
        "hypothesis": hypothesis,
        "reference_normalized": reference.lower(),
        "hypothesis_normalized": hypothesis.lower(),
    }


def test_samples_are_evenly_spaced_from_best_to_worst() -> None:
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
    baseline = {f"u{i}": _record(" ".join(words), " ".join(words)) for i in range(9)}
    pruned = {f"u{i}": _record(" ".join(words), " ".join(words[: 9 - i])) for i in range(9)}
    samples = choose(baseline, pruned)
    assert [(sample.id, sample.change) for sample in samples] == [("u0", 0), ("u2", 2), ("u4", 4), ("u6", 6), ("u8", 8)]
    assert choose(dict(reversed(baseline.items())), pruned) == samples


def test_change_is_the_difference_in_word_edits() -> None:
    (sample,) = choose({"u": _record("a b c d", "a x c d e")}, {"u": _record("a b c d", "b c d")})
    assert sample.change == 1 - 2


def test_without_a_pruned_model_the_order_is_by_errors() -> None:
    samples = choose({"x": _record("a b", "c d"), "y": _record("a b", "a b")}, None)
    assert [(sample.id, sample.change, sample.pruned) for sample in samples] == [("y", 0, None), ("x", 2, None)]


def test_differing_words_are_marked_whatever_their_case() -> None:
    (sample,) = choose({"u": _record("The ship sails.", "the sheep sails")}, None)
    assert sample.baseline == (("the", False), ("sheep", True), ("sails", False))


def test_characters_are_compared_in_languages_without_spaces() -> None:
    texts = ("今天天气很好，我们 走。", "今天天气好我们去 走!")
    record = dict(zip(("reference", "hypothesis"), texts, strict=True))
    record |= {f"{name}_normalized": " ".join(c for c in text if c.isalnum()) for name, text in record.items()}
    (sample,) = choose({"u": record}, None, piece="character")
    assert sample.change == 2 and sample.change_in_words == "2 character edits"
    assert sample.glue.join(piece for piece, _ in sample.baseline) == texts[1]
    assert [piece for piece, differs in sample.baseline if differs] == ["去 "]


def test_marks_stay_with_their_letter() -> None:
    record = _record("ที่นี่", "ที่นั่น")
    (sample,) = choose({"u": record}, None, piece="character")
    assert sample.baseline == (("ที่", False), ("นั่", True), ("น", True))


def test_only_shared_utterances_are_compared() -> None:
    assert choose({"a": _record("x", "x")}, {"b": _record("x", "x")}) == []


def test_a_line_separator_in_a_transcript_is_not_a_line_end(tmp_path: Path) -> None:
    record = {"id": "u", **_record("one\u2028two", "one")}
    (tmp_path / "h.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    hypotheses = read_hypotheses(tmp_path, "h.jsonl")
    assert hypotheses is not None and hypotheses["u"]["reference"] == "one\u2028two"


@pytest.mark.parametrize("content", ["{", "[]", '{"id": "u"}', "3"])
def test_damaged_hypotheses_count_as_missing(tmp_path: Path, content: str) -> None:
    (tmp_path / "h.jsonl").write_text(content)
    assert read_hypotheses(tmp_path, "h.jsonl") is None


def test_a_path_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(json.dumps({"id": "u", **_record("secret", "secret")}))
    (tmp_path / "store").mkdir()
    assert read_hypotheses(tmp_path / "store", "../h.jsonl") is None
    assert read_hypotheses(tmp_path / "store", str(tmp_path / "h.jsonl")) is None
    assert read_hypotheses(tmp_path, "h.jsonl") is not None
