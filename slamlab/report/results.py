"""`results.json`: what a sweep found, as one stable file that every report is made from.

Sorted keys, indented by 2, UTF-8, and no NaN or infinity: an unbounded interval end is null. WER, CER and relative
degradations are fractions (0.25 is 25 %), BLEU and chrF run from 0 to 100, layers are counted from 0, times are in
seconds.

Parts that came later are optional, so that older files still render: `sweep.search`, `sweep.scoring`, `rungs`,
`joints`, `curves`, `cost`, `cut` and `control` of an answer, `speed` of a healed model, of a probe `rung`, `repeat`,
`se` and `p_feasible`, and of any score counts of degenerate answers, another metric's value in `also`, and
`num_planned` with `stopped_early`: the utterances that a full scoring takes, and why it took fewer, which only a probe
may. A probe without a rung is a full heal; only a full heal has a verdict. An entry of `curves` names, by method, the
blocks that the curves of a cell are made of; what they cost is in the probes. A sweep of curves answers nothing: the
verdict of its cells is `none`.

`control` tells what the same heal does with nothing removed: `receiver`, the layer that was healed, and `splits`,
which have the control's score as `baseline` and the answer's model compared with it as `pruned` (of a joint answer a
list of these, one a member); or the `reason` why it was not measured.

`cost` of `sweep` tells what it spent in device-seconds, the price of a device-hour and the budget, null where there is
none; `cost` of an answer, what this sweep spent on it (`device_seconds`, of which `failed_device_seconds`), what
other sweeps had computed for it (`found_device_seconds`), its trials and heals. `cut` names the trial that an answer
would have asked for next, had the budget had room for it.

`speed` stands in a cell's `pruned`, or in a joint answer: runs, each with the unpruned model's time over the healed
one's in every turn (`ratios`), for so many utterances (`batch_size`) and tokens of each answer (`num_tokens`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slamlab.disk import whole_file
from slamlab.errors import DataError, StoreError
from slamlab.report.checks import (
    AGAIN,
    NUMBER,
    NUMBER_OR_NULL,
    Fields,
    check_block,
    check_counts,
    check_finite,
    check_interval,
    check_scoring,
    check_speed,
    one_a_member,
    one_of,
    refuse,
    require,
    require_where_given,
)
from slamlab.scoring.metrics import METRICS

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
CELL_VERDICTS = ("feasible", "undecided", "none", "failed")
PROBE_VERDICTS = ("feasible", "undecided", "infeasible")

_IDENTITY: Fields = dict.fromkeys(("family", "scale", "encoder", "task", "language"), str)
_SWEEP: Fields = {
    "name": str,
    "profile": str,
    "tolerance": NUMBER,
    "alpha": NUMBER,
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
_SCORE: Fields = {
    "value": NUMBER,
    "num_utterances": int,
    "signature": str,
    "hypotheses": str,
}
_PRUNED: Fields = {
    "value": NUMBER,
    "relative_degradation": NUMBER_OR_NULL,
    "ci95": list,
    "hypotheses": str,
}
_ANSWERED_CELL: Fields = {
    "num_layers": int,
    "max_depth": int,
    "max_fraction": NUMBER,
    "metric": str,
    "baseline": dict,
}
_PROBE: Fields = {"cell": dict, "start": int, "depth": int, "status": str}
_COMPLETE_PROBE: Fields = {
    "value": NUMBER,
    "relative_degradation": NUMBER_OR_NULL,
    "ci95": list,
}
_RANKING: Fields = {
    "family": str,
    "scale": str,
    "rung": str,
    "num_looks": int,
    "num_blocks": int,
    "num_pairs": int,
    "tau": NUMBER_OR_NULL,
    "ci95": (list, tuple, type(None)),
}
_JOINT: Fields = {**_IDENTITY, "members": list, "verdict": str, "heals": list}
_JOINT_ANSWER: Fields = {
    "num_layers": int,
    "max_depth": int,
    "max_fraction": NUMBER,
    "start": int,
}
_CURVE: Fields = {**_IDENTITY, "methods": dict}
_JOINT_HEAL: Fields = {"start": int, "depth": int, "status": str}


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
    try:
        with whole_file(path) as draft:
            draft.write_text(content, encoding="utf-8", newline="\n")
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


def joint_verdict(joint: Mapping[str, Any]) -> str:
    """Return the verdict of a joint answer; one of which no joint heal was scored, for now or for good, has failed."""
    scored = any(heal["status"] == "complete" for heal in joint["heals"])
    return joint["verdict"] if scored or joint["verdict"] != "none" else "failed"


def rung_of(probe: Mapping[str, Any]) -> str:
    """Return how closely a probe looked: `full` where the records name no rung."""
    return probe.get("rung") or "full"


def is_full(probe: Mapping[str, Any]) -> bool:
    """Say whether a probe is a full heal, which alone can settle anything."""
    return rung_of(probe) == "full"


def check_results(results: Any, source: str) -> None:
    """Check that records hold what a report needs.

    Args:
        results: The records.
        source: Where they come from, for messages.

    Raises:
        DataError: Names the first value that is missing or wrong, by its path in the file.
    """
    require(results, {"schema_version": int, "sweep": dict, "cells": list, "probes": list}, "", source)
    if results["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"results.json has schema version {SCHEMA_VERSION}",
            f"{results['schema_version']} in {source}",
            "render it with the version of slamlab that wrote it",
        )
    check_finite(results, source)
    sweep = results["sweep"]
    require(sweep, _SWEEP, "sweep", source)
    if sweep["tolerance"] < 0:
        refuse("sweep.tolerance", "0 or more", sweep["tolerance"], source)
    check_scoring(sweep, source)
    require(sweep["corpus"], {"name": str, "fingerprint": str}, "sweep.corpus", source)
    for i, cell in enumerate(results["cells"]):
        _check_cell(cell, f"cells[{i}]", source)
    for i, probe in enumerate(results["probes"]):
        _check_probe(probe, f"probes[{i}]", source)
    require(results, {name: list for name in ("rungs", "joints", "curves") if name in results}, "", source)
    for i, ranking in enumerate(results.get("rungs", ())):
        require(ranking, _RANKING, f"rungs[{i}]", source)
        if ranking["ci95"] is not None:
            check_interval(ranking["ci95"], f"rungs[{i}].ci95", source)
    for i, joint in enumerate(results.get("joints", ())):
        _check_joint(joint, f"joints[{i}]", source)
    layers = {cell_key(cell): cell["num_layers"] for cell in results["cells"] if cell_verdict(cell) != "failed"}
    for i, curve in enumerate(results.get("curves", ())):
        _check_curve(curve, layers, f"curves[{i}]", source)


def _check_cell(cell: Any, where: str, source: str) -> None:
    require(cell, {**_IDENTITY, "verdict": str}, where, source)
    one_of(cell["verdict"], CELL_VERDICTS, f"{where}.verdict", source)
    if cell_verdict(cell) == "failed":
        return
    require(cell, _ANSWERED_CELL, where, source)
    one_of(cell["metric"], tuple(METRICS), f"{where}.metric", source)
    if cell["verdict"] != "none":
        check_block(cell, "max_depth", cell["num_layers"], where, source)
    selection, voices = cell.get("selection"), cell.get("test_voices")
    for name, scores in (("", cell), ("selection", selection), ("test_voices", voices)):
        if scores is None:
            continue
        inner = f"{where}.{name}" if name else where
        require(scores, {"baseline": dict}, inner, source)
        require(scores["baseline"], _SCORE, f"{inner}.baseline", source)
        check_counts(scores["baseline"], f"{inner}.baseline", source)
        if scores.get("pruned") is not None:
            require(scores["pruned"], _PRUNED, f"{inner}.pruned", source)
            check_interval(scores["pruned"]["ci95"], f"{inner}.pruned.ci95", source)
            check_counts(scores["pruned"], f"{inner}.pruned", source, may_stop=name == "selection")
            one_of(scores["pruned"].get("verdict"), (*PROBE_VERDICTS, None), f"{inner}.pruned.verdict", source)
            check_speed(scores["pruned"], f"{inner}.pruned", source)
    _check_control(cell, None, where, source)


def _check_control(record: Mapping[str, Any], num_members: int | None, where: str, source: str) -> None:
    """Check the control of an answer, where it has one; `num_members` of a joint answer."""
    control = record.get("control")
    if control is None:
        return
    where = f"{where}.control"
    if "splits" not in control:
        require(control, {"reason": str}, where, source)
        return
    require(control, {"receiver": int, "splits": dict if num_members is None else list}, where, source)
    if num_members is not None:
        one_a_member(control["splits"], num_members, f"{where}.splits", source)
    for splits in [control["splits"]] if num_members is None else control["splits"]:
        require(splits, {"test": dict}, f"{where}.splits", source)
        for split, scores in splits.items():
            inner = f"{where}.splits.{split}"
            require(scores, {"baseline": dict, "pruned": dict}, inner, source)
            require(scores["baseline"], _SCORE, f"{inner}.baseline", source)
            require(scores["pruned"], {**_PRUNED, "verdict": str}, f"{inner}.pruned", source)
            check_interval(scores["pruned"]["ci95"], f"{inner}.pruned.ci95", source)
            one_of(scores["pruned"]["verdict"], PROBE_VERDICTS, f"{inner}.pruned.verdict", source)


def _check_probe(probe: Any, where: str, source: str) -> None:
    require(probe, _PROBE, where, source)
    require(probe["cell"], _IDENTITY, f"{where}.cell", source)
    one_of(probe["status"], ("complete", "failed"), f"{where}.status", source)
    if probe["status"] == "complete":
        require(probe, _COMPLETE_PROBE, where, source)
        check_interval(probe["ci95"], f"{where}.ci95", source)
        require_where_given(probe, {"rung": (str, type(None)), "repeat": int}, where, source)
        check_counts(probe, where, source, may_stop=True)
        _check_judgement(probe, where, source, judged=is_full(probe))


def _check_judgement(record: Mapping[str, Any], where: str, source: str, *, judged: bool = True) -> None:
    """Check a verdict and its probability: what was looked at cheaply has none."""
    require_where_given(record, dict.fromkeys(("p_within", "p_feasible", "se"), NUMBER_OR_NULL), where, source)
    if judged:
        require(record, {"verdict": str}, where, source)
    one_of(record.get("verdict"), PROBE_VERDICTS if judged else (None,), f"{where}.verdict", source)


def _check_joint(joint: Any, where: str, source: str) -> None:
    require(joint, _JOINT, where, source)
    one_of(joint["verdict"], CELL_VERDICTS, f"{where}.verdict", source)
    members = joint["members"]
    for i, member in enumerate(members):
        require(member, _IDENTITY, f"{where}.members[{i}]", source)
    for i, heal in enumerate(joint["heals"]):
        _check_joint_heal(heal, len(members), f"{where}.heals[{i}]", source)
    if joint["verdict"] in ("feasible", "undecided"):
        require(joint, _JOINT_ANSWER, where, source)
        check_block(joint, "max_depth", joint["num_layers"], where, source)
    optional: Fields = {"p_feasible": NUMBER_OR_NULL, "num_parameters": NUMBER_OR_NULL, "checkpoint": (str, type(None))}
    require_where_given(joint, optional, where, source)
    check_speed(joint, where, source)
    binding, prediction = joint.get("binding"), joint.get("prediction")
    if binding is not None:
        require(binding, {"member": dict, "p_within": NUMBER_OR_NULL}, f"{where}.binding", source)
        require(binding["member"], _IDENTITY, f"{where}.binding.member", source)
    if prediction is not None:
        fields: Fields = {"start": int, "depth": int, "p_feasible": NUMBER_OR_NULL}
        require(prediction, fields, f"{where}.prediction", source)
    if joint.get("tests") is None:
        return
    _check_control(joint, len(members), where, source)
    require(joint, {"tests": list}, where, source)
    one_a_member(joint["tests"], len(members), f"{where}.tests", source)
    for i, splits in enumerate(joint["tests"]):
        inner = f"{where}.tests[{i}]"
        require(splits, {"test": dict}, inner, source)
        for split, score in splits.items():
            require(score, {**_PRUNED, "num_utterances": int}, f"{inner}.{split}", source)
            check_interval(score["ci95"], f"{inner}.{split}.ci95", source)
            check_counts(score, f"{inner}.{split}", source)
            one_of(score.get("verdict"), (*PROBE_VERDICTS, None), f"{inner}.{split}.verdict", source)


def _check_curve(curve: Any, layers: Mapping[tuple[str, ...], int], where: str, source: str) -> None:
    require(curve, _CURVE, where, source)
    for method, blocks in curve["methods"].items():
        require(curve["methods"], {method: list}, f"{where}.methods", source)
        for i, block in enumerate(blocks):
            inner = f"{where}.methods.{method}[{i}]"
            require(block, {"start": int, "depth": int}, inner, source)
            if num_layers := layers.get(cell_key(curve)):
                check_block(block, "depth", num_layers, inner, source)


def _check_joint_heal(heal: Any, num_members: int, where: str, source: str) -> None:
    require(heal, _JOINT_HEAL, where, source)
    one_of(heal["status"], ("complete", "failed"), f"{where}.status", source)
    require_where_given(heal, {"repeat": int}, where, source)
    if heal["status"] == "failed":
        return
    _check_judgement(heal, where, source)
    require(heal, {"members": list}, where, source)
    one_a_member(heal["members"], num_members, f"{where}.members", source)
    for i, member in enumerate(heal["members"]):
        inner = f"{where}.members[{i}]"
        require(member, {"cell": dict, **_COMPLETE_PROBE}, inner, source)
        require(member["cell"], _IDENTITY, f"{inner}.cell", source)
        check_interval(member["ci95"], f"{inner}.ci95", source)
        require_where_given(member, {"p_within": NUMBER_OR_NULL}, inner, source)
        check_counts(member, inner, source, may_stop=True)
