from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slamlab.data import audio
from slamlab.data.grammar import spoken_key
from slamlab.data.pocket import PocketCorpus
from slamlab.data.synthesis import HELD_OUT_VOICES, TRAINING_VOICES, SplitSizes, speak
from slamlab.data.utterance import SPLITS
from slamlab.errors import DataError, OptionError

SIZES = SplitSizes(train=12, selection=4, test=4, test_voices=4)


@pytest.fixture
def corpus(tmp_path: Path) -> PocketCorpus:
    return PocketCorpus(tmp_path, seed=0, sizes=SIZES)


@pytest.mark.parametrize("voice", ["en-us+f4", "de+m1", "fr+f2", "es+f1"])
def test_speech_does_not_depend_on_what_was_said_before(voice: str) -> None:
    alone, rate_hz = speak("Anna, seven, Madrid.", voice, rate_wpm=170, pitch=50)
    speak("Der Zug fährt um halb acht ab.", "de+f4", rate_wpm=150, pitch=40)
    after, _ = speak("Anna, seven, Madrid.", voice, rate_wpm=170, pitch=50)
    assert rate_hz == 22050
    assert np.array_equal(alone, after)


def test_speech_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from slamlab.data.synthesis import speak;"
        "print(hashlib.sha256(speak('Nora buys ten eggs.', 'en-us+f2', rate_wpm=170, pitch=50)[0]).hexdigest())"
    )
    outputs = []
    for _ in range(2):
        outputs.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        time.sleep(1.0 - time.time() % 1)  # left to itself, espeak-ng seeds its noise with the clock's seconds
    assert outputs[0] == outputs[1] != ""


def test_voice_rate_and_pitch_are_heard() -> None:
    def of(voice: str = "en-us+m1", rate_wpm: int = 160, pitch: int = 50) -> np.ndarray:
        return speak("Paul gets up at seven.", voice, rate_wpm=rate_wpm, pitch=pitch)[0]

    assert len(of(rate_wpm=220)) < 0.9 * len(of())
    assert not np.array_equal(of(pitch=80), of())
    assert not np.array_equal(of(voice="en-us+f2"), of())
    with pytest.raises(DataError, match="no-such-voice"):
        of(voice="no-such-voice")


def test_audio_is_the_same_whatever_the_order(tmp_path: Path) -> None:
    one = PocketCorpus(tmp_path / "one", sizes=SIZES)
    other = PocketCorpus(tmp_path / "other", sizes=SIZES)
    for language, split in (("de", "train"), ("en", "test-voices"), ("fr", "test")):
        one.utterances(language, split)
    for language, split in (("fr", "test"), ("en", "test-voices"), ("de", "train")):
        for theirs, ours in zip(other.utterances(language, split), one.utterances(language, split), strict=True):
            assert theirs.id == ours.id
            assert np.array_equal(soundfile.read(theirs.audio)[0], soundfile.read(ours.audio)[0])


def test_splits_share_no_sentence_in_any_language(corpus: PocketCorpus) -> None:
    for language in corpus.languages:
        keys = [spoken_key(u.text) for split in SPLITS for u in corpus.utterances(language, split)]
        assert len(keys) == len(set(keys)) == 24
    english = {split: {u.text for u in corpus.utterances("en", split)} for split in SPLITS}
    for split in SPLITS:
        assert {u.translations["en"] for u in corpus.utterances("fr", split)} == english[split]


def test_held_out_voices_are_never_heard_in_training(corpus: PocketCorpus) -> None:
    assert not set(TRAINING_VOICES) & set(HELD_OUT_VOICES)
    for split in SPLITS:
        voices = {u.speaker.split("+")[1] for u in corpus.utterances("es", split)}
        assert voices <= set(HELD_OUT_VOICES if split == "test-voices" else TRAINING_VOICES)


def test_recordings_are_usable_and_kept(corpus: PocketCorpus) -> None:
    first = corpus.utterances("de", "train", 3)
    assert first == corpus.utterances("de", "train")[:3]
    for utterance in first:
        info = soundfile.info(utterance.audio)
        assert (info.samplerate, info.subtype, info.format) == (16000, "PCM_16", "FLAC")
        assert audio.check(utterance.audio) == pytest.approx(utterance.duration_s)
        waveform = audio.read(utterance.audio)
        margin = waveform[:1440]  # 0.09 s before the speech: light noise only
        assert 0 < np.sqrt(np.mean(margin**2)) < 0.3 * np.sqrt(np.mean(waveform**2))
        assert set(utterance.translations) == {"en", "fr", "es"}
    written = first[0].audio.stat().st_mtime_ns
    corpus.utterances("de", "train", 1)
    assert first[0].audio.stat().st_mtime_ns == written
    assert not list(first[0].audio.parent.glob(".*"))


def test_two_at_once_leave_whole_files(tmp_path: Path) -> None:
    corpora = [PocketCorpus(tmp_path, sizes=SIZES) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda corpus: corpus.utterances("en", "train"), corpora))
    assert results.count(results[0]) == 4
    assert all(audio.check(utterance.audio) > 1 for utterance in results[0])


def test_fingerprint_covers_seed_and_sizes(tmp_path: Path, corpus: PocketCorpus) -> None:
    assert PocketCorpus(tmp_path, 0, SIZES).fingerprint == corpus.fingerprint
    assert PocketCorpus(tmp_path, 1, SIZES).fingerprint != corpus.fingerprint
    assert PocketCorpus(tmp_path, 0, SplitSizes(train=13)).fingerprint != corpus.fingerprint


def test_tasks_and_refusals(corpus: PocketCorpus) -> None:
    assert [corpus.has("asr", code) for code in ("en", "de", "fr", "es", "it")] == [True] * 4 + [False]
    assert [corpus.has("st", code) for code in ("en", "de", "fr", "es", "it")] == [False, True, True, True, False]
    assert not corpus.has("tts", "de")
    assert corpus.utterances("en", "no-such-split") == []
    with pytest.raises(DataError, match="got it"):
        corpus.utterances("it", "test")
    with pytest.raises(OptionError, match="got -1"):
        corpus.utterances("en", "test", -1)
    with pytest.raises(OptionError, match="got 0"):
        SplitSizes(train=0)
    with pytest.raises(OptionError, match="got -2"):
        SplitSizes(test=-2)


@pytest.mark.parametrize("module", ["espeakng_loader", "babel", "num2words"])
def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    from slamlab.data.grammar import _fillers

    _fillers.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself does to make an import fail
    with pytest.raises(DataError, match=r"slamlab\[pocket\]"):
        PocketCorpus(tmp_path, sizes=SIZES)
