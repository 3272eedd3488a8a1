"""A sweep on a cluster that has no GPU yet: Ray's own autoscaler brings nodes, which are processes of this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, sys
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from small_world import small_sweep
from slamlab.errors import OptionError
from slamlab.sweep import launch
from slamlab.sweep.cluster.nodes import await_nodes

address, said, kinds = sys.argv[1], [], []
profile, why = launch.choose_profile("auto", address)
settings = small_sweep("unused", profile=profile.name)
for devices in (1, 2):
    await_nodes(settings, address, said.append, devices)
    nodes = get_cluster_status(ray.get_runtime_context().gcs_address)
    kinds.append(sorted(node.ray_node_type_name for node in nodes.active_nodes + nodes.idle_nodes))
try:
    await_nodes(settings, address, said.append, 4)
except OptionError as error:
    refused = str(error)
told = {"profile": profile.name, "why": why, "workers": launch.default_workers(profile, address)}
print(json.dumps(told | {"said": said, "kinds": kinds, "refused": refused}))
"""


@pytest.fixture
def told() -> Iterator[dict[str, Any]]:
    """Return what a driver was told on a cluster of a head, and of spot and other GPU workers from none to three."""
    folder = Path(tempfile.mkdtemp(prefix="grow", dir="/tmp"))  # a short path: Ray keeps sockets in it
    with socket.socket() as one:
        one.bind(("", 0))
        address = f"{ray.util.get_node_ip_address()}:{one.getsockname()[1]}"
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    spot, other = (config["available_node_types"][kind] for kind in ("gpu_spot", "gpu_on_demand"))
    a_node = {"resources": {"CPU": 4, "GPU": 1}, "node_config": {}}
    config |= {
        "provider": {
            "type": "external",
            "module": "passing_spot.PassingSpot",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "max_workers": 3,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu_spot": spot | a_node,
            "gpu_on_demand": other | a_node,
        },
    }
    config |= {"docker": {}, "cluster_synced_files": [], "initialization_commands": [], "file_mounts": {}}
    (folder / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    env = os.environ | {
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-this-test-0123456789abcdef",
        "PYTHONPATH": f"{Path(__file__).parent}:{ROOT / 'tests' / 'sweep'}",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    switches = [word for word in config["head_start_ray_commands"][-1].split() if "=" in word and word[0] != "-"]
    head = {"RAY_FAKE_CLUSTER": "1", "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}
    head |= dict(switch.split("=") for switch in switches)
    head |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    options = ["--num-cpus=1", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
    options += [f"--temp-dir={folder}", f"--autoscaling-config={folder}/ray_bootstrap_config.yaml"]
    try:
        start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--disable-usage-stats", *options]
        subprocess.run(start, env=env | head, check=True, capture_output=True, timeout=120)
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, address], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        ours = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
        for one in ours:
            one.kill()
        psutil.wait_procs(ours, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_sweep_waits_for_gpus_that_may_come_spot_first_and_refuses_what_cannot(told: dict[str, Any]) -> None:
    assert told["profile"] == "paper"
    assert told["why"].endswith("has no GPUs, and may grow to 3")
    assert told["workers"] == 3
    first, came, second, came_too = told["said"]
    assert first == "Waiting for nodes: a trial takes 4 CPU and 1 GPU, and the cluster has 1 CPU and 0 GPU so far."
    assert second == "Waiting for nodes: a trial takes 8 CPU and 2 GPU, and the cluster has 5 CPU and 1 GPU so far."
    assert came.startswith("Nodes came after") and came_too.startswith("Nodes came after")
    one, two = told["kinds"]
    assert one == ["gpu_spot", FAKE_HEAD_NODE_TYPE]
    assert two == ["gpu_on_demand", "gpu_spot", FAKE_HEAD_NODE_TYPE]  # no second spot machine was to be had
    assert told["refused"].startswith("a trial of the profile paper takes 16 CPU and 4 GPU")
