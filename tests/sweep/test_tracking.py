"""What trackers are told, through Ray's own callbacks and read back with their own tools."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_world import cell, small_sweep
from watched import simulated

from slamlab.errors import OptionError
from slamlab.sweep.settings import Request
from slamlab.sweep.tracking import TRACKERS, Steps, Tracking, check_trackers, metrics_of

FOLDER = Path(__file__).parent
SCRIPT = """
import json, sys
from pathlib import Path
from ray import tune
from slamlab.sweep.cluster.start import start_ray
from slamlab.sweep.cluster.trackers import TrackingCallback, logger_of

name, root = sys.argv[1], Path(sys.argv[2])
request = json.loads(sys.argv[3])
start_ray()

def train(config):
    tune.report({"losses": [(1, 3.0), (2, 2.0)]})
    tune.report({"losses": [(3, 1.0)]})

found = {}
class Finds(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        found[trial.trial_id] = {"wer/selection": 0.25, "p_feasible": 0.5, "verdict": 1}

said = []
callbacks = [Finds(), TrackingCallback({name: logger_of(name, "tiny", root)}, found, said.append)]
named = {
    "trial_name_creator": lambda trial: "a-trial",
    "trial_dirname_creator": lambda trial: f"a-trial.{trial.trial_id}",
}
tune.Tuner(train, param_space={"request": request}, tune_config=tune.TuneConfig(**named),
    run_config=tune.RunConfig(storage_path=str(root / "ray"), callbacks=callbacks, verbose=0)).fit()
print(said)
"""


def track(name, folder, **environment):
    """Run a trial of Ray Tune that is tracked, in a process of its own."""
    request = json.dumps(Request(kind="probe", cell=cell(), start=3, depth=5).as_dict())
    command = [sys.executable, "-c", SCRIPT, name, str(folder), request]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "", **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_tensorboard_gets_event_files(tmp_path):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    from tensorboardX.record_writer import masked_crc32c  # of the same file format

    track("tensorboard", tmp_path)
    (path,) = (tmp_path / "tensorboard/tiny/a-trial").glob("events.out.tfevents.*")
    content, told = path.read_bytes(), {}
    while content:
        size = int.from_bytes(content[:8], "little")
        assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
        event = proto.Event.FromString(content[12 : 12 + size])
        for value in event.summary.value:
            told.setdefault(value.tag, []).append((event.step, round(value.simple_value, 6)))
        content = content[16 + size :]
    assert told["ray/tune/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert told["ray/tune/wer/selection"][0] == (4, 0.25)
    assert told["ray/tune/p_feasible"][0] == (4, 0.5)


def test_mlflow_gets_runs(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    track("mlflow", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "a-trial" and run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in losses] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert run.data.metrics["wer/selection"] == 0.25
    assert run.data.params["request/depth"] == "5"


def test_wandb_gets_a_run_on_this_machine(tmp_path):
    pytest.importorskip("wandb")
    track("wandb", tmp_path, WANDB_MODE="offline")
    (path,) = tmp_path.glob("wandb/wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    assert b"a-trial" in content and b"wer/selection" in content and b"loss" in content


def test_what_is_not_known_or_not_installed_is_a_sentence(monkeypatch):
    assert check_trackers(["tensorboard", "tensorboard"]) == ("tensorboard",)
    with pytest.raises(OptionError, match="a tracker is one of tensorboard, wandb, mlflow, got comet"):
        check_trackers(["comet"])
    monkeypatch.setattr("slamlab.sweep.tracking.find_spec", lambda package: None)
    with pytest.raises(OptionError, match="--track wandb needs the package wandb, got none: pip install wandb"):
        check_trackers(["wandb"])


def test_every_tracker_is_an_extra():
    import tomllib

    extras = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {one.partition(">")[0] for one in extras["track"]} == set(TRACKERS.values())


def test_metrics_are_numbers_that_records_have(tmp_path):
    settings = small_sweep(tmp_path)
    world = simulated(settings)
    probe = Request(kind="probe", cell=cell(), start=6, depth=3)
    record = world.run(probe) | {"relative_degradation": None, "verdict": "infeasible", "p_feasible": 0.01}
    found = metrics_of(probe, record)
    assert found["wer/selection"] == record["scores"]["selection"]["value"]
    assert (found["fraction"], found["verdict"], found["device_seconds"]) == (3 / 12, -1, 20.0)
    assert "relative_degradation" not in found  # unbounded
    assert metrics_of(probe, record | {"relative_degradation": 0.1})["relative_degradation"] == 0.1
    assert {"wer/test", "wer/test-voices"} <= metrics_of(
        replace(probe, kind="final"), world.run(replace(probe, kind="final"))
    ).keys()


def test_metrics_of_a_joint_model_are_by_cell(tmp_path):
    from slamlab.sweep.cells import joint_cell

    cells = (cell(), cell("de", "st"))
    settings = small_sweep(tmp_path, cells=cells, joint=True)
    request = Request(kind="joint", cell=joint_cell(cells[0]), start=6, depth=3)
    record = simulated(settings).run(request) | {"relative_degradation": [0.1, None]}
    found = metrics_of(request, record)
    assert found[f"{cells[0].name}/relative_degradation"] == 0.1
    assert f"{cells[1].name}/bleu/selection" in found and f"{cells[1].name}/relative_degradation" not in found


def test_steps_grow_where_stages_begin_again():
    steps = Steps()
    assert list(steps.of([(1, 5.0), (2, 4.0)])) == [(1, 5.0), (2, 4.0)]
    assert list(steps.of([(1, 3.0), (2, 2.0)])) == [(3, 3.0), (4, 2.0)]
    assert steps.end() == 5


def test_a_tracker_that_fails_is_left_out():
    class Broken:
        def setup(self, **info):
            raise ConnectionError("no host")

    said = []
    tracking = Tracking({"mlflow": Broken()}, {}, said.append)
    tracking.setup()
    tracking.on_experiment_end(trials=[])
    assert said == ["mlflow is told nothing more: ConnectionError: no host"]


def test_no_tracker_is_imported_unless_asked_for():
    code = "import sys, slamlab.sweep.cluster.run; print(sorted({'wandb', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if importlib.util.find_spec("wandb") is None:  # Ray itself imports it where it is installed
        assert done.stdout.strip() == "[]"
