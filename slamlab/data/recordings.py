"""Your own recordings: a manifest in JSON lines or CSV, one row a recording.

Columns: `audio` (path relative to the manifest), `text`, `language`; optional: `translation` (into English) or
`translation_<code>`, `split`, `speaker`, `id`. Other columns are ignored. Every file is decoded and checked when the
corpus is opened, so that a bad one is known before a sweep starts, not in the middle of it.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slamlab.data import audio
from slamlab.data.grammar import spoken_key
from slamlab.data.utterance import SPLITS, Utterance
from slamlab.errors import DataError, OptionError
from slamlab.zoo.languages import LANGUAGES, find_language

REQUIRED = ("audio", "text", "language")
_MAX_BAD = 0.1
"""Share of recordings that may be left out before the manifest as a whole is refused."""
_FIRST_TO_KEEP = ("test", "test-voices", "selection", "train")
"""Which split keeps a sentence that the manifest puts in several."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A manifest row whose columns are in order; `split` may still be empty."""

    line: int
    id: str
    audio: Path
    text: str
    language: str
    translations: Mapping[str, str]
    speaker: str
    split: str

    @property
    def sentences(self) -> tuple[tuple[str, str], ...]:
        """What must not be in two splits: the English sentence where it is known (first), and the text itself."""
        spoken = (self.language, spoken_key(self.text))
        return (("en", spoken_key(self.translations["en"])), spoken) if "en" in self.translations else (spoken,)


class ManifestCorpus:
    """Recordings listed in a manifest, as a :class:`~slamlab.data.utterance.Corpus`.

    Without a column `split`, sentences go to train, selection and test, 80/10/10, by a hash of their words. Either way
    no sentence is in two splits: a row that repeats one of another split is left out, of `train` first.

    Args:
        manifest: Path of a `.jsonl` or `.csv` file.
        seed: Seed of the split and of the order.
        min_s: Shortest recording kept.
        max_s: Longest recording kept.

    Raises:
        DataError: If the manifest is missing, empty or broken, lacks a column, names an unknown language or split,
            repeats an id, points outside its folder, or more than 10 % of its recordings cannot be used.
    """

    name = "recordings"

    def __init__(self, manifest: Path, seed: int = 0, *, min_s: float = 0.1, max_s: float = 30.0) -> None:
        manifest = Path(manifest)
        rows = _rows(manifest)
        digest = hashlib.sha256(f"{seed}/{min_s}/{max_s}\n".encode() + manifest.read_bytes())
        usable, problems = [], []
        for row in rows:
            digest.update(_file_digest(row.audio))
            try:
                usable.append((row, audio.check(row.audio, min_s=min_s, max_s=max_s)))
            except DataError as error:
                problems.append(f"{manifest.name}, line {row.line}: {error}")
        if len(problems) > _MAX_BAD * len(rows):
            found = f"{len(problems)} bad of {len(rows)} in {manifest}, the first: {problems[0]}"
            raise DataError("at most 10 % of the recordings are unusable", found, "repair or remove them")
        self.fingerprint = digest.hexdigest()
        self._utterances: dict[tuple[str, str], list[Utterance]] = {}

        split_of: dict[tuple[str, str], str] = {}
        placed = [(row.split or _hashed_split(row.sentences[0], seed), row, duration_s) for row, duration_s in usable]
        for split, row, duration_s in sorted(placed, key=lambda place: _FIRST_TO_KEEP.index(place[0])):
            elsewhere = {split_of[sentence] for sentence in row.sentences if sentence in split_of} - {split}
            if elsewhere:
                problems.append(
                    f"{manifest.name}, line {row.line}: left out of {split}, {elsewhere.pop()} has its text."
                )
                continue
            split_of.update(dict.fromkeys(row.sentences, split))
            self._utterances.setdefault((row.language, split), []).append(_utterance(row, duration_s))
        for utterances in self._utterances.values():
            utterances.sort(key=lambda utterance: hashlib.sha256(f"{seed}/{utterance.id}".encode()).digest())
        self.problems: Sequence[str] = problems

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages spoken in the corpus."""
        spoken = {language for language, _ in self._utterances}
        return tuple(code for code in LANGUAGES if code in spoken)

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` can be learned: `asr` if `language` is spoken, `st` if all of it has English beside it."""
        spoken = [u for (code, _), utterances in self._utterances.items() if code == language for u in utterances]
        if task == "st":
            return language != "en" and bool(spoken) and all("en" in u.translations for u in spoken)
        return task == "asr" and bool(spoken)

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split, in a fixed shuffled order.

        Raises:
            OptionError: If `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise OptionError("a limit is 0 or more", limit, "choose a larger limit")
        return self._utterances.get((language, split), [])[:limit]


def _utterance(row: _Row, duration_s: float) -> Utterance:
    return Utterance(
        id=row.id,
        audio=row.audio,
        duration_s=duration_s,
        language=row.language,
        text=row.text,
        translations=row.translations,
        speaker=row.speaker,
    )


def _hashed_split(sentence: tuple[str, str], seed: int) -> str:
    """Draw a split, 80/10/10, from the words alone: an English sentence and its translations stay together."""
    percent = int.from_bytes(hashlib.sha256(f"{seed}/{sentence[1]}".encode()).digest()[:8], "big") % 100
    return "train" if percent < 80 else "selection" if percent < 90 else "test"


def _file_digest(path: Path) -> bytes:
    """Return a digest of a file's size and content; of a missing file, that it is missing."""
    if not path.is_file():
        return b"missing"
    with path.open("rb") as stream:
        return str(path.stat().st_size).encode() + hashlib.file_digest(stream, "sha256").digest()


def _rows(manifest: Path) -> list[_Row]:
    """Read and validate a manifest, all but its audio."""
    if not manifest.is_file():
        raise DataError("a manifest is a file", str(manifest), "check the path")
    readers = {".jsonl": _json_lines, ".csv": _csv_lines}
    if manifest.suffix.lower() not in readers:
        raise DataError("a manifest is a .jsonl or .csv file", manifest.name, "convert or rename it")
    rows: list[_Row] = []
    lines: dict[str, int] = {}
    try:
        for line, columns in readers[manifest.suffix.lower()](manifest):
            row = _row(manifest, line, columns)
            if row.id in lines:
                where = f"{row.id!r} on lines {lines[row.id]} and {line} of {manifest.name}"
                raise DataError("an id (without one: an audio path) occurs once", where, "give ids of their own")
            lines[row.id] = line
            rows.append(row)
    except UnicodeDecodeError as error:
        raise DataError("a manifest is UTF-8 text", f"{manifest.name} ({error})", "save it as UTF-8") from None
    if not rows:
        raise DataError("a manifest lists recordings", f"none in {manifest.name}", "add one row a recording")
    unsplit = [row.line for row in rows if not row.split]
    if 0 < len(unsplit) < len(rows):
        found = f"none on line {unsplit[0]} of {manifest.name}"
        raise DataError("every row has a split, or none has", found, "fill in the column or remove it")
    return rows


def _text_lines(manifest: Path) -> Iterator[str]:
    """Yield the lines of a manifest with their ends, streamed by `datasets`: a long one never lies in memory."""
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    lines = load_dataset(
        "text",
        data_files=glob.escape(str(manifest.absolute())),
        split="train",
        streaming=True,
        encoding="utf-8-sig",
        keep_linebreaks=True,
    )
    for row in lines:
        yield row["text"]


def _json_lines(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and the columns that are not null."""
    for number, line in enumerate(_text_lines(manifest), start=1):
        if not line.strip():
            continue
        try:
            columns = json.loads(line)
        except json.JSONDecodeError as error:
            found = f"line {number} of {manifest.name} ({error.msg}, column {error.colno})"
            raise DataError("a manifest has one JSON object a line", found, "correct the line") from None
        if not isinstance(columns, dict):
            found = f"line {number} of {manifest.name}, a {type(columns).__name__}"
            raise DataError("a manifest has one JSON object a line", found, "correct the line")
        yield number, {name: str(value) for name, value in columns.items() if value is not None}


def _csv_lines(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and the columns that are not empty."""
    reader = csv.reader(_text_lines(manifest), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                found = f"{len(cells)} for {len(header)} columns on line {reader.line_num} of {manifest.name}"
                raise DataError("a row has a cell for every column", found, "quote cells with commas")
            yield reader.line_num, {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    except csv.Error as error:
        found = f"line {reader.line_num} of {manifest.name} ({error})"
        raise DataError("a manifest is well-formed CSV", found, "correct the line") from None


def _row(manifest: Path, line: int, columns: dict[str, str]) -> _Row:
    where = f"on line {line} of {manifest.name}"
    columns = {name.strip(): value.strip() for name, value in columns.items() if value.strip()}
    if missing := [name for name in REQUIRED if name not in columns]:
        found = f"no {', '.join(missing)} {where}, which has {', '.join(columns) or 'nothing'}"
        raise DataError(f"a row has the columns {', '.join(REQUIRED)}", found, "add or rename the columns")
    translations = {
        "en" if name == "translation" else name.removeprefix("translation_"): text
        for name, text in columns.items()
        if name == "translation" or name.startswith("translation_")
    }
    for code in (columns["language"], *translations):
        try:
            find_language(code)
        except OptionError as error:
            raise DataError(error.rule, f"{code!r} {where}", error.remedy) from None
    split = columns.get("split", "")
    if split and split not in SPLITS:
        raise DataError(f"a split is one of {', '.join(SPLITS)}", f"{split!r} {where}", "rename the split")
    folder = manifest.resolve().parent
    path = (folder / columns["audio"]).resolve()
    if not path.is_relative_to(folder):
        found = f"{columns['audio']!r} {where}"
        raise DataError("audio lies in the manifest's folder", found, "move the manifest or the audio")
    return _Row(
        line=line,
        id=columns.get("id", columns["audio"]),
        audio=path,
        text=columns["text"],
        language=columns["language"],
        translations=translations,
        speaker=columns.get("speaker", ""),
        split=split,
    )
