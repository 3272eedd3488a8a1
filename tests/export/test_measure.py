"""Two models side by side: what is counted is right, and what is timed is there for both batches."""

import numpy as np
import pytest

from slamlab.export import measure as module
from slamlab.export.folder import write_checked
from slamlab.export.measure import measure
from slamlab.model.slam import load


@pytest.fixture
def folders(checkpoints, tmp_path):
    found = {}
    for name, checkpoint in (("unpruned", "unpruned"), ("pruned", "qwen")):
        found[name] = tmp_path / name
        found[name].mkdir()
        write_checked(checkpoints[checkpoint], found[name], precision=None, max_shard_size="2GB", cache=tmp_path)
    return found


def test_both_models_are_measured_in_processes_of_their_own(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "NUM_TOKENS", 3)
    monkeypatch.setattr(module, "AUDIO_S", 1.0)
    monkeypatch.setattr(module, "LIMIT_S", 0.1)
    monkeypatch.setattr(module, "load_encoder", _no_encoder)
    ballast = np.ones(2_000_000_000, np.uint8)  # what this process holds is no model's
    found = measure(folders["unpruned"], folders["pruned"], tmp_path)
    models = {name: load(folder) for name, folder in folders.items()}
    assert found["parameters"] == {name: model.num_parameters() for name, model in models.items()}
    assert found["parameters"]["pruned"] < found["parameters"]["unpruned"]
    for name, model in models.items():
        weights = 4 * model.num_parameters()
        assert weights <= found["checkpoint_bytes"][name] <= weights + 20_000, "headers alone are more"
        assert 50e6 < found["memory_before_loading_bytes"][name] < found["peak_memory_bytes"][name] < ballast.nbytes
    runs = [(run["quantity"], run["batch_size"]) for run in found["runs"]]
    quantities = ("time to first token", "tokens per second")
    assert runs == [(quantity, size) for size in (1, 16) for quantity in quantities]
    for run in found["runs"]:
        assert len(run["ratios"]) % 2 == 0
        assert all(ratio > 0 for ratio in run["ratios"])
        assert "pruned" not in run, "times on a CPU are nobody's"
    assert "encoder" in found["no_encoder"]


def _no_encoder(*_):
    from slamlab.errors import AssetError

    raise AssetError("an encoder is at hand", "none", "fetch it")
