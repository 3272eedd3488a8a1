"""A store's folder, which a mount may take away and bring back."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from slamlab.sweep.patience import AWAY, patiently

MARK = ".slamlab"
"""An empty file that says that a folder is a store: what a mount leaves that went away has none."""
Result = TypeVar("Result")


class Mount:
    """Tells whether a store's folder is there, and waits for it.

    Args:
        root: The folder.
        say: Takes a line about what is waited for.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._root, self._say = root, say
        self._mark = root / MARK
        self._was_there = self._mark.exists()

    def mark(self) -> None:
        """Mark the folder as a store's."""
        self._mark.touch()
        self._was_there = True

    def expect(self, is_marked: bool) -> None:
        """Say whether somebody else has marked the folder: then it is away where it has no mark."""
        self._was_there = is_marked

    def is_gone(self) -> bool:
        """Say whether the folder is not the one that it was: without its mount it is empty, or not there at all."""
        try:
            is_here = self._mark.exists()
        except OSError:  # such as a mount whose server does not answer
            return self._was_there
        self._was_there |= is_here
        return self._was_there and not is_here

    def patiently(self, work: Callable[[], Result]) -> Result:
        """Do something in the folder; where its file system went away, again when it is back.

        It is something that may be done twice: what was done in the very moment in which the folder went is done again.

        Raises:
            StoreAway: It stayed away.
        """

        def once() -> Result:
            self._see()  # else something is begun anew in what the mount has left
            result = work()
            self._see()
            return result

        return patiently(once, self._is_away, self._root, self._say)

    def _see(self) -> None:
        if self.is_gone():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root))

    def _is_away(self, error: Exception) -> bool:
        """Say whether an error is of a file system that may come back: also one whose mount took the folder away."""
        cause = getattr(error, "orig", error)  # SQLAlchemy wraps what SQLite raises
        is_io = getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
        return is_io or getattr(error, "errno", None) in AWAY or self.is_gone()
