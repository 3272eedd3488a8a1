"""Real speech through a shipped base: heard as a sweep hears it, cut at its pauses, whatever the file it comes in."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import save_file

from slamlab.data import audio
from slamlab.data.features import FeatureStore
from slamlab.data.pocket import PocketCorpus
from slamlab.errors import AssetError, DataError, OptionError
from slamlab.model.slam import load
from slamlab.model.transcribe import MAX_CHUNK_S, SEARCH_S, cut, most_tokens, transcribe
from slamlab.scoring.journal import Journal
from slamlab.sweep.bases import SHIPPED
from slamlab.sweep.cells import Cell
from slamlab.sweep.evaluate import Evaluation
from slamlab.zoo.encoders import load_encoder
from slamlab.zoo.profiles import PROFILES

RATE = 16_000
BASE = SHIPPED / "qwen-mini-whisper-base"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def utterances(cache):
    return PocketCorpus(cache / "pocket").utterances("de", "test", 3)


@pytest.fixture(scope="module")
def model():
    return load(BASE).in_precision("fp32")


@pytest.fixture(scope="module")
def encoder(cache):
    return load_encoder("whisper-base", cache / "models")


@pytest.fixture
def hear(model, encoder):
    def run(*paths, task="asr", language="de", **options):
        return list(transcribe(model, encoder, paths, task=task, language=language, **options))

    return run


@pytest.mark.parametrize(("task", "num_beams"), [("asr", 1), ("st", 3)])
def test_a_file_is_heard_as_a_sweep_hears_it(hear, model, cache, tmp_path, utterances, task, num_beams):
    cell = Cell(family="qwen", scale="mini", encoder="whisper-base", task=task, language="de")
    journal = Journal(tmp_path / "answers.jsonl")
    evaluation = Evaluation(cell, utterances, journal, PROFILES["pocket"], num_beams=num_beams)
    for _ in evaluation.run(model, FeatureStore("whisper-base", cache / "features", cache / "models"), "decode"):
        pass
    known = journal.read()
    # One piece a batch here, all at once there.
    heard = hear(*(one.audio for one in utterances), task=task, num_beams=num_beams, batch_size=1)
    assert [one.text for one in heard] == [known[one.id].hypothesis for one in utterances]
    assert [one.segments[0].stopped for one in heard] == [known[one.id].stopped for one in utterances]
    assert all(one.text for one in heard)
    assert len({one.text for one in heard}) == 3


def test_a_long_file_is_what_its_sentences_are(hear, utterances, tmp_path):
    """Sentences with pauses between them, several a window: cuts fall into pauses, and words stay whole."""
    waveforms = [audio.read(one.audio, RATE) for one in utterances]
    pause = np.zeros(int(0.8 * RATE), np.float32)
    spoken = [part for i in range(12) for part in (waveforms[i % 3], pause)]
    ends = np.cumsum([len(part) for part in spoken])
    soundfile.write(tmp_path / "long.flac", np.concatenate(spoken), RATE)
    said = []
    (long,) = hear(tmp_path / "long.flac", batch_size=2, say=said.append)
    assert len(long.segments) >= 2
    assert long.segments[0].start_s == 0
    assert long.segments[-1].end_s == pytest.approx(ends[-1] / RATE)
    for before, after in pairwise(long.segments):
        assert before.end_s == after.start_s
        assert before.end_s - before.start_s <= MAX_CHUNK_S
        sample = round(before.end_s * RATE)
        which = int(np.searchsorted(ends, sample, side="right"))
        assert which % 2 == 1, "a cut lies in a pause that was put in"
    assert len(said) == -(-len(long.segments) // 2) - 1
    assert long.text == " ".join(segment.text for segment in long.segments)


def test_pieces_cover_a_recording_and_none_is_too_long():
    noise = np.random.default_rng(0).standard_normal(int(100.01 * RATE)).astype(np.float32)
    pieces = cut(noise, RATE)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(noise)
    assert all(end == begin for (_, end), (begin, _) in pairwise(pieces))
    assert all(0 < end - begin <= MAX_CHUNK_S * RATE for begin, end in pieces)


@pytest.mark.parametrize("seconds", [0.2, 29.999, 30.0])
def test_what_fits_a_window_is_not_cut(seconds):
    assert cut(np.ones(int(seconds * RATE), np.float32), RATE) == [(0, int(seconds * RATE))]


def test_the_rest_beyond_a_window_has_frames_enough():
    """A cut is half a pause before the window's end at the latest, so that an encoder can hear what is left."""
    (_, end), (begin, rest) = cut(np.ones(int(30 * RATE) + 1, np.float32), RATE)
    assert end == begin
    assert rest - begin >= 800


def test_a_cut_is_in_the_middle_of_the_quietest_stretch():
    waveform = np.ones(int(31 * RATE), np.float32)
    earliest = (MAX_CHUNK_S - SEARCH_S) * RATE
    quiet = int(earliest + 2.0 * RATE)
    waveform[quiet : quiet + int(0.1 * RATE)] = 0.01
    waveform[int(earliest) - 4000 : int(earliest) - 1] = 0.0  # quieter, but a window should be long
    assert cut(waveform, RATE)[0] == (0, quiet + int(0.05 * RATE))


def test_stereo_at_another_rate_sounds_the_same(hear, utterances, tmp_path):
    one = utterances[0]
    waveform = soxr.resample(audio.read(one.audio, RATE), RATE, 44_100)
    soundfile.write(tmp_path / "stereo.wav", np.stack([waveform, waveform], axis=1), 44_100)
    mono, stereo = hear(one.audio, tmp_path / "stereo.wav")
    assert stereo.text == mono.text


def test_many_files_in_one_batch_are_those_one_by_one(hear, utterances):
    paths = [one.audio for one in utterances]
    together = hear(*paths, batch_size=16)
    assert [one.audio for one in together] == paths
    assert together == [one for path in paths for one in hear(path)]


def test_an_answer_has_room_for_fast_speech():
    assert most_tokens(10.0, 12.0) == 128
    assert most_tokens(0.1) == 9


def test_a_missing_file_is_told_before_any_work(hear, utterances, tmp_path):
    with pytest.raises(DataError, match=r"a recording is a file, got .*none\.wav"):
        hear(utterances[0].audio, tmp_path / "none.wav")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"these are words, not sound", "audio that decodes"), (b"", "audio that decodes")],
)
def test_what_is_not_audio_is_named(hear, tmp_path, content, message):
    (tmp_path / "words.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"{message}, got .*words\.wav"):
        hear(tmp_path / "words.wav")


def test_a_recording_without_samples_is_named(hear, tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(DataError, match=r"has samples, got none in .*empty\.wav"):
        hear(tmp_path / "empty.wav")


def test_an_unknown_language_is_refused(hear, utterances):
    with pytest.raises(OptionError, match="German"):
        hear(utterances[0].audio, language="german")


@pytest.mark.parametrize("harm", ["no config", "not json", "another config", "cut weights", "no decoder config"])
def test_a_folder_that_is_no_model_is_refused_in_a_sentence(tmp_path, harm):
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    config, weights = folder / "slam.json", folder / "projector.safetensors"
    if harm == "no config":
        config.unlink()
    elif harm == "not json":
        config.write_text("{")
    elif harm == "another config":
        config.write_text(json.dumps({"family": "qwen"}))
    elif harm == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        (folder / "decoder" / "config.json").unlink()
    with pytest.raises(AssetError, match="SLAM model"):
        load(folder)


def test_weights_of_another_shape_are_a_sentence_too(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    save_file({"up.weight": torch.zeros(1)}, folder / "projector.safetensors")
    with pytest.raises(AssetError, match="SLAM model"):
        load(folder)
