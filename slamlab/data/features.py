"""Encoder features on disk: each recording goes through each encoder once, whoever asks first.

A frozen encoder gives the same features in every trial, and encoding costs as much as training a projector. Files are
content addressed, `<folder>/<encoder and rule>/<ab>/<sha256 of the audio file>.npy`, written atomically: any
number of processes may fill one folder at once, and a sweep moved to another corpus or renamed keeps what is there.

Shape legend: T frames, D encoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slamlab.data import audio
from slamlab.data.utterance import Utterance
from slamlab.disk import at_once, whole_file
from slamlab.zoo.assets import sha256_of
from slamlab.zoo.encoders import ENCODING_RULE, EncoderSpec, SpeechEncoder, load_encoder, locate_encoder

CHUNK = 64
"""Utterances read, encoded and written at a time: bounds memory, and what an interruption loses."""


class FeatureStore:
    """The features of one encoder.

    Args:
        encoder_name: As :func:`slamlab.zoo.encoders.load_encoder` takes it.
        folder: Where features are kept; may be shared by encoders, processes and sweeps.
        cache: Where converted weights and fingerprints are kept.
        device: Where the encoder runs, should it have to.
        patiently: Does something, again where the file system goes away meanwhile.

    Raises:
        UserError: The encoder cannot be had; see :func:`slamlab.zoo.encoders.locate_encoder`.
    """

    def __init__(
        self,
        encoder_name: str,
        folder: Path,
        cache: Path,
        *,
        device: str = "cpu",
        patiently: Callable[[Callable[[], Any]], Any] = at_once,
    ) -> None:
        located = locate_encoder(encoder_name, cache)
        self.spec: EncoderSpec = located.spec
        self.fingerprint = f"{located.fingerprint}.{ENCODING_RULE}"
        self._name, self._cache, self._device = encoder_name, cache, device
        self._folder = folder / f"{located.fingerprint[:16]}.{ENCODING_RULE}"
        self._digests: dict[tuple[Path, int, int], str] = {}
        self._patiently = patiently

    def get(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """Return the features of utterances, float16 [T, D] each, computing those that are missing or damaged."""
        found: list[np.ndarray] = self._patiently(lambda: self._get(utterances))
        return found

    def _get(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        self._ensure(utterances)
        paths = [self._path(utterance) for utterance in utterances]
        features = [self._load(path) for path in paths]
        for i, frames in enumerate(features):
            if frames is None:
                self._compute([(paths[i], utterances[i])])
                features[i] = np.load(paths[i], allow_pickle=False)
        return [frames for frames in features if frames is not None]

    def ensure(self, utterances: Sequence[Utterance], progress: Callable[[int, int], None] | None = None) -> None:
        """Compute what is missing.

        Args:
            utterances: May repeat a recording.
            progress: Called with (done, total) after every chunk; never where nothing is missing.
        """
        self._patiently(lambda: self._ensure(utterances, progress))

    def _ensure(self, utterances: Sequence[Utterance], progress: Callable[[int, int], None] | None = None) -> None:
        missing = {path: utterance for utterance in utterances if not (path := self._path(utterance)).is_file()}
        # Neighbours in length share batches.
        todo = sorted(missing.items(), key=lambda item: (item[1].duration_s, item[0]))
        for start in range(0, len(todo), CHUNK):
            # Another process may have come by since.
            self._compute([(path, one) for path, one in todo[start : start + CHUNK] if not path.is_file()])
            if progress is not None:
                progress(min(start + CHUNK, len(todo)), len(todo))

    @cached_property
    def _encoder(self) -> SpeechEncoder:
        return load_encoder(self._name, self._cache, self._device)

    def _compute(self, todo: Sequence[tuple[Path, Utterance]]) -> None:
        if not todo:
            return
        waveforms = [audio.read(utterance.audio, self.spec.sample_rate_hz) for _, utterance in todo]
        for (path, _), frames in zip(todo, self._encoder.encode(waveforms), strict=True):
            with whole_file(path) as draft, draft.open("wb") as file:
                np.save(file, frames)

    def _load(self, path: Path) -> np.ndarray | None:
        """Return the features in a file, or None where it is damaged (a full disk, a lost node)."""
        try:
            frames = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return frames if frames.dtype == np.float16 and frames.shape[1:] == (self.spec.width,) else None

    def _path(self, utterance: Utterance) -> Path:
        stat = utterance.audio.stat()
        key = (utterance.audio, stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = sha256_of(utterance.audio)
        digest = self._digests[key]
        return self._folder / digest[:2] / f"{digest}.npy"
