"""A sweep of simulated trials on a store, as a driver that may be killed; with Ray Tune or without.

Ledger, campaign, store, scoring and, where asked for, the Ray Tune run are the real ones. Run as a script it drives the
sweep with Ray, on so many nodes, or 0 for this machine alone, for so many minutes without a sign of life from a trial;
`go` drives it without.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodes import start_nodes
from rich.console import Console
from small_world import World, cell, drive, results_of, small_sweep

from slamlab.errors import exit_on_user_error
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cluster import run, worker
from slamlab.sweep.cluster.start import start_ray
from slamlab.sweep.progress import Watcher
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store
from slamlab.training.base import Progress

EDGES = {cell(): 4, cell("de", "st"): 1, cell(family="llama"): 0}
NUM_STEPS, STEP_S = 4, 0.1
HANG_MINUTES = 0.25
WANTS_MUCH = "wants-much"
"""A file beside the store: the next probe takes more memory than there is, and removes it."""
ROOM_BYTES = 1 << 36
HOLD = "hold"
"""A file beside the store: while it is there, no trial ends."""


def settings_of(store: Path) -> Settings:
    """Return the sweep; by bisection, whose questions do not depend on which of two trials ends first."""
    return small_sweep(store, name="chaos", cells=tuple(EDGES), workers=2)


def go(store: Path) -> None:
    """Drive the sweep to its end without Ray."""
    settings = settings_of(store)
    drive(settings, World(settings, EDGES), settings.workers)


def answer(store: Path) -> dict[str, Any]:
    """Return everything that the finished sweep tells, from its store; but for the commit, which is this checkout's."""
    campaign = Campaign(settings_of(store), Store(store))
    assert campaign.finished
    results = results_of(campaign)
    del results["sweep"]["commit"]
    return results


class Simulated(worker.TrialRunner):
    """A worker whose trials take a moment."""

    def _run(self, request: Request) -> Iterator[Progress]:
        wants_much = Path(self._settings.store).with_name(WANTS_MUCH)
        if wants_much.exists() and request.is_probe:
            wants_much.unlink()
            resource.setrlimit(resource.RLIMIT_AS, (ROOM_BYTES, resource.RLIM_INFINITY))
            bytearray(2 * ROOM_BYTES)
        worker.REPORT_EVERY_S = STEP_S
        world = World(self._settings, EDGES)
        world.store.awaited()
        while Path(self._settings.store).with_name(HOLD).exists():
            time.sleep(STEP_S)
            yield Progress(stage="heal", step=0, num_steps=NUM_STEPS)
        for step in range(NUM_STEPS):
            time.sleep(STEP_S)
            yield Progress(stage="heal", step=step + 1, num_steps=NUM_STEPS)
        return world.run(request)


def main(store: Path, num_nodes: int, hang_minutes: float = HANG_MINUTES) -> None:
    """Drive the sweep to its end with Ray."""
    run.TrialRunner = Simulated
    with exit_on_user_error():
        campaign = Campaign(settings_of(store), Store(store).open(min_free_bytes=0))
        start_ray(start_nodes(num_nodes) if num_nodes else None)
        with Watcher(Console(), campaign, 0) as watcher:
            run.run(campaign, watcher, hang_minutes=hang_minutes)
        assert campaign.finished


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
