"""Several corpora as one, for a base that learns from all of them and sweeps that ask about each alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest

from slamlab.data.grammar import spoken_key
from slamlab.data.utterance import Corpus, Utterance

HELD_OUT = ("selection", "test", "test-voices")


class JoinedCorpus:
    """The utterances of several corpora, one of each in turn.

    A sentence that any of them holds out, in speech or in translation, is taught by none: it is left out of `train`.

    Args:
        corpora: Two or more.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        # Two manifests have one name between them; ids begin with these.
        names = [one.name for one in corpora]
        self.parts = {
            name if names.count(name) == 1 else f"{name}-{i}": one
            for i, (name, one) in enumerate(zip(names, corpora, strict=True), 1)
        }
        self.name = "+".join(names)
        self.fingerprint = hashlib.sha256("+".join(one.fingerprint for one in corpora).encode()).hexdigest()
        self.languages = tuple(dict.fromkeys(code for one in corpora for code in one.languages))

    @property
    def problems(self) -> Sequence[str]:
        """What the corpora left out, those that read as they are asked so far."""
        return [problem for one in self.parts.values() for problem in one.problems]

    def has(self, task: str, language: str) -> bool:
        """Say whether every corpus that speaks `language`, and there is one, has data for `task`."""
        speaking = self._speaking(language).values()
        return bool(speaking) and all(one.has(task, language) for one in speaking)

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split."""
        turns = zip_longest(*(self.of_part(name, language, split, limit) for name in self._speaking(language)))
        return [utterance for turn in turns for utterance in turn if utterance is not None][:limit]

    def of_part(self, name: str, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of one corpus, without those that another one holds out."""
        held_out = self._held_out if split == "train" else set()

        def kept(limit: int | None) -> list[Utterance]:
            found = self.parts[name].utterances(language, split, limit)
            return [replace(one, id=f"{name}/{one.id}") for one in found if held_out.isdisjoint(_sentences(one))]

        found = kept(limit)  # what is made on the spot is not made for nothing
        return found if limit is None or len(found) == limit else kept(None)[:limit]

    def _speaking(self, language: str) -> dict[str, Corpus]:
        return {name: one for name, one in self.parts.items() if language in one.languages}

    @cached_property
    def _held_out(self) -> set[tuple[str, str]]:
        return {
            sentence
            for one in self.parts.values()
            for language in one.languages
            for split in HELD_OUT
            for utterance in one.utterances(language, split)
            for sentence in _sentences(utterance)
        }


def _sentences(utterance: Utterance) -> set[tuple[str, str]]:
    """Return what an utterance says, in each language it says it in."""
    texts = {utterance.language: utterance.text, **utterance.translations}
    return {(language, spoken_key(text)) for language, text in texts.items()}
