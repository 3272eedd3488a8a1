import random

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from slamlab.errors import DataError
from slamlab.scoring.bleu import bleu_of_sums, corpus_bleu

WORDS = ["The", "the", "cat", "sat,", "on", "a", "mat.", "It's", "3.5", "degrees;", "dogs", "bark!", "Why?"]


def _random_texts(seed, num_segments=60):
    rng = random.Random(seed)
    references, hypotheses = [], []
    for _ in range(num_segments):
        words = rng.choices(WORDS, k=rng.randint(1, 14))
        references.append(" ".join(words))
        hypotheses.append(
            " ".join(rng.choice(WORDS) if rng.random() < 0.3 else word for word in words[rng.randint(0, 2) :])
        )
    return references, hypotheses


@pytest.mark.parametrize("seed", range(3))
def test_value_is_that_of_sacrebleu(seed):
    references, hypotheses = _random_texts(seed)
    bleu = corpus_bleu(references, hypotheses)
    theirs = sacrebleu.corpus_bleu(hypotheses, [references])
    assert bleu.value == pytest.approx(theirs.score, abs=1e-9)
    assert 5 < bleu.value < 95
    assert (bleu.hypothesis_length, bleu.reference_length) == (theirs.sys_len, theirs.ref_len)
    assert "tok:13a" in bleu.signature
    assert f"version:{sacrebleu.__version__}" in bleu.signature


def test_resampled_sums_give_the_bleu_of_the_resampled_corpus():
    references, hypotheses = _random_texts(seed=5)
    segments = corpus_bleu(references, hypotheses).segments
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(references), size=(20, len(references)))
    ours = bleu_of_sums(segments[draws].sum(axis=1))
    theirs = [sacrebleu.corpus_bleu([hypotheses[i] for i in d], [[references[i] for i in d]]).score for d in draws]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_every_corner_of_smoothing_and_brevity_agrees_with_sacrebleu():
    generator = np.random.default_rng(1)
    sums = []
    for _ in range(2000):
        total = np.sort(generator.integers(0, 6, size=4))[::-1]
        correct = np.minimum(total, np.sort(generator.integers(0, 4, size=4))[::-1])
        sums.append([total[0], generator.integers(1, 9), *correct, *total])
    theirs = [
        BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], smooth_method="exp").score
        for row in (list(map(int, row)) for row in sums)
    ]
    np.testing.assert_allclose(bleu_of_sums(np.array(sums)), theirs, rtol=0, atol=1e-9)
    assert 0 < np.count_nonzero(theirs) < len(theirs)


def test_silence_scores_zero_and_perfection_a_hundred():
    references = ["The cat sat on a mat."] * 2
    assert corpus_bleu(references, ["", ""]).value == 0
    assert corpus_bleu(references, references).value == pytest.approx(100)
    assert corpus_bleu(references, [text.lower() for text in references]).value < 100  # casing counts


def test_an_empty_reference_is_refused():
    with pytest.raises(DataError, match="index 1"):
        corpus_bleu(["a", ""], ["a", "a"])
