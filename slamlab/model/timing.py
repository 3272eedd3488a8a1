"""Two jobs timed side by side. A machine's pace drifts, with its clock and with what else it runs; so jobs take turns.

A ratio is of two neighbours in time, and who goes first changes from turn to turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

NUM_TURNS = 6
"""Of six ratios the least and the greatest are the ends of a 97 % interval of their median, whatever their
distribution."""


def take_turns(
    unpruned: Callable[[], object],
    pruned: Callable[[], object],
    *,
    limit_s: float,
    num_turns: int = NUM_TURNS,
    now: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Time two jobs in turns, after one untimed run of each; the order is swapped in every second turn.

    Args:
        unpruned: A job.
        pruned: Another.
        limit_s: Once so many seconds have passed there are no more turns, but always an even number of them.
        num_turns: Turns at most, an even number.
        now: The time in seconds, once all that was begun has ended.

    Returns:
        Seconds of both jobs, a pair a turn; an even number of turns, so that each goes first as often as the other.
    """
    jobs = (unpruned, pruned)
    for job in jobs:
        job()
    times: list[tuple[float, float]] = []
    first = now()
    while len(times) < num_turns and (len(times) % 2 or not times or now() - first < limit_s):
        seconds = [0.0, 0.0]
        for which in (1, 0) if len(times) % 2 else (0, 1):
            began = now()
            jobs[which]()
            seconds[which] = now() - began
        times.append((seconds[0], seconds[1]))
    return times


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return what tells the time in seconds once the work begun on a device has ended."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)  # work is queued there: else the clock is read before it is done
        return time.perf_counter()

    return now
