"""The cluster files, held against the schema of the Ray that is installed and KubeRay's; no cloud is asked."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from slamlab.sweep.command import sweep_app

ROOT = Path(__file__).parents[2]
RAY_UP = [ROOT / "cluster.yaml", ROOT / "clusters" / "gcp.yaml", ROOT / "clusters" / "onprem.yaml"]
CLOUDS = RAY_UP[:2]
KUBERAY = ROOT / "clusters" / "kuberay.yaml"
COMMANDS = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def commands(file: Path) -> list[str]:
    """Return the shell commands that a file has run on its machines."""
    if file == KUBERAY:
        return [load(file)["spec"]["entrypoint"]]
    return [command for kind in COMMANDS for command in load(file).get(f"{kind}_commands", [])]


@pytest.fixture(params=RAY_UP, ids=lambda file: file.stem)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


@pytest.fixture(params=CLOUDS, ids=lambda file: file.stem)
def cloud(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_ray_takes_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_rays_schema_would_notice(cloud: dict[str, Any]) -> None:
    del cloud["available_node_types"]["head"]["node_config"]
    with pytest.raises(Exception, match="node_config"):
        validate_config(prepare_config(cloud))


@pytest.mark.parametrize("file", [*RAY_UP, KUBERAY], ids=lambda file: file.stem)
def test_its_commands_are_shell(file: Path) -> None:
    assert commands(file)
    for command in commands(file):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_workers_come_from_none_spot_first_and_leave_when_idle(cloud: dict[str, Any]) -> None:
    spot, on_demand = (cloud["available_node_types"][name] for name in ("gpu_spot", "gpu_on_demand"))
    for kind in (spot, on_demand):
        assert kind["min_workers"] == 0
        assert 0 < kind["max_workers"] <= cloud["max_workers"]
    assert spot["resources"] == on_demand["resources"]
    size = {"aws": "InstanceType", "gcp": "machineType"}[cloud["provider"]["type"]]
    assert spot["node_config"][size] == on_demand["node_config"][size]
    assert 0 < cloud["idle_timeout_minutes"] <= 15
    assert cloud["provider"]["cache_stopped_nodes"] is False
    # Ray 2.60 goes on to the next kind with this version of its autoscaler only (test_autoscaling.py).
    assert cloud["head_start_ray_commands"][-1].startswith(
        "RAY_enable_autoscaler_v2=0 "
        "RAY_AUTOSCALER_UTILIZATION_SCORER=slamlab.sweep.cluster.capacity.spot_first ray start"
    )


def test_who_has_no_token_is_refused_and_the_dashboard_stays_at_home(cluster: dict[str, Any]) -> None:
    text = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text
    assert "ray-client-server" not in text
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])
    assert "~/.ray/auth_token" in cluster["file_mounts"].values()


def test_on_aws_every_machine_is_in_the_given_group_and_role() -> None:
    # Without a group of its own, Ray makes one whose SSH is open to the world.
    for name, kind in load(ROOT / "cluster.yaml")["available_node_types"].items():
        assert kind["node_config"]["SecurityGroupIds"] == ["sg-SET"]
        role = "slamlab-head" if name == "head" else "slamlab-worker"
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": role}


class _Tagged(yaml.SafeLoader):
    """Reads CloudFormation's tags as what they are applied to."""


_Tagged.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))


def test_the_stack_lets_nobody_in_but_ssh_from_one_address() -> None:
    stack = yaml.load((ROOT / "clusters" / "aws-stack.yaml").read_text(), Loader=_Tagged)["Resources"]
    (ssh,) = stack["Nodes"]["Properties"]["SecurityGroupIngress"]
    assert (ssh["FromPort"], ssh["ToPort"], ssh["CidrIp"]) == (22, 22, "SshFrom")
    assert stack["AmongNodes"]["Properties"]["SourceSecurityGroupId"] == "Nodes"
    assert all(stack["Bucket"]["Properties"]["PublicAccessBlockConfiguration"].values())
    profiles = {one["Properties"].get("InstanceProfileName") for one in stack.values()}
    assert {"slamlab-head", "slamlab-worker"} <= profiles


def test_every_machine_has_the_project_in_the_versions_that_are_tested(cluster: dict[str, Any]) -> None:
    (install,) = [command for command in cluster["setup_commands"] if "pip install" in command]
    (remote,) = [remote for remote, local in cluster["file_mounts"].items() if local == "."]
    assert remote.replace("/home/ubuntu", "~") == "~/slamlab"
    assert install.startswith("cd ~/slamlab &&")
    assert "-c constraints.txt" in install  # a worker that comes tomorrow must have the head's Ray
    assert {"**/.git", "**/.venv", "**/runs"} <= set(cluster["rsync_exclude"])


def test_the_head_can_scale_and_workers_find_it(cluster: dict[str, Any]) -> None:
    (head,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    (worker,) = [command for command in cluster["worker_start_ray_commands"] if "ray start" in command]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--port=6379" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker


def test_what_must_be_filled_in_is_marked() -> None:
    for file in [*RAY_UP, KUBERAY]:
        lines = file.read_text(encoding="utf-8").splitlines()
        filled = [line for line in lines if re.search(r"(?<![A-Za-z])SET\b", line.split("#")[0])]
        for line in filled:
            above = "\n".join(lines[: lines.index(line) + 1])
            assert "SET" in line.partition("#")[2] or "# SET" in above
        assert any("# SET" in line for line in lines)


@pytest.fixture
def job() -> dict[str, Any]:
    return load(KUBERAY)


def check(job: dict[str, Any]) -> None:
    """Hold a RayJob against the definition of KubeRay 1.7.0 (ray.io_rayjobs.yaml, v1), unknown fields refused.

    The file beside this one has of it the types of the fields that are used here.
    """
    jsonschema.validate(job, json.loads(Path(__file__).with_name("rayjob_v1.json").read_text()))


def test_kuberay_takes_it(job: dict[str, Any]) -> None:
    check(job)


@pytest.mark.parametrize(
    "wrong",
    [{"entrypiont": "python"}, {"entrypoint": 3}, {"rayClusterSpec": {"rayVersion": "2.60.0"}}, {"backoffLimit": "2"}],
)
def test_kuberays_schema_would_notice(job: dict[str, Any], wrong: dict[str, Any]) -> None:
    job["spec"] |= wrong
    with pytest.raises(jsonschema.ValidationError):
        check(job)


def test_on_kubernetes_gpus_come_from_none_and_all_ends_with_the_sweep(job: dict[str, Any]) -> None:
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"]
    pods = [cluster["headGroupSpec"]["template"], workers["template"], job["spec"]["submitterPodTemplate"]]
    assert len({pod["spec"]["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys()
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and cluster["rayVersion"] == pinned[1]
    assert f"rayproject/ray:{pinned[1]}-" in (ROOT / "clusters" / "Dockerfile").read_text()


def told() -> list[str]:
    """Return every call of a sweep in the README's section and in the files."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## On a cluster")[2].partition("\n## ")[0]
    return [*re.findall(r"max_prune\.py ([^'`\n]*)", section), commands(KUBERAY)[0].partition("max_prune.py ")[2]]


def test_the_calls_that_are_told_are_calls_that_the_script_takes() -> None:
    assert len(told()) >= 2  # the README's and KubeRay's
    for call in told():
        words = [word.replace("BUCKET", "b") for word in shlex.split(call)]
        # --help comes last, so that all before it is parsed, and nothing is run.
        done = CliRunner().invoke(sweep_app("max_prune", None, str), [*words, "--help"])
        assert done.exit_code == 0, call
        options = {word for word in words if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", done.output)), call
