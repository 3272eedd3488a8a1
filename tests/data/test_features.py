"""The feature store: computed once, addressed by content, safe against damage and company."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from slamlab.data import features
from slamlab.data.features import FeatureStore
from slamlab.data.utterance import Utterance


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    size = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **size, **ids)).save_pretrained(
        folder
    )
    WhisperFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    rng = np.random.default_rng(0)
    made = []
    for i, seconds in enumerate((0.9, 0.5, 1.3)):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * 16_000)), 16_000)
        made.append(Utterance(id=str(i), audio=path, duration_s=seconds, language="en", text="a"))
    return made


def test_features_come_in_order_and_are_computed_once(
    encoder: str, utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(encoder, tmp_path / "f", tmp_path / "c")
    calls: list[tuple[int, int]] = []
    store.ensure([*utterances, utterances[0]], lambda done, total: calls.append((done, total)))
    first = store.get(utterances)
    assert calls == [(3, 3)]
    assert [frames.shape for frames in first] == [(45, 16), (25, 16), (65, 16)]
    assert all(frames.dtype == np.float16 for frames in first)

    monkeypatch.setattr(features, "load_encoder", lambda *_: pytest.fail("a second probe loaded the encoder"))
    monkeypatch.setattr(features.audio, "read", lambda *_: pytest.fail("a second probe read audio"))
    again = FeatureStore(encoder, tmp_path / "f", tmp_path / "c")
    again.ensure(utterances, lambda *_: pytest.fail("nothing was missing"))
    for a, b in zip(first, again.get(utterances), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_address_is_the_content(encoder: str, utterances: list[Utterance], tmp_path: Path) -> None:
    store = FeatureStore(encoder, tmp_path / "f", tmp_path / "c")
    (expected,) = store.get(utterances[:1])
    copy = tmp_path / "renamed.wav"
    shutil.copy(utterances[0].audio, copy)
    same = Utterance(id="other", audio=copy, duration_s=0.9, language="de", text="b")
    np.testing.assert_array_equal(store.get([same])[0], expected)
    assert len(list((tmp_path / "f").glob("*/??/*.npy"))) == 1
    shutil.copy(utterances[2].audio, copy)  # another recording under the name of the first
    assert store.get([same])[0].shape == (65, 16)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", b"not an array"])
def test_a_damaged_file_is_computed_again(
    damage: bytes, encoder: str, utterances: list[Utterance], tmp_path: Path
) -> None:
    store = FeatureStore(encoder, tmp_path / "f", tmp_path / "c")
    (expected,) = store.get(utterances[:1])
    (path,) = (tmp_path / "f").glob("*/??/*.npy")
    path.write_bytes(damage)
    np.testing.assert_array_equal(store.get(utterances[:1])[0], expected)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), expected)


def test_an_array_of_objects_is_never_unpickled(encoder: str, utterances: list[Utterance], tmp_path: Path) -> None:
    store = FeatureStore(encoder, tmp_path / "f", tmp_path / "c")
    (expected,) = store.get(utterances[:1])
    (path,) = (tmp_path / "f").glob("*/??/*.npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(store.get(utterances[:1])[0], expected)


def test_two_workers_may_fill_one_folder(
    encoder: str, utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_reading, read = threading.Barrier(2, timeout=60), features.audio.read

    def read_together(path: Path, sample_rate_hz: int) -> np.ndarray:
        both_reading.wait()  # so both have seen the file missing, and both compute and write it
        return read(path, sample_rate_hz)

    monkeypatch.setattr(features.audio, "read", read_together)
    stores = [FeatureStore(encoder, tmp_path / "f", tmp_path / "c") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda store: store.get(utterances), stores)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list((tmp_path / "f").rglob("*.npy"))) == 3
    assert not list((tmp_path / "f").rglob(".draft-*"))
