"""What another shell is told of a store, while its sweeps run and later, and that it leaves no trace."""

import fcntl
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_world import cell, small_sweep
from watched import simulated, watch

from slamlab.errors import OptionError, StoreError
from slamlab.sweep.standing import Running
from slamlab.sweep.status import find_store, read_store
from slamlab.sweep.store import Store

ROOT = Path(__file__).parents[2]
SCRIPT = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'ray', 'optuna', 'transformers', 'deepspeed')));"
    "from slamlab.__main__ import app; app(sys.argv[1:])"
)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr("slamlab.sweep.standing.WRITE_EVERY_S", 0.05)


def status(*arguments):
    """Run the command where torch, Ray and Optuna cannot be imported."""
    command = [sys.executable, "-c", SCRIPT, "status", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@contextmanager
def locked(store, name="tiny"):
    """Hold the lock of a sweep's driver."""
    (store / "locks").mkdir(exist_ok=True)
    with (store / "locks" / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def interrupted(folder, **changed):
    """Leave a sweep whose driver died in its second probe, and the driver's last word."""
    settings = small_sweep(folder, **changed)
    last = {}

    def second_probe(request):
        if request.kind != "probe" or request.depth == 3:
            return False
        while not (last and last["running"] and last["running"][0]["what"] == "probe -6 at 5"):
            last.update(json.loads((folder / "status/tiny.json").read_text()))
            time.sleep(0.05)
        return True

    campaign, _ = watch(settings, simulated(settings), until=second_probe)
    last["written"] -= 100
    (folder / "status/tiny.json").write_text(json.dumps(last))
    return campaign


def contents(folder):
    """Return what every file holds, and when it was written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def test_a_sweep_that_runs_is_told_and_not_disturbed(tmp_path):
    interrupted(tmp_path)
    before = contents(tmp_path)
    with locked(tmp_path):
        done = status("--store", tmp_path)
    assert done.returncode == 0, done.stderr
    for told in (
        "tiny: runs for",
        "-3 at 8 (P 1.00)",
        "heal 1/4, loss 2.500",
        "2 of about 6 trials",
        f"logs: {tmp_path}/logs/tiny",
    ):
        assert told in done.stdout
    assert f"log: {tmp_path}/logs/tiny/qwen-mini-whisper-base-asr-en.probe-depth6-at5.attempt1.log" in done.stdout
    assert [one for one in contents(tmp_path) if one[0].parent.name != "locks"] == before


def test_a_driver_that_died_is_said_to_have(tmp_path):
    interrupted(tmp_path)
    (found,) = read_store(tmp_path)
    assert found["running"] is False and found["status"]["ended"] is None
    told = status("--store", tmp_path).stdout
    assert "was last heard of " in told and "it died, and the same command goes on" in told
    assert "runs:" not in told  # what ran then does not run now


def test_a_driver_elsewhere_is_believed_for_a_minute(tmp_path):
    interrupted(tmp_path)
    path = tmp_path / "status/tiny.json"
    told = json.loads(path.read_text()) | {"host": f"not-{socket.gethostname()}"}
    path.write_text(json.dumps(told | {"written": time.time() - 10}))
    assert read_store(tmp_path)[0]["running"] is True
    path.write_text(json.dumps(told | {"written": time.time() - 100}))
    assert read_store(tmp_path)[0]["running"] is None
    assert "may be lost" in status("--store", tmp_path).stdout
    path.write_text(json.dumps(told | {"ended": time.time() - 10}))
    assert read_store(tmp_path)[0]["running"] is False


def test_without_a_driver_s_word_the_ledger_tells(tmp_path):
    settings = small_sweep(tmp_path)
    campaign, _ = watch(
        settings, simulated(settings, edge=5, failures={("probe", cell(), 6): 1, ("base", cell(), 0): 1})
    )
    shutil.rmtree(tmp_path / "status")
    (found,) = read_store(tmp_path)
    told, ledger = found["cells"][cell().name], campaign.ledgers[cell()]
    assert told["state"] == "answered"
    assert (told["feasible"]["depth"], told["infeasible"]["depth"]) == (5, 6)
    assert told["heals"] == sum(one.record is not None for one in ledger.probes.values())
    assert [(one["what"], one["reason"]) for one in told["failures"]] == [
        ("base", "the base would not work"),
        ("probe -6 at 5", "the probe would not work"),
    ]
    assert 0 <= time.time() - found["last_ended"] < 600
    assert found["num_finished"] == told["heals"] + 2


def test_a_block_whose_degradation_has_no_bound_does_harm(tmp_path):
    settings = small_sweep(tmp_path)
    watch(settings, simulated(settings, edge=5, base_rate=0.0))
    shutil.rmtree(tmp_path / "status")
    (found,) = read_store(tmp_path)
    assert found["cells"][cell().name]["infeasible"]["depth"] == 6


def test_of_sweeps_those_that_run_come_first_and_one_can_be_asked_for(tmp_path):
    for name in ("tiny", "other"):
        settings = small_sweep(tmp_path, name=name)
        watch(settings, simulated(settings))
    with locked(tmp_path, "tiny"):
        assert [one["sweep"] for one in read_store(tmp_path)] == ["tiny", "other"]
        assert [one["sweep"] for one in read_store(tmp_path, "other")] == ["other"]
    with pytest.raises(OptionError, match=r"a sweep of the store: other, tiny, got third"):
        read_store(tmp_path, "third")


def test_json_has_everything(tmp_path):
    interrupted(tmp_path)
    done = status("--store", tmp_path, "--json")
    (found,) = json.loads(done.stdout)["sweeps"]
    assert set(found["status"]["running"][0]) == set(Running.__dataclass_fields__)
    assert found["cells"][cell().name]["feasible"]["depth"] == 3


def test_what_is_not_there_is_a_sentence(tmp_path):
    for arguments, told in (
        (["--store", tmp_path / "none"], "--store names a store that is there"),
        (["--store", tmp_path, "--sweep", "x"], "--sweep names a sweep of the store: none"),
    ):
        done = status(*arguments)
        assert (done.returncode, done.stdout) == (2, "") and told in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "0 sweeps" in status("--store", tmp_path).stdout


def test_a_ledger_that_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="a ledger can be read"):
        read_store(tmp_path)


def test_a_damaged_word_is_none(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "status/tiny.json").write_text('{"sweep": "ti')
    assert read_store(tmp_path)[0]["status"] is None


def test_a_store_at_a_url_is_read_from_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    url = f"file://{tmp_path}/there"
    settings = small_sweep(url)
    watch(settings, simulated(settings))
    Store(url).send_ledger("tiny", now=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    (found,) = read_store(find_store(url))
    assert found["cells"][cell().name]["feasible"]["depth"] == 5
    assert found["num_finished"] > 2 and found["status"]["ended"] is not None
