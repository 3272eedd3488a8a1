import json
from importlib.metadata import version

import jiwer
import numpy as np
import pytest
import sacrebleu

from slamlab.errors import DataError, OptionError
from slamlab.scoring.bootstrap import paired_relative_degradation
from slamlab.scoring.records import make_records, write_records
from slamlab.scoring.score import degradation, score_records

REFERENCES = ["Mr. Smith can't come.", "?!", "Two dogs, one cat!", "The cat sat on the old mat today."] * 5
BASE = ["mister Smith cannot come", "noise", "two dogs one cat", "the cat sat on the old mat today"] * 5
PRUNED = ["mister Smith come", "", "", "The cat sat on the mat mat"] * 5
IDS = [f"u{index:02}" for index in range(len(REFERENCES))]


def _columns(path):
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    return [row["reference_normalized"] for row in rows], [row["hypothesis_normalized"] for row in rows]


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("hypotheses", [BASE, PRUNED])
def test_wer_can_be_computed_again_from_the_file(tmp_path, language, hypotheses):
    record_set = make_records(IDS, REFERENCES, hypotheses, language, "asr")
    write_records(tmp_path / "records.jsonl", record_set.records)
    score = score_records(record_set.records, language, "asr")
    assert score.value == pytest.approx(jiwer.wer(*_columns(tmp_path / "records.jsonl")), abs=1e-9)
    assert (score.metric, score.num_utterances, record_set.num_empty_references) == ("wer", 15, 5)
    errors = sum(score.counts[kind] for kind in ("insertions", "deletions", "substitutions"))
    assert score.value == errors / score.counts["num_words"] > 0
    assert score.counts["num_empty_hypotheses"] == hypotheses.count("") // 2
    assert score.signature.startswith("wer|jiwer:")


@pytest.mark.parametrize("hypotheses", [BASE, PRUNED])
def test_bleu_can_be_computed_again_from_the_file(tmp_path, hypotheses):
    record_set = make_records(IDS, REFERENCES, hypotheses, "de", "st")
    write_records(tmp_path / "records.jsonl", record_set.records)
    score = score_records(record_set.records, "de", "st")
    references, normalised = _columns(tmp_path / "records.jsonl")
    assert score.value == pytest.approx(sacrebleu.corpus_bleu(normalised, [references]).score, abs=1e-9)
    assert (score.metric, score.num_utterances) == ("bleu", 20)
    assert score.statistics.values.shape == (20, 10)


def test_signature_tells_language_task_and_versions_apart():
    records = make_records(IDS, REFERENCES, BASE, "en", "asr").records
    signatures = [score_records(records, *pair).signature for pair in (("en", "asr"), ("de", "asr"), ("de", "st"))]
    assert len(set(signatures)) == 3
    assert f"jiwer:{version('jiwer')}" in signatures[0]
    assert "tok:13a" in signatures[2]


@pytest.mark.parametrize("task", ["asr", "st"])
def test_degradation_is_that_of_the_two_scores(task):
    base, pruned = (make_records(IDS, REFERENCES, texts, "en", task).records for texts in (BASE, PRUNED))
    result = degradation(base, pruned, "en", task, tolerance=0.25, num_resamples=200, seed=1)
    before, after = (score_records(records, "en", task) for records in (base, pruned))
    sign = 1 if task == "asr" else -1
    assert result.value == pytest.approx(sign * (after.value - before.value) / before.value, abs=1e-12)
    assert result.ci95[0] < result.value < result.ci95[1]
    assert result == paired_relative_degradation(
        before.statistics, after.statistics, before.metric, tolerance=0.25, num_resamples=200, seed=1
    )


def test_pairing_is_by_id_not_by_position():
    base = make_records(IDS, REFERENCES, BASE, "en", "asr").records
    pruned = make_records(IDS, REFERENCES, PRUNED, "en", "asr").records
    straight = degradation(base, pruned, "en", "asr", tolerance=0.25, num_resamples=100)
    assert degradation(base, pruned[::-1], "en", "asr", tolerance=0.25, num_resamples=100) == straight
    with pytest.raises(DataError, match="'u19'"):
        degradation(base, pruned[:-1], "en", "asr", tolerance=0.25, num_resamples=100)


def test_nothing_to_score_and_unknown_tasks_are_refused():
    with pytest.raises(DataError, match="0 references"):
        score_records([], "en", "asr")
    with pytest.raises(OptionError, match="asr or st"):
        score_records(make_records(IDS, REFERENCES, BASE, "en", "asr").records, "en", "tts")


def test_statistics_are_in_the_order_of_the_records():
    records = make_records(IDS, REFERENCES, PRUNED, "en", "asr").records
    statistics = score_records(records, "en", "asr").statistics
    assert list(statistics.ids) == [record.id for record in records]
    assert np.array_equal(statistics.values[:, 1], [len(record.reference_normalized.split()) for record in records])
