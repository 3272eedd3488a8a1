from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from slamlab.data import audio
from slamlab.errors import DataError

RATE_HZ = 16000


def tone(seconds: float = 1.0, rate_hz: int = RATE_HZ, frequency_hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def loudest_hz(waveform: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * RATE_HZ / len(waveform))


def write_av(path: Path, waveform: np.ndarray, codec: str, container_format: str) -> Path:
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray((waveform * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE_HZ, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    return path


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_read_averages_channels_and_resamples(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"tone.{extension}"
    left = tone(rate_hz=44100)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 44100)
    waveform = audio.read(path)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - RATE_HZ) < 0.1 * RATE_HZ  # lossy codecs pad
    assert loudest_hz(waveform) == pytest.approx(440, abs=3)
    assert np.abs(waveform).max() == pytest.approx(0.15, abs=0.03)
    assert audio.check(path) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("name", "codec", "container"), [("a.g722", "g722", "g722"), ("a.m4a", "aac", "ipod")])
def test_read_falls_back_on_ffmpeg(tmp_path: Path, name: str, codec: str, container: str) -> None:
    path = write_av(tmp_path / name, tone(), codec, container)
    waveform = audio.read(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert loudest_hz(waveform) == pytest.approx(440, abs=3)
    assert audio.check(path) == pytest.approx(1.0, abs=0.1)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        audio.check(path)
    assert path.name in str(caught.value)
    return caught.value.rule


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
def test_check_refuses_a_file_that_was_cut(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"cut.{extension}"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=2 * RATE_HZ), RATE_HZ)
    audio.check(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "as long as its header says" in refused(path) or "decodes" in refused(path)


def test_check_accepts_a_wav_written_to_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(), RATE_HZ)
    content = bytearray(path.read_bytes())
    size_at = content.find(b"data") + 4
    content[size_at : size_at + 4] = b"\xff" * 4
    path.write_bytes(content)
    assert audio.check(path) == pytest.approx(1.0)


def test_check_names_the_rule_that_was_broken(tmp_path: Path) -> None:
    missing, text, empty = tmp_path / "missing.wav", tmp_path / "text.wav", tmp_path / "empty.wav"
    text.write_text("no audio at all")
    soundfile.write(empty, np.zeros(0), RATE_HZ)
    broken, short, long = tmp_path / "nan.wav", tmp_path / "short.wav", tmp_path / "long.wav"
    soundfile.write(broken, np.array([0.1, np.nan] * RATE_HZ, np.float32), RATE_HZ, subtype="FLOAT")
    soundfile.write(short, tone(0.05), RATE_HZ)
    soundfile.write(long, tone(30.5), RATE_HZ)
    assert "is a file" in refused(missing)
    assert "decodes" in refused(text)
    assert "has samples" in refused(empty)
    assert "finite" in refused(broken)
    assert "0.1 to 30 s" in refused(short)
    assert "0.1 to 30 s" in refused(long)
    assert audio.check(long, max_s=31) == pytest.approx(30.5)
