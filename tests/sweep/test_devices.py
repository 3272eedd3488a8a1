"""A heal on two devices, here two processes of a real Ray on two CPUs: what one process does, also when one dies."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from real_trials import PROBE, finish

from slamlab.errors import OptionError
from slamlab.sweep.device import zero_plan
from slamlab.sweep.facts import TrialFacts
from slamlab.sweep.launch import default_workers
from slamlab.zoo.profiles import PROFILES

HEAL = {"num_steps": 24, "batch_size": 4, "r": 4, "num_train": 12, "dropout": 0.0}

SCRIPT = """
import json, os, pickle, signal, sys
from functools import partial

import psutil
import ray

from slamlab.sweep.cluster import ranks, start


class OftenKept(ranks.Rank):
    def heal(self, rank, address, request, recipe):
        from slamlab.sweep import healing
        from slamlab.training.resume import Keeper

        healing.Keeper = partial(Keeper, every_s=0)
        if rank == 1 and recipe.train.zero_stage == 3 and recipe.train.accumulation == 1:
            self.run_short_of_memory()
        yield from super().heal(rank, address, request, recipe)

    def run_short_of_memory(self):
        import torch

        from slamlab.model.slam import SlamModel

        forward, calls = SlamModel.forward, []

        def hungry(model, examples):
            calls.append(examples)
            if len(calls) > 3:
                torch.empty(1 << 60)
            return forward(model, examples)

        SlamModel.forward = hungry


class Trial:
    def run(self, settings, request, kill_at):
        from slamlab.sweep.trial import Bench

        ranks.Rank = OftenKept
        team = ranks.RankTeam(settings)
        notes = []
        steps = Bench(settings, team).run(request)
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return notes, end.value
            if progress.note:
                notes.append(progress.note)
            elif (progress.stage, progress.step) == ("heal", kill_at):
                kill_at = None
                named = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]
                (second,) = [p for p in named if p.info["cmdline"][0].startswith("ray::OftenKept.follow")]
                os.kill(second.pid, signal.SIGKILL)


if __name__ == "__main__":
    start._stay_on_loopback()
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=True)
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    where = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
    trial = ray.remote(Trial).options(num_cpus=1, scheduling_strategy=where).remote()
    for arguments in pickle.loads(open(sys.argv[1], "rb").read()):
        print("RESULT", json.dumps(ray.get(trial.run.remote(*arguments))), flush=True)
"""


def test_two_processes_heal_as_one_does_and_go_on_when_one_is_killed(new_bench, tmp_path):
    alone = new_bench(heal=HEAL)
    expected, _ = finish(alone.run(PROBE))
    two, three = (
        replace(
            alone.settings, devices=2, heal={**HEAL, "zero_stage": stage, "num_steps": steps, "offload": stage == 3}
        )
        for stage, steps in ((2, 24), (3, 6))
    )
    short, _ = finish(new_bench(alone.store.root, heal=HEAL | {"num_steps": 6}).run(PROBE))
    (tmp_path / "asked").write_bytes(pickle.dumps([(two, PROBE, 3), (three, PROBE, None)]))
    (tmp_path / "run.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "run.py", tmp_path / "asked"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [
        json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT")
    ]
    (notes, killed), (told, whole) = results
    lost, on = notes
    assert lost == "the worker died (out of memory, or its node was lost): a new team goes on"
    assert on.startswith("the heal goes on after step ")
    said = "the device ran out of memory at step 4 with 4 utterances at a time: from there on half as many"
    assert told == [said, "the heal goes on after step 3"], "of the second rank, the other one waiting for it"
    assert whole["notes"] == [said]
    assert killed["losses"] == pytest.approx(expected["losses"], abs=2e-4)
    assert whole["losses"] == pytest.approx(short["losses"], abs=2e-4)
    assert killed["fingerprint"] != expected["fingerprint"]
    assert list((alone.store.root / "heals").glob("*.safetensors")) == []


def test_devices_share_a_step_evenly(make_settings):
    with pytest.raises(OptionError, match=r"divide evenly among the 3 devices, got 4: pass --heal-batch or --devices"):
        make_settings(devices=3, heal={"batch_size": 4})
    with pytest.raises(OptionError, match="a heal takes 1 device or more, got 0"):
        make_settings(devices=0)


def test_devices_are_part_of_what_a_sweep_asks_but_one_is_not_told(make_settings):
    one, two = (make_settings(devices=devices, heal={"batch_size": 4}) for devices in (1, 2))
    assert one.question(one.cells[0]) != two.question(one.cells[0])
    assert [TrialFacts._devices(type("", (), {"settings": s})) for s in (one, two)] == [{}, {"devices": 2}]


def test_fewer_trials_fit_where_each_takes_more_devices():
    pocket = PROFILES["pocket"]
    assert default_workers(pocket, None, 2) == max(1, default_workers(pocket, None) // 2)


@pytest.mark.parametrize(
    ("billions", "memory", "devices", "plan"),
    [
        (7.6, 80e9, 2, (2, False)),
        (7.6, 24e9, 2, (3, False)),
        (7.6, 12e9, 2, (3, True)),
        (7.6, 12e9, 4, (3, False)),
        (1.5, None, 2, (2, False)),
        (7.6, None, 2, (3, False)),
    ],
)
def test_the_stage_follows_from_weights_and_memory(billions, memory, devices, plan):
    assert zero_plan(2e9 * billions, memory, devices) == plan
