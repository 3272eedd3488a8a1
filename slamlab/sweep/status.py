"""What lies in a store, and how its sweeps stand, for whoever asks from another shell.

Reads only: the drivers' status files, the ledger (opened read-only, for one short query a table), and whether locks are
held. Knows neither torch, Ray nor Optuna, so that an answer takes no longer than reading does.
"""

from __future__ import annotations

import json
import math
import re
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slamlab.errors import OptionError, StoreError
from slamlab.sweep.remote import Remote, is_url
from slamlab.sweep.standing import MANY_CELLS

FRESH_S = 60.0
"""A driver on another machine is taken to run for so long after its last word."""
LOCKS = Path("/proc/locks")
SINGLES = ("base", "final", "control")
"""What a cell has one of at a time: attributes of its study."""
_NOTHING = {
    "state": "",
    "heals": 0,
    "num_finished": 0,
    "failures": (),
    "last_ended": None,
    "feasible": None,
    "infeasible": None,
}


def find_store(address: str) -> Path:
    """Return the folder of a store; of one at a URL, that of this machine, with the drivers' last words fetched.

    Raises:
        StoreError: There is none.
    """
    rule, remedy = "--store names a store that is there", "pass the folder or URL that the sweep was given"
    if not is_url(address):
        root = Path(address).absolute()
        if not root.is_dir():
            raise StoreError(rule, address, remedy)
        return root
    remote = Remote(address, lambda line: None)
    names = [name for folder in ("status", "ledgers") for name in remote.names(folder)]
    if not names:
        raise StoreError(rule, address, remedy)
    for name in names:
        if not _is_held(remote.folder / "locks" / f"{Path(name).stem}.lock"):  # its driver is here, and knows better
            remote.fetch(name)
    return remote.folder


def read_store(root: Path, sweep: str | None = None) -> list[dict[str, Any]]:
    """Return how the sweeps of a store stand, those that run first, then the latest.

    Args:
        root: The store's folder.
        sweep: Only the sweep of this name.

    Returns:
        Of each sweep `sweep` (its name), `running` (or not, or None where its driver was on another machine and has
        not been heard of for a minute), `status` (what :meth:`slamlab.sweep.standing.Standing.snapshot` gave, or None),
        `cells` (by name: bounds, counts and reasons, of ledger and status), and paths `logs` and `report`.

    Raises:
        OptionError: There is no such sweep.
    """
    known = read_ledgers(root)
    names = known.keys() | {path.stem for path in (root / "status").glob("[!.]*.json")}
    if sweep is not None and sweep not in names:
        there = ", ".join(sorted(names)) or "none"
        raise OptionError(f"--sweep names a sweep of the store: {there}", sweep, "choose one of them")
    found = [_standing(root, name, known.get(name, {})) for name in names if sweep in (None, name)]
    return sorted(found, key=lambda one: (not one["running"], -(one["last_ended"] or 0), one["sweep"]))


def read_ledgers(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the ledger has of each sweep's cells; of a store at a URL, the drivers' copies too.

    Where options changed a cell's question, one sweep has several studies of it: the latest counts.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in [*sorted((root / "ledgers").glob("[!.]*.db")), root / "ledger.db"]:
        if path.is_file():
            for sweep, cells in _read_ledger(path).items():
                found[sweep] = cells
    return found


def _read_ledger(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the cells of a ledger by sweep and name.

    Raises:
        StoreError: It cannot be read now.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as ledger:
            return _cells_of(ledger)
    except sqlite3.Error as error:
        rule, remedy = (
            "a ledger can be read",
            "wait a moment; a sweep that was killed in mid-write mends it when it goes on",
        )
        raise StoreError(rule, f"{path} ({error})", remedy) from None


def _cells_of(ledger: sqlite3.Connection) -> dict[str, dict[str, dict[str, Any]]]:
    attrs: dict[int, dict[str, Any]] = defaultdict(dict)
    trials: dict[int, dict[str, Any]] = {}
    ledger.execute("BEGIN")  # all queries see one state
    for study, key, value in ledger.execute("SELECT study_id, key, value_json FROM study_user_attributes"):
        attrs[study][key] = json.loads(value)
    for trial, study, state, ended in ledger.execute("SELECT trial_id, study_id, state, datetime_complete FROM trials"):
        trials[trial] = {"study": study, "state": state, "ended": ended}
    params = "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
    for trial, name, value, told in ledger.execute(params):
        choices = json.loads(told)["attributes"].get("choices")
        trials[trial][name] = choices[int(value)] if choices else int(value)
    of_users = "SELECT trial_id, key, value_json FROM trial_user_attributes WHERE key IN ('reason', 'interrupted')"
    of_system = "SELECT trial_id, key, value_json FROM trial_system_attributes WHERE key = 'constraints:degradation'"
    for query in (of_users, of_system):
        for trial, key, value in ledger.execute(query):
            trials[trial][key.partition(":")[0]] = json.loads(value)
    by_study = defaultdict(list)
    for one in trials.values():
        by_study[one["study"]].append(one)
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for study, name in ledger.execute("SELECT study_id, study_name FROM studies ORDER BY study_id"):
        sweep, _, rest = name.partition(" | ")
        found[sweep][rest.rpartition(" | ")[0]] = _cell(attrs[study], by_study[study])
    return dict(found)


def _cell(attrs: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the ledger says of a cell: bounds as each heal alone showed them, counts, reasons of failures."""
    healed = [one for one in trials if one["state"] == "COMPLETE" and one.get("rung") == "full"]
    # A degradation without bound has no constraint.
    blocks = [(one["depth"], one["start"], one.get("constraints", math.inf) <= 0) for one in healed]
    within = max(((depth, start) for depth, start, harmless in blocks if harmless), default=None)
    beyond = min(((depth, start) for depth, start, harmless in blocks if not harmless), default=None)
    failures = [
        {"what": kind, "reason": reason} for kind in SINGLES for reason in attrs.get(f"{kind}_failures", ())
    ] + [
        {"what": f"probe -{one['depth']} at {one['start']}", "reason": one["reason"]}
        for one in trials
        if "reason" in one
    ]
    state = "answered" if "final" in attrs else "searched" if "base" in attrs else "without base"
    if state == "without base" and len(attrs.get("base_failures", ())) > 1:
        state = "failed"
    return {
        "state": state,
        "heals": len(healed),
        "feasible": within and {"depth": within[0], "start": within[1], "p_feasible": None},
        "infeasible": beyond and {"depth": beyond[0], "start": beyond[1], "p_feasible": None},
        "num_finished": sum(one["state"] == "COMPLETE" for one in trials) + sum(kind in attrs for kind in SINGLES),
        "failures": failures,
        "last_ended": max((_epoch(one["ended"]) for one in trials if one["ended"]), default=None),
    }


def _standing(root: Path, sweep: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return how one sweep stands, given its cells by the ledger."""
    status = _read_status(root / "status" / f"{sweep}.json")
    told = status["cells"] if status else {}
    # A driver's bounds are by all evidence, and none is one too; of many cells it has told some only.
    tells_all = len(told) <= MANY_CELLS
    cells = {
        name: {
            **_NOTHING,
            **known.get(name, {}),
            **{key: one for key, one in told.get(name, {}).items() if one or tells_all},
        }
        for name in [*known, *(name for name in told if name not in known)]
    }
    logs = root / "logs" / sweep
    ended = [cell["last_ended"] for cell in cells.values()] + [status["last_ended"] if status else None]
    return {
        "sweep": sweep,
        "running": _runs(root / "locks" / f"{sweep}.lock", status),
        "status": status,
        "cells": cells,
        "num_finished": sum(cell["num_finished"] for cell in cells.values()),
        "num_failed": sum(len(cell["failures"]) for cell in cells.values()),
        "last_ended": max((time for time in ended if time), default=None),
        "logs": str(logs) if logs.is_dir() else None,
        "report": status and status["report"],
    }


def _read_status(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= {"written", "cells", "running"} else None


def _runs(lock: Path, status: Mapping[str, Any] | None) -> bool | None:
    """Say whether a sweep's driver runs; None where it was elsewhere and has been silent for a minute."""
    if _is_held(lock):
        return True
    if status is None or status["ended"] or (status["host"] == socket.gethostname() and LOCKS.exists()):
        return False
    return True if time.time() - status["written"] < FRESH_S else None


def _is_held(lock: Path) -> bool:
    """Say whether a process of this machine holds a lock, without asking for it, which would refuse a new sweep."""
    try:
        inode = lock.stat().st_ino
        held = LOCKS.read_text()
    except OSError:
        return False
    return re.search(rf"FLOCK\s.*:{inode} ", held) is not None


def _epoch(utc: str) -> float:
    return datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()
