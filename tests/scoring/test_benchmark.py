"""The benchmark of scoring runs; its figures are for whoever runs it, not for a test."""

import json

import pytest
import typer
from scripts import load_script
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/scoring.py")


def _run(benchmark, *arguments):
    app = typer.Typer()
    app.command()(benchmark.main)
    return CliRunner().invoke(app, arguments)


def test_what_stopping_saves_is_counted(benchmark, tmp_path):
    done = _run(benchmark, "--only", "stopping", "--num-splits", "3", "--json", str(tmp_path / "found.json"))
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "found.json").read_text())["stopping"]
    shares = {(row["num_utterances"], row["factor"]): row["share_scored"] for row in rows}
    assert shares[2000, 6.0] < shares[2000, 1.6] < 1
    assert shares[240, 1.0] == 1
    assert sum(row["num_wrong"] for row in rows) == 0


def test_the_loop_and_the_bootstrap_score_the_same_thing(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "NUM_UTTERANCES", 50)
    monkeypatch.setattr(benchmark, "NUM_RESAMPLES", 200)
    found = benchmark.bench_bootstrap(1, seed=0)
    low, high = found["ci95"]
    assert low < found["relative_degradation"] < high
    assert all(low - 0.3 < one < high + 0.3 for one in found["looped"])
    assert found["ratio"] > 0


@pytest.mark.parametrize("arguments", [["--only", "everything"], ["--num-test", "0"]])
def test_a_mistake_gets_a_sentence(benchmark, arguments):
    done = _run(benchmark, *arguments)
    assert done.exit_code == 2
    assert "error: " in done.stderr
