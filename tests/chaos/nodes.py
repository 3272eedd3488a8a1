"""Several nodes of a Ray cluster on this machine."""

from __future__ import annotations

import atexit

import ray
from ray.cluster_utils import Cluster

from slamlab.sweep.cluster.start import OBJECT_STORE_BYTES


def start_nodes(num_nodes: int) -> str:
    """Start a head without CPUs and nodes of one CPU each, which end with this process, and return their address."""
    here = {"object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**here, "num_cpus": 0})
    for _ in range(num_nodes):
        cluster.add_node(**here, num_cpus=1)
    atexit.register(ray.shutdown)  # before the nodes end: a driver that sees its own node end says so with exit code 1
    return str(cluster.address)
