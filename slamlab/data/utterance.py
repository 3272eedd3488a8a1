"""What flows through the data stage: one spoken sentence with its texts, and a corpus of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

SPLITS = ("train", "selection", "test", "test-voices")
"""Splits never share a sentence. A search looks at `selection` only; `test` and `test-voices` (speakers never
heard in training) are for the figures that are reported."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One recording and what it says.

    Attributes:
        id: Unique within the corpus, stable across runs.
        audio: File that :func:`slamlab.data.audio.read` decodes.
        duration_s: Length of the recording in seconds.
        language: Code of the language spoken, as in :mod:`slamlab.zoo.languages`.
        text: Transcript in that language.
        translations: Language code to translation of the transcript.
        speaker: Voice or speaker label.
    """

    id: str
    audio: Path
    duration_s: float
    language: str
    text: str
    translations: Mapping[str, str] = field(default_factory=dict)
    speaker: str = ""

    def target(self, task: str, target_language: str = "en") -> str:
        """Return what a model should answer: the transcript (`asr`) or the translation (`st`)."""
        return self.text if task == "asr" else self.translations[target_language]


class Corpus(Protocol):
    """A source of utterances by language and split."""

    name: str
    fingerprint: str
    """Hex digest of everything that determines the utterances: recipe and seed, or the manifest and its files."""

    @property
    def problems(self) -> Sequence[str]:
        """One sentence for every recording left out, naming the file and the rule; or for every rule, with a count."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages spoken in the corpus."""
        ...

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` (`asr`, or `st` into English) can be learned for speech in `language`."""
        ...

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split, in a fixed shuffled order, audio in place.

        `limit=n` is a prefix of `limit=m` for n <= m. A split the corpus lacks (`test-voices`) gives [].
        """
        ...
