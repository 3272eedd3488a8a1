"""`redundancy.json` and `maps.npz`: the distance maps of a sweep and how they agree, read and checked.

The arrays are `<key>.distance` [L+1, L+1] and `<key>.resampled` [R, L+1, L+1] of every complete map, as
:class:`slamlab.report.agreement.Map` has them. Distances are angles as fractions of half a turn, layers are counted
from 0, WER, CER and intervals of them are fractions.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slamlab.errors import DataError
from slamlab.report import checks
from slamlab.report.agreement import AXES, Map, as_map
from slamlab.report.checks import AGAIN, NUMBER, Fields
from slamlab.scoring.metrics import METRICS

SCHEMA_VERSION = 1
FILE_NAME = "redundancy.json"
ARRAYS_NAME = "maps.npz"
SELECTIONS = ("all", "audio", "prompt", "answer", "last")

_SWEEP: Fields = {
    "name": str,
    "profile": str,
    "seed": int,
    "num_resamples": int,
    "corpus": dict,
    "command": str,
    "commit": str,
    "versions": dict,
    "convention": str,
}
_MAP: Fields = {"key": str, **dict.fromkeys(AXES, str), "status": str}
_COMPLETE: Fields = {"num_layers": int, "num_utterances": int, "num_positions": int, "score": (dict, type(None))}
_PAIR: Fields = {"a": str, "b": str, "axis": str, "values": list, "status": str}
_ESTIMATE: Fields = {"value": (*NUMBER, type(None)), "ci95": (list, tuple, type(None))}
_COMPARED: Fields = {
    "within": dict,
    "overall": (*NUMBER, type(None)),
    "overlap": dict,
    "chance": NUMBER,
    "p": (*NUMBER, type(None)),
    "num_utterances": int,
    "num_depths": int,
    "num_permutations": int,
    "seed": int,
}

require = partial(checks.require, file=FILE_NAME)
one_of = partial(checks.one_of, file=FILE_NAME)
refuse = partial(checks.refuse, file=FILE_NAME)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A map as the report shows it.

    Attributes:
        number: Its place in the records from 1, by which figures and tables call it.
        record: What the records tell of it.
        map: Its arrays, None where it was not run.
    """

    number: int
    record: Mapping[str, Any]
    map: Map | None


def read_redundancy(folder: Path) -> tuple[dict[str, Any], list[Drawn]]:
    """Read and check the records and arrays of a report's folder.

    Returns:
        The content of `redundancy.json`, and its maps with their arrays.

    Raises:
        DataError: A file is missing or damaged, or does not hold what a report needs.
    """
    path, remedy = folder / FILE_NAME, "name the folder that the sweep wrote"
    rule = f"a report of maps is made from {FILE_NAME} and {ARRAYS_NAME}"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(rule, f"{path} ({error.strerror})", remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(rule, f"{path}, which is not JSON ({error})", AGAIN) from None
    check_redundancy(records, str(path))
    path = folder / ARRAYS_NAME
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return records, [
                _draw(number, record, arrays, records["sweep"]["num_resamples"], str(path))
                for number, record in enumerate(records["maps"], 1)
            ]
    except OSError as error:
        raise DataError(rule, f"{path} ({error.strerror or 'damaged'})", remedy) from None
    except DataError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(rule, f"{path}, which is damaged ({error})", AGAIN) from None


def check_redundancy(records: Any, source: str) -> None:
    """Check that records hold what a report of maps needs.

    Args:
        records: The content of `redundancy.json`.
        source: Where it comes from, for messages.

    Raises:
        DataError: Names the first value that is missing or wrong, by its path in the file.
    """
    fields: Fields = {"schema_version": int, "kind": str, "sweep": dict, "maps": list, "agreement": list}
    require(records, fields, "", source)
    if records["schema_version"] != SCHEMA_VERSION:
        remedy = "render it with the version of slamlab that wrote it"
        raise DataError(
            f"{FILE_NAME} has schema version {SCHEMA_VERSION}", f"{records['schema_version']} in {source}", remedy
        )
    one_of(records["kind"], ("redundancy",), "kind", source)
    checks.check_finite(records, source, file=FILE_NAME)
    require(records["sweep"], _SWEEP, "sweep", source)
    require(records["sweep"]["corpus"], {"name": str, "fingerprint": str, "problems": list}, "sweep.corpus", source)
    known: dict[str, Mapping[str, Any]] = {}
    axes: set[tuple[str, ...]] = set()
    for i, record in enumerate(records["maps"]):
        where = f"maps[{i}]"
        _check_map(record, where, source)
        own = tuple(record[axis] for axis in AXES)
        if record["key"] in known or own in axes:
            twice = record["key"] if record["key"] in known else ", ".join(own)
            refuse(where, "a map of its own, with a key of its own", f"{twice} again", source)
        known[record["key"]] = record
        axes.add(own)
    for i, pair in enumerate(records["agreement"]):
        _check_pair(pair, known, f"agreement[{i}]", source)


def _check_map(record: Any, where: str, source: str) -> None:
    require(record, _MAP, where, source)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", record["key"]):
        refuse(f"{where}.key", "letters, digits, dots, dashes", repr(record["key"])[:60], source)
    one_of(record["decoder"], ("base", "lora"), f"{where}.decoder", source)
    one_of(record["view"], ("text", "speech"), f"{where}.view", source)
    one_of(record["selection"], SELECTIONS, f"{where}.selection", source)
    one_of(record["status"], ("complete", "not run", "failed"), f"{where}.status", source)
    if record["status"] != "complete":
        checks.require_where_given(record, {"reason": (str, type(None))}, where, source)
        return
    require(record, _COMPLETE, where, source)
    for name in ("num_layers", "num_utterances", "num_positions"):
        if record[name] < 1:
            refuse(f"{where}.{name}", "1 or more", record[name], source)
    if record["score"] is not None:
        inner = f"{where}.score"
        require(record["score"], {"metric": str, "value": NUMBER, "num_utterances": int, "ci95": list}, inner, source)
        one_of(record["score"]["metric"], tuple(METRICS), f"{inner}.metric", source)
        checks.check_interval(record["score"]["ci95"], f"{inner}.ci95", source, file=FILE_NAME)


def _check_pair(pair: Any, known: Mapping[str, Mapping[str, Any]], where: str, source: str) -> None:
    require(pair, _PAIR, where, source)
    one_of(pair["axis"], AXES, f"{where}.axis", source)
    one_of(pair["status"], ("complete", "left out"), f"{where}.status", source)
    for end in ("a", "b"):
        if known.get(pair[end], {}).get("status") != "complete":
            refuse(f"{where}.{end}", "the key of a complete map", pair[end], source)
    named = [known[pair[end]][pair["axis"]] for end in ("a", "b")]
    if pair["values"] != named:
        refuse(f"{where}.values", f"what its maps are on this axis, {', '.join(named)}", pair["values"], source)
    if pair["status"] == "left out":
        require(pair, {"reason": str}, where, source)
        return
    require(pair, _COMPARED, where, source)
    if not isinstance(pair.get("is_identical"), bool):
        refuse(f"{where}.is_identical", "true or false", pair.get("is_identical", "nothing"), source)
    for name, low in (("within", -1), ("overlap", 0)):
        inner = f"{where}.{name}"
        require(pair[name], _ESTIMATE, inner, source)
        ends = pair[name]["ci95"]
        if ends is not None:
            checks.check_interval(ends, f"{inner}.ci95", source, file=FILE_NAME)
        for number in (pair[name]["value"], *(ends or ())):
            if number is not None and not low - 1e-9 <= number <= 1 + 1e-9:
                refuse(inner, f"from {low} to 1", number, source)
    if pair["p"] is not None and not 0 < pair["p"] <= 1:
        refuse(f"{where}.p", "above 0 and at most 1", pair["p"], source)


def _draw(number: int, record: Mapping[str, Any], arrays: Any, num_resamples: int, source: str) -> Drawn:
    if record["status"] != "complete":
        return Drawn(number=number, record=record, map=None)
    made, key = as_map(record, arrays), record["key"]
    if made.num_layers != record["num_layers"]:
        shape = "x".join(map(str, made.distance.shape))
        _refuse_array(key, "distance", f"of {record['num_layers']} layers, L+1 by L+1", shape, source)
    if not np.allclose(made.distance, made.distance.T, atol=1e-6) or np.diagonal(made.distance).any():
        _refuse_array(key, "distance", "symmetric, with a diagonal of zeros", "neither or one", source)
    if len(made.resampled) > num_resamples:
        _refuse_array(key, "resampled", f"at most {num_resamples} resamples", str(len(made.resampled)), source)
    return Drawn(number=number, record=record, map=made)


def _refuse_array(key: str, name: str, rule: str, received: str, source: str) -> None:
    checks.refuse(f"{key}.{name}", rule, received, source, file=ARRAYS_NAME)
