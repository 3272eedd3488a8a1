"""The benchmark of orchestration runs; its figures are for whoever runs it, not for a test."""

import json

import numpy as np
import pytest
import typer
from scripts import load_script
from typer.testing import CliRunner

from slamlab.sweep.settings import Request


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/orchestration.py")


def _run(benchmark, *arguments):
    app = typer.Typer()
    app.command()(benchmark.main)
    return CliRunner().invoke(app, arguments)


def test_a_quick_sweep_comes_to_its_end_and_is_resumed(benchmark, tmp_path):
    place = tmp_path / "stores"
    place.mkdir()
    told = tmp_path / "found.json"
    done = _run(benchmark, "--quick", "--only", "scale,resume", "--folder", str(place), "--json", str(told))
    assert done.exit_code == 0, done.output
    found = json.loads(told.read_text())
    scale, resume = found["scale"], found["resume"]
    assert scale["finished"]
    assert scale["kinds"]["base"] == 12
    assert scale["kinds"]["final"] >= 12
    assert 12 <= scale["kinds"]["probe"] <= 12 * 6
    assert sum(scale["kinds"].values()) == scale["num_trials"]
    assert 0 < scale["busy"] <= 1
    assert resume["next"] == "nothing is left"
    assert 3 * 12 <= resume["num_trials"] <= scale["num_trials"]
    assert list(place.iterdir()) == [], "temporary stores go"


def test_cells_are_as_many_as_asked_and_share_decoders(benchmark):
    cells = benchmark.make_cells(3, 27)
    assert len(set(cells)) == 81
    assert len({cell.family for cell in cells}) == 3
    assert {cell.task for cell in cells} == {"asr", "st"}
    assert len({cell.encoder for cell in cells}) == benchmark.NUM_ENCODERS


def test_the_table_is_a_function_of_its_seed_and_deeper_blocks_harm_more(benchmark):
    (cell,) = benchmark.make_cells(1, 1)
    probes = [Request(kind="probe", cell=cell, start=10, depth=depth) for depth in (2, 14)]
    shallow, deep = (benchmark.Table(seed=1).look(probe) for probe in probes)
    assert benchmark.Table(seed=1).look(probes[0]) == shallow != benchmark.Table(seed=2).look(probes[0])
    assert shallow["relative_degradation"] < benchmark.TOLERANCE < deep["relative_degradation"]
    distance = benchmark.Table(seed=1).distance(cell)
    assert distance.shape == (benchmark.NUM_LAYERS + 1,) * 2
    assert (np.diff(distance[0]) > 0).all()


@pytest.mark.parametrize("arguments", [["--only", "everything"], ["--heal-s", "0"]])
def test_a_mistake_gets_a_sentence(benchmark, arguments):
    done = _run(benchmark, *arguments)
    assert done.exit_code == 2
    assert "error: " in done.stderr
