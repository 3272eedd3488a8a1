"""Recordings from disk: decode anything to mono float32, and say whether a file may be used.

WAV, FLAC, Ogg and MP3 go through libsndfile (`soundfile`), every other container through FFmpeg (`av`), also the raw
`.g722` streams of telephony. A file is read and nothing that it points to. Shape letters: N samples, C channels.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from slamlab.errors import DataError

_UNKNOWN_SIZE = 0xFFFFFFFF
"""What a WAV that was written to a pipe says about its length."""
_MISSING_S = 0.1
"""How much less than the header promises may be there: MP3 headers count padding."""


def read(path: Path, sample_rate_hz: int = 16000) -> np.ndarray:
    """Decode a recording, channels averaged.

    Args:
        path: Audio file.
        sample_rate_hz: Rate of the result; the recording is resampled if its own differs.

    Returns:
        Waveform, shape (N,), float32.

    Raises:
        DataError: If there is no such file, or nothing decodes it.
    """
    waveform, rate_hz, _ = _decode(Path(path))
    return waveform if rate_hz == sample_rate_hz else soxr.resample(waveform, rate_hz, sample_rate_hz)


def check(path: Path, *, min_s: float = 0.1, max_s: float = 30.0) -> float:
    """Decode a recording and hold it against what a corpus may contain.

    Args:
        path: Audio file.
        min_s: Shortest recording allowed.
        max_s: Longest recording allowed; the window of Whisper's encoder is 30 s, what lies beyond would not be heard.

    Returns:
        Duration in seconds.

    Raises:
        DataError: If the file is missing, does not decode, is empty, ends before its header says, has samples that are
            not finite, or is too short or too long. The message names the file.
    """
    path = Path(path)
    waveform, rate_hz, promised_s = _decode(path)
    duration_s = len(waveform) / rate_hz
    if not len(waveform):
        raise DataError("a recording has samples", f"none in {path}", "record it again or leave it out")
    if duration_s < promised_s - _MISSING_S:
        lengths = f"{duration_s:.2f} s instead of {promised_s:.2f} s in {path}"
        raise DataError("a recording is as long as its header says", lengths, "copy the whole file")
    if not np.isfinite(waveform).all():
        raise DataError("samples are finite numbers", f"NaN or infinity in {path}", "export the recording again")
    if not min_s <= duration_s <= max_s:
        rule = f"a recording lasts from {min_s:g} to {max_s:g} s"
        raise DataError(rule, f"{duration_s:.2f} s in {path}", "cut it or leave it out")
    return duration_s


def _decode(path: Path) -> tuple[np.ndarray, int, float]:
    """Return waveform, shape (N,), float32; its rate in Hz; the seconds that the header promises (0 if it does not)."""
    if not path.is_file():
        raise DataError("a recording is a file", str(path), "check the path")
    if path.suffix.lower() == ".g722":  # raw samples have no header that libsndfile could refuse
        return _decode_av(path, "g722")
    try:
        sound = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return _decode_av(path, None)
    with sound:
        promised = sound.frames
        # libsndfile corrects the length of a WAV that was cut, and mentions it in its log only.
        cut = re.search(r"^data : (\d+) \(should be \d+\)", sound.extra_info, re.MULTILINE)
        if cut and int(cut[1]) < _UNKNOWN_SIZE:
            bytes_a_frame = re.search(r"Block Align\s+: (\d+)", sound.extra_info)
            promised = int(cut[1]) // (int(bytes_a_frame[1]) if bytes_a_frame else 1)
        try:
            frames = sound.read(dtype="float32", always_2d=True)  # (N, C)
        except soundfile.LibsndfileError as error:
            raise _undecodable(path, error) from None
        return frames.mean(axis=1), sound.samplerate, promised / sound.samplerate


def _decode_av(path: Path, container_format: str | None) -> tuple[np.ndarray, int, float]:
    import av

    try:
        # A playlist names other files, or addresses: it opens none of them.
        alone = {"protocol_whitelist": "none"}
        with path.open("rb") as file, av.open(file, "r", container_format, alone) as container:
            if not container.streams.audio:
                raise _undecodable(path, "it has no audio stream")
            stream = container.streams.audio[0]
            to_mono = av.AudioResampler(format="flt", layout="mono")
            parts = [
                part.to_ndarray()[0]  # (1, N) -> (N,)
                for frame in [*container.decode(stream), None]  # None: flush
                for part in to_mono.resample(frame)
            ]
            promised_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
            return waveform, stream.rate, promised_s
    except (OSError, av.FFmpegError) as error:
        raise _undecodable(path, error) from None


def _undecodable(path: Path, why: object) -> DataError:
    return DataError("a recording is audio that decodes", f"{path} ({why})", "convert it to WAV or FLAC")
