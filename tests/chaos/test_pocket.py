"""Kills in the middle of real heals, of driver, worker, head, node and rank: the same answer, from what was kept."""

import json
import random
import time

import arena
import pytest

OPTIONS = ["--family", "qwen", "--profile", "pocket", "--task", "asr", "--language", "en", "--tolerance", "4"]
OPTIONS += ["--workers", "1", "--max-heals", "2", "--heal-steps", "24", "--heal-batch", "4", "--num-train", "16"]
OPTIONS += ["--num-selection", "16", "--num-test", "16", "--name", "chaos", "--hang-minutes", "5"]
LONGEST_PAUSE_S = 0.3
GOES_ON, WORKER = "the heal goes on after step", "ray::ResourceTrainable"

pytestmark = pytest.mark.end_to_end


def _start(folder, name, *more, nodes=0):
    options = [*OPTIONS, "--store", folder / "runs", "--reports", folder / "reports", *more]
    return arena.Driver([arena.HERE / "pocket.py", nodes, *options], folder / f"{name}.log")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, request):
    if not request.config.getoption("--chaos-pocket"):
        pytest.skip("takes 6 minutes: pass --chaos-pocket")
    folder = tmp_path_factory.mktemp("undisturbed")
    driver = _start(folder, "undisturbed")
    assert driver.ends() == 0, driver.said
    assert driver.orphans() == []
    return folder


def _answer(folder, name="chaos"):
    """Return what a sweep found, without what may differ from run to run (times)."""
    results = json.loads((folder / "reports" / name / "results.json").read_text())
    of_cell = ("max_depth", "start", "verdict", "baseline", "pruned", "num_heals")
    cells = [{key: cell[key] for key in of_cell} for cell in results["cells"]]
    for cell in cells:
        cell["pruned"] = {key: value for key, value in (cell["pruned"] or {}).items() if key != "speed"}
    times = ("wall_seconds", "device_seconds")
    probes = [{key: value for key, value in one.items() if key not in times} for one in results["probes"]]
    return cells, probes, results["sweep"]["num_trials"]


def _losses(folder):
    """Return the losses of every heal by its trial's fingerprint."""
    records = [json.loads(path.read_text()) for path in (folder / "runs" / "trials").glob("*.json")]
    return {one["fingerprint"]: one["losses"] for one in records if "losses" in one}


def _amid_a_heal(driver, folder, draw):
    """Wait for a random moment after a heal has kept a state that this driver's workers made."""
    since_ns = time.time_ns()
    states = (folder / "runs" / "heals").glob
    driver.until(lambda: any(_written_ns(path) > since_ns for path in states("*.safetensors")))
    arena.pause(draw, LONGEST_PAUSE_S)


def _written_ns(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_driver_worker_head_and_node_are_killed_amid_heals(undisturbed, tmp_path, record_property):
    draw = random.Random(0)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cache").symlink_to(undisturbed / "runs" / "cache")  # speech may be shared; trials may not

    first = _start(tmp_path, "first")
    _amid_a_heal(first, tmp_path, draw)
    first.kill()
    assert first.orphans(agents=False) == []

    second = _start(tmp_path, "second")
    _amid_a_heal(second, tmp_path, draw)
    (worker,) = second.named(WORKER)
    arena.strike([worker])
    second.until(lambda: "CUT SHORT: the worker died" in second.said)
    _amid_a_heal(second, tmp_path, draw)
    assert second.said.count(GOES_ON) == 2, second.said
    arena.strike(second.family())  # the head: Ray's own processes, and its workers
    assert second.ends() != 0
    assert second.orphans(agents=False) == []

    third = _start(tmp_path, "third", nodes=2)
    _amid_a_heal(third, tmp_path, draw)
    (worker,) = third.named(WORKER)
    node = worker.parent()
    arena.strike([node, *node.children(recursive=True)])
    assert third.ends() == 0, third.said
    assert first.orphans() == second.orphans() == third.orphans() == []
    assert "CUT SHORT: the worker died" in third.said
    assert third.said.count(GOES_ON) == 2, third.said

    assert _answer(tmp_path) == _answer(undisturbed)
    assert _losses(tmp_path) == _losses(undisturbed), "bit for bit"
    assert list((tmp_path / "runs" / "heals").glob("*.safetensors")) == []
    for what in ("driver", "worker", "head", "node"):
        record_property("faults", (f"{what} amid a real heal", 1, 1))


def test_a_rank_is_killed_amid_a_heal(undisturbed, record_property):
    alone = _losses(undisturbed)
    driver = _start(undisturbed, "two", "--devices", "2", "--max-heals", "1", "--name", "two")
    _amid_a_heal(driver, undisturbed, random.Random(0))
    (rank,) = driver.named("ray::OftenKeptRank.follow")
    arena.strike([rank])
    assert driver.ends() == 0, driver.said
    assert driver.orphans() == []
    assert "a new team goes on" in driver.said
    assert GOES_ON in driver.said
    (losses,) = [found for known, found in _losses(undisturbed).items() if known not in alone]
    assert len(losses) == 24, "every step once; that they are those of one process is shown by test_devices.py"
    record_property("faults", ("rank amid a real heal", 1, 1))
