from __future__ import annotations

import gzip
from pathlib import Path

import av
import numpy as np
import pytest

from slamlab.data import audio
from slamlab.data.asterisk import DEBIAN_FOLDER, AsteriskCorpus
from slamlab.data.grammar import spoken_key
from slamlab.errors import DataError, OptionError
from slamlab.zoo.corpora import open_corpus

SPLITS = ("train", "selection", "test")
VOICES = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June"}


def write_g722(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (np.random.default_rng(0).normal(scale=3000, size=int(16000 * seconds))).astype(np.int16)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for start in range(0, len(samples), 320):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 320], format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lay out forty prompts a language as Debian's packages do, with a few that must be left out."""
    for code, voice in VOICES.items():
        lines = ["\ufeff; Core Asterisk Sounds", ""]
        for index in range(40):
            lines.append(f"menu/p{index}: {code} please press {index}")
            write_g722(tmp_path / "asterisk/sounds" / voice / f"menu/p{index}.g722", 0.3)
        lines += ["beep: [this is a tone]", "yes: Yes.", f"z-again: {code} please press 7", "z-gone: there is no file"]
        lines += ["z-long: z-long: “this goes on and on”"]
        write_g722(tmp_path / "asterisk/sounds" / voice / "z-long.g722", 31)
        if code == "fr":
            lines.append("z-french: il n'y a pas d'anglais")
        texts = tmp_path / "doc" / f"asterisk-core-sounds-{code}" / f"core-sounds-{code}.txt.gz"
        texts.parent.mkdir(parents=True)
        texts.write_bytes(gzip.compress("\n".join(lines).encode()))
    return tmp_path


def test_prompts_become_utterances(folder: Path) -> None:
    corpus = AsteriskCorpus(folder)
    assert corpus.languages == ("en", "fr")
    english = {u.id: u for split in SPLITS for u in corpus.utterances("en", split)}
    assert set(english) == {f"en-menu/p{index}" for index in range(40)}
    utterance = english["en-menu/p5"]
    assert utterance.text == "en please press 5"
    assert utterance.translations == {"fr": "fr please press 5"}
    assert utterance.speaker == "en_US_f_Allison"
    assert utterance.duration_s == pytest.approx(0.3, abs=0.01)
    assert len(audio.read(utterance.audio)) == pytest.approx(4800, abs=160)
    assert len(corpus.problems) == 4  # a missing file and a long one, in two languages
    assert any("fr prompt z-gone" in problem for problem in corpus.problems)


def test_splits_are_by_prompt_in_every_language(folder: Path) -> None:
    corpus = AsteriskCorpus(folder)
    for split in SPLITS:
        prompts = [{u.id.partition("-")[2] for u in corpus.utterances(code, split)} for code in corpus.languages]
        assert prompts[0] == prompts[1] != set()
    assert len(corpus.utterances("en", "train")) > 20
    assert corpus.utterances("en", "test-voices") == []
    assert corpus.utterances("en", "train", 3) == corpus.utterances("en", "train")[:3]
    with pytest.raises(OptionError, match="got -1"):
        corpus.utterances("en", "train", -1)


def test_tasks_and_fingerprint(folder: Path) -> None:
    corpus = AsteriskCorpus(folder)
    assert [corpus.has("asr", code) for code in ("en", "fr", "es")] == [True, True, False]
    assert [corpus.has("st", code) for code in ("en", "fr", "es")] == [False, True, False]
    assert AsteriskCorpus(folder).fingerprint == corpus.fingerprint
    write_g722(folder / "asterisk/sounds/fr_CA_f_June/menu/p1.g722", 0.4)
    assert AsteriskCorpus(folder).fingerprint != corpus.fingerprint


def test_missing_packages_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="apt-get install asterisk-core-sounds"):
        AsteriskCorpus(tmp_path / "nothing")
    (folder / "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").unlink()
    with pytest.raises(DataError, match="apt-get install asterisk-core-sounds"):
        AsteriskCorpus(folder)


def test_unknown_corpus_lists_the_choices(tmp_path: Path) -> None:
    choices = r"pocket, asterisk, wordnet, librispeech.*, or a manifest \(\.jsonl, \.csv\), got 'librivox'"
    with pytest.raises(OptionError, match=choices):
        open_corpus("librivox", tmp_path, seed=0)
    with pytest.raises(DataError, match=r"got .*mine\.csv"):
        open_corpus(str(tmp_path / "mine.csv"), tmp_path, seed=0)
    assert open_corpus("pocket", tmp_path, seed=0).name == "pocket"


@pytest.mark.skipif(
    not (DEBIAN_FOLDER / "doc/asterisk-core-sounds-en").is_dir()
    or not list(DEBIAN_FOLDER.glob("asterisk/sounds/en_*_*")),
    reason="the Debian packages asterisk-core-sounds-* are not installed",
)
def test_debian_packages() -> None:
    corpus = AsteriskCorpus()
    assert "en" in corpus.languages
    for code in corpus.languages:
        found = {split: corpus.utterances(code, split) for split in SPLITS}
        assert sum(map(len, found.values())) > 150
        assert len(found["train"]) > 3 * len(found["test"])
        texts = [{spoken_key(u.text) for u in utterances} for utterances in found.values()]
        assert len(set.union(*texts)) == sum(map(len, texts))
