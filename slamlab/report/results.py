"""`results.json`: what a sweep found, as one stable file that every report is made from.

Sorted keys, indented by 2, UTF-8, and no NaN or infinity: an unbounded interval end is null. WER and relative
degradations are fractions (0.25 is 25 %), BLEU runs from 0 to 100, layers are counted from 0, times are in seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from slamlab.errors import DataError, StoreError

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
AGAIN = "run the sweep again, which recomputes nothing that the store has"
CELL_VERDICTS = ("feasible", "undecided", "none", "failed")
PROBE_VERDICTS = ("feasible", "undecided", "infeasible")

_NUMBER = (int, float)
_NUMBER_OR_NULL = (int, float, type(None))
_IDENTITY: dict[str, type | tuple[type, ...]] = dict.fromkeys(("family", "scale", "encoder", "task", "language"), str)
_SWEEP: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "profile": str,
    "tolerance": _NUMBER,
    "alpha": _NUMBER,
    "seed": int,
    "commit": str,
    "versions": dict,
    "command": str,
    "corpus": dict,
    "sampler": str,
    "convention": str,
    "heal": dict,
    "num_trials": int,
    "num_failed": int,
}
_SCORE: dict[str, type | tuple[type, ...]] = {
    "value": _NUMBER,
    "num_utterances": int,
    "signature": str,
    "hypotheses": str,
}
_PRUNED: dict[str, type | tuple[type, ...]] = {
    "value": _NUMBER,
    "relative_degradation": _NUMBER_OR_NULL,
    "ci95": list,
    "hypotheses": str,
}
_ANSWERED_CELL: dict[str, type | tuple[type, ...]] = {
    "num_layers": int,
    "max_depth": int,
    "max_fraction": _NUMBER,
    "metric": str,
    "baseline": dict,
}
_PROBE: dict[str, type | tuple[type, ...]] = {"cell": dict, "start": int, "depth": int, "status": str}
_COMPLETE_PROBE: dict[str, type | tuple[type, ...]] = {
    "value": _NUMBER,
    "relative_degradation": _NUMBER_OR_NULL,
    "ci95": list,
    "verdict": str,
}


def write_results(results: Mapping[str, Any], out: Path) -> Path:
    """Write `results.json` into a report's folder, whole or not at all.

    Args:
        results: The records, as the module describes them.
        out: The report's folder, made where missing.

    Returns:
        The file written.

    Raises:
        DataError: The records lack a part, or hold NaN or infinity.
        StoreError: The folder cannot be written.
    """
    path = out / FILE_NAME
    check_results(results, str(path))
    content = json.dumps(results, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    draft = path.with_suffix(".draft")
    try:
        out.mkdir(parents=True, exist_ok=True)
        draft.write_text(content, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            "a report's folder can be written", f"{out} ({error.strerror})", "write it elsewhere"
        ) from None
    return path


def read_results(folder: Path) -> dict[str, Any]:
    """Read and check the `results.json` of a report's folder.

    Raises:
        DataError: It is missing, not JSON, or does not hold what a report needs.
    """
    path = folder if folder.suffix == ".json" else folder / FILE_NAME
    rule, remedy = "a report is made from the results.json of a sweep", "name the folder that a sweep wrote"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(rule, f"{path} ({error.strerror})", remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(rule, f"{path}, which is not JSON ({error})", AGAIN) from None
    check_results(results, str(path))
    return results


def cell_key(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what makes a cell itself: family, scale, encoder, task, language."""
    return tuple(cell[name] for name in _IDENTITY)


def cell_verdict(cell: Mapping[str, Any]) -> str:
    """Return the verdict of a cell; one whose unpruned model was never scored, for now or for good, has failed."""
    unanswered = cell["verdict"] == "none" and "baseline" not in cell
    return "failed" if unanswered else cell["verdict"]


def check_results(results: Any, source: str) -> None:
    """Check that records hold what a report needs.

    Args:
        results: The records.
        source: Where they come from, for messages.

    Raises:
        DataError: Names the first value that is missing or wrong, by its path in the file.
    """
    _require(results, {"schema_version": int, "sweep": dict, "cells": list, "probes": list}, "", source)
    if results["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"results.json has schema version {SCHEMA_VERSION}",
            f"{results['schema_version']} in {source}",
            "render it with the version of slamlab that wrote it",
        )
    for where, number in _numbers(results, ""):
        if not math.isfinite(number):
            _refuse(where, "a finite number, or null where it is unbounded", number, source)
    sweep = results["sweep"]
    _require(sweep, _SWEEP, "sweep", source)
    if sweep["tolerance"] < 0:
        _refuse("sweep.tolerance", "0 or more", sweep["tolerance"], source)
    _require(sweep["corpus"], {"name": str, "fingerprint": str}, "sweep.corpus", source)
    for i, cell in enumerate(results["cells"]):
        _check_cell(cell, f"cells[{i}]", source)
    for i, probe in enumerate(results["probes"]):
        _check_probe(probe, f"probes[{i}]", source)


def _check_cell(cell: Any, where: str, source: str) -> None:
    _require(cell, {**_IDENTITY, "verdict": str}, where, source)
    _one_of(cell["verdict"], CELL_VERDICTS, f"{where}.verdict", source)
    if cell_verdict(cell) == "failed":
        return
    _require(cell, _ANSWERED_CELL, where, source)
    _one_of(cell["metric"], ("wer", "bleu"), f"{where}.metric", source)
    if cell["verdict"] != "none":
        _check_block(cell, "max_depth", cell["num_layers"], where, source)
    selection, voices = cell.get("selection"), cell.get("test_voices")
    for name, scores in (("", cell), ("selection", selection), ("test_voices", voices)):
        if scores is None:
            continue
        inner = f"{where}.{name}" if name else where
        _require(scores, {"baseline": dict}, inner, source)
        _require(scores["baseline"], _SCORE, f"{inner}.baseline", source)
        if scores.get("pruned") is not None:
            _require(scores["pruned"], _PRUNED, f"{inner}.pruned", source)
            _check_interval(scores["pruned"]["ci95"], f"{inner}.pruned.ci95", source)
            _one_of(scores["pruned"].get("verdict"), (*PROBE_VERDICTS, None), f"{inner}.pruned.verdict", source)


def _check_probe(probe: Any, where: str, source: str) -> None:
    _require(probe, _PROBE, where, source)
    _require(probe["cell"], _IDENTITY, f"{where}.cell", source)
    _one_of(probe["status"], ("complete", "failed"), f"{where}.status", source)
    if probe["status"] == "complete":
        _require(probe, _COMPLETE_PROBE, where, source)
        _one_of(probe["verdict"], PROBE_VERDICTS, f"{where}.verdict", source)
        _check_interval(probe["ci95"], f"{where}.ci95", source)


def _check_block(record: Mapping[str, Any], depth: str, num_layers: int, where: str, source: str) -> None:
    _require(record, {"start": int}, where, source)
    if not (record["start"] >= 0 < record[depth] and record["start"] + record[depth] <= num_layers):
        block = f"start {record['start']}, depth {record[depth]}"
        _refuse(where, f"a block inside {num_layers} layers", block, source)


def _check_interval(interval: list[Any], where: str, source: str) -> None:
    if len(interval) != 2 or not all(isinstance(end, _NUMBER_OR_NULL) for end in interval):
        _refuse(where, "[low, high]", interval, source)


def _one_of(value: object, choices: tuple[str | None, ...], where: str, source: str) -> None:
    if value not in choices:
        _refuse(where, f"one of {', '.join(choice for choice in choices if choice)}", value, source)


def _require(record: Any, fields: Mapping[str, type | tuple[type, ...]], where: str, source: str) -> None:
    """Check that a record is a mapping with these fields of these types; a truth value is no number."""
    if not isinstance(record, Mapping):
        _refuse(where or "the file", "an object", type(record).__name__, source)
    for name, kind in fields.items():
        inner = f"{where}.{name}" if where else name
        if name not in record:
            _refuse(inner, "given", "nothing", source)
        if isinstance(record[name], bool) or not isinstance(record[name], kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(dict.fromkeys(_KIND_NAMES[one] for one in kinds))
            _refuse(inner, names, repr(record[name])[:60], source)


_KIND_NAMES = {
    str: "a text",
    int: "a number",
    float: "a number",
    dict: "an object",
    list: "a list",
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


def _refuse(where: str, rule: str, received: object, source: str) -> NoReturn:
    raise DataError(f"in results.json, {where} is {rule}", f"{received} in {source}", AGAIN)
