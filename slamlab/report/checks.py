"""Checks of records: each names the first value that is missing or wrong by its path in its file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from slamlab.errors import DataError
from slamlab.scoring.metrics import METRICS

STOPS = ("hopeless", "safe")
"""Why scoring of a probe may have ended early."""
FILE_NAME = "results.json"
AGAIN = "run the sweep again, which recomputes nothing that the store has"
NUMBER = (int, float)
NUMBER_OR_NULL = (int, float, type(None))
Fields = Mapping[str, type | tuple[type, ...]]
"""Names of fields, each with the types that its value may have."""
_SPEED: Fields = {"device": str, "dtype": str, "num_threads": int, "runs": list}
_RUN: Fields = {"batch_size": int, "num_tokens": int, "ratios": list}


def check_finite(results: Any, source: str, *, file: str = FILE_NAME) -> None:
    """Refuse NaN and infinity, wherever they stand."""
    for where, number in _numbers(results, ""):
        if not math.isfinite(number):
            refuse(where, "a finite number, or null where it is unbounded", number, source, file=file)


def check_speed(record: Mapping[str, Any], where: str, source: str) -> None:
    """Check what a healed model was timed at, where it was."""
    if record.get("speed") is None:
        return
    require(record, {"speed": dict}, where, source)
    require(record["speed"], _SPEED, f"{where}.speed", source)
    runs = record["speed"]["runs"]
    if not runs:
        refuse(f"{where}.speed.runs", "not empty", runs, source)
    for i, run in enumerate(runs):
        inner = f"{where}.speed.runs[{i}]"
        require(run, _RUN, inner, source)
        require_where_given(run, dict.fromkeys(("unpruned_seconds", "pruned_seconds"), NUMBER), inner, source)
        if not run["ratios"] or not all(isinstance(ratio, NUMBER) and ratio > 0 for ratio in run["ratios"]):
            refuse(f"{inner}.ratios", "a list of numbers above 0", run["ratios"], source)


def check_block(record: Mapping[str, Any], depth: str, num_layers: int, where: str, source: str) -> None:
    """Refuse a block that does not lie inside the decoder; `depth` names the field that holds its depth."""
    require(record, {"start": int}, where, source)
    if not (record["start"] >= 0 < record[depth] and record["start"] + record[depth] <= num_layers):
        block = f"start {record['start']}, depth {record[depth]}"
        refuse(where, f"a block inside {num_layers} layers", block, source)


def check_interval(interval: Sequence[Any], where: str, source: str, *, file: str = FILE_NAME) -> None:
    """Refuse what is not [low, high], either of which may be null."""
    if len(interval) != 2 or not all(isinstance(end, NUMBER_OR_NULL) for end in interval):
        refuse(where, "[low, high]", interval, source, file=file)


def one_of(value: object, choices: tuple[str | None, ...], where: str, source: str, *, file: str = FILE_NAME) -> None:
    """Refuse a value that is none of the choices; None among them stands for a value not given."""
    if value not in choices:
        named = ", ".join(choice for choice in choices if choice)
        refuse(where, f"one of {named}" if named else "not given", value, source, file=file)


def require(record: Any, fields: Fields, where: str, source: str, *, file: str = FILE_NAME) -> None:
    """Check that a record is a mapping with these fields of these types; a truth value is no number."""
    if not isinstance(record, Mapping):
        refuse(where or "the file", "an object", type(record).__name__, source, file=file)
    for name, kind in fields.items():
        inner = f"{where}.{name}" if where else name
        if name not in record:
            refuse(inner, "given", "nothing", source, file=file)
        if isinstance(record[name], bool) or not isinstance(record[name], kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(dict.fromkeys(_KIND_NAMES[one] for one in kinds))
            refuse(inner, names, repr(record[name])[:60], source, file=file)


def require_where_given(record: Mapping[str, Any], fields: Fields, where: str, source: str) -> None:
    """Check fields of a mapping that it may lack."""
    require(record, {name: kind for name, kind in fields.items() if name in record}, where, source)


def check_scoring(sweep: Mapping[str, Any], source: str) -> None:
    """Check how a sweep says that it scored, where it does."""
    require_where_given(sweep, {"scoring": dict}, "sweep", source)
    scoring = sweep.get("scoring", {})
    fields: Fields = {"num_beams": int, "resample": str, "early_stop": NUMBER}
    require_where_given(scoring, fields, "sweep.scoring", source)
    if scoring.get("num_beams", 1) < 1:
        refuse("sweep.scoring.num_beams", "1 or more", scoring["num_beams"], source)
    one_of(scoring.get("resample"), ("utterance", "speaker", None), "sweep.scoring.resample", source)
    if not 0 <= scoring.get("early_stop", 0) < 1:
        refuse("sweep.scoring.early_stop", "0 or more and below 1", scoring["early_stop"], source)


def check_counts(score: Mapping[str, Any], where: str, source: str, *, may_stop: bool = False) -> None:
    """Check what a score may hold beside its value; `may_stop` where its scoring may have ended early."""
    require_where_given(score, {**dict.fromkeys(_COUNTS, int), "also": dict}, where, source)
    for name in _COUNTS:
        if score.get(name, 0) < 0:
            refuse(f"{where}.{name}", "0 or more", score[name], source)
    for name, other in score.get("also", {}).items():
        one_of(name, tuple(METRICS), f"a name in {where}.also", source)
        require(other, {"value": NUMBER, "signature": str}, f"{where}.also.{name}", source)
    reason = score.get("stopped_early")
    one_of(reason, (*STOPS, None) if may_stop else (None,), f"{where}.stopped_early", source)
    if reason is not None or "num_planned" in score:
        require(score, {"num_planned": int, "num_utterances": int}, where, source)
        _check_planned(score, where, source)


def _check_planned(score: Mapping[str, Any], where: str, source: str) -> None:
    """Refuse a score that stopped after everything, or that stopped nowhere and has not seen everything."""
    seen, planned = score["num_utterances"] + score.get("num_empty_references", 0), score["num_planned"]
    if score.get("stopped_early") and not seen < planned:
        refuse(f"{where}.num_planned", f"more than the {seen} utterances scored, as scoring stopped", planned, source)
    if not score.get("stopped_early") and seen != planned:
        refuse(f"{where}.num_planned", f"the {seen} utterances scored, as nothing stopped early", planned, source)


def refuse(where: str, rule: str, received: object, source: str, *, file: str = FILE_NAME) -> NoReturn:
    """Raise the error that names a path, the rule that holds there, and what was received."""
    raise DataError(f"in {file}, {where} is {rule}", f"{received} in {source}", AGAIN)


def one_a_member(records: list[Any], num_members: int, where: str, source: str) -> None:
    """Refuse a list that has not one entry for each member of a joint answer."""
    if len(records) != num_members:
        refuse(where, f"a list of {num_members}, one a member", f"{len(records)}", source)


_COUNTS = (
    "num_planned",
    "num_words",
    "num_characters",
    "num_empty_references",
    "num_empty_hypotheses",
    "num_loops",
    "num_capped",
    "num_premature",
)
_KIND_NAMES = {
    str: "a text",
    int: "a number",
    float: "a number",
    dict: "an object",
    list: "a list",
    tuple: "a list",
    type(None): "null",
}


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield where, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _numbers(inner, f"{where}[{i}]")
