"""One utterance's texts as they are kept: what was said, what the model answered, and both as they are scored.

A file of records is JSON Lines in UTF-8. Its `reference_normalized` and `hypothesis_normalized` are all that a score
depends on, so anyone can compute it again: `jiwer.wer` or `sacrebleu.corpus_bleu` of the two columns. (In languages
whose letters are counted the columns hold them between spaces, so that `jiwer.wer` is the character error rate.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from slamlab.disk import whole_file
from slamlab.errors import DataError
from slamlab.scoring.normalise import normaliser


@dataclass(frozen=True, kw_only=True)
class Record:
    """One utterance; the reference has a word at least after normalisation, the hypothesis may be empty.

    Attributes:
        speaker: Who speaks, empty where that is not known.
        stopped: Why decoding ended: `eos`, `length` (the cap), `loop`, or empty where that is not known.
    """

    id: str
    reference: str
    hypothesis: str
    reference_normalized: str
    hypothesis_normalized: str
    speaker: str = ""
    stopped: str = ""


@dataclass(frozen=True, kw_only=True)
class RecordSet:
    """The records that are scored, and how many utterances cannot be."""

    records: list[Record]
    num_empty_references: int


FIELDS = frozenset(field.name for field in fields(Record))
REQUIRED_FIELDS = FIELDS - {"speaker", "stopped"}


def make_records(
    ids: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    language: str,
    task: str,
    *,
    speakers: Sequence[str] = (),
    stopped: Sequence[str] = (),
    spell_numbers: bool = False,
) -> RecordSet:
    """Normalise references and hypotheses alike; drop, and count, utterances whose reference ends up empty.

    Args:
        ids: N utterance ids, each once.
        references: N texts of the corpus.
        hypotheses: N texts of the model.
        language: Code of the language of the texts: of the transcripts, or of the translations.
        task: `asr` or `st`.
        speakers: N names, or none.
        stopped: N reasons why decoding ended, or none.
        spell_numbers: As :func:`~slamlab.scoring.normalise.normaliser` takes it.

    Raises:
        DataError: Unequal numbers, or an id that occurs twice.
        OptionError: An unknown task or language.
    """
    speakers, stopped = speakers or [""] * len(ids), stopped or [""] * len(ids)
    if not len(ids) == len(references) == len(hypotheses) == len(speakers) == len(stopped):
        raise DataError(
            "every utterance has an id, a reference and a hypothesis",
            f"{len(ids)} ids, {len(references)} references, {len(hypotheses)} hypotheses",
            "decode exactly the utterances that are scored",
        )
    if len(set(ids)) != len(ids):
        twice = next(id_ for index, id_ in enumerate(ids) if id_ in ids[:index])
        raise DataError("an utterance id occurs once", f"{twice!r} twice", "give every utterance an id of its own")
    normalise = normaliser(language, task, spell_numbers=spell_numbers)
    records = []
    for id_, reference, hypothesis, speaker, reason in zip(ids, references, hypotheses, speakers, stopped, strict=True):
        if reference_normalized := normalise(reference):
            records.append(
                Record(
                    id=id_,
                    reference=reference,
                    hypothesis=hypothesis,
                    reference_normalized=reference_normalized,
                    hypothesis_normalized=normalise(hypothesis),
                    speaker=speaker,
                    stopped=reason,
                )
            )
    return RecordSet(records=records, num_empty_references=len(ids) - len(records))


def encode_records(records: Iterable[Record]) -> bytes:
    """Return records as JSON Lines in UTF-8: the same records give the same bytes."""
    return "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records).encode()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON Lines; the file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_bytes(encode_records(records))


def read_records(path: Path) -> list[Record]:
    """Read records from JSON Lines; fields beyond those of :class:`Record` are refused, blank lines skipped.

    Raises:
        DataError: The file cannot be read, or a line is not a record; names file and line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError("records are read from a file", f"{path} ({error.strerror})", "check the path") from None
    return decode_records(content, str(path))


def decode_records(content: bytes, where: str) -> list[Record]:
    """Return the records of JSON Lines, as :func:`read_records` does; `where` names them in what is raised."""
    # Not `splitlines`, nor text: JSON strings may hold U+2028 and its like.
    lines = content.split(b"\n")
    return [_decode(line, f"{where}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _decode(line: bytes, where: str) -> Record:
    rule = f"a line of records is a JSON object in UTF-8 with the texts {', '.join(sorted(REQUIRED_FIELDS))}"
    remedy = "write the file again, or remove the line"
    try:
        content = json.loads(line)
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(rule, f"{where}: {error}", remedy) from None
    if (
        not isinstance(content, dict)
        or not REQUIRED_FIELDS <= content.keys() <= FIELDS
        or not all(isinstance(text, str) for text in content.values())
    ):
        raise DataError(rule, f"{where}: {line[:80].decode(errors='replace')}", remedy)
    return Record(**content)
