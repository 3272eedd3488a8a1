"""Nodes that a sweep waits for where its cluster may grow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import ray

from slamlab.errors import OptionError
from slamlab.sweep.cluster.capacity import largest
from slamlab.sweep.settings import Settings

LOOK_EVERY_S, PATIENCE_S = 5.0, 1800.0
"""How long a sweep waits for nodes where nothing says that any will come."""


def await_nodes(settings: Settings, address: str | None, say: Callable[[str], None], devices: int = 1) -> None:
    """Return when the cluster has the CPUs and GPUs that a trial takes; where it has not, ask its autoscaler for them.

    Args:
        settings: The sweep.
        address: Of the cluster; None for this machine, which does not grow.
        say: Takes a line of progress.
        devices: Devices that one trial takes.

    Raises:
        OptionError: There are too few, and no more can come; or none came for :data:`PATIENCE_S`, where how far the
            cluster grows is not known.
    """
    profile = settings.recipes()
    a_device = {name: each for name, each in profile.resources.items() if each}
    needed = {name: devices * each for name, each in a_device.items()}

    def lacking(amounts: Mapping[str, float]) -> bool:
        return any(amounts.get(name, 0) < amount for name, amount in needed.items())

    there = ray.cluster_resources()
    if not lacking(there):
        return
    takes = " and ".join(f"{amount} {name}" for name, amount in needed.items())
    has = " and ".join(f"{there.get(name, 0):g} {name}" for name in needed)
    most = largest() if address is not None else there
    if most is None or not lacking(most):
        limit_s = PATIENCE_S if most is None else math.inf
        at_most = f" (for {limit_s / 60:.0f} minutes at most)" if most is None else ""
        say(f"Waiting for nodes{at_most}: a trial takes {takes}, and the cluster has {has} so far.")
        began_s, came = time.monotonic(), False
        # Something that waits for room is what an autoscaler acts on.
        room = ray.util.placement_group([a_device] * devices)
        while not came and time.monotonic() - began_s < limit_s:
            came = room.wait(LOOK_EVERY_S)
        ray.util.remove_placement_group(room)
        if came:
            say(f"Nodes came after {time.monotonic() - began_s:.0f} s.")
            return
    raise OptionError(
        f"a trial of the profile {profile.name} takes {takes}",
        f"{has} in the cluster",
        "add nodes, or pass --profile pocket" + " or fewer --devices" * (devices > 1),
    )
