"""`python -m slamlab store` as somebody with a store meets it."""

import fcntl
import json
import os
import shutil
import time

import pytest
from small_world import World, cell, drive, small_sweep
from typer.testing import CliRunner

from slamlab.__main__ import app
from slamlab.sweep.integrity import MANIFEST
from slamlab.sweep.store import Store

EN = cell()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "runs"
    settings = small_sweep(root)
    store = drive(settings, World(settings, {EN: 2}, num_layers=4)).store
    _more(store)
    return root


def _more(store):
    """Add what a simulated sweep has not: a model with weights, answers, a heal."""
    store.put_folder(store.base_folder("b" * 64), lambda draft: (draft / "weights.bin").write_bytes(b"w" * 1000))
    answers = store.root / "answers" / f"{'c' * 32}.jsonl"
    answers.parent.mkdir()
    answers.write_text('{"id": "a", "hypothesis": "x", "stopped": ""}\n{"id": "b", "hypothesis": "y", "stopped": ""}\n')
    store.write_heal("d" * 64, [2.0], 1.0, 1.0)


@pytest.fixture
def store(finished, tmp_path):
    return Store(shutil.copytree(finished, tmp_path / "runs"))


def _run(*arguments):
    return CliRunner().invoke(app, ["store", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def _record(store, kind):
    (found, *_) = [one for one in store.records() if one["kind"] == kind]
    return found


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_whole_store_is_whole(store):
    done = _run("check", "--store", store.root)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("nothing damaged.\n")


DAMAGE = {
    "record": lambda store: store.root / "trials" / f"{_record(store, 'probe')['fingerprint']}.json",
    "map": lambda store: store.root / _record(store, "base")["map"],
    "hypotheses": lambda store: store.root / _record(store, "final")["scores"]["test"]["hypotheses"],
    "weights": lambda store: store.base_folder("b" * 64) / "weights.bin",
    "manifest": lambda store: store.base_folder("b" * 64) / MANIFEST,
    "answers": lambda store: store.root / "answers" / f"{'c' * 32}.jsonl",
    "heal": lambda store: store.root / "heals" / f"{'d' * 32}.json",
    "ledger": lambda store: store.root / "ledger.db",
}
TRIALS = {
    "map": "the base of qwen mini whisper-base asr en",
    "hypotheses": "the final -2 at 1 of qwen mini whisper-base asr en",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_with_its_trial_and_repaired(store, what):
    path = DAMAGE[what](store)
    if what == "answers":
        path.write_text(path.read_text().replace('"b"', "b"))
    elif what == "ledger":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        _flip(path)
    name = path.relative_to(store.root).as_posix()
    name = name.rpartition("/")[0] if name.startswith("bases") else name
    done = _run("check", "--store", store.root)
    assert done.exit_code == 1
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{name}: ")
    assert TRIALS.get(what, "") in first
    assert "1 damaged." in last

    done = _run("check", "--store", store.root, "--repair")
    assert (done.exit_code, "1 damaged, and removed" in done.stdout) == (1, True)
    assert path.exists() == (what == "answers")
    if what in TRIALS:  # until the sweep is run again, its record is there and counts as missing
        assert _run("check", "--store", store.root).exit_code == 1
    settings = small_sweep(store.root)
    world = World(settings, {EN: 2}, num_layers=4)
    drive(settings, world)
    assert len(world.computed) == (what in ("record", *TRIALS))
    assert _run("check", "--store", store.root).exit_code == 0


def test_what_is_missing_is_named_too(store):
    record = _record(store, "probe")
    name = record["scores"]["selection"]["hypotheses"]
    (store.root / name).unlink()
    done = _run("check", "--store", store.root, "--repair")
    assert f"{name}: it is missing (the probe -" in done.stdout
    assert not (store.root / "trials" / f"{record['fingerprint']}.json").exists()


def test_sizes_by_kind_and_sweep(store):
    told = json.loads(_run("size", "--store", store.root, "--json").stdout)
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    assert told["kinds"]["trials"]["number"] == len(store.records())
    assert told["kinds"]["bases"]["number"] == 1
    assert told["sweeps"].keys() == {"tiny"}
    assert told["sweeps"]["tiny"]["trials"] == len(store.records())
    parts = ("trials", "hypotheses", "maps", "checkpoints")
    assert told["sweeps"]["tiny"]["bytes"] == sum(told["kinds"][kind]["bytes"] for kind in parts)
    shown = _run("size", "--store", store.root).stdout
    assert "hypotheses" in shown
    assert "sweep tiny" in shown


@pytest.fixture
def littered(store):
    """Return a store with what nobody relies on, and files that are days old."""
    drop, keep = store.checkpoint_folder("1" * 64), store.checkpoint_folder("2" * 64)
    for folder in (drop, keep):
        store.put_folder(folder, lambda draft: (draft / "weights.bin").write_bytes(b"w" * 1000))
    store.keep_folder(keep)
    store.put_bytes("maps", ".npz", b"orphan")
    for path in ("trials/.draft-x", "ray/tiny/state.json", "cache/features/a.npy", f"heals/{'d' * 32}.safetensors"):
        (store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (store.root / path).write_bytes(b"old")
    (store.root / f"heals/{'e' * 32}.safetensors").write_bytes(b"goes on")
    for path in store.root.rglob("*"):
        os.utime(path, times=(time.time() - 200_000,) * 2)
    return store


def _names(store):
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


def test_gc_shows_first_and_deletes_what_nobody_relies_on(littered):
    before = _names(littered)
    shown = _run("gc", "--store", littered.root)
    assert shown.exit_code == 0, shown.output
    assert "would be freed: pass --yes" in shown.stdout
    assert _names(littered) == before
    done = _run("gc", "--store", littered.root, "--yes")
    orphan = {name for name in before if name.startswith("maps/")} - {_record(littered, "base")["map"]}
    gone = before - _names(littered)
    assert gone == {
        *orphan,
        f"checkpoints/{'1' * 32}/weights.bin",
        f"checkpoints/{'1' * 32}/{MANIFEST}",
        "trials/.draft-x",
        "ray/tiny/state.json",
        f"heals/{'d' * 32}.safetensors",
    }
    assert len(orphan) == 1
    assert done.stdout.splitlines()[:-1] == shown.stdout.splitlines()[:-1]
    settings = small_sweep(littered.root)
    world = World(settings, {EN: 2}, num_layers=4)
    drive(settings, world)
    assert world.computed == []
    assert "0.0 B freed" in _run("gc", "--store", littered.root, "--yes").stdout


def test_gc_takes_the_cache_only_when_asked(littered):
    _run("gc", "--store", littered.root, "--yes", "--cache")
    assert not (littered.root / "cache").exists()
    assert littered.records()


def test_gc_leaves_what_is_young(littered):
    young = littered.checkpoint_folder("3" * 64)
    littered.put_folder(young, lambda draft: (draft / "weights.bin").write_bytes(b"w"))
    _run("gc", "--store", littered.root, "--yes")
    assert young.exists()
    _run("gc", "--store", littered.root, "--yes", "--older-than", "0")
    assert not young.exists()


def test_gc_deletes_nothing_while_a_sweep_runs(littered):
    lock = littered.root / "locks" / "tiny.lock"
    lock.parent.mkdir()
    before = _names(littered)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = _run("gc", "--store", littered.root, "--yes")
        assert done.exit_code == 2
        assert "nothing is deleted while a sweep runs on the store, got tiny, which runs" in done.stderr
        assert before <= _names(littered)
        assert _run("gc", "--store", littered.root).exit_code == 0
    assert _run("gc", "--store", littered.root, "--yes").exit_code == 0


@pytest.mark.parametrize("command", ["check", "size", "gc"])
def test_a_store_that_is_not_there_is_a_mistake_and_is_not_made(tmp_path, command):
    done = _run(command, "--store", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "nothing at" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_store_at_a_url_is_looked_at_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    url = f"file://{tmp_path / 'there'}"
    settings = small_sweep(url)
    store = drive(settings, World(settings, {EN: 2}, num_layers=4)).store
    _more(store)
    assert _run("check", "--store", url).exit_code == 0
    name = _record(store, "base")["map"]
    _flip(tmp_path / "there" / name)
    (tmp_path / "there" / "bases" / ("b" * 32) / MANIFEST).unlink()
    done = _run("check", "--store", url, "--repair")
    assert done.exit_code == 1
    assert f"{name}: it is not what was written (the base of" in done.stdout
    assert "it is half-written" in done.stdout
    assert not (tmp_path / "there" / name).exists()
    assert json.loads(_run("size", "--store", url, "--json").stdout)["sweeps"]["tiny"]["trials"] == len(store.records())
    assert "freed" in _run("gc", "--store", url, "--older-than", "0", "--yes").stdout
    assert (tmp_path / "there" / "trials").is_dir()
