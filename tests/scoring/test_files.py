import json
from pathlib import Path

import jiwer
import pytest

from slamlab.errors import DataError, OptionError
from slamlab.scoring.files import Scoring, read_lines, score_files
from slamlab.scoring.normalise import normaliser
from slamlab.scoring.records import read_records, write_records

REFERENCES = ["Guten Morgen, Welt!", "Der Zug fährt um zehn Uhr.", "[Musik]", "Das ist größer als vorher."] * 4
HYPOTHESES = ["guten morgen welt", "der zug fährt zehn", "la", "das is größer als vorher ja"] * 4
BASE = ["guten morgen welt", "der zug fährt um zehn uhr", "", "das ist größer vorher"] * 4
GERMAN = Scoring(language="de", task="asr", num_resamples=200)


def _write(path: Path, field: str, texts, **more) -> Path:
    rows = [{"id": f"u{i}", field: text, **{k: v[i] for k, v in more.items()}} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return (
        _write(tmp_path / "refs.jsonl", "reference", REFERENCES, speaker=[f"s{i % 5}" for i in range(16)]),
        _write(tmp_path / "hyps.jsonl", "hypothesis", HYPOTHESES),
        _write(tmp_path / "base.jsonl", "hypothesis", BASE),
    )


def test_the_value_is_that_of_jiwer_on_normalised_texts(files):
    references, hypotheses, _ = files
    result, records = score_files(references, hypotheses, GERMAN)
    clean = normaliser("de", "asr")
    pairs = [(clean(r), clean(h)) for r, h in zip(REFERENCES, HYPOTHESES, strict=True) if clean(r)]
    theirs = jiwer.process_words([r for r, _ in pairs], [h for _, h in pairs])
    assert result["value"] == pytest.approx(theirs.wer, abs=1e-12)
    assert [result[kind] for kind in ("insertions", "deletions", "substitutions")] == [
        theirs.insertions,
        theirs.deletions,
        theirs.substitutions,
    ]
    assert (result["metric"], result["num_utterances"], result["num_empty_references"]) == ("wer", 12, 4)
    assert result["signature"].startswith("wer|jiwer:")
    assert len(records.records) == 12
    assert "verdict" not in result


def test_a_baseline_adds_degradation_interval_and_verdict(files):
    references, hypotheses, base = files
    result, _ = score_files(references, hypotheses, GERMAN, baseline=base)
    before = score_files(references, base, GERMAN)[0]["value"]
    assert result["baseline_value"] == before
    assert result["relative_degradation"] == pytest.approx((result["value"] - before) / before, abs=1e-12)
    assert result["ci95"][0] <= result["relative_degradation"] <= result["ci95"][1]
    assert result["verdict"] == "infeasible"
    assert score_files(references, base, GERMAN, baseline=base)[0]["verdict"] == "feasible"


def test_speakers_are_drawn_when_asked_for(files):
    references, hypotheses, base = files
    how = Scoring(language="de", task="asr", by_speaker=True, num_resamples=200)
    result, _ = score_files(references, hypotheses, how, baseline=base)
    assert (result["resampled"], result["num_drawn"]) == ("speaker", 5)
    with pytest.raises(DataError, match="needs the speaker"):
        score_files(_write(references.parent / "mute.jsonl", "reference", REFERENCES), hypotheses, how)


def test_the_order_of_lines_and_other_fields_do_not_matter(files, tmp_path):
    references, hypotheses, _ = files
    lines = hypotheses.read_text(encoding="utf-8").splitlines()[::-1]
    shuffled = tmp_path / "shuffled.jsonl"
    content = "\n\n".join(line[:-1] + ', "score": 0.5}' for line in lines)
    shuffled.write_text("\ufeff" + content, encoding="utf-8")  # a byte order mark, blank lines, no last line break
    assert score_files(references, shuffled, GERMAN)[0] == score_files(references, hypotheses, GERMAN)[0]


def test_kept_records_can_be_scored_again(files, tmp_path):
    references, hypotheses, _ = files
    result, records = score_files(references, hypotheses, GERMAN)
    kept = tmp_path / "kept.jsonl"
    write_records(kept, records.records)
    again, _ = score_files(kept, kept, GERMAN)
    assert again == {**result, "num_empty_references": 0}
    columns = zip(*[(one.reference_normalized, one.hypothesis_normalized) for one in read_records(kept)], strict=True)
    assert jiwer.wer(*map(list, columns)) == pytest.approx(result["value"], abs=1e-12)


def test_translations_keep_case_and_have_chrf_beside_bleu(tmp_path):
    references = _write(tmp_path / "r", "reference", ["The cat sat on the mat.", "It is ten o'clock."])
    hypotheses = _write(tmp_path / "h", "hypothesis", ["The cat sat on a mat.", "it is ten o'clock."])
    result, _ = score_files(references, hypotheses, Scoring(language="en", task="st", num_resamples=50))
    assert result["metric"] == "bleu"
    assert "tok:13a" in result["signature"]
    assert (result["insertions"], result["deletions"], result["substitutions"]) == (None, None, None)
    assert "norm:whitespace" in result["also"]["chrf"]["signature"]
    alone, _ = score_files(references, hypotheses, Scoring(language="en", task="st", metric="chrf", num_resamples=50))
    assert alone["value"] == pytest.approx(result["also"]["chrf"]["value"], abs=1e-9)


def test_letters_are_counted_where_words_are_not_spaced(tmp_path):
    references = _write(tmp_path / "r", "reference", ["我们今天去公园。", "你好"])
    hypotheses = _write(tmp_path / "h", "hypothesis", ["我们 今天去公圆", "你好吗"])
    result, _ = score_files(references, hypotheses, Scoring(language="zh", task="asr", num_resamples=50))
    assert (result["metric"], result["num_characters"]) == ("cer", 9)
    assert (result["insertions"], result["deletions"], result["substitutions"]) == (1, 0, 1)
    with pytest.raises(OptionError, match="letters are counted, got the metric wer"):
        Scoring(language="zh", task="asr", metric="wer")


def test_degenerate_translations_are_seen_where_words_are_not_spaced(tmp_path):
    references = _write(tmp_path / "r", "reference", ["我们今天去公园。", "她说你好你好。", "北京在中国。"])
    hypotheses = _write(tmp_path / "h", "hypothesis", ["好" * 40, "她", "北京在中国。"])
    result, _ = score_files(references, hypotheses, Scoring(language="zh", task="st", num_resamples=50))
    assert (result["num_loops"], result["num_premature"], result["num_empty_hypotheses"]) == (1, 1, 0)


def test_characters_of_other_languages_are_those_of_jiwer(files):
    references, hypotheses, _ = files
    result, records = score_files(references, hypotheses, Scoring(language="de", task="asr", metric="cer"))
    texts = [(one.reference_normalized, one.hypothesis_normalized) for one in records.records]
    assert result["value"] == pytest.approx(jiwer.cer([r for r, _ in texts], [h for _, h in texts]), abs=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "a", "reference": "x"}\n{"id": "b", "ref', "line 2: Unterminated string"),
        (
            b'{"id": "a", "reference": "x"}\n\n{"id": "a", "reference": "y"}',
            r"'a' again in .*, line 3 \(first in line 1",
        ),
        ('{"id": "a", "reference": "größer"}'.encode("latin-1"), "UTF-8, got .*line 1: invalid start byte at byte 29"),
        ('{"id": "a", "reference": "x"}'.encode("utf-16-le"), "UTF-8, got .*line 1: zero bytes"),
        ('{"id": "a", "reference": "x"}'.encode("utf-16"), "UTF-8, got .*line 1: invalid start byte"),
        (b'{"id": "a", "hypothesis": "x"}', "line 1: no `reference`"),
        (b'{"reference": "x"}', "line 1: no `id`"),
        (b'{"id": "a", "reference": null}', "`reference` is a text, got .*line 1: None"),
        (b'{"id": "a", "reference": ["x"]}', "`reference` is a text, got .*line 1"),
        (b'{"id": "a", "reference": "x", "speaker": 5}', "`speaker` is a text, got .*line 1: 5"),
        (b'{"id": "a", "reference": 0}', "`reference` is a text, got .*line 1: 0"),
        (b'{"id": "a", "reference": false}', "`reference` is a text, got .*line 1: False"),
        (b'{"id": "a", "reference": "x", "speaker": 0}', "`speaker` is a text, got .*line 1: 0.*leave it out"),
        (b'{"id": "a", "reference": "x", "reference": "y"}', "line 1: 'reference' twice"),
        (b'{"id": "a", "reference": "x \\ud800"}', "valid Unicode, got .*line 1"),
        (b'{"id": "\\udfff", "reference": "x"}', "valid Unicode, got .*line 1"),
        (b'{"id": 1.5, "reference": "x"}', "a text or a whole number, got .*line 1: 1.5"),
        (b'{"id": true, "reference": "x"}', "whole number, got .*line 1: True"),
        (b'["a", "x"]', "line 1: "),
        (b"[" * 100_000, "line 1: "),
        (b"", "one line or more with `id` and `reference`, got none"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    (tmp_path / "refs.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_lines(tmp_path / "refs.jsonl", "reference")


def test_numbers_are_ids_too(tmp_path):
    (tmp_path / "refs.jsonl").write_text('{"id": 7, "reference": "x"}\n{"id": "8", "reference": "y"}')
    assert list(read_lines(tmp_path / "refs.jsonl", "reference")) == ["7", "8"]


def test_ids_that_one_file_lacks_are_named(files, tmp_path):
    references, hypotheses, _ = files
    fewer = _write(tmp_path / "fewer.jsonl", "hypothesis", HYPOTHESES[:-2])
    with pytest.raises(DataError, match=r"2 of .*refs.jsonl that .*fewer.jsonl lacks, such as 'u14'"):
        score_files(references, fewer, GERMAN)
    more = _write(tmp_path / "more.jsonl", "hypothesis", [*HYPOTHESES, "x"])
    with pytest.raises(DataError, match=r"1 of .*more.jsonl that .*refs.jsonl lacks, such as 'u16'"):
        score_files(references, hypotheses, GERMAN, baseline=more)


def test_references_without_a_word_leave_nothing_to_score(tmp_path):
    references = _write(tmp_path / "r", "reference", ["?!", "[noise]"])
    hypotheses = _write(tmp_path / "h", "hypothesis", ["a", "b"])
    with pytest.raises(DataError, match="2 references that are empty"):
        score_files(references, hypotheses, GERMAN)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"language": "xx"}, "xx"),
        ({"task": "tts"}, "asr or st"),
        ({"metric": "ter"}, "wer, cer, bleu, chrf"),
        ({"metric": "bleu"}, "metrics of asr are wer, cer"),
        ({"task": "st", "metric": "wer"}, "metrics of st are bleu, chrf"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"alpha": 0.5}, "alpha"),
        ({"num_resamples": 39}, "40 resamples or more"),
        ({"num_resamples": 10**11}, "at most"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range_are_refused(changed, message):
    with pytest.raises(OptionError, match=message):
        Scoring(**({"language": "de", "task": "asr"} | changed))
