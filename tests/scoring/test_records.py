import json

import pytest

from slamlab.errors import DataError
from slamlab.scoring.records import encode_records, make_records, read_records, write_records

IDS = ["u1", "u2", "u3"]
REFERENCES = ["Größe, bitte!", "[Rauschen]", 'Zeile\u2028zwei \u0085 "quoted"\\ 😀']
HYPOTHESES = ["grosse bitte", "etwas", ""]


def _records():
    return make_records(IDS, REFERENCES, HYPOTHESES, "de", "asr").records


def test_utterances_without_a_reference_are_dropped_and_counted():
    record_set = make_records(IDS, REFERENCES, HYPOTHESES, "de", "asr")
    assert [record.id for record in record_set.records] == ["u1", "u3"]
    assert record_set.num_empty_references == 1
    first, last = record_set.records
    assert (first.reference, first.reference_normalized) == ("Größe, bitte!", "größe bitte")
    assert (last.hypothesis, last.hypothesis_normalized) == ("", "")


def test_translation_keeps_text_as_it_is():
    (record,) = make_records(["u"], [" A cat,  here. "], ["a Dog!"], "de", "st").records
    assert (record.reference_normalized, record.hypothesis_normalized) == ("A cat, here.", "a Dog!")


def test_unequal_numbers_and_repeated_ids_are_refused():
    with pytest.raises(DataError, match="3 ids, 2 references"):
        make_records(IDS, REFERENCES[:2], HYPOTHESES, "de", "asr")
    with pytest.raises(DataError, match="'u1' twice"):
        make_records(["u1", "u2", "u1"], REFERENCES, HYPOTHESES, "de", "asr")


def test_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "deep" / "records.jsonl"
    write_records(path, _records())
    assert read_records(path) == _records()
    assert path.read_bytes() == encode_records(_records())
    assert "Größe" in path.read_text(encoding="utf-8")
    assert set(json.loads(path.read_bytes().split(b"\n")[0])) == {
        "id",
        "reference",
        "hypothesis",
        "reference_normalized",
        "hypothesis_normalized",
        "speaker",
        "stopped",
    }


def test_records_kept_before_speakers_were_are_read(tmp_path):
    lines = [json.loads(line) for line in encode_records(_records()).split(b"\n") if line]
    old = [{k: v for k, v in line.items() if k not in ("speaker", "stopped")} for line in lines]
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert read_records(tmp_path / "old.jsonl") == _records()


def test_speakers_and_ends_stay_with_their_utterance():
    scored = make_records(
        IDS, REFERENCES, HYPOTHESES, "de", "asr", speakers=["a", "b", "c"], stopped=["eos", "", "loop"]
    )
    kept = {record.id: (record.speaker, record.stopped) for record in scored.records}
    assert kept.items() <= dict(zip(IDS, [("a", "eos"), ("b", ""), ("c", "loop")], strict=True)).items()
    assert len(kept) == 2
    with pytest.raises(DataError):
        make_records(IDS, REFERENCES, HYPOTHESES, "de", "asr", speakers=["a"])


def test_a_write_that_fails_leaves_the_file_before_and_no_draft(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, _records())

    def interrupted():
        yield _records()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, interrupted())
    assert read_records(path) == _records()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'["a"]',
        b'{"id": "u"}',
        b"\xff\xfe",
        encode_records(_records()).split(b"\n")[0][:-1] + b', "x": 1}',
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_bytes(encode_records(_records()[:1]) + line + b"\n")
    with pytest.raises(DataError, match=r"records\.jsonl, line 2"):
        read_records(path)


def test_a_text_that_is_no_string_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(encode_records(_records()[:1]).replace(b'"u1"', b"1"))
    with pytest.raises(DataError, match="line 1"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read_records(tmp_path / "nowhere.jsonl")
