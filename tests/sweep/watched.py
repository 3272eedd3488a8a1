"""A simulated sweep that is watched: what the driver does beside Ray."""

import io

from rich.console import Console
from small_world import World

from slamlab.errors import TrialFailed
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.progress import Watcher
from slamlab.sweep.store import Store
from slamlab.training.base import Progress


def lines_of(console):
    """Return what a console was told, by lines."""
    return console.file.getvalue().splitlines()


def watch(settings, world, console=None, *, until=None, **options):
    """Run a sweep one trial at a time; return campaign and console.

    Args:
        settings: The sweep.
        world: Its workers.
        console: Where lines go.
        until: Called with a request that runs, as far as it came; true leaves it running, as a driver that dies does.
        options: Of the watcher.
    """
    console = console or Console(file=io.StringIO(), width=200)
    campaign = Campaign(settings, Store(settings.store).open(min_free_bytes=0))
    with Watcher(console, campaign, 6, **options) as watcher:
        while (request := campaign.next()) is not None:
            campaign.begin(request)
            watcher.started(request)
            watcher.advanced(request, None, worker="far, process 7", lines=["features took 2.0 s"])
            watcher.advanced(request, Progress(stage="heal", step=1, num_steps=4, loss=2.5))
            if until and until(request):
                break
            try:
                record = world.run(request)
            except TrialFailed as failure:
                campaign.fail(request, str(failure))
                watcher.failed(request, str(failure), "Traceback: of the failure")
            else:
                watcher.completed(request, campaign.complete(request, record))
    return campaign, console


def simulated(settings, edge=5, **world):
    """Return workers for whom blocks up to an edge do no harm."""
    return World(settings, dict.fromkeys(settings.cells, edge), **world)
