"""Speech made on the spot: texts spoken by espeak-ng (the library in the `espeakng-loader` wheel, through ctypes).

Voice variant, rate, pitch, margins and noise are drawn from a seed per utterance, so a corpus is the same wherever and
in whatever order it is made. Synthetic speech is a test bench, no measure of what a model does on people.

Shape letters: N samples.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import soxr

from slamlab.data.utterance import SPLITS, Utterance
from slamlab.disk import whole_file
from slamlab.errors import DataError, OptionError
from slamlab.zoo.languages import LANGUAGES

SAMPLE_RATE_HZ = 16000
TRAINING_VOICES = ("m1", "m3", "m4", "m7", "f1", "f2", "f4", "f5")
HELD_OUT_VOICES = ("m2", "m6", "f3", "Annie")
"""espeak-ng voice variants of the split `test-voices`, never heard in training."""

_RECIPE = 1
"""Part of the fingerprint: raise it when anything below changes the samples."""

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_library_lock = threading.Lock()
"""The library keeps its state in static memory: one utterance at a time in a process."""


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Utterances a language in each split.

    Raises:
        OptionError: If a size is negative, or `train` is 0.
    """

    train: int = 3000
    selection: int = 240
    test: int = 300
    test_voices: int = 150

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size < (name == "train"):
                rule = f"the number of {name} utterances is {int(name == 'train')} or more"
                raise OptionError(rule, size, "choose a larger size")

    def of(self, split: str) -> int:
        """Return the size of a split."""
        return int(getattr(self, split.replace("-", "_")))


class SpokenCorpus:
    """Sentences spoken here, as a :class:`~slamlab.data.utterance.Corpus`; files are written when first asked for.

    Args:
        name: Of the corpus.
        folder: Where audio is kept, as `<fingerprint>/<language>/<split>/<id>.flac`. Several processes may share it.
        sentences: In a fixed shuffled order, each a text by language code, all with the same languages; a sentence
            belongs to one split in all of them.
        seed: Seed of voices.
        sizes: Utterances a language in each split.

    Raises:
        DataError: If espeakng-loader is not installed, or there are fewer sentences than asked for.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        sentences: Sequence[Mapping[str, str]],
        seed: int,
        sizes: SplitSizes,
    ) -> None:
        self.name = name
        self.problems: Sequence[str] = ()
        if len(sentences) < (wanted := sum(sizes.of(split) for split in SPLITS)):
            raise DataError(f"the corpus {name} has {wanted} sentences", len(sentences), "ask for smaller splits")
        self.languages = tuple(sentences[0])
        self._seed = seed
        self._sentences: dict[str, Sequence[Mapping[str, str]]] = {}
        for split in reversed(SPLITS):  # the held-out splits first: they stay when `train` grows
            size = sizes.of(split)
            self._sentences[split], sentences = sentences[:size], sentences[size:]
        recipe = {
            "recipe": _RECIPE,
            "espeak": _espeak_version(),
            "seed": seed,
            "sizes": asdict(sizes),
            "sentences": self._sentences,
        }
        self.fingerprint = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        self._folder = Path(folder) / self.fingerprint

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` (`asr`, or `st` into English) can be learned for speech in `language`."""
        return language in self.languages and (task == "asr" or (task == "st" and language != "en"))

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split, synthesising those that have no file yet.

        Raises:
            DataError: If the corpus does not speak `language`, or espeak-ng cannot.
            OptionError: If `limit` is negative.
        """
        if language not in self.languages:
            raise DataError(
                f"the corpus {self.name} speaks {', '.join(self.languages)}", language, "choose one of them"
            )
        if limit is not None and limit < 0:
            raise OptionError("a limit is 0 or more", limit, "choose a larger limit")
        texts = self._sentences.get(split, [])[:limit]
        return [self._utterance(language, split, index, text) for index, text in enumerate(texts)]

    def _utterance(self, language: str, split: str, index: int, texts: Mapping[str, str]) -> Utterance:
        digest = hashlib.sha256(f"{self._seed}/{language}/{split}/{index}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        voices = HELD_OUT_VOICES if split == "test-voices" else TRAINING_VOICES
        voice = f"{LANGUAGES[language].espeak_voice}+{voices[rng.integers(len(voices))]}"
        name = f"{language}-{split}-{index:05d}"
        path = self._folder / language / split / f"{name}.flac"
        if not path.exists():
            _write(path, _record(texts[language], voice, rng))
        return Utterance(
            id=name,
            audio=path,
            duration_s=soundfile.info(path).duration,
            language=language,
            text=texts[language],
            translations={code: text for code, text in texts.items() if code != language},
            speaker=voice,
        )


def _espeak_version() -> str:
    try:
        import espeakng_loader  # noqa: F401
    except ImportError as error:
        raise DataError(
            "speech made here needs espeakng-loader", str(error), "run `pip install 'slamlab[pocket]'`"
        ) from None
    return version("espeakng-loader")


def _write(path: Path, waveform: np.ndarray) -> None:
    """Write 16-bit FLAC; a reader never meets half a file."""
    with whole_file(path) as draft:
        soundfile.write(draft, waveform, SAMPLE_RATE_HZ, subtype="PCM_16", format="FLAC")


def _record(text: str, voice: str, rng: np.random.Generator) -> np.ndarray:
    """Speak `text` at a random rate and pitch, in light noise.

    Returns:
        Waveform, shape (N,), float32 in [-1, 1], at `SAMPLE_RATE_HZ`: 0.1 to 0.2 s of noise, speech, noise.
    """
    rate_wpm, pitch = int(rng.integers(145, 191)), int(rng.integers(38, 63))
    speech, rate_hz = speak(text, voice, rate_wpm=rate_wpm, pitch=pitch)
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    speech = speech[loud[0] : loud[-1] + 1]
    speech = soxr.resample(speech, rate_hz, SAMPLE_RATE_HZ)
    speech *= rng.uniform(0.3, 0.7) / np.abs(speech).max()
    before, after = (int(SAMPLE_RATE_HZ * margin_s) for margin_s in rng.uniform(0.1, 0.2, size=2))
    noise = _noise(before + len(speech) + after, pink=bool(rng.integers(2)), rng=rng)
    snr_db = rng.uniform(20, 40)
    noise *= np.sqrt(np.mean(speech**2)) * 10 ** (-snr_db / 20)
    return np.clip(np.pad(speech, (before, after)) + noise, -1, 1).astype(np.float32)


def _noise(num_samples: int, *, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """Return white or pink noise of unit power, shape (N,)."""
    noise = rng.standard_normal(num_samples)
    if pink:  # power falls with 1/f: amplitude with its root; the constant is left out
        spectrum = np.fft.rfft(noise)
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        spectrum[0] = 0
        noise = np.fft.irfft(spectrum, num_samples)
    return noise / np.sqrt(np.mean(noise**2))


def speak(text: str, voice: str, *, rate_wpm: int, pitch: int) -> tuple[np.ndarray, int]:
    """Synthesise `text` with espeak-ng; equal arguments give equal samples, whatever was said before.

    espeak-ng carries state from one call to the next (flutter, echo, oscillator phases) that nothing in its interface
    resets. So the library is mapped into memory afresh for every utterance, which takes 4 ms.

    Args:
        text: One sentence.
        voice: espeak-ng voice with an optional variant, e.g. `de+f2`.
        rate_wpm: Words a minute, 80 to 450.
        pitch: 0 to 99, 50 being the voice's own.

    Returns:
        Waveform, shape (N,), float32 in [-1, 1], and its sampling rate in Hz.

    Raises:
        DataError: If the extra `pocket` is missing, or espeak-ng refuses a call or says nothing.
    """
    _espeak_version()
    import espeakng_loader

    chunks: list[np.ndarray] = []

    @_CALLBACK
    def keep(samples, num_samples, _events):
        if samples and num_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    def check(call: str, status: int) -> None:
        if status != 0:
            raise DataError(f"espeak-ng accepts {call}", f"status {status}", "check the voice and its variant")

    with _library_lock:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            data = espeakng_loader.get_data_path().encode()
            rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _INITIALIZE_DONT_EXIT)
            if rate_hz <= 0:
                raise DataError("espeak-ng starts", f"status {rate_hz}", "reinstall espeakng-loader")
            library.espeak_SetSynthCallback(keep)
            check("a random seed", library.espeak_ng_SetRandSeed(ctypes.c_long(0)))  # else it is the clock
            check(f"the voice {voice}", library.espeak_SetVoiceByName(voice.encode()))
            settings = {_RATE: rate_wpm, _VOLUME: 100, _PITCH: pitch, _RANGE: 50, _WORD_GAP: 0}
            for parameter, value in settings.items():
                check(f"parameter {parameter} = {value}", library.espeak_SetParameter(parameter, value, 0))
            encoded = text.encode()
            status = library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
            check(f"the text {text!r}", status)
            check("the wait for its samples", library.espeak_Synchronize())
            library.espeak_Terminate()
        finally:
            process = ctypes.CDLL(None)
            process.dlclose.argtypes = [ctypes.c_void_p]
            process.dlclose(library._handle)
    if not chunks:
        raise DataError("a sentence has something to speak", repr(text), "give it words")
    return np.concatenate(chunks).astype(np.float32) / 32768, int(rate_hz)
