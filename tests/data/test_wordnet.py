from __future__ import annotations

from pathlib import Path

import pytest

from slamlab.data.synthesis import SplitSizes
from slamlab.data.wordnet import DEBIAN_FOLDER, PARTS, WordnetCorpus, examples
from slamlab.errors import DataError

SIZES = SplitSizes(train=3, selection=1, test=1, test_voices=0)
LINES = {
    "noun": [
        "  1 This software is provided as is, it says in a licence line of many words",
        '1 15 n 01 window 0 000 | a pane; "she leaned out of the window"; "the window"; "a window of 3 feet or less"',
        '2 15 n 01 door 0 000 | a leaf; "he knocked at the old door"; "half of it fell...down at once, today"',
    ],
    "verb": ['3 29 v 01 run 0 000 | move fast; "She leaned out of the window!"; "don\'t run in the corridors"'],
    "adj": ['4 00 a 01 able 0 000 | having means; "we were able to leave early, luckily"'],
    "adv": ['5 02 r 01 soon 0 000 | before long; "they will be here soon"'],
}


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part in PARTS:
        (folder / f"data.{part}").write_text("\n".join(LINES[part]) + "\n", encoding="utf-8")
    return folder


def test_takes_plain_sentences_once(wordnet: Path) -> None:
    assert examples(wordnet) == [
        "she leaned out of the window",
        "he knocked at the old door",
        "don't run in the corridors",
        "we were able to leave early, luckily",
        "they will be here soon",
    ]


def test_splits_share_no_sentence_and_are_spoken(wordnet: Path, tmp_path: Path) -> None:
    corpus = WordnetCorpus(tmp_path / "audio", seed=1, sizes=SIZES, wordnet=wordnet)
    by_split = {split: corpus.utterances("en", split) for split in ("train", "selection", "test", "test-voices")}
    assert [len(found) for found in by_split.values()] == [3, 1, 1, 0]
    assert {one.text for found in by_split.values() for one in found} == set(examples(wordnet))
    assert corpus.languages == ("en",) and corpus.has("asr", "en") and not corpus.has("st", "en")
    assert all(one.audio.is_file() and 0.5 < one.duration_s < 10 for found in by_split.values() for one in found)
    assert WordnetCorpus(tmp_path / "audio", seed=2, sizes=SIZES, wordnet=wordnet).fingerprint != corpus.fingerprint


def test_says_what_is_missing(wordnet: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"8 sentences.*5"):
        WordnetCorpus(tmp_path, sizes=SplitSizes(train=5, selection=1, test=1, test_voices=1), wordnet=wordnet)
    (wordnet / "data.adv").unlink()
    with pytest.raises(DataError, match="apt-get install wordnet-base"):
        WordnetCorpus(tmp_path, sizes=SIZES, wordnet=wordnet)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's wordnet-base")
def test_the_real_one_is_large() -> None:
    found = examples(DEBIAN_FOLDER)
    assert len(found) > 30_000 and len(set(found)) == len(found)
