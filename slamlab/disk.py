"""Files that appear whole or not at all; and a disk without room, however that is told: by the system, by SQLite, by a
library that wraps what the system says.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from slamlab.errors import StoreError

Result = TypeVar("Result")
FULL = {errno.ENOSPC, errno.EDQUOT}
SAID = ("no space left on device", "disk quota exceeded", "database or disk is full")
"""What libraries that keep no error number say: safetensors, SQLite, Arrow."""


def at_once(work: Callable[[], Result]) -> Result:
    """Do something, once: how one works on a disk that does not go away (see :mod:`slamlab.sweep.patience`)."""
    return work()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` that takes its place at the end.

    Nobody meets half a file, and after an error none is left. Until then it is called `.draft-` and random letters,
    without a suffix: no pattern for finished files meets it. Whoever may read the folder may read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)  # mkstemp makes it private to its owner
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def disk_full(error: BaseException) -> StoreError | None:
    """Return the sentence for a user whose disk is full, None where an exception is about something else."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        is_number = isinstance(cause, OSError) and cause.errno in FULL
        if is_number or any(words in str(cause).lower() for words in SAID):
            where = getattr(cause, "filename", None)
            return StoreError(
                "a sweep needs room for what it computes",
                f"a full disk{f' at {where}' if where else ''}",
                "free some (python -m slamlab store gc), and run the same command again: it goes on from here",
            )
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None
