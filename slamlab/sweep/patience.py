"""A store that goes away for a while is waited for: a network file system, or an object store."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from slamlab.errors import StoreAway

PATIENCE_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 300.0, 1.0, 30.0
AWAY = {
    getattr(errno, name)
    for name in (
        "ESTALE", "EIO", "ENOTCONN", "ENODEV", "EREMOTEIO", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN",
        "ENETUNREACH", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EAGAIN", "EBUSY",
    )
    if hasattr(errno, name)
}  # fmt: skip
"""What a mounted file system answers while its server does not."""
Result = TypeVar("Result")


def patiently(
    work: Callable[[], Result], is_away: Callable[[Exception], bool], where: object, say: Callable[[str], None]
) -> Result:
    """Do something, again and again while the store is away, with growing pauses.

    Args:
        work: What to do; may be done several times.
        is_away: Says of an exception whether the store may come back.
        where: The store, for what is said.
        say: Takes a line for each pause.

    Raises:
        StoreAway: The store stayed away.
    """
    waited_s, pause_s = 0.0, FIRST_PAUSE_S
    while True:
        try:
            return work()
        except Exception as error:
            if not is_away(error):
                raise
            cause = getattr(error, "orig", error)  # SQLAlchemy adds the statement
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())
            if waited_s >= PATIENCE_S:
                rule = f"a store that goes away comes back within {PATIENCE_S / 60:.0f} minutes"
                remedy = "see that it can be reached, and run the same command again"
                raise StoreAway(rule, f"{where} ({reason})", remedy) from None
            say(f"the store {where} does not answer ({reason}): tried again in {pause_s:.0f} s")
            time.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, LONGEST_PAUSE_S)
