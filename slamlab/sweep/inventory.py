"""What lies in a store, file by file: is it whole, how large is it, does anybody rely on it.

A store at a URL is looked at there, and the folder that stands for it on this machine too.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from slamlab.errors import StoreError
from slamlab.scoring.journal import Journal, whole_lines
from slamlab.sweep.integrity import (
    KEPT,
    MANIFEST,
    describe,
    files_named,
    is_named_right,
    read_manifest,
    unseal,
)
from slamlab.sweep.store import Store, ledger_problem

FOLDERS = ("bases", "checkpoints")
"""Kinds that are folders of files."""
CHUNK_BYTES = 8_000_000
DAMAGED_STATE = "it is damaged"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a store; `age_s` is None where nobody knows."""

    name: str
    num_bytes: int
    age_s: float | None

    @property
    def kind(self) -> str:
        """The folder that it lies in, `ledger` for the ledger, `drafts` for what was never finished."""
        first, _, rest = self.name.partition("/")
        if any(part.startswith(".draft-") for part in self.name.split("/")):
            return "drafts"
        return first if rest else "ledger" if first.startswith("ledger") else "other"

    @property
    def whole(self) -> str:
        """What it is a part of: a model's folder, a draft, a run of Ray; else itself."""
        parts = self.name.split("/")
        for i, part in enumerate(parts):
            if part.startswith(".draft-"):
                return "/".join(parts[: i + 1])
        return "/".join(parts[:2]) if self.kind in (*FOLDERS, "ray") else self.name


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something that is not whole.

    Attributes:
        name: The file or folder.
        problem: What is wrong.
        trials: What the trials are about that rely on it.
        remove: What goes so that it is made again.
    """

    name: str
    problem: str
    trials: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Waste:
    """Something that nobody relies on."""

    name: str
    num_bytes: int
    reason: str


class Place:
    """Where files of a store lie: a folder, or a URL.

    Args:
        files: A file system of fsspec.
        path: Of the store there.
        is_here: Whether this is a folder of this machine, not a URL.
    """

    def __init__(self, files: Any, path: str, *, is_here: bool) -> None:
        self._files, self._path, self.is_here = files, path.rstrip("/"), is_here

    def entries(self) -> list[Entry]:
        """Return every file, by name."""
        found = self._files.find(self._path, detail=True) if self._files.exists(self._path) else {}
        return [
            Entry(name=path[len(self._path) :].lstrip("/"), num_bytes=int(info["size"] or 0), age_s=_age_s(info))
            for path, info in sorted(found.items())
        ]

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        content: bytes = self._files.cat_file(self.at(name))
        return content

    def sha256(self, name: str, read: Callable[[int], object]) -> str:
        """Return the sha256 of a file, telling how many bytes were read."""
        digest = hashlib.sha256()
        with self._files.open(self.at(name), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                read(len(chunk))
        return digest.hexdigest()

    def write(self, name: str, content: bytes) -> None:
        """Replace a file."""
        self._files.pipe_file(self.at(name), content)

    def remove(self, name: str) -> None:
        """Remove a file or a folder; of a folder its manifest first."""
        for path in (self.at(f"{name}/{MANIFEST}"), self.at(name)):
            with suppress(FileNotFoundError, NotADirectoryError):
                self._files.rm(path, recursive=path == self.at(name))

    def at(self, name: str) -> str:
        """Return a file's path on its file system."""
        return f"{self._path}/{name}"


def places(store: Store) -> list[Place]:
    """Return where the files of a store lie; what counts comes first.

    Raises:
        StoreError: There is nothing.
    """
    found = [Place(LocalFileSystem(), str(store.root), is_here=True)] if store.root.is_dir() else []
    if store.remote:
        found.insert(0, Place(*store.remote.place(), is_here=False))
    if not found or not any(place.entries() for place in found):
        raise StoreError(
            "a store is there that is looked at", f"nothing at {store.address}", "pass --store with its own"
        )
    return found


def check(store: Store, place: Place, read: Callable[[int], object] = lambda num_bytes: None) -> Iterator[Damage]:
    """Yield what is damaged at a place; every byte is read that anything relies on.

    Args:
        store: The store.
        place: One of its places.
        read: Takes the number of bytes that were looked at, as they are.
    """
    entries = {entry.name: entry for entry in place.entries()}
    relied: dict[str, list[dict[str, Any]]] = {}
    for name in [name for name, entry in entries.items() if entry.kind == "trials"]:
        record = unseal(place.read(name))
        read(entries[name].num_bytes)
        if record is None or record.get("fingerprint") != Path(name).stem:
            yield Damage(name=name, problem="the record of a trial is damaged", remove=(name,))
            continue
        for relied_on in _relied_on(record):
            relied.setdefault(relied_on, []).append(record)

    def damage(name: str, problem: str, *remove: str) -> Damage:
        trials = tuple(sorted(describe(record) for record in relied.get(name, ())))
        return Damage(name=name, problem=problem, trials=trials, remove=remove or (name,))

    folders: dict[str, dict[str, Entry]] = {}
    for entry in entries.values():
        if entry.kind in FOLDERS:
            folders.setdefault(entry.whole, {})[entry.name.removeprefix(f"{entry.whole}/")] = entry
        elif problem := _file_problem(place, entry):
            yield damage(entry.name, problem)
        read(entry.num_bytes if entry.kind not in (*FOLDERS, "trials") else 0)
    for folder, files in folders.items():
        if problem := _folder_problem(place, folder, files, read):
            yield damage(folder, problem)
    if place.is_here and store.remote:
        return  # what is not here is there
    for name, records in relied.items():
        is_empty = place.is_here and Path(place.at(name)).is_dir()
        if name not in entries and name not in folders and not is_empty:
            yield damage(name, "it is missing", *(f"trials/{record['fingerprint']}.json" for record in records))


def num_bytes_to_check(place: Place) -> int:
    """Return how many bytes :func:`check` looks at."""
    return sum(entry.num_bytes for entry in place.entries())


def repair(place: Place, damage: Damage) -> None:
    """Remove what is damaged, so that it is made again; of answers only those that are."""
    for name in damage.remove:
        if not name.startswith("answers/"):
            place.remove(name)
        elif place.is_here:
            Journal(Path(place.at(name))).append([])  # under its lock
        else:
            place.write(name, whole_lines(place.read(name)))


def by_kind(entries: Iterable[Entry]) -> dict[str, tuple[int, int]]:
    """Return number of things and bytes by kind."""
    things: dict[str, set[str]] = {}
    num_bytes: dict[str, int] = {}
    for entry in entries:
        things.setdefault(entry.kind, set()).add(entry.whole)
        num_bytes[entry.kind] = num_bytes.get(entry.kind, 0) + entry.num_bytes
    return {kind: (len(things[kind]), num_bytes[kind]) for kind in sorted(things)}


def by_sweep(store: Store, entries: Iterable[Entry]) -> dict[str, tuple[int, int]]:
    """Return number of finished trials and bytes by sweep of the ledger; what sweeps share counts in each."""
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.whole] = sizes.get(entry.whole, 0) + entry.num_bytes
    records = {record["fingerprint"]: record for record in store.records()}
    found = {}
    for sweep, trials in _trials_of_sweeps(store.root / "ledger.db").items():
        known = [records[trial] for trial in trials if trial in records]
        names = {f"trials/{record['fingerprint']}.json" for record in known}
        names |= {name for record in known for name in _relied_on(record)}
        found[sweep] = (len(known), sum(sizes.get(name, 0) for name in names))
    return found


def waste(store: Store, place: Place, older_than_s: float, *, cache: bool = False) -> list[Waste]:
    """Return what nobody relies on: no record, no sweep that could go on.

    Args:
        store: The store.
        place: One of its places.
        older_than_s: What is younger may be somebody's work, and stays; but for the cache.
        cache: Whether the cache goes too.
    """
    entries = place.entries()
    relied = {name for record in store.records() for name in _relied_on(record)}
    wholes: dict[str, list[Entry]] = {}
    for entry in entries:
        wholes.setdefault("cache" if entry.kind == "cache" else entry.whole, []).append(entry)
    found = []
    for name, files in wholes.items():
        reason = _why_waste(name, files, relied, wholes, cache)
        is_old = all(entry.age_s is not None and entry.age_s > older_than_s for entry in files)
        if reason and (is_old or name == "cache"):
            found.append(Waste(name=name, num_bytes=sum(entry.num_bytes for entry in files), reason=reason))
    return found


def _why_waste(
    name: str, files: list[Entry], relied: set[str], wholes: Mapping[str, list[Entry]], cache: bool
) -> str | None:
    kind = files[0].kind
    if kind == "drafts":
        return "was never finished"
    if kind == "ray":
        return "is Ray's own, which nothing reads again"
    if kind == "cache" and cache:
        return "can be made again"
    if kind == "checkpoints" and name not in relied and not any(file.name == f"{name}/{KEPT}" for file in files):
        return "is a model that was not kept"
    if kind in ("hypotheses", "maps") and name not in relied:
        return "is named by no record"
    if kind == "heals" and name.endswith(".safetensors") and f"{name.removesuffix('.safetensors')}.json" in wholes:
        return "is the state of a heal that is over"
    return "is a damaged ledger" if name.startswith("ledger.damaged-") else None


def _relied_on(record: Mapping[str, Any]) -> Iterator[str]:
    yield from files_named(record)
    if "checkpoint" in record:
        yield record["checkpoint"]


def _file_problem(place: Place, entry: Entry) -> str:
    """Return what is wrong with a file that is not part of a folder, nor a record."""
    name, kind = entry.name, entry.kind
    if kind in ("hypotheses", "maps") and not is_named_right(name, place.read(name)):
        return "it is not what was written"
    if kind == "answers":
        num_damaged = (content := place.read(name)).count(b"\n") - whole_lines(content).count(b"\n")
        return f"{num_damaged} of its answers are damaged" * bool(num_damaged)
    if kind == "heals" and name.endswith(".json") and unseal(place.read(name)) is None:
        return "losses and cost of a heal are damaged"
    if kind == "heals" and name.endswith(".safetensors"):
        return _state_problem(place, name)
    if name == "ledger.db" and place.is_here and (problem := ledger_problem(Path(place.at(name)))):
        return f"the ledger is damaged ({problem})"
    return ""


def _state_problem(place: Place, name: str) -> str:
    from slamlab.training.resume import Keeper

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        path.write_bytes(place.read(name))
        problem = Keeper(path, "", lambda: (0.0, 0.0)).problem
    return "the state of a heal is damaged" if problem == DAMAGED_STATE else ""


def _folder_problem(place: Place, folder: str, files: Mapping[str, Entry], read: Callable[[int], object]) -> str:
    if MANIFEST not in files:
        return "" if place.is_here else f"it is half-written: no {MANIFEST}"
    listed = read_manifest(place.read(f"{folder}/{MANIFEST}"))
    if listed is None:
        return f"{MANIFEST} is damaged"
    for name, (size, digest) in listed.items():
        if name not in files:
            return f"{name} is missing"
        if files[name].num_bytes != size:
            return f"{name} has {files[name].num_bytes} bytes, not {size}"
        if place.sha256(f"{folder}/{name}", read) != digest:
            return f"{name} is not what was written"
    return ""


def _trials_of_sweeps(ledger: Path) -> dict[str, set[str]]:
    """Return the fingerprints of the trials of each sweep's studies, read from Optuna's tables."""
    if not ledger.is_file():
        return {}
    of_trials = (
        "SELECT study_name, value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
        "JOIN studies USING (study_id) WHERE key = 'fingerprint'"
    )
    of_studies = (
        "SELECT study_name, value_json FROM study_user_attributes JOIN studies USING (study_id) "
        "WHERE key IN ('base', 'final', 'control')"
    )
    found: dict[str, set[str]] = {}
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as connection:
        for asked in (of_trials, of_studies):
            for study, value in connection.execute(asked):
                found.setdefault(study.partition(" | ")[0], set()).add(json.loads(value))
    return dict(sorted(found.items()))


def _age_s(info: Mapping[str, Any]) -> float | None:
    """Return how long ago a file was written, as file systems tell it."""
    told: Any = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("updated")
    if hasattr(told, "timestamp"):
        told = told.timestamp()
    return time.time() - told if isinstance(told, int | float) else None
