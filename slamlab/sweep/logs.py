"""Logs by trial: what a person wants to read of one trial, in a file whose name says which one it is.

They lie in `logs/<sweep>/` of the driver's store, one file an attempt, such as
`qwen-mini-whisper-base-asr-en.probe-depth5-at3.heal2.attempt1.log`. The driver writes them, of what reaches it: where
the worker runs, notes, how long stages took, losses, what the worker printed, and the traceback of a failure.
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from slamlab.credentials import redacted
from slamlab.terminal import printable

if TYPE_CHECKING:
    from slamlab.sweep.settings import Request
    from slamlab.training.base import Progress

MAX_NAME = 120
"""Characters of a cell's name in a file's name."""
MAX_PRINTED = 20_000
"""Characters of a worker's output that go into the log at a time: the last ones."""


def trial_name(request: Request) -> str:
    """Return what tells a trial from the others of its sweep, as a file's name without its ending."""
    parts = [re.sub(r"[^\w.]+", "-", request.cell.name).strip("-.")[:MAX_NAME], request.kind]
    if request.depth:
        parts[-1] += f"-depth{request.depth}-at{request.start}"
    if request.rung != "full":
        parts.append(request.rung)
    if request.repeat:
        parts.append(f"heal{request.repeat + 1}")
    return ".".join([*parts, f"attempt{request.attempt}"])


class TrialLogs:
    """Writes the logs of a sweep. A log that cannot be written stops nothing.

    Args:
        folder: Where they lie; made with the first one.
        is_gone: Says whether the disk on which they lie has gone away, so that nothing is begun anew in its place.
    """

    def __init__(self, folder: Path, is_gone: Callable[[], bool] = lambda: False) -> None:
        self.folder, self._is_gone = folder, is_gone

    def path(self, request: Request) -> Path:
        """Return where the log of a trial is."""
        return self.folder / f"{trial_name(request)}.log"

    def write(self, request: Request, text: str) -> None:
        """Add lines, each with the time, without control characters and the credentials of URLs."""
        if self._is_gone():
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        # Of a line that was written over, as progress bars do, the last state.
        lines = [line.rstrip().rpartition("\r")[2] for line in redacted(text).split("\n")]
        told = "".join(f"{now} {printable(line)}\n" for line in lines if line)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path(request).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(told)


class Teller:
    """What a worker has to tell of its trial between two reports."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._losses: list[tuple[int, float]] = []
        self._stage, self._stage_began_s = "", 0.0

    def hear(self, progress: Progress | None) -> None:
        """Note a step; None where the trial has ended."""
        stage = progress.stage if progress and not progress.note else self._stage if progress else ""
        if stage != self._stage:
            now_s = time.monotonic()
            if self._stage:
                self._lines.append(f"{self._stage} took {now_s - self._stage_began_s:.1f} s")
            self._stage, self._stage_began_s = stage, now_s
        if progress and progress.loss is not None:
            self._losses.append((progress.step, progress.loss))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what this process prints meanwhile; it still goes where it went."""
        kept = io.StringIO()
        try:
            with redirect_stdout(_Tee(sys.stdout, kept)), redirect_stderr(_Tee(sys.stderr, kept)):
                yield
        finally:
            if text := kept.getvalue():
                self._lines.append(text[-MAX_PRINTED:])

    def take(self) -> tuple[list[str], list[tuple[int, float]]]:
        """Return lines for the log and losses by step, and begin anew."""
        taken = self._lines, self._losses
        self._lines, self._losses = [], []
        return taken


class _Tee(io.TextIOBase):
    """A stream whose text goes to two others."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._first, self._second = first, second

    def write(self, text: str) -> int:
        self._second.write(text)
        return self._first.write(text)

    def flush(self) -> None:
        self._first.flush()

    def fileno(self) -> int:
        return self._first.fileno()
