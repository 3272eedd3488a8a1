"""The store: one folder that keeps what was computed, under names made from what it is.

Layout: `ledger.db` (Optuna), `trials/<fingerprint>.json` (one record a trial), `hypotheses/` and `maps/` (named by the
sha256 of their bytes), `bases/` and `checkpoints/` (model folders, named by fingerprint), `answers/` (what models said,
as they say it), `heals/` (losses and cost; the state of one that runs), `cache/` (what can be made again: speech,
encoder frames, converted weights). Files and folders appear whole or not at all, but for answers, which grow by whole
lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from slamlab.errors import StoreError
from slamlab.scoring.journal import Journal

MIN_FREE_BYTES = 2_000_000_000
KEPT = ".kept"


def fingerprint(facts: Any) -> str:
    """Return the sha256 hex digest of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Store:
    """Reads and writes artefacts below a folder.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self.cache = self.root / "cache"
        self.ledger_url = f"sqlite:///{self.root / 'ledger.db'}"

    def open(self, min_free_bytes: int = MIN_FREE_BYTES) -> Store:
        """Create the folder and check that it can be written and has room.

        Raises:
            StoreError: Read-only, not a folder, or too little disk.
        """
        rule, remedy = "the store is a folder that can be written", "pass --store with another folder"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise StoreError(rule, f"{self.root} ({error.strerror})", remedy) from None
        free = shutil.disk_usage(self.root).free
        if free < min_free_bytes:
            raise StoreError(
                f"the store needs {min_free_bytes / 1e9:.1f} GB of free disk",
                f"{free / 1e9:.1f} GB at {self.root}",
                "free some, or pass --store on another disk",
            )
        return self

    def relative(self, path: Path) -> str:
        """Return a path as records hold it: relative to the store, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def put_bytes(self, kind: str, suffix: str, content: bytes) -> str:
        """Keep bytes under the sha256 of themselves and return their relative path."""
        path = self.root / kind / (hashlib.sha256(content).hexdigest()[:32] + suffix)
        if not path.exists():
            self._write(path, content)
        return self.relative(path)

    def put_folder(self, path: Path, fill: Callable[[Path], None]) -> str:
        """Keep a folder that `fill` writes, unless it is there already, and return its relative path."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=".draft-"))
            try:
                fill(draft)
                draft.chmod(0o755)  # mkdtemp makes it private to its owner
                draft.rename(path)
            except OSError:
                if not path.exists():  # else another worker was first: its folder is as good
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return self.relative(path)

    def base_folder(self, key: str) -> Path:
        """Return where a base trained for the facts behind `key` lies."""
        return self.root / "bases" / key[:32]

    def checkpoint_folder(self, model: str) -> Path:
        """Return where a healed model lies; `model` is the fingerprint of what makes it what it is."""
        return self.root / "checkpoints" / model[:32]

    def keep_folder(self, path: Path) -> None:
        """Mark a folder as one that somebody relies on: :meth:`drop_folder` then leaves it, whoever asks."""
        with suppress(FileNotFoundError):  # dropped a moment ago: who relies on it makes it again
            (path / KEPT).touch()

    def drop_folder(self, path: Path) -> None:
        """Remove a folder that nobody relies on; it is gone at once for whoever looks."""
        if not path.exists() or (path / KEPT).exists():
            return
        doomed = Path(tempfile.mkdtemp(dir=path.parent, prefix=".draft-"))
        with suppress(FileNotFoundError):  # another worker was first
            path.rename(doomed / path.name)
        shutil.rmtree(doomed, ignore_errors=True)

    def journal(self, answers: str) -> Journal:
        """Return the answers of a model on a split; `answers` is the fingerprint of all that they depend on."""
        return Journal(self.root / "answers" / f"{answers[:32]}.jsonl")

    def read_heal(self, model: str) -> dict[str, Any]:
        """Return losses, cost and notes, if any, of the healing of a model; nothing and no cost where not known."""
        unknown = {"losses": [], "wall_seconds": 0.0, "device_seconds": 0.0}
        try:
            known = json.loads((self.root / "heals" / f"{model[:32]}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return unknown
        return known if isinstance(known, dict) and known.keys() >= unknown.keys() else unknown

    def heal_state(self, model: str) -> Path:
        """Return the file in which a heal that runs keeps its state."""
        return self.root / "heals" / f"{model[:32]}.safetensors"

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
        self._write(self.root / "heals" / f"{model[:32]}.json", json.dumps(content).encode())

    def read_record(self, trial_fingerprint: str) -> dict[str, Any] | None:
        """Return the record of a finished trial, None where there is none or it is damaged."""
        try:
            record = json.loads(self._record_path(trial_fingerprint).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("fingerprint") == trial_fingerprint else None

    def write_record(self, record: dict[str, Any]) -> None:
        """Keep the record of a finished trial under its fingerprint."""
        content = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self._write(self._record_path(record["fingerprint"]), content.encode())

    def records(self) -> list[dict[str, Any]]:
        """Return every finished trial's record, in the order of their fingerprints."""
        found = (self.read_record(path.stem) for path in sorted((self.root / "trials").glob("*.json")))
        return [record for record in found if record is not None]

    def _record_path(self, trial_fingerprint: str) -> Path:
        return self.root / "trials" / f"{trial_fingerprint}.json"

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).chmod(0o644)
            Path(draft).rename(path)
        finally:
            Path(draft).unlink(missing_ok=True)
