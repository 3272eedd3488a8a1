"""Two sweeps that share a store at once, each in a process of its own: each record once, and both right."""

import json
import multiprocessing
import os

import pytest
from small_world import World, cell, drive, results_of, small_sweep

from slamlab.sweep.inventory import check, places
from slamlab.sweep.store import Store

pytestmark = pytest.mark.usefixtures("no_look_ups")

EN, DE, LLAMA = cell(), cell("de"), cell(family="llama")
EDGES = {EN: 2, DE: 1, LLAMA: 0}
SWEEPS = {"one": (EN, DE), "other": (DE, LLAMA)}


def _sweep(address, name, out):
    """Run a sweep and write down what came of it."""
    settings = small_sweep(address, name=name, cells=SWEEPS[name])
    world = World(settings, EDGES, num_layers=4)
    campaign = drive(settings, world, workers=2)
    parts = ("language", "family", "max_depth", "start", "verdict", "baseline", "pruned")  # not what whose trial cost
    answers = [{part: one[part] for part in parts} for one in results_of(campaign)["cells"]]
    told = {"answers": answers, "computed": [str(request) for request in world.computed]}
    (out / f"{name}.json").write_text(json.dumps(told, sort_keys=True))


def _in_process(ready, cache, address, name, out):
    os.environ["XDG_CACHE_HOME"] = str(cache)
    ready.wait()
    _sweep(address, name, out)


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_two_sweeps_at_once_are_both_right_and_no_record_is_twice(tmp_path, monkeypatch, kind):
    expected = {}
    for name in SWEEPS:
        _sweep(tmp_path / f"alone-{name}", name, tmp_path)
        expected[name] = json.loads((tmp_path / f"{name}.json").read_text())

    address = tmp_path / "shared" if kind == "folder" else f"file://{tmp_path / 'shared'}"
    context = multiprocessing.get_context("fork")
    ready, shared = context.Barrier(2), tmp_path / "told"
    shared.mkdir()
    workers = [
        context.Process(target=_in_process, args=(ready, tmp_path / name, address, name, shared)) for name in SWEEPS
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]

    told = {name: json.loads((shared / f"{name}.json").read_text()) for name in SWEEPS}
    for name in SWEEPS:
        assert told[name]["answers"] == expected[name]["answers"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    store = Store(address).open(min_free_bytes=0)
    every = {request for name in SWEEPS for request in expected[name]["computed"]}
    assert len(store.records()) == len(every)
    for place in places(store):
        assert [one for one in check(store, place) if not one.name.startswith("ledger")] == []
        assert not [entry for entry in place.entries() if entry.kind == "drafts"]
