import json
import random
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from slamlab.errors import AssetError, DataError
from slamlab.scoring import bleu
from slamlab.scoring.bleu import bleu_of_sums, corpus_bleu
from slamlab.scoring.chrf import corpus_chrf

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
    ours = corpus_bleu(references, hypotheses)
    theirs = sacrebleu.corpus_bleu(hypotheses, [references])
    assert ours.value == pytest.approx(theirs.score, abs=1e-9)
    assert 5 < ours.value < 95
    assert (ours.hypothesis_length, ours.reference_length) == (theirs.sys_len, theirs.ref_len)
    assert "tok:13a" in ours.signature
    assert f"version:{sacrebleu.__version__}" in ours.signature


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


SENTENCES = {
    "13a": ["The cat sat on the mat.", "It's 3.5 degrees; why?", "Nein, das ist größer!", "Two dogs bark."],
    "zh": ["我们今天去公园。", "她说:“你好!”", "这是第3个问题。", "北京在中国。"],
    "ja-mecab": ["私は東京に住んでいます。", "彼女は本を読んだ。", "今日は3月5日です。", "猫が好きだ。"],
    "ko-mecab": ["나는 서울에 살아요.", "그녀는 책을 읽었다.", "오늘은 3월 5일입니다.", "고양이를 좋아한다."],
}


@pytest.mark.parametrize("tokenizer", SENTENCES)
def test_values_are_those_of_the_command_of_sacrebleu(tmp_path, tokenizer):
    """BLEU and chrF of the same files, by `sacrebleu`'s own command."""
    rng = random.Random(tokenizer)
    references = [" ".join(rng.choices(SENTENCES[tokenizer], k=rng.randint(1, 3))) for _ in range(60)]
    hypotheses = [text[rng.randint(0, 3) :] if rng.random() < 0.7 else text[::-1] for text in references]
    for name, lines in (("references", references), ("hypotheses", hypotheses)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", "-w", "12", "-tok", tokenizer]
    done = subprocess.run(
        [*command, "-m", "bleu", "chrf"], cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    theirs = {score["name"]: score for score in json.loads(done.stdout)}
    ours = corpus_bleu(references, hypotheses, tokenizer)
    assert ours.value == pytest.approx(theirs["BLEU"]["score"], abs=1e-9)
    assert 5 < ours.value < 95
    assert ours.signature == f"bleu|{theirs['BLEU']['signature']}"
    assert float(bleu_of_sums(ours.segments.sum(axis=0))) == pytest.approx(ours.value, abs=1e-9)
    assert corpus_chrf(references, hypotheses).value == pytest.approx(theirs["chrF2"]["score"], abs=1e-9)


def test_a_tokeniser_that_is_not_installed_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(bleu, "find_spec", lambda package: None)
    with pytest.raises(AssetError, match=r"ja-mecab needs MeCab and ipadic.*slamlab\[cjk\].*chrf"):
        corpus_bleu(["a"], ["a"], "ja-mecab")
    monkeypatch.undo()
    monkeypatch.setattr(bleu, "_FLORES200", tmp_path / "nothing")
    with pytest.raises(AssetError, match=r"flores200 needs its model at .*nothing"):
        corpus_bleu(["a"], ["a"], "flores200")
