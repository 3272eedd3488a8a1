"""Signs of life: a worker that tells nothing of its trial for too long hangs, and so does the trial until it is ended.

A healthy worker tells where it stands every few seconds; only what cannot be cut (a download, a map, one step of a
large model) takes longer. How long is too long is for the user to say.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from slamlab.errors import OptionError

HANG_MINUTES = 30.0
LOOK_S = 10.0
"""What a driver did not look at for longer, since it stood still itself, is nobody's silence."""


def hang_seconds(minutes: float) -> float:
    """Return how long a worker may be silent, by `--hang-minutes`; 0 stands for as long as it likes.

    Raises:
        OptionError: A negative number, or none.
    """
    if not (math.isfinite(minutes) and minutes >= 0):
        rule = "a worker may be silent for 0 minutes (as long as it likes) or more"
        raise OptionError(rule, minutes, f"pass for example --hang-minutes {HANG_MINUTES:g}")
    return 60 * minutes or math.inf


class Heartbeats:
    """What was heard of each running trial.

    Args:
        limit_s: Seconds of silence that are too many.
        now: The clock, in seconds.
    """

    def __init__(self, limit_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._now = limit_s, now
        self._silent_s: dict[str, float] = {}
        self._looked_s = now()

    @property
    def reason(self) -> str:
        """Why a trial is ended."""
        return f"no sign of life for {self.limit_s / 60:g} minutes (--hang-minutes): its worker was killed"

    def heard(self, trial: str) -> None:
        """Note that a trial began, or told something."""
        self._silent_s[trial] = 0.0

    def ended(self, trial: str) -> None:
        """Note that nothing more is expected of a trial."""
        self._silent_s.pop(trial, None)

    def hanging(self) -> list[str]:
        """Return the trials that have been silent for too long, as far as the driver looked."""
        now_s = self._now()
        passed_s, self._looked_s = min(now_s - self._looked_s, LOOK_S), now_s
        for trial in self._silent_s:
            self._silent_s[trial] += passed_s
        return [trial for trial, silent_s in self._silent_s.items() if silent_s >= self.limit_s]
