"""How a sweep stands, as the driver keeps and writes it."""

import errno
import json
import time
from pathlib import Path

import pytest
from small_world import cell, small_sweep
from watched import simulated, watch

from slamlab.sweep.campaign import Campaign
from slamlab.sweep.settings import Request
from slamlab.sweep.standing import Standing, StatusFile, clock
from slamlab.sweep.store import Store
from slamlab.training.base import Progress


def written(folder):
    return json.loads((folder / "status/tiny.json").read_text())


def test_the_last_word_of_a_sweep_has_its_bounds(tmp_path):
    settings = small_sweep(tmp_path)
    campaign, _ = watch(settings, simulated(settings, edge=5), report=tmp_path / "report.html")
    told = written(tmp_path)
    assert told["ended"] is not None and told["running"] == []
    found = told["cells"][cell().name]
    heals = {key[:2] for key in campaign.ledgers[cell()].probes}
    assert found["state"] == "answered"
    assert found["heals"] == len(heals)
    assert (found["feasible"]["depth"], found["infeasible"]["depth"]) == (5, 6)
    assert found["feasible"]["p_feasible"] == pytest.approx(campaign.verdict(cell(), 6, 5)["p_feasible"])
    assert told["num_ended"] == campaign.num_settled
    assert told["report"] == str(tmp_path / "report.html")


def test_bounds_of_earlier_runs_are_known_from_the_start(tmp_path):
    settings = small_sweep(tmp_path)
    watch(settings, simulated(settings, edge=5))
    before = written(tmp_path)["cells"]
    assert Standing(Campaign(settings, Store(tmp_path)), 6).snapshot()["cells"] == before


def test_a_failure_is_told_and_its_trial_runs_no_more(tmp_path):
    settings = small_sweep(tmp_path)
    watch(settings, simulated(settings, failures={("base", cell(), 0): 2}))
    told = written(tmp_path)
    log = "logs/tiny/qwen-mini-whisper-base-asr-en.base.attempt{}.log"
    assert [one["log"] for one in told["failures"]] == [log.format(1), log.format(2)]
    assert told["num_failures"] == 2
    assert told["cells"][cell().name]["state"] == "failed"


def test_a_stage_is_timed_from_where_it_went_on(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    standing = Standing(Campaign(small_sweep(tmp_path), Store(tmp_path).open(min_free_bytes=0)), 6)
    request = Request(kind="base", cell=cell())
    standing.started(request, "base", "a.log")
    standing.advanced(request, Progress(stage="heal", step=50, num_steps=100, loss=2.0))  # of an earlier attempt
    assert standing.snapshot()["running"][0]["left_s"] is None
    now[0] += 10
    standing.advanced(request, Progress(stage="heal", step=60, num_steps=100, loss=1.0))
    (one,) = standing.snapshot()["running"]
    assert (one["left_s"], one["loss"], one["step"]) == (40.0, 1.0, 60)
    standing.advanced(request, Progress(stage="heal", step=0, num_steps=1, note="a note"))
    assert standing.snapshot()["running"][0]["step"] == 60


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path):
    standing = Standing(Campaign(small_sweep(tmp_path), Store(tmp_path).open(min_free_bytes=0)), 6)
    (tmp_path / "status").write_text("a file in the place of the folder")
    with StatusFile(tmp_path / "status" / "tiny.json", standing, share=lambda path: None):
        pass
    assert (tmp_path / "status").is_file()


def test_a_disk_that_fills_in_mid_file_leaves_nothing_half_written(tmp_path, monkeypatch):
    def half(path, text):
        path.write_bytes(text.encode()[:9])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", half)
    settings = small_sweep(tmp_path)
    with StatusFile(
        tmp_path / "status" / "tiny.json", Standing(Campaign(settings, Store(tmp_path)), 6), lambda path: None
    ):
        pass
    assert list((tmp_path / "status").iterdir()) == []


def test_what_is_written_is_shared_at_the_end(tmp_path):
    standing = Standing(Campaign(small_sweep(tmp_path), Store(tmp_path).open(min_free_bytes=0)), 6)
    shared = []
    with StatusFile(tmp_path / "status" / "tiny.json", standing, share=lambda path: shared.append(written(tmp_path))):
        pass
    assert shared[-1]["ended"] is not None


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (7384, "2:03:04")])
def test_a_clock(seconds, shown):
    assert clock(seconds) == shown
