"""The store: one place that keeps what was computed, under names made from what it is.

Layout: `ledger.db` (Optuna), `trials/<fingerprint>.json` (one record a trial), `hypotheses/` and `maps/` (named by the
sha256 of their bytes), `bases/` and `checkpoints/` (model folders, named by fingerprint), `answers/` (what models said,
as they say it), `heals/` (losses and cost; the state of one that runs), `cache/` (what can be made again: speech,
encoder frames, converted weights), and a mark, `.slamlab`. Files and folders appear whole or not at all, but for
answers, which grow by whole lines.

What is damaged is told by its checksum (:mod:`slamlab.sweep.integrity`), named in a line, and counts as missing: so
does the record that relies on it, and its trial is run again. A store at a URL has a folder on each machine
(:mod:`slamlab.sweep.remote`); what is finished goes to the URL, what is wanted and not here comes from there. The cache
stays here, and so does the ledger, of which copies go to the URL (`ledgers/<sweep>.db`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from slamlab.credentials import redacted
from slamlab.disk import whole_file
from slamlab.errors import StoreError
from slamlab.scoring.journal import Journal
from slamlab.scoring.records import Record, decode_records
from slamlab.sweep.integrity import (
    KEPT,
    MANIFEST,
    content_name,
    describe,
    files_named,
    folder_problem,
    is_named_right,
    seal,
    unseal,
    write_manifest,
)
from slamlab.sweep.mount import Mount
from slamlab.sweep.remote import Remote, is_url
from slamlab.terminal import one_line

MIN_FREE_BYTES = 2_000_000_000
HASHED_BYTES = 2_000_000_000
"""Of a model folder that is larger only sizes are looked at before it is used: its bytes are for `store check`."""
LEDGER_EVERY_S = 60.0
"""A driver's machine that is lost takes this much of the ledger with it at most; no record of a trial."""
NAMED = re.compile(r'"((?:hypotheses|maps)/[0-9a-f]{32}\.\w+|checkpoints/[0-9a-f]{32})"')
"""What of a store the records of a report name."""


def fingerprint(facts: Any) -> str:
    """Return the sha256 hex digest of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def on_stderr(line: str) -> None:
    """Print a line that a person should see."""
    print(one_line(redacted(f"store: {line}")), file=sys.stderr, flush=True)


class Store:
    """Reads and writes artefacts below a folder, or at a URL.

    Args:
        address: The store's folder, or a URL that fsspec opens.
        say: Takes a line about what is damaged, or waited for.

    Attributes:
        address: As another process finds the same store: an absolute path, or the URL.
        root: The folder; of a URL, the one on this machine that stands for it.
        patiently, is_gone: Of that folder, as :class:`~slamlab.sweep.mount.Mount` has them.
    """

    def __init__(self, address: Path | str, say: Callable[[str], None] = on_stderr) -> None:
        self.say = say
        self.remote = Remote(str(address), self._say) if is_url(address) else None
        self.root = self.remote.folder if self.remote else Path(address).absolute()
        self.address: Path | str = self.remote.url if self.remote else self.root
        self.cache = self.root / "cache"
        self._ledger = self.root / "ledger.db"
        self.ledger_url = f"sqlite:///{self._ledger}"
        self._told: set[str] = set()
        self._whole: dict[str, list[tuple[int, int]]] = {}
        self._mount = Mount(self.root, self._say)
        self.patiently, self.is_gone = self._mount.patiently, self._mount.is_gone
        self._sent_ledger_s = time.monotonic()

    def open(self, min_free_bytes: int = MIN_FREE_BYTES) -> Store:
        """Create the folder and check that it can be written and has room; so with the URL.

        Raises:
            StoreError: Read-only, not a folder, or too little disk; or the URL cannot be written to.
        """
        rule, remedy = "the store is a folder that can be written", "pass --store with another folder"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
            self._mount.mark()
        except OSError as error:
            raise StoreError(rule, f"{self.root} ({error.strerror})", remedy) from None
        free = shutil.disk_usage(self.root).free
        if free < min_free_bytes:
            raise StoreError(
                f"the store needs {min_free_bytes / 1e9:.1f} GB of free disk",
                f"{free / 1e9:.1f} GB at {self.root}",
                "free some, or pass --store on another disk",
            )
        if self.remote:
            self.remote.check()
        return self

    def awaited(self) -> Store:
        """Return this store when it is there: one that a driver has opened, so that without its mark it is away.

        Raises:
            StoreAway: It stays away.
        """
        self._mount.expect(self.remote is None)  # of a URL each machine has a folder of its own
        return self.patiently(lambda: self)

    def relative(self, path: Path) -> str:
        """Return a path as records hold it: relative to the store, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def put_bytes(self, kind: str, suffix: str, content: bytes) -> str:
        """Keep bytes under the sha256 of themselves and return their relative path."""
        name = f"{kind}/{content_name(content)}{suffix}"
        if not self._is_whole(name):
            self._write(self.root / name, content)
        if self.remote:
            self.remote.send(name, anew=False)
        return name

    def read_bytes(self, name: str) -> bytes:
        """Return what :meth:`put_bytes` kept.

        Raises:
            StoreError: It is lost or damaged.
        """
        if self.holds(name) and (content := self._read(self.root / name)) is not None:
            return content
        rule, remedy = "an artefact of the store is there and whole", "run the same command again: it is made again"
        raise StoreError(rule, f"{name} in {self.address}, lost or damaged", remedy)

    def read_hypotheses(self, name: str) -> list[Record]:
        """Return what a model said, as a record's score names it; raises as :meth:`read_bytes` does."""
        return decode_records(self.read_bytes(name), name)

    def holds(self, name: str) -> bool:
        """Say whether a file is there and whole; one that is at the URL only is fetched."""
        if self._is_whole(name):
            return True
        if self.remote is None:
            return False
        if (self.root / name).exists():
            self.tell(f"{name} is damaged on this machine: fetched again")
        if self.remote.fetch(name) and not self._is_whole(name):
            self.tell(f"{name} at {self.address} is damaged: removed")
            self.remote.remove(name)
        return self._is_whole(name)

    def put_folder(self, path: Path, fill: Callable[[Path], None]) -> str:
        """Keep a folder that `fill` writes, unless it is there already, and return its relative path."""
        if not self.has_folder(path):
            self.patiently(lambda: self._put_folder(path, fill))
        if self.remote and (path / MANIFEST).is_file():
            self.remote.send_folder(self.relative(path))
        return self.relative(path)

    def _put_folder(self, path: Path, fill: Callable[[Path], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=".draft-"))
        try:
            fill(draft)
            write_manifest(draft)
            draft.chmod(0o755)  # mkdtemp makes it private to its owner
            draft.rename(path)
        except OSError:
            if not path.exists():  # else another worker was first: its folder is as good
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def has_folder(self, path: Path, *, here: bool = True) -> bool:
        """Say whether a model folder is there and whole; one that is damaged is named, and removed.

        Args:
            path: The folder.
            here: Whether one that is at the URL only is fetched.
        """
        name = self.relative(path)
        if self.patiently(path.is_dir):
            if not (problem := self._folder_problem(path)):
                return True
            self.tell(f"{name} is damaged ({problem}): removed, and made again when it is wanted")
            self._remove_folder(path)
        if self.remote is None:
            return False
        if not here:
            return self.remote.has_folder(name)
        problem_there = self.remote.fetch_folder(name)
        if problem_there:
            self.tell(f"{name} at {self.address} is damaged ({problem_there}): removed, and made again when wanted")
            self.remote.remove_folder(name)
        return problem_there == ""

    def base_folder(self, key: str) -> Path:
        """Return where a base trained for the facts behind `key` lies."""
        return self.root / "bases" / key[:32]

    def checkpoint_folder(self, model: str) -> Path:
        """Return where a healed model lies; `model` is the fingerprint of what makes it what it is."""
        return self.root / "checkpoints" / model[:32]

    def keep_folder(self, path: Path) -> None:
        """Mark a folder as one that somebody relies on: :meth:`drop_folder` then leaves it, whoever asks."""
        with suppress(FileNotFoundError):  # dropped a moment ago: who relies on it makes it again
            self.patiently((path / KEPT).touch)
            if self.remote:
                self.remote.send(self.relative(path / KEPT))

    def drop_folder(self, path: Path) -> None:
        """Remove a folder that nobody relies on; it is gone at once for whoever looks."""
        if (path / KEPT).exists() or (self.remote and self.remote.has(self.relative(path / KEPT))):
            return
        if self.remote:
            self.remote.remove_folder(self.relative(path))
        self._remove_folder(path)

    def journal(self, answers: str) -> Journal:
        """Return the answers of a model on a split; `answers` is the fingerprint of all that they depend on."""
        return Journal(self._here(f"answers/{answers[:32]}.jsonl"), self.tell, self.patiently)

    def read_heal(self, model: str) -> dict[str, Any]:
        """Return losses, cost and notes, if any, of the healing of a model; nothing and no cost where not known."""
        unknown = {"losses": [], "wall_seconds": 0.0, "device_seconds": 0.0}
        path = self._here(f"heals/{model[:32]}.json")
        if (content := self._read(path)) is None:
            return unknown
        known = unseal(content)
        if known is None or not known.keys() >= unknown.keys():
            self.tell(f"{self.relative(path)} is damaged: losses and cost of a heal are not known any more")
            return unknown
        return known

    def heal_state(self, model: str) -> Path:
        """Return the file in which a heal that runs keeps its state."""
        return self._here(f"heals/{model[:32]}.safetensors")

    def drop_heal_state(self, model: str) -> None:
        """Remove the state of a heal that is over."""
        path = self.root / "heals" / f"{model[:32]}.safetensors"
        self.patiently(lambda: path.unlink(missing_ok=True))
        self.share(path)

    def share(self, path: Path) -> None:
        """Make the URL, where there is one, as the folder here: a file that changed is sent, one that is gone goes."""
        if self.remote and path.exists():
            self.remote.send(self.relative(path))
        elif self.remote:
            self.remote.remove(self.relative(path))

    def write_heal(
        self,
        model: str,
        losses: list[float],
        wall_seconds: float,
        device_seconds: float,
        notes: Sequence[str] = (),
    ) -> None:
        """Keep losses and cost of the healing of a model, and what was out of the ordinary."""
        content: dict[str, Any] = {"losses": losses, "wall_seconds": wall_seconds, "device_seconds": device_seconds}
        if notes:
            content["notes"] = list(notes)
        path = self.root / "heals" / f"{model[:32]}.json"
        self._write(path, seal(content))
        self.share(path)

    def read_record(self, trial_fingerprint: str) -> dict[str, Any] | None:
        """Return the record of a finished trial; None where there is none, or it or what it relies on is damaged."""
        record = self._read_trial(trial_fingerprint)
        if record is None:
            return None
        lost = [name for name in files_named(record) if not self.holds(name)]
        if (folder := record.get("checkpoint")) and not self.has_folder(self.root / folder, here=False):
            lost.append(folder)
        if lost:
            names = ", ".join(lost)
            self.tell(f"{names} lost or damaged: {describe(record)} is run again")
        return None if lost else record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Keep the record of a finished trial under its fingerprint."""
        path = self.root / "trials" / f"{record['fingerprint']}.json"
        self._write(path, seal(record))
        self.share(path)

    def records(self) -> list[dict[str, Any]]:
        """Return every finished trial's record, in the order of their fingerprints, whatever else they rely on."""
        if self.remote:
            self.remote.fetch_all(self.remote.names("trials"))
        found = (self._read_trial(path.stem) for path in sorted((self.root / "trials").glob("*.json")))
        return [record for record in found if record is not None]

    def fetch_records(self, trial_fingerprints: Iterable[str]) -> None:
        """Bring records, and the files that they name, from the URL at once: one by one takes long."""
        if self.remote is None:
            return
        wanted = list(trial_fingerprints)
        self.remote.fetch_all(f"trials/{one}.json" for one in wanted)
        found = [record for record in map(self._read_trial, wanted) if record is not None]
        self.remote.fetch_all({name for record in found for name in files_named(record)})

    def fetch_for(self, report: Path, *, models: bool = False) -> Path:
        """Return the folder that has what a report's records name, fetched where it is at the URL only.

        Args:
            report: The report's folder.
            models: Whether the healed models are wanted too.
        """
        path = report / "results.json"
        if self.remote and path.is_file():
            named = set(NAMED.findall(path.read_text(encoding="utf-8")))
            folders = {name for name in named if name.startswith("checkpoints/")}
            self.remote.fetch_all(named - folders)
            for name in folders if models else ():
                self.has_folder(self.root / name)
        return self.root

    def fetch_ledger(self, sweep: str) -> None:
        """See that the ledger is sound, taking the sweep's copy at the URL where there is none here.

        A damaged ledger is put aside: the trials' records are in the store, and a new ledger finds them there.
        """
        path, name = self._ledger, f"ledgers/{sweep}.db"
        if self.remote and not path.exists() and self.remote.fetch(name):
            (self.root / name).rename(path)
        if path.exists() and (problem := self.patiently(lambda: ledger_problem(path))):
            aside = path.with_name(f"ledger.damaged-{time.time_ns()}.db")
            path.rename(aside)
            self.tell(f"ledger.db is damaged ({problem}): put aside as {aside.name}, and begun again from the records")

    @contextmanager
    def making_ledger(self) -> Iterator[None]:
        """Hold what one process at a time holds: two that begin at once would both make the ledger's tables."""
        with self.patiently(lambda: (self.root / "ledger.lock").open("a")) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def send_ledger(self, sweep: str, *, now: bool = False) -> None:
        """Send a consistent copy of the ledger to the URL, where there is one.

        Args:
            sweep: Whose driver sends it.
            now: Whether at once, or only where the last one is a while ago.
        """
        if self.remote is None or not self._ledger.exists():
            return
        if not now and time.monotonic() - self._sent_ledger_s < LEDGER_EVERY_S:
            return
        copy = self.root / "ledgers" / f"{sweep}.db"
        copy.parent.mkdir(exist_ok=True)
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(self._ledger)) as ledger, closing(sqlite3.connect(copy)) as target:
            ledger.backup(target)
        self.remote.send(self.relative(copy))
        self._sent_ledger_s = time.monotonic()

    def _say(self, line: str) -> None:
        """Say something by what `say` is by then."""
        self.say(line)

    def tell(self, line: str) -> None:
        """Say something, once in this process."""
        if line not in self._told:
            self._told.add(line)
            self.say(line)

    def _here(self, name: str) -> Path:
        """Return a file's path, fetched where it is at the URL only."""
        path = self.root / name
        if not self.patiently(path.exists) and self.remote:
            self.remote.fetch(name)
        return path

    def _read_trial(self, trial_fingerprint: str) -> dict[str, Any] | None:
        name = f"trials/{trial_fingerprint}.json"
        content = self._read(self.root / name)
        for again in (False, True):
            if content is not None:
                record = unseal(content)
                if record is not None and record.get("fingerprint") == trial_fingerprint:
                    return record
                self.tell(f"{name} is damaged: it counts as missing, and its trial is run again")
            if again or self.remote is None or not self.remote.fetch(name):
                return None
            content = self._read(self.root / name)
        return None

    def _is_whole(self, name: str) -> bool:
        """Say whether a file is here and its name is that of its content; looks once at one that does not change."""
        path = self.root / name
        try:
            stamp = _stamp([path])
        except OSError:
            stamp = []
        if stamp and self._whole.get(name) == stamp:
            return True
        if (content := self._read(path)) is None:
            return False
        if is_named_right(name, content):
            self._whole[name] = stamp
            return True
        return False

    def _folder_problem(self, path: Path) -> str:
        """Return what is wrong with a folder that is here; compares bytes once, where they are not too many."""
        name = self.relative(path)
        try:
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != KEPT)
            stamp = _stamp(files)
            if self._whole.get(name) == stamp:
                return ""
            problem = folder_problem(path, hashed=sum(size for size, _ in stamp) <= HASHED_BYTES)
        except FileNotFoundError:  # removed by another process at this very moment
            return "" if path.is_dir() else "it is gone"
        if not problem:
            self._whole[name] = stamp
        return problem

    def _remove_folder(self, path: Path) -> None:
        if not path.exists():
            return
        doomed = Path(tempfile.mkdtemp(dir=path.parent, prefix=".draft-"))
        with suppress(FileNotFoundError):  # another worker was first
            path.rename(doomed / path.name)
        shutil.rmtree(doomed, ignore_errors=True)

    def _read(self, path: Path) -> bytes | None:
        """Return a file's content, None where there is none; waits for a file system that went away."""
        try:
            return self.patiently(path.read_bytes)
        except OSError:
            return None

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all; waits for a file system that went away."""
        self.patiently(lambda: self._write_once(path, content))

    def _write_once(self, path: Path, content: bytes) -> None:
        with whole_file(path) as draft, draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def ledger_problem(path: Path) -> str:
    """Return what is wrong with a ledger's file, nothing where it is sound.

    Raises:
        sqlite3.OperationalError: It cannot be read now.
    """
    try:
        with closing(sqlite3.connect(path, timeout=60)) as ledger:
            (found,) = ledger.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found)


def _stamp(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Return what changes when files are written to."""
    return [(found.st_size, found.st_mtime_ns) for found in (file.stat() for file in files)]
