"""A disk without room, however that is told: by the system, by SQLite, by a library that wraps what the system says."""

from __future__ import annotations

import errno

from slamlab.errors import StoreError

FULL = {errno.ENOSPC, errno.EDQUOT}
SAID = ("no space left on device", "disk quota exceeded", "database or disk is full")
"""What libraries that keep no error number say: safetensors, SQLite, Arrow."""


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
