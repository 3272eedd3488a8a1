"""Several corpora as one, for a base that learns from all of them and sweeps that ask about each alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from slamlab.data.grammar import spoken_key
from slamlab.data.utterance import Corpus, Utterance

HELD_OUT = ("selection", "test", "test-voices")


class JoinedCorpus:
    """The utterances of several corpora, one of each in turn.

    A sentence that any of them holds out is taught by none: it is left out of `train`.

    Args:
        corpora: Two or more.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self.parts = tuple(corpora)
        self.name = "+".join(one.name for one in corpora)
        self.fingerprint = hashlib.sha256("+".join(one.fingerprint for one in corpora).encode()).hexdigest()
        self.problems = [problem for one in corpora for problem in one.problems]
        self.languages = tuple(dict.fromkeys(code for one in corpora for code in one.languages))
        self._held_out: dict[str, set[str]] = {}

    def has(self, task: str, language: str) -> bool:
        """Say whether every corpus that speaks `language`, and there is one, has data for `task`."""
        speaking = self._speaking(language)
        return bool(speaking) and all(one.has(task, language) for one in speaking)

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split."""
        turns = zip_longest(*(self.of_part(one, language, split) for one in self._speaking(language)))
        return [utterance for turn in turns for utterance in turn if utterance is not None][:limit]

    def of_part(self, part: Corpus, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of one corpus, without those that another one holds out."""
        found = part.utterances(language, split)
        if split == "train":
            found = [one for one in found if spoken_key(one.text) not in self._held_out_in(language)]
        return [replace(one, id=f"{part.name}/{one.id}") for one in found[:limit]]

    def _speaking(self, language: str) -> list[Corpus]:
        return [one for one in self.parts if language in one.languages]

    def _held_out_in(self, language: str) -> set[str]:
        if language not in self._held_out:
            self._held_out[language] = {
                spoken_key(utterance.text)
                for one in self._speaking(language)
                for split in HELD_OUT
                for utterance in one.utterances(language, split)
            }
        return self._held_out[language]
