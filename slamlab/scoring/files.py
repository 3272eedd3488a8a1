"""Anybody's transcripts or translations, as JSON Lines, scored as a sweep scores its own.

A line is an object with `id` and `reference` or `hypothesis`; what else it has is left alone, but for `speaker`, which
a bootstrap over speakers needs, and `stopped`, which the guards count. Files of records that a sweep kept serve as any
of the three.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slamlab.errors import DataError, OptionError
from slamlab.scoring.bootstrap import NUM_RESAMPLES, paired_relative_degradation, score_interval
from slamlab.scoring.metrics import metric_for
from slamlab.scoring.records import RecordSet, make_records
from slamlab.scoring.score import Score, score_records
from slamlab.scoring.verdict import ALPHA, judge

TOLERANCE = 0.25
MIN_RESAMPLES, MAX_RESAMPLES = 40, 10_000_000
"""Fewer have no tail of 2.5 %; more do not fit the memory of a laptop."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One utterance's text, with who speaks and why decoding ended where the file says so."""

    text: str
    speaker: str = ""
    stopped: str = ""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How files are scored.

    Attributes:
        language: Code of the language of the texts.
        task: `asr` or `st`.
        metric: A metric's name; None for the task's own.
        by_speaker: Whether intervals are of speakers drawn, not of utterances.
        spell_numbers: Whether digits are spelled out on both sides first.
        tolerance: Relative degradation accepted.
        alpha: A verdict holds with probability 1 - alpha.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """

    language: str
    task: str
    metric: str | None = None
    by_speaker: bool = False
    spell_numbers: bool = False
    tolerance: float = TOLERANCE
    alpha: float = ALPHA
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        metric_for(self.language, self.task, self.metric)
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise OptionError("the tolerance is 0 or more", self.tolerance, "give a fraction such as 0.25")
        if not 0 < self.alpha < 0.5:
            raise OptionError("alpha is above 0 and below 0.5", self.alpha, f"use {ALPHA}")
        if not MIN_RESAMPLES <= self.num_resamples <= MAX_RESAMPLES:
            rule = f"an interval takes {MIN_RESAMPLES} resamples or more, and {MAX_RESAMPLES} at most"
            raise OptionError(rule, self.num_resamples, f"use {NUM_RESAMPLES}")
        if self.seed < 0:
            raise OptionError("the seed is 0 or more", self.seed, "use 0")


def score_files(
    references: Path, hypotheses: Path, how: Scoring, *, baseline: Path | None = None
) -> tuple[dict[str, Any], RecordSet]:
    """Score hypotheses against references, and against a baseline's hypotheses.

    Args:
        references: JSON Lines with `id` and `reference`.
        hypotheses: JSON Lines with `id` and `hypothesis`, of the same ids in any order.
        how: Language, task and the rest.
        baseline: JSON Lines as `hypotheses`, of the unpruned model.

    Returns:
        What `python -m slamlab score --json` prints (an infinite degradation is None), and the records behind it.

    Raises:
        DataError: A file cannot be read, a line is no such object, an id occurs twice or in one file alone.
        OptionError: A language, task or metric that is not known or does not suit.
        AssetError: The tokeniser of BLEU needs something that is not installed.
    """
    said = read_lines(references, "reference")
    records = _records(references, said, hypotheses, how)
    score = _score(records, how)
    known: dict[str, Any] = {name: score.counts.get(name) for name in ("insertions", "deletions", "substitutions")}
    result = {
        "metric": score.metric,
        "value": score.value,
        "value_ci95": list(
            score_interval(score.statistics, score.metric, num_resamples=how.num_resamples, seed=how.seed)
        ),
        "num_utterances": score.num_utterances,
        "num_empty_references": records.num_empty_references,
        **known,
        **{name: count for name, count in score.counts.items() if name not in known},
        **({"also": dict(score.also)} if score.also else {}),
        "signature": score.signature,
        "resampled": "speaker" if how.by_speaker else "utterance",
        "num_resamples": how.num_resamples,
        "seed": how.seed,
    }
    if baseline is not None:
        base = _score(_records(references, said, baseline, how), how)
        result |= _compared(base, score, how)
    return result, records


def read_lines(path: Path, field: str) -> dict[str, Line]:
    """Read the texts of a JSON Lines file by utterance id.

    Args:
        path: The file, in UTF-8; blank lines are skipped.
        field: Which field holds the text.

    Raises:
        DataError: The file cannot be read, is empty or not UTF-8, a line is not an object with an id and a text, or an
            id occurs twice; names file and line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError("texts are read from a file", f"{path} ({error.strerror})", "check the path") from None
    lines: dict[str, Line] = {}
    first_seen: dict[str, int] = {}
    # Not `splitlines`: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        id_, parsed = _parse(line, field, f"{path}, line {number}")
        if id_ in lines:
            raise DataError(
                "an utterance id occurs once in a file",
                f"{id_!r} again in {path}, line {number} (first in line {first_seen[id_]})",
                "give every utterance an id of its own",
            )
        lines[id_], first_seen[id_] = parsed, number
    if not lines:
        raise DataError(f"a file has one line or more with `id` and `{field}`", f"none in {path}", "check the path")
    return lines


def _parse(line: bytes, field: str, where: str) -> tuple[str, Line]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "texts are in UTF-8", f"{where}: {error.reason} at byte {error.start + 1}", "convert the file to UTF-8"
        ) from None
    try:
        content = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        if "\0" in text:  # every other byte of ASCII in UTF-16
            raise DataError("texts are in UTF-8", f"{where}: zero bytes", "convert the file to UTF-8") from None
        raise DataError("a line is one JSON object", f"{where}: {error}", "write the line again") from None
    rule = f"a line is a JSON object with `id` and `{field}`"
    if not isinstance(content, Mapping):
        raise DataError(rule, f"{where}: {text.strip()[:60]}", "write the line again")
    for name in ("id", field):
        if name not in content:
            raise DataError(rule, f"{where}: no `{name}`", "add it, or check which file is which")
    id_ = content["id"]
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise DataError("an id is a text or a whole number", f"{where}: {id_!r}", "write the line again")
    texts = {field: content[field]}
    for name in ("speaker", "stopped"):
        texts[name] = "" if content.get(name) is None else content[name]
    for name, value in texts.items():
        if not isinstance(value, str):
            remedy = 'write "" where nothing was said' if name == field else "write it as a text, or leave it out"
            raise DataError(f"`{name}` is a text", f"{where}: {value!r}"[:200], remedy)
    if any("\ud800" <= character <= "\udfff" for value in (str(id_), *texts.values()) for character in value):
        raise DataError("a text is valid Unicode", f"{where}: half of a surrogate pair", "write the line again")
    return str(id_), Line(text=texts[field], speaker=texts["speaker"], stopped=texts["stopped"])


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, unless one of its names comes twice: the last would win in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return content


def _records(references: Path, said: Mapping[str, Line], hypotheses: Path, how: Scoring) -> RecordSet:
    """Return the records of a file of hypotheses, in the order of the references."""
    answers = read_lines(hypotheses, "hypothesis")
    for some, others, file, other in (
        (said, answers, references, hypotheses),
        (answers, said, hypotheses, references),
    ):
        if lacking := [id_ for id_ in some if id_ not in others]:
            raise DataError(
                "every utterance has a line in both files",
                f"{len(lacking)} of {file} that {other} lacks, such as {lacking[0]!r}",
                "score the same utterances; a model that said nothing has an empty hypothesis",
            )
    ids = list(said)
    return make_records(
        ids,
        [said[id_].text for id_ in ids],
        [answers[id_].text for id_ in ids],
        how.language,
        how.task,
        speakers=[said[id_].speaker or answers[id_].speaker for id_ in ids],
        stopped=[answers[id_].stopped for id_ in ids],
        spell_numbers=how.spell_numbers,
    )


def _score(records: RecordSet, how: Scoring) -> Score:
    if not records.records:
        raise DataError(
            "an utterance or more has a reference with a word in it",
            f"{records.num_empty_references} references that are empty after normalisation",
            "check --language and the references",
        )
    return score_records(
        records.records,
        how.language,
        how.task,
        metric=how.metric,
        by_speaker=how.by_speaker,
        spell_numbers=how.spell_numbers,
    )


def _compared(base: Score, score: Score, how: Scoring) -> dict[str, Any]:
    shown = paired_relative_degradation(
        base.statistics,
        score.statistics,
        score.metric,
        tolerance=how.tolerance,
        num_resamples=how.num_resamples,
        seed=how.seed,
    )
    return {
        "baseline_value": base.value,
        "baseline_counts": dict(base.counts),
        "relative_degradation": _finite(shown.value),
        "ci95": [_finite(end) for end in shown.ci95],
        "tolerance": how.tolerance,
        "alpha": how.alpha,
        "p_within": shown.p_within,
        "num_drawn": shown.num_drawn,
        "verdict": judge(shown, how.tolerance, how.alpha),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
