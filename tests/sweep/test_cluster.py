"""`cluster.yaml`, held against the schema of the Ray that is installed; no cloud is asked."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_takes_it(cluster):
    validate_config(prepare_config(cluster))


def test_the_schema_would_notice(cluster):
    del cluster["available_node_types"]["head"]["node_config"]
    with pytest.raises(Exception, match="node_config"):
        validate_config(prepare_config(cluster))


def test_workers_come_when_needed_and_leave_when_idle(cluster):
    assert cluster["head_node_type"] in cluster["available_node_types"]
    worker = cluster["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 1  # the sweep looks for a GPU when it begins
    assert worker["max_workers"] <= cluster["max_workers"]
    assert cluster["idle_timeout_minutes"] > 0


def test_nothing_is_open_to_the_world(cluster):
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    text = " ".join(commands)
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text
    assert "ray-client-server" not in text
    # No rule of its own: Ray then makes a security group that lets SSH in, and the nodes talk among themselves.
    assert "security_group" not in cluster["provider"]


def test_every_node_has_the_project_and_its_folder(cluster):
    (install,) = [command for command in cluster["setup_commands"] if "pip install" in command]
    (remote,) = cluster["file_mounts"]
    assert cluster["file_mounts"][remote] == "."
    assert install.startswith(f"cd {remote} &&")
    assert '-e ".[pocket]"' in install
    assert "**/.git" in cluster["rsync_exclude"]


def test_the_head_can_scale_and_workers_find_it(cluster):
    (head,) = [command for command in cluster["head_start_ray_commands"] if command.startswith("ray start")]
    (worker,) = [command for command in cluster["worker_start_ray_commands"] if command.startswith("ray start")]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    assert "--port=6379" in head
