"""How a sweep stands: what runs, what has ended, what is known of each cell, how long the rest will take.

Kept by the driver as trials tell, in plain numbers and texts: what the live view shows, and what goes into
`status/<sweep>.json` for `python -m slamlab status` in another shell. That file says when it was written; a driver that
died leaves one that grows old.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slamlab.credentials import redacted
from slamlab.disk import whole_file

if TYPE_CHECKING:
    from slamlab.sweep.campaign import Campaign
    from slamlab.sweep.cells import Cell
    from slamlab.sweep.settings import Request
    from slamlab.training.base import Progress

WRITE_EVERY_S, SHARE_EVERY_S = 3.0, 60.0
"""How often the file is written, and sent to the URL of a store that has one."""
WRITING_SHARE = 0.02
"""Of its time, what a driver writes it with at most."""
MANY_CELLS = 100
"""With more cells, verdicts of earlier runs are not worked out again only to be shown."""
MAX_FAILURES = 100


@dataclass(kw_only=True)
class Running:
    """A trial that runs.

    Attributes:
        cell: Its cell's name.
        what: What it does, such as `probe -6 at 2`.
        log: Its log, relative to the store.
        began: When, in seconds since the epoch.
        worker: Host and process, once known.
        stage: What it is at, once known; with `step` of `num_steps`, and the loss where it learns.
        left_s: Seconds left of this stage, by its pace so far.
    """

    cell: str
    what: str
    log: str
    began: float
    worker: str = ""
    stage: str = ""
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    left_s: float | None = None


class Standing:
    """The state of a sweep that runs, safe to be read by another thread.

    Args:
        campaign: The sweep.
        num_expected: Trials expected of the whole sweep.
        report: Where its report will be.
    """

    def __init__(self, campaign: Campaign, num_expected: float, report: Path | None = None) -> None:
        self._campaign, self._num_expected = campaign, num_expected
        self._report = str(report) if report else None
        self._num_settled = self._num_ended = campaign.num_settled
        self._began_s, self._began = time.monotonic(), time.time()
        self._lock = threading.Lock()
        self._running: dict[Request, Running] = {}
        self._paces: dict[Request, tuple[str, int, float]] = {}  # stage, step and time at which it was first seen
        self._failures: list[dict[str, str]] = []
        self._num_failures = 0
        self._verdicts: dict[Cell, dict[tuple[int, int], tuple[str, float]]] = {}
        self._last_ended: float | None = None
        self._cells: dict[str, dict[str, Any]] = {}
        few = len(campaign.ledgers) <= MANY_CELLS
        for cell in campaign.ledgers:
            if few and cell in campaign.samplers:
                for depth, start in self._healed(cell):
                    self._judge(cell, depth, start, campaign.verdict(cell, start, depth))
            self._cells[cell.name] = self._of_cell(cell)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._began_s

    @property
    def num_ended(self) -> int:
        """Trials that ended for good, in this run or before, without cheap looks."""
        return self._num_ended

    @property
    def num_expected(self) -> float:
        """Trials expected of the whole sweep."""
        return self._num_expected

    def left_s(self) -> float | None:
        """Return the seconds left by the pace of this run; None where there is no pace yet, or nothing left."""
        remaining, done = self._num_expected - self._num_ended, self._num_ended - self._num_settled
        return self.elapsed_s / done * remaining if remaining > 0 and done else None

    def started(self, request: Request, what: str, log: str) -> None:
        """Note that a trial starts."""
        with self._lock:
            self._running[request] = Running(cell=request.cell.name, what=what, log=log, began=time.time())

    def moved(self, request: Request, worker: str) -> bool:
        """Note which worker runs a trial; say whether that is news."""
        one = self._running.get(request)
        if one is None or one.worker == worker:
            return False
        one.worker = worker
        return True

    def advanced(self, request: Request, progress: Progress | None) -> None:
        """Note where a trial stands; a note is no step."""
        if (one := self._running.get(request)) is None or progress is None or progress.note:
            return
        with self._lock:
            stage, since_step, since_s = self._paces.get(request, ("", 0, 0.0))
            if stage != progress.stage:
                stage, since_step, since_s = progress.stage, progress.step, time.monotonic()
                self._paces[request] = stage, since_step, since_s
            one.stage, one.step, one.num_steps, one.loss = stage, progress.step, progress.num_steps, progress.loss
            took_s, steps = time.monotonic() - since_s, progress.step - since_step
            one.left_s = took_s / steps * (progress.num_steps - progress.step) if steps > 0 else None

    def completed(self, request: Request, record: Mapping[str, Any]) -> None:
        """Note that a trial ended with a record."""
        with self._lock:
            self._num_ended += request.rung == "full"  # cheap looks are not planned for, nor long
            if "p_feasible" in record:
                self._judge(request.cell, request.depth, request.start, record)
            self._ended(request)

    def failed(self, request: Request, reason: str, log: str) -> None:
        """Note that a trial failed."""
        with self._lock:
            self._num_ended += request.attempt > 1 and request.rung == "full"
            self._num_failures += 1
            what = self._running[request].what if request in self._running else request.kind
            told = {"cell": request.cell.name, "what": what, "reason": redacted(reason), "log": log}
            self._failures = [*self._failures, told][-MAX_FAILURES:]
            self._ended(request)

    def cut_short(self, request: Request) -> None:
        """Note that a trial runs no longer, and neither ended for good nor failed."""
        with self._lock:
            self._ended(request)

    def snapshot(self) -> dict[str, Any]:
        """Return everything as plain data.

        It has the names and times of the sweep and its driver, counts, `running` (as :class:`Running` says), `failures`
        of this run, and `cells` by name: `state`, `heals`, `feasible` and `infeasible` (the deepest block that is known
        to do no harm, the shallowest that is known to do harm: depth, start, probability of being harmless).
        """
        with self._lock:
            running, failures = [asdict(one) for one in self._running.values()], self._failures
            cells = dict(self._cells)
        return {
            "sweep": self._campaign.settings.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": self._began,
            "written": time.time(),
            "ended": None,
            "num_ended": self._num_ended,
            "num_expected": self._num_expected,
            "per_hour": 3600 * (self._num_ended - self._num_settled) / max(self.elapsed_s, 1e-9),
            "left_s": self.left_s(),
            "last_ended": self._last_ended,
            "report": self._report,
            "running": running,
            "num_failures": self._num_failures,
            "failures": failures,
            "cells": cells,
        }

    def _ended(self, request: Request) -> None:
        self._running.pop(request, None)
        self._paces.pop(request, None)
        self._last_ended = time.time()
        self._cells[request.cell.name] = self._of_cell(request.cell)

    def _healed(self, cell: Cell) -> set[tuple[int, int]]:
        probes = self._campaign.ledgers[cell].probes
        return {key[:2] for key, one in probes.items() if key[2] == "full" and one.record is not None}

    def _judge(self, cell: Cell, depth: int, start: int, told: Mapping[str, Any]) -> None:
        self._verdicts.setdefault(cell, {})[depth, start] = told["verdict"], told["p_feasible"]

    def _of_cell(self, cell: Cell) -> dict[str, Any]:
        ledger, judged = self._campaign.ledgers[cell], self._verdicts.get(cell, {})
        blocks = {
            verdict: [(depth, start, p) for (depth, start), (found, p) in judged.items() if found == verdict]
            for verdict in ("feasible", "infeasible")
        }
        deepest, shallowest = max(blocks["feasible"], default=None), min(blocks["infeasible"], default=None)
        return {
            "state": _state(ledger.singles),
            "heals": sum(key[2] == "full" and one.record is not None for key, one in ledger.probes.items()),
            "feasible": _block(deepest),
            "infeasible": _block(shallowest),
        }


def _state(singles: Mapping[str, Any]) -> str:
    if singles["final"].record is not None:
        return "answered"
    if singles["base"].failed:
        return "failed"
    return "searched" if singles["base"].record is not None else "without base"


def _block(found: tuple[int, int, float] | None) -> dict[str, Any] | None:
    return None if found is None else dict(zip(("depth", "start", "p_feasible"), found, strict=True))


class StatusFile:
    """Writes how a sweep stands, in a thread of its own, for as long as it is open.

    Args:
        path: Of the file.
        standing: What is written.
        share: Sends the file to the store's URL; does nothing where there is none.
        is_gone: Says whether the disk on which it lies has gone away, so that nothing is begun anew in its place.
    """

    def __init__(
        self,
        path: Path,
        standing: Standing,
        share: Callable[[Path], None],
        is_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path, self._standing, self._share, self._is_gone = path, standing, share, is_gone
        self._shared_s = -SHARE_EVERY_S
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="status", daemon=True)

    def __enter__(self) -> StatusFile:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(timeout=10)
        self._write(ended=time.time())

    def _go_on(self) -> None:
        wait_s = 0.0
        while not self._closing.wait(wait_s):
            began_s = time.monotonic()
            self._write(ended=None)
            wait_s = max(WRITE_EVERY_S, (time.monotonic() - began_s) / WRITING_SHARE)

    def _write(self, ended: float | None) -> None:
        """Write the file whole or not at all; where it cannot be, nobody is disturbed."""
        if self._is_gone():
            return
        with suppress(Exception):
            with whole_file(self._path) as draft:
                draft.write_text(json.dumps({**self._standing.snapshot(), "ended": ended}))
            if ended or time.monotonic() - self._shared_s >= SHARE_EVERY_S:
                self._shared_s = time.monotonic()
                self._share(self._path)


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
