import random

import jiwer
import numpy as np
import pytest

from slamlab.errors import DataError
from slamlab.scoring.wer import count_edits, error_rate, word_error_rate


def _random_texts(seed, num_utterances=200):
    rng = random.Random(seed)
    vocabulary = ["a", "b", "c", "d", "e", "f"]
    references = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 9))) for _ in range(num_utterances)]
    hypotheses = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 12))) for _ in range(num_utterances)]
    return references, hypotheses


@pytest.mark.parametrize("seed", range(3))
def test_value_and_counts_are_those_of_jiwer(seed):
    references, hypotheses = _random_texts(seed)
    ours, theirs = word_error_rate(references, hypotheses), jiwer.process_words(references, hypotheses)
    assert ours.value == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert (ours.insertions, ours.deletions, ours.substitutions) == (
        theirs.insertions,
        theirs.deletions,
        theirs.substitutions,
    )
    assert ours.lengths.sum() == theirs.hits + theirs.substitutions + theirs.deletions


def test_each_utterance_is_counted_by_itself():
    references, hypotheses = _random_texts(seed=7, num_utterances=50)
    wer = word_error_rate(references, hypotheses)
    singly = [jiwer.wer(*pair) for pair in zip(references, hypotheses, strict=True)]
    np.testing.assert_allclose(wer.edits / wer.lengths, singly, atol=1e-12)
    assert wer.lengths.tolist() == [len(reference.split()) for reference in references]
    assert len(wer.edits) == 50


@pytest.mark.parametrize("seed", range(3))
def test_characters_are_counted_as_jiwer_does(seed):
    references, hypotheses = _random_texts(seed)
    ours, theirs = error_rate(references, hypotheses, "character"), jiwer.process_characters(references, hypotheses)
    assert ours.value == pytest.approx(theirs.cer, abs=1e-12)
    assert (ours.insertions, ours.deletions, ours.substitutions) == (
        theirs.insertions,
        theirs.deletions,
        theirs.substitutions,
    )
    assert ours.lengths.tolist() == [len(reference) for reference in references]
    assert ours.value != word_error_rate(references, hypotheses).value


def test_kinds_of_edit_are_told_apart():
    (substituted, deleted, inserted) = count_edits(["a b c"] * 3, ["a x c", "a", "a b c d e"])
    assert (substituted.substitutions, substituted.hits, substituted.num_edits) == (1, 2, 1)
    assert (deleted.deletions, deleted.hits, deleted.length) == (2, 1, 3)
    assert (inserted.insertions, inserted.hits, inserted.length) == (2, 3, 3)


def test_an_empty_hypothesis_deletes_every_word():
    wer = word_error_rate(["a b c", "d"], ["", "d"])
    assert (wer.value, wer.deletions) == (0.75, 3)


def test_more_edits_than_words_exceed_one():
    assert word_error_rate(["a"], ["b c d"]).value == 3.0


@pytest.mark.parametrize(
    ("references", "hypotheses"), [([], []), (["a"], []), (["a", ""], ["a", "b"]), (["a", " "], ["a", "b"])]
)
def test_what_cannot_be_scored_is_refused(references, hypotheses):
    with pytest.raises(DataError):
        word_error_rate(references, hypotheses)
