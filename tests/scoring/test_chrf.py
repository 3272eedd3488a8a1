import random

import numpy as np
import pytest
import sacrebleu

from slamlab.errors import DataError
from slamlab.scoring.chrf import chrf_of_sums, corpus_chrf

WORDS = ["The", "cat", "sat,", "on", "a", "mat.", "It's", "3.5", "größer", "是的", "我们", "x"]


def _random_texts(seed, num_segments=60):
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(num_segments)]
    hypotheses = [" ".join(rng.choices([*text.split(), "cat"], k=rng.randint(0, 9))) for text in references]
    return references, hypotheses


@pytest.mark.parametrize("seed", range(3))
def test_value_is_that_of_sacrebleu(seed):
    references, hypotheses = _random_texts(seed)
    ours, theirs = corpus_chrf(references, hypotheses), sacrebleu.corpus_chrf(hypotheses, [references])
    assert ours.value == pytest.approx(theirs.score, abs=1e-9)
    assert 20 < ours.value < 95
    assert f"version:{sacrebleu.__version__}" in ours.signature
    assert "nc:6" in ours.signature
    assert ours.segments[:, 1].tolist() == [len(text.replace(" ", "")) for text in references]


def test_resampled_sums_give_the_chrf_of_the_resampled_corpus():
    references, hypotheses = _random_texts(seed=5)
    segments = corpus_chrf(references, hypotheses).segments
    draws = np.random.default_rng(0).integers(0, len(references), size=(20, len(references)))
    ours = chrf_of_sums(segments[draws].sum(axis=1))
    theirs = [sacrebleu.corpus_chrf([hypotheses[i] for i in d], [[references[i] for i in d]]).score for d in draws]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("references", "hypotheses"),
    [(["a"], [""]), (["abc"], ["xyz"]), (["ab"], ["ab"]), (["ab"], ["abcdefgh"]), (["abcdefgh", "a"], ["ab", ""])],
)
def test_every_corner_agrees_with_sacrebleu(references, hypotheses):
    ours = corpus_chrf(references, hypotheses)
    theirs = sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert ours.value == pytest.approx(theirs, abs=1e-9)
    assert float(chrf_of_sums(ours.segments.sum(axis=0))) == pytest.approx(theirs, abs=1e-9)


def test_nothing_to_score_is_refused():
    with pytest.raises(DataError):
        corpus_chrf(["a", ""], ["a", "b"])
