"""How a cluster grows: up to what, by the file that `ray up` leaves on its head, and by which machines first.

For neither has Ray a way of its own: no call tells the limits, and version 2 of its autoscaler (2.60) asks for the kind
of machine that it prefers again and again where the cloud has none.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HEAD_FILE = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts a cluster's configuration on the head, for the autoscaler that runs there."""


def largest(file: Path = HEAD_FILE) -> dict[str, float] | None:
    """Return the most CPUs and GPUs that the cluster can have, head included.

    Args:
        file: The configuration that the autoscaler of this head reads.

    Returns:
        Amounts by resource; None where they are not known: away from the head of a cluster that `ray up` started, or
        with nodes of the user's own, whose resources show when they join.
    """
    try:
        config = yaml.safe_load(file.expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    kinds = config["available_node_types"]
    most = {}
    for resource in ("CPU", "GPU"):
        of_workers = [kind["resources"].get(resource, 0) for kind in kinds.values() for _ in range(kind["max_workers"])]
        of_head = kinds[config["head_node_type"]]["resources"].get(resource, 0)
        most[resource] = of_head + sum(heapq.nlargest(config["max_workers"], of_workers))
    return most if any(most.values()) else None


def spot_first(
    node_resources: Mapping[str, float],
    resources: Sequence[Mapping[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[bool, bool, bool] | None:
    """Rank a kind of machine for what waits, as version 1 of Ray's autoscaler asks (RAY_AUTOSCALER_UTILIZATION_SCORER).

    Machines without GPUs go first for what needs none; of the others those that the cloud did not refuse in the last
    half hour; of these the ones that have spot in their name.

    Args:
        node_resources: What a machine of this kind has.
        resources: What waits.
        node_type: Name of the kind.
        node_availability_summary: Ray's record of launches that failed.

    Returns:
        Greater for better; None where nothing of what waits fits.
    """
    if not any(all(node_resources.get(name, 0) >= amount for name, amount in one.items()) for one in resources):
        return None
    suits = bool(node_resources.get("GPU")) == any(one.get("GPU") for one in resources)
    launch = node_availability_summary.node_availabilities.get(node_type)
    return suits, launch is None or launch.is_available, "spot" in node_type
