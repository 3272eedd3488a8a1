from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from slamlab.errors import DataError, StoreError
from slamlab.report.results import is_full, read_results, write_results

Sweep = tuple[dict[str, Any], Path]


def test_what_is_written_is_read(sweep: Sweep, tmp_path: Path) -> None:
    path = write_results(sweep[0], tmp_path / "report")
    assert read_results(tmp_path / "report") == sweep[0] == read_results(path)
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_the_bytes_do_not_depend_on_the_order_of_keys(sweep: Sweep, tmp_path: Path) -> None:
    first = write_results(sweep[0], tmp_path / "a").read_bytes()
    turned = dict(reversed(sweep[0].items()))
    assert write_results(turned, tmp_path / "b").read_bytes() == first
    assert b'\n  "cells"' in first and first.endswith(b"}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_file_holds_nan_or_infinity(sweep: Sweep, tmp_path: Path, number: float) -> None:
    results = copy.deepcopy(sweep[0])
    results["cells"][0]["pruned"]["ci95"][1] = number
    with pytest.raises(DataError, match=r"cells\[0\]\.pruned\.ci95\[1\] is a finite number"):
        write_results(results, tmp_path)
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match="finite"):
        read_results(tmp_path)


def _without(*path: str | int) -> Any:
    def change(results: Any) -> None:
        for step in path[:-1]:
            results = results[step]
        del results[path[-1]]

    return change


def _with(value: Any, *path: str | int) -> Any:
    def change(results: Any) -> None:
        for step in path[:-1]:
            results = results[step]
        results[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("probes"), "probes is given"),
        (_with(2, "schema_version"), "schema version 1, got 2"),
        (_without("sweep", "seed"), r"sweep\.seed is given"),
        (_with(-0.1, "sweep", "tolerance"), r"sweep\.tolerance is 0 or more"),
        (_with("yes", "cells", 0, "verdict"), r"cells\[0\]\.verdict is one of feasible"),
        (_with(True, "cells", 0, "max_depth"), r"cells\[0\]\.max_depth is a number"),
        (_with("5 %", "cells", 1, "baseline", "value"), r"cells\[1\]\.baseline\.value is a number"),
        (_with(10, "cells", 0, "start"), "a block inside 12 layers, got start 10, depth 4"),
        (_with([0.1], "cells", 0, "test_voices", "pruned", "ci95"), r"test_voices\.pruned\.ci95 is \[low, high\]"),
        (_without("cells", 0, "baseline"), r"cells\[0\]\.baseline is given"),
        (_with("none", "cells", 0, "pruned", "verdict"), r"cells\[0\]\.pruned\.verdict is one of"),
        (_with("feasable", "probes", 0, "verdict"), r"probes\[0\]\.verdict is one of"),
        (_with(None, "probes", 1, "cell"), r"probes\[1\]\.cell is an object"),
    ],
)
def test_a_wrong_record_is_named_by_its_path(sweep: Sweep, tmp_path: Path, change: Any, message: str) -> None:
    change(sweep[0])
    (tmp_path / "results.json").write_text(json.dumps(sweep[0]))
    with pytest.raises(DataError, match=message):
        read_results(tmp_path)


def test_the_new_parts_are_read(joint: Sweep, tmp_path: Path) -> None:
    joint[0]["rungs"][0]["ci95"] = (-1.0, 0.5)  # as a dataclass gives it
    path = write_results(joint[0], tmp_path)
    assert read_results(path)["joints"] == joint[0]["joints"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with({}, "joints"), "joints is a list"),
        (_with("sure", "joints", 0, "verdict"), r"joints\[0\]\.verdict is one of feasible"),
        (_without("joints", 0, "heals"), r"joints\[0\]\.heals is given"),
        (_without("joints", 0, "members", 1, "task"), r"joints\[0\]\.members\[1\]\.task is given"),
        (_with(11, "joints", 0, "start"), "a block inside 12 layers, got start 11, depth 3"),
        (_without("joints", 0, "num_layers"), r"joints\[0\]\.num_layers is given"),
        (_with([], "joints", 0, "tests"), r"joints\[0\]\.tests is a list of 3, one a member"),
        (_without("joints", 0, "tests", 2, "test"), r"joints\[0\]\.tests\[2\]\.test is given"),
        (_with([1], "joints", 0, "tests", 0, "test-voices", "ci95"), r"tests\[0\]\.test-voices\.ci95 is \[low, high\]"),
        (_with("x", "joints", 0, "binding", "p_within"), r"joints\[0\]\.binding\.p_within is a number or null"),
        (_with(None, "joints", 0, "binding", "member"), r"joints\[0\]\.binding\.member is an object"),
        (_without("joints", 0, "prediction", "depth"), r"joints\[0\]\.prediction\.depth is given"),
        (_with("ran", "joints", 0, "heals", 0, "status"), r"joints\[0\]\.heals\[0\]\.status is one of"),
        (_without("joints", 0, "heals", 0, "verdict"), r"joints\[0\]\.heals\[0\]\.verdict is given"),
        (_without("joints", 0, "heals", 1, "members", 2), r"heals\[1\]\.members is a list of 3, one a member, got 2"),
        (_with(1, "joints", 0, "heals", 1, "members", 0, "ci95"), r"heals\[1\]\.members\[0\]\.ci95 is a list"),
        (_with(float("nan"), "joints", 0, "p_feasible"), r"joints\[0\]\.p_feasible is a finite number"),
        (_with("one", "rungs", 0, "tau"), r"rungs\[0\]\.tau is a number or null"),
        (_with([0], "rungs", 0, "ci95"), r"rungs\[0\]\.ci95 is \[low, high\]"),
        (_with("feasible", "probes", -1, "verdict"), r"probes\[\d+\]\.verdict is not given, got feasible"),
        (_without("probes", 0, "verdict"), r"probes\[0\]\.verdict is given"),
        (_with("0.9", "probes", 0, "p_feasible"), r"probes\[0\]\.p_feasible is a number or null"),
        (_with("two", "probes", 0, "repeat"), r"probes\[0\]\.repeat is a number"),
    ],
)
def test_a_wrong_part_of_the_new_ones_is_named(joint: Sweep, tmp_path: Path, change: Any, message: str) -> None:
    change(joint[0])
    (tmp_path / "results.json").write_text(json.dumps(joint[0]))
    with pytest.raises(DataError, match=message):
        read_results(tmp_path)


def test_the_parts_about_scoring_are_read(scored: Sweep, tmp_path: Path) -> None:
    assert read_results(write_results(scored[0], tmp_path)) == scored[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with([], "sweep", "scoring"), r"sweep\.scoring is an object"),
        (_with("1", "sweep", "scoring", "num_beams"), r"sweep\.scoring\.num_beams is a number"),
        (_with(0, "sweep", "scoring", "num_beams"), r"sweep\.scoring\.num_beams is 1 or more"),
        (_with("word", "sweep", "scoring", "resample"), r"sweep\.scoring\.resample is one of utterance, speaker"),
        (_with(True, "sweep", "scoring", "early_stop"), r"sweep\.scoring\.early_stop is a number"),
        (_with(1, "sweep", "scoring", "early_stop"), r"sweep\.scoring\.early_stop is 0 or more and below 1"),
        (_with("ter", "cells", 0, "metric"), r"cells\[0\]\.metric is one of wer, cer, bleu, chrf"),
        (_with(1.5, "cells", 0, "baseline", "num_loops"), r"cells\[0\]\.baseline\.num_loops is a number"),
        (_with(-1, "cells", 0, "pruned", "num_premature"), r"cells\[0\]\.pruned\.num_premature is 0 or more"),
        (_with("9", "cells", 4, "baseline", "num_characters"), r"cells\[4\]\.baseline\.num_characters is a number"),
        (_with("chrf", "cells", 1, "baseline", "also"), r"cells\[1\]\.baseline\.also is an object"),
        (_with({"ter": {}}, "cells", 1, "baseline", "also"), r"a name in cells\[1\]\.baseline\.also is one of wer"),
        (_with({"chrf": 61.2}, "cells", 1, "pruned", "also"), r"cells\[1\]\.pruned\.also\.chrf is an object"),
        (_without("cells", 1, "pruned", "also", "chrf", "signature"), r"also\.chrf\.signature is given"),
        (_with("safe", "cells", 0, "pruned", "stopped_early"), r"cells\[0\]\.pruned\.stopped_early is not given"),
        (_with("safe", "cells", 0, "selection", "baseline", "stopped_early"), r"baseline\.stopped_early is not given"),
        (_with("bored", "probes", 0, "stopped_early"), r"probes\[0\]\.stopped_early is one of hopeless, safe"),
        (_without("probes", 1, "num_planned"), r"probes\[1\]\.num_planned is given"),
        (_without("probes", 1, "num_utterances"), r"probes\[1\]\.num_utterances is given"),
        (_with(192, "probes", 1, "num_planned"), r"num_planned is more than the 192 utterances scored"),
        (_with(241, "probes", 0, "num_planned"), r"num_planned is the 240 utterances scored, as nothing stopped"),
    ],
)
def test_a_wrong_part_about_scoring_is_named(scored: Sweep, tmp_path: Path, change: Any, message: str) -> None:
    change(scored[0])
    (tmp_path / "results.json").write_text(json.dumps(scored[0]))
    with pytest.raises(DataError, match=message):
        read_results(tmp_path)


def test_scores_of_joint_models_are_checked(joint: Sweep, tmp_path: Path) -> None:
    one = joint[0]["joints"][0]
    one["heals"][0]["members"][0] |= {"num_utterances": 64, "num_planned": 200, "stopped_early": "hopeless"}
    write_results(joint[0], tmp_path)
    one["tests"][0]["test"] |= {"num_planned": 400, "stopped_early": "hopeless"}
    with pytest.raises(DataError, match=r"joints\[0\]\.tests\[0\]\.test\.stopped_early is not given"):
        write_results(joint[0], tmp_path)
    one["tests"][0]["test"]["stopped_early"] = one["heals"][0]["members"][0]["stopped_early"] = None
    with pytest.raises(DataError, match=r"heals\[0\]\.members\[0\]\.num_planned is the 64 utterances scored"):
        write_results(joint[0], tmp_path)


SPEED = {
    "device": "cpu",
    "dtype": "float32",
    "num_threads": 2,
    "runs": [{"batch_size": 8, "num_tokens": 24, "ratios": [1.5, 1.7], "pruned_seconds": 0.5}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(1.6, "speed"), r"speed is an object"),
        (_without("speed", "device"), r"speed\.device is given"),
        (_with([], "speed", "runs"), r"speed\.runs is not empty"),
        (_with("8", "speed", "runs", 0, "batch_size"), r"speed\.runs\[0\]\.batch_size is a number"),
        (_with([], "speed", "runs", 0, "ratios"), r"speed\.runs\[0\]\.ratios is a list of numbers above 0"),
        (_with([1.5, 0], "speed", "runs", 0, "ratios"), r"speed\.runs\[0\]\.ratios is a list of numbers above 0"),
        (_with([1, None], "speed", "runs", 0, "ratios"), r"speed\.runs\[0\]\.ratios is a list of numbers above 0"),
        (_with("fast", "speed", "runs", 0, "pruned_seconds"), r"speed\.runs\[0\]\.pruned_seconds is a number"),
    ],
)
def test_a_speed_is_checked_wherever_it_stands(joint: Sweep, tmp_path: Path, change: Any, message: str) -> None:
    results, _ = joint
    english = results["cells"][0]
    english["pruned"] = copy.deepcopy(english["selection"]["pruned"])
    for record, where in ((english["pruned"], r"cells\[0\]\.pruned\."), (results["joints"][0], r"joints\[0\]\.")):
        record["speed"] = copy.deepcopy(SPEED)
        assert read_results(write_results(results, tmp_path)) == results
        change(record)
        with pytest.raises(DataError, match=where + message):
            write_results(results, tmp_path)
        del record["speed"]


def test_a_probe_without_a_rung_is_a_full_heal(sweep: Sweep, tmp_path: Path) -> None:
    del sweep[0]["probes"][0]["rung"]
    assert is_full(sweep[0]["probes"][0])
    write_results(sweep[0], tmp_path)
    del sweep[0]["probes"][0]["verdict"]
    with pytest.raises(DataError, match=r"probes\[0\]\.verdict is given"):
        write_results(sweep[0], tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError):
        read_results(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_results(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        write_results(sweep[0], tmp_path / "file" / "report")
