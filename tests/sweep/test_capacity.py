"""How large a cluster may grow, by the file on its head."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer
from ray.autoscaler.node_launch_exception import NodeLaunchException

from slamlab.sweep import launch
from slamlab.sweep.cluster.capacity import largest, spot_first
from slamlab.zoo.profiles import PROFILES


def kind(max_workers: int, **resources: int) -> dict[str, Any]:
    return {"resources": resources, "max_workers": max_workers, "node_config": {}}


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes the file, as what Ray has filled in leaves it."""
    file = tmp_path / "ray_bootstrap_config.yaml"
    monkeypatch.setattr(launch, "largest", lambda: largest(file))

    def write(most: int, **kinds: dict[str, Any]) -> Path:
        told = {"head_node_type": "head", "max_workers": most, "available_node_types": kinds}
        file.write_text(yaml.safe_dump(told))
        return file

    return write


def test_kinds_of_workers_share_one_limit(head: Any) -> None:
    file = head(4, head=kind(0, CPU=4), spot=kind(4, CPU=16, GPU=1), on_demand=kind(4, CPU=16, GPU=1))
    assert largest(file) == {"CPU": 4 + 4 * 16, "GPU": 4}


def test_the_best_of_several_kinds_count_as_far_as_there_may_be_so_many(head: Any) -> None:
    file = head(3, head=kind(0, CPU=2, GPU=1), large=kind(1, CPU=8, GPU=8), small=kind(9, CPU=32, GPU=1))
    assert largest(file) == {"CPU": 2 + 3 * 32, "GPU": 1 + 8 + 1 + 1}


def test_nobody_knows_away_from_a_head_or_of_machines_of_ones_own(tmp_path: Path, head: Any) -> None:
    assert largest(tmp_path / "none.yaml") is None
    assert largest(head(2, head=kind(2))) is None


@pytest.mark.parametrize(
    ("there", "profile", "why", "workers"),
    [
        ({"CPU": 4.0}, "paper", "the Ray cluster at auto has no GPUs, and may grow to 4", 4),
        ({"CPU": 20.0, "GPU": 1.0}, "paper", "the Ray cluster at auto has 1 GPU, and may grow to 4", 4),
        ({"CPU": 68.0, "GPU": 4.0}, "paper", "the Ray cluster at auto has 4 GPUs", 4),
    ],
)
def test_a_sweep_is_laid_out_for_what_may_come(
    head: Any, monkeypatch: pytest.MonkeyPatch, there: dict[str, float], profile: str, why: str, workers: int
) -> None:
    head(4, head=kind(0, CPU=4), gpu=kind(4, CPU=16, GPU=1))
    monkeypatch.setattr("slamlab.sweep.cluster.start.start_ray", lambda address: there)
    chosen, told = launch.choose_profile("auto", "auto")
    assert (chosen.name, told) == (profile, why)
    assert launch.default_workers(chosen, "auto") == workers
    assert launch.default_workers(chosen, "auto", devices=2) == workers // 2


def test_a_cluster_of_which_no_more_is_known_is_as_large_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "largest", lambda: None)
    monkeypatch.setattr("slamlab.sweep.cluster.start.start_ray", lambda address: {"CPU": 8.0, "GPU": 2.0})
    assert launch.choose_profile("auto", "auto")[1] == "the Ray cluster at auto has 2 GPUs"
    assert launch.default_workers(PROFILES["paper"], "auto") == 2
    assert launch.default_workers(PROFILES["pocket"], "auto") == 8


A_TRIAL, A_CPU = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0}
KINDS = {"cpu": {"CPU": 4.0}, "gpu_on_demand": {"CPU": 16.0, "GPU": 1.0}, "gpu_spot": {"CPU": 16.0, "GPU": 1.0}}


def ranked(waiting: list[dict[str, float]], tracker: NodeProviderAvailabilityTracker) -> list[str]:
    """Return the kinds on which something of what waits fits, best first."""
    scores = {
        name: spot_first(has, waiting, name, node_availability_summary=tracker.summary()) for name, has in KINDS.items()
    }
    return sorted((name for name, score in scores.items() if score is not None), key=lambda name: scores[name])[::-1]


def test_spot_machines_come_first_until_the_cloud_has_none() -> None:
    tracker = NodeProviderAvailabilityTracker()
    assert ranked([A_TRIAL], tracker) == ["gpu_spot", "gpu_on_demand"]
    refused = NodeLaunchException("InsufficientInstanceCapacity", "none", None)
    tracker.update_node_availability("gpu_spot", int(time.time()), refused)
    assert ranked([A_TRIAL], tracker) == ["gpu_on_demand", "gpu_spot"]
    tracker.update_node_availability("gpu_spot", int(time.time()), None)
    assert ranked([A_TRIAL], tracker) == ["gpu_spot", "gpu_on_demand"]
    assert ranked([{"GPU": 2.0}], tracker) == []


def test_what_fits_and_whether_it_needs_a_gpu_is_judged_as_ray_does() -> None:
    tracker = NodeProviderAvailabilityTracker()
    assert ranked([A_CPU], tracker)[0] == "cpu"
    for waiting in ([A_CPU], [A_TRIAL], [{"GPU": 2.0}], [{"GPU": 2.0}, A_TRIAL]):
        by_ray = {
            name: _default_utilization_scorer(has, waiting, name, node_availability_summary=tracker.summary())
            for name, has in KINDS.items()
        }
        assert set(ranked(waiting, tracker)) == {name for name, score in by_ray.items() if score is not None}
