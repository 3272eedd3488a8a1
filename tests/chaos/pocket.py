"""`sweeps/max_prune.py`, but that a heal keeps its state at every step; on this machine, or on nodes of a cluster.

Called with a number of nodes (0 for this machine alone), then options of the command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from nodes import start_nodes

from slamlab.sweep import healing
from slamlab.sweep.cluster import ranks, run, worker
from slamlab.sweep.command import sweep_app
from slamlab.training.resume import Keeper


def keep_often() -> None:
    """Keep the state of this process's heals at every step."""
    healing.Keeper = partial(Keeper, every_s=0)


class OftenKept(worker.TrialRunner):
    """A worker whose heals can be killed at any step without a loss."""

    def _run(self, request: Any) -> Iterator[Any]:
        keep_often()
        ranks.Rank = OftenKeptRank  # whom the team of this process asks
        return (yield from super()._run(request))


class OftenKeptRank(ranks.Rank):
    """The same of one rank of several."""

    def heal(self, *given: Any) -> Iterator[Any]:
        """Take part in a heal."""
        keep_often()
        yield from super().heal(*given)


def main() -> None:
    """Run the command."""
    run.TrialRunner = OftenKept
    num_nodes = int(sys.argv.pop(1))
    if num_nodes:
        sys.argv += ["--address", start_nodes(num_nodes)]
    sweep_app("max_prune", None, lambda: "python sweeps/max_prune.py")()


if __name__ == "__main__":
    main()
