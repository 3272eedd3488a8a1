"""Public corpora of recorded speech, as they lie on the Hugging Face hub: LibriSpeech, CoVoST 2, FLEURS and others.

One class for all rows of :data:`slamlab.zoo.corpora.HUB`. Nothing is downloaded as a whole: an utterance is read when
a sweep first asks for it, its recording kept as the data set's own bytes, and what was read is noted in the store, so
that it is read once, whoever asks. The order is that of :func:`slamlab.data.parquet.rows`: row groups and rows drawn by
the seed through a bounded buffer, the same from the hub, from the local cache and from a folder with the same files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slamlab.data import audio
from slamlab.data.grammar import spoken_key
from slamlab.data.parquet import ParquetFiles, in_folder, on_hub, rows
from slamlab.data.utterance import Utterance
from slamlab.disk import whole_file
from slamlab.errors import DataError, OptionError
from slamlab.zoo.corpora import HubSpec

_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus")
_KEEPS_BEFORE = {"test": (), "selection": ("test",), "train": ("test", "selection")}
"""Splits whose sentences a split must not have: of two that say the same, the one that is reported keeps it."""
_NOTE_EVERY = 1000
"""Utterances between two notes of what was read: what an interruption makes read again."""


class HubCorpus:
    """A row of the table as a :class:`~slamlab.data.utterance.Corpus`; there is no split `test-voices`.

    A recording is left out, and counted in `problems`, if it has no transcript (nor mark such as <unk>) or no
    translation where the corpus has translations, if its id was seen, if its id or sentence is one that a later split
    holds (selection keeps off test, train off both, within a language), or if its audio cannot be used: longer than
    30 s, empty, broken.

    Args:
        spec: The row.
        store: Where recordings and notes are kept.
        seed: Seed of the order.
        folder: A copy of the data set, laid out as on the hub; None for the hub and its local cache.

    Raises:
        DataError: The data set cannot be reached, is gated, or has none of the files that the row names.
    """

    def __init__(self, spec: HubSpec, store: Path, seed: int = 0, folder: Path | None = None) -> None:
        self.name, self.spec, self.seed = spec.name, spec, seed
        self._store = store
        self._files = in_folder(folder) if folder is not None else self._pinned()
        self.languages = tuple(code for code in spec.configs if all(self._names(code, split) for split in spec.files))
        if not self.languages:
            wanted = " or ".join(pattern for patterns in spec.files.values() for pattern in patterns)
            rule = (
                f"the corpus {spec.name} has files {wanted}, with a config such as {next(iter(spec.configs.values()))}"
            )
            raise DataError(
                rule, f"{len(self._files.names)} others in {self._files.source}", f"copy {spec.hub_id} with its folders"
            )
        facts = {"spec": asdict(spec), "seed": seed, "version": self._files.version, "files": self._files.names}
        self.fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self._notes = store / self.fingerprint[:16]

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` (`asr`, or `st` into English) can be learned for speech in `language`."""
        return language in self.languages and self.spec.has(task, language)

    @property
    def problems(self) -> Sequence[str]:
        """One sentence for every reason why recordings of a split were left out, with their number."""
        found = []
        for path in sorted(self._notes.glob("*.json")) if self._notes.is_dir() else ():
            note = json.loads(path.read_text(encoding="utf-8"))
            if "left_out" in note:
                of = f"{self.name}, {path.stem}: of {note['num_read']} recordings read"
                found += [f"{of} {num} left out: {why}." for why, num in sorted(note["left_out"].items())]
        return found

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split, read now where they were not before.

        Raises:
            OptionError: If `limit` is negative.
            DataError: If the data set cannot be read, or nothing of a split can be used.
        """
        if limit is not None and limit < 0:
            raise OptionError("a limit is 0 or more", limit, "choose a larger limit")
        if language not in self.languages or split not in self.spec.files:
            return []
        if not self._is_enough(note := self._note(language, split), limit):
            with self._alone(language, split):
                if not self._is_enough(note := self._note(language, split), limit):  # another process may have read it
                    note = self._read(language, split, limit, note)
        return [self._utterance(kept, language) for kept in note["utterances"][:limit]]

    def _pinned(self) -> ParquetFiles:
        """Return the files on the hub, as they were when this store first saw them: an answer must not change because a
        branch moved."""
        asked = hashlib.sha256(f"{self.spec.hub_id}@{self.spec.revision}".encode()).hexdigest()[:16]
        path = self._store / f"{asked}.json"
        if not path.is_file():
            found = on_hub(self.spec.hub_id, self.spec.revision)
            kept = {"source": found.source, "version": found.version, "names": found.names}
            with whole_file(path) as draft:
                draft.write_text(json.dumps(kept))
        kept = json.loads(path.read_text())
        return ParquetFiles(**{**kept, "names": tuple(kept["names"])})

    def _names(self, language: str, split: str) -> list[str]:
        config = self.spec.configs[language]
        return self._files.matching([pattern.format(config=config) for pattern in self.spec.files[split]])

    @staticmethod
    def _is_enough(note: dict[str, Any], limit: int | None) -> bool:
        return note["complete"] or (limit is not None and len(note["utterances"]) >= limit)

    def _note(self, language: str, split: str) -> dict[str, Any]:
        """Return what was noted of a split: utterances in their order, rows read, rows left out by reason."""
        path = self._notes / f"{language}-{split}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        return {"complete": False, "num_read": 0, "left_out": {}, "utterances": []}

    def _write_note(self, name: str, note: object) -> None:
        text = json.dumps(note, ensure_ascii=False)
        with whole_file(self._notes / f"{name}.json") as draft:
            draft.write_text(text, encoding="utf-8")

    @contextmanager
    def _alone(self, language: str, split: str) -> Iterator[None]:
        """Hold a lock that ends with this process: of several workers that ask for the same, one reads."""
        self._notes.mkdir(parents=True, exist_ok=True)
        with (self._notes / f"{language}-{split}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self, language: str, split: str, limit: int | None, before: dict[str, Any]) -> dict[str, Any]:
        """Read a split from its start until `limit` utterances are kept, and note them.

        A stream has no middle to go on from, so rows read before come again; their recordings are not checked again.
        """
        known = {kept["id"]: kept for kept in before["utterances"]}
        elsewhere = set().union(*(self._held(language, other) for other in _KEEPS_BEFORE[split]))
        note: dict[str, Any] = {"complete": True, "num_read": 0, "left_out": {}, "utterances": []}
        left_out: Counter[str] = Counter()
        ids: set[str] = set()
        stream = rows(self._files, self._names(language, split), self.spec.columns, self.seed)
        with _bar(f"{self.name} {language} {split} ({self.spec.licence})", limit) as advance:
            for row in stream:
                kept = note["utterances"]
                if limit is not None and len(kept) >= limit:
                    note["complete"] = False
                    break
                note["num_read"] += 1
                made, why = self._make(row, language, known, ids, elsewhere)
                if made is None:
                    left_out[why] += 1
                    continue
                kept.append(made)
                advance()
                if len(kept) % _NOTE_EVERY == 0 and len(kept) > len(known):
                    self._write_note(f"{language}-{split}", {**note, "complete": False, "left_out": dict(left_out)})
        note["left_out"] = dict(left_out)
        if not note["utterances"] and left_out:
            why, num = left_out.most_common(1)[0]
            raise DataError(
                "a split has recordings that can be used",
                f"none of {note['num_read']} in {split} of {language} in {self.name}, {num} of them because: {why}",
                "check the copy of the data set",
            )
        self._write_note(f"{language}-{split}", note)
        return note

    def _make(
        self,
        row: dict[str, Any],
        language: str,
        known: dict[str, dict[str, Any]],
        ids: set[str],
        elsewhere: set[str],
    ) -> tuple[dict[str, Any] | None, str]:
        """Return what is noted of a row, or None and why it is left out."""
        name, text, translation = self._texts(row, language)
        if not _is_spoken(text):
            return None, "it has no transcript"
        if self.spec.translation and not _is_spoken(translation):
            return None, "it has no translation"
        if name in ids:
            return None, "its id came before"
        ids.add(name)
        if not elsewhere.isdisjoint(self._keys(name, text, translation, language)):
            return None, "its id or sentence is in a split that is scored"
        if name in known:
            return known[name], ""
        sound = row[self.spec.audio]
        if not isinstance(sound, dict) or not sound.get("bytes"):
            return None, "it has no audio"
        try:
            path, duration_s = self._keep(sound["bytes"], sound.get("path") or "")
        except DataError as error:
            return None, error.rule
        speaker = row[self.spec.speaker] if self.spec.speaker else None
        made = {"id": name, "audio": path, "duration_s": duration_s, "text": text, "speaker": str(speaker or "")}
        return made | ({"translation": translation} if self.spec.translation else {}), ""

    def _texts(self, row: dict[str, Any], language: str) -> tuple[str, str, str]:
        """Return id, transcript and translation of a row."""
        name = str(row[self.spec.id]).rpartition("/")[2]  # some data sets have none but the path where a clip once lay
        text = str(row[self.spec.text] or "").strip()
        translation = str(row[self.spec.translation] or "").strip() if self.spec.translation else ""
        return f"{language}/{name}", text.lower() if self.spec.is_upper_case else text, translation

    @staticmethod
    def _keys(name: str, text: str, translation: str, language: str) -> set[str]:
        """Return what must not be in two splits."""
        return {f"id {name}", f"{language} {spoken_key(text)}"} | (
            {f"en {spoken_key(translation)}"} if translation else set()
        )

    def _held(self, language: str, split: str) -> set[str]:
        """Return the keys of all rows of a split; read once, and of its texts alone."""
        path = self._notes / f"{language}-{split}.keys.json"
        if not path.is_file():
            columns = [column for column in (self.spec.id, self.spec.text, self.spec.translation) if column]
            texts = (
                self._texts(row, language)
                for row in rows(self._files, self._names(language, split), columns, self.seed)
            )
            keys = {
                key for name, text, said in texts if _is_spoken(text) for key in self._keys(name, text, said, language)
            }
            self._write_note(f"{language}-{split}.keys", sorted(keys))
        return set(json.loads(path.read_text(encoding="utf-8")))

    def _keep(self, content: bytes, name: str) -> tuple[str, float]:
        """Write a recording under its digest; return its path in the store and its duration in seconds.

        Raises:
            DataError: It cannot be used; then it is not kept.
        """
        digest = hashlib.sha256(content).hexdigest()
        suffix = Path(name).suffix.lower()
        relative = f"audio/{digest[:2]}/{digest}{suffix if suffix in _SUFFIXES else '.audio'}"
        path = self._store / relative
        if not path.is_file():
            with whole_file(path) as draft:
                draft.write_bytes(content)
        try:
            return relative, audio.check(path)
        except DataError:
            path.unlink(missing_ok=True)
            raise

    def _utterance(self, kept: dict[str, Any], language: str) -> Utterance:
        return Utterance(
            id=kept["id"],
            audio=self._store / kept["audio"],
            duration_s=kept["duration_s"],
            language=language,
            text=kept["text"],
            translations={"en": kept["translation"]} if "translation" in kept else {},
            speaker=kept["speaker"],
        )


class UnopenedCorpus:
    """A row of the table before anything of it is read: what a plan needs to know, with no hub and no copy.

    Args:
        spec: The row.
    """

    problems: Sequence[str] = ()

    def __init__(self, spec: HubSpec) -> None:
        self.name, self.spec = spec.name, spec
        self.languages = tuple(spec.configs)
        self.fingerprint = f"unopened {spec.name}"  # equal to no opened corpus': what is kept of that is not known

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` (`asr`, or `st` into English) can be learned for speech in `language`."""
        return self.spec.has(task, language)

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return nothing: the corpus is not opened."""
        return []


def _is_spoken(text: str) -> bool:
    """Say whether a text has words, and no mark such as <unk> or <noise> in the place of one."""
    return bool(spoken_key(text)) and not re.search(r"<[^<>\s]+>", text)


@contextmanager
def _bar(title: str, limit: int | None) -> Iterator[Any]:
    """Show how far reading is, on a terminal alone; yields what counts one utterance."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=limit)
        yield lambda: progress.advance(task)
