"""Checks of records: each names the first value that is missing or wrong by its path in `results.json`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from slamlab.errors import DataError

AGAIN = "run the sweep again, which recomputes nothing that the store has"
NUMBER = (int, float)
NUMBER_OR_NULL = (int, float, type(None))
Fields = Mapping[str, type | tuple[type, ...]]
"""Names of fields, each with the types that its value may have."""


def check_finite(results: Any, source: str) -> None:
    """Refuse NaN and infinity, wherever they stand."""
    for where, number in _numbers(results, ""):
        if not math.isfinite(number):
            refuse(where, "a finite number, or null where it is unbounded", number, source)


def check_block(record: Mapping[str, Any], depth: str, num_layers: int, where: str, source: str) -> None:
    """Refuse a block that does not lie inside the decoder; `depth` names the field that holds its depth."""
    require(record, {"start": int}, where, source)
    if not (record["start"] >= 0 < record[depth] and record["start"] + record[depth] <= num_layers):
        block = f"start {record['start']}, depth {record[depth]}"
        refuse(where, f"a block inside {num_layers} layers", block, source)


def check_interval(interval: Sequence[Any], where: str, source: str) -> None:
    """Refuse what is not [low, high], either of which may be null."""
    if len(interval) != 2 or not all(isinstance(end, NUMBER_OR_NULL) for end in interval):
        refuse(where, "[low, high]", interval, source)


def one_of(value: object, choices: tuple[str | None, ...], where: str, source: str) -> None:
    """Refuse a value that is none of the choices; None among them stands for a value not given."""
    if value not in choices:
        named = ", ".join(choice for choice in choices if choice)
        refuse(where, f"one of {named}" if named else "not given", value, source)


def require(record: Any, fields: Fields, where: str, source: str) -> None:
    """Check that a record is a mapping with these fields of these types; a truth value is no number."""
    if not isinstance(record, Mapping):
        refuse(where or "the file", "an object", type(record).__name__, source)
    for name, kind in fields.items():
        inner = f"{where}.{name}" if where else name
        if name not in record:
            refuse(inner, "given", "nothing", source)
        if isinstance(record[name], bool) or not isinstance(record[name], kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(dict.fromkeys(_KIND_NAMES[one] for one in kinds))
            refuse(inner, names, repr(record[name])[:60], source)


def require_where_given(record: Mapping[str, Any], fields: Fields, where: str, source: str) -> None:
    """Check fields of a mapping that it may lack."""
    require(record, {name: kind for name, kind in fields.items() if name in record}, where, source)


def refuse(where: str, rule: str, received: object, source: str) -> NoReturn:
    """Raise the error that names a path, the rule that holds there, and what was received."""
    raise DataError(f"in results.json, {where} is {rule}", f"{received} in {source}", AGAIN)


def one_a_member(records: list[Any], num_members: int, where: str, source: str) -> None:
    """Refuse a list that has not one entry for each member of a joint answer."""
    if len(records) != num_members:
        refuse(where, f"a list of {num_members}, one a member", f"{len(records)}", source)


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
