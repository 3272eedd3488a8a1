"""The real main job at a reduced size: real speech, encoder, base, DeepSpeed heals, Ray Tune, Optuna, report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import pytest
import sacrebleu

ROOT = Path(__file__).parents[1]
SIZE = ["--family", "qwen", "--task", "asr,st", "--language", "de", "--tolerance", "0.5"]
SIZE += ["--heal-steps", "4", "--num-train", "32", "--num-selection", "24", "--num-test", "24"]
NAME = "reduced"
SIZE += ["--name", NAME]

pytestmark = pytest.mark.end_to_end


def _command(store, reports, *more, script="max_prune.py"):
    return [
        sys.executable,
        str(ROOT / "sweeps" / script),
        *SIZE,
        "--store",
        str(store),
        "--reports",
        str(reports),
        *more,
    ]


def _run(store, reports, *more, script="max_prune.py"):
    # From another folder: nothing may depend on where the user stands.
    return subprocess.run(
        _command(store, reports, *more, script=script),
        cwd=store.parent,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = _run(folder / "runs", folder / "reports")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def _results(folder, name=NAME):
    return json.loads((folder / "reports" / name / "results.json").read_text())


def _answer(results):
    """Return what a sweep found, without what may differ from run to run (times, failed attempts)."""
    cells = [
        {key: cell[key] for key in ("task", "max_depth", "start", "verdict", "baseline", "pruned", "num_heals")}
        for cell in results["cells"]
    ]
    for cell in cells:
        if cell["pruned"]:
            cell["pruned"] = {name: value for name, value in cell["pruned"].items() if name != "speed"}
    keys = ("cell", "start", "depth", "status", "value", "relative_degradation", "ci95", "fingerprint", "hypotheses")
    return cells, [{key: probe[key] for key in keys} for probe in results["probes"]]


def test_the_main_job_answers_every_cell(undisturbed):
    folder, _ = undisturbed
    results = _results(folder)
    assert results["schema_version"] == 1
    assert [cell["task"] for cell in results["cells"]] == ["asr", "st"]
    for cell in results["cells"]:
        assert cell["verdict"] in ("feasible", "undecided", "none")
        assert cell["num_layers"] == 12
        assert cell["num_heals"] >= 1
        assert cell["max_fraction"] == cell["max_depth"] / 12
        assert (folder / "runs" / cell["map"]).is_file()
    assert all(probe["status"] == "complete" for probe in results["probes"])
    assert results["sweep"]["num_failed"] == 0
    for name in ("index.html", "report.md"):
        assert (folder / "reports" / NAME / name).stat().st_size > 2000


def test_the_shipped_base_is_worth_pruning(undisturbed):
    asr, st = _results(undisturbed[0])["cells"]
    assert asr["base"]["origin"] == "shipped"
    assert asr["baseline"]["value"] <= 0.25
    assert st["baseline"]["value"] >= 25


def test_every_value_is_that_of_its_hypotheses(undisturbed):
    folder, _ = undisturbed
    results = _results(folder)
    scores = [(probe, probe["cell"]["task"]) for probe in results["probes"]]
    for cell in results["cells"]:
        scores += [(cell["baseline"], cell["task"])]
        scores += [(cell["pruned"], cell["task"])] if cell["pruned"] else []
    for score, task in scores:
        lines = (folder / "runs" / score["hypotheses"]).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        references = [record["reference_normalized"] for record in records]
        hypotheses = [record["hypothesis_normalized"] for record in records]
        if task == "asr":
            expected = jiwer.wer(references, hypotheses)
        else:
            expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
        assert score["value"] == pytest.approx(expected, abs=1e-9)


def test_a_healed_checkpoint_is_a_plain_smaller_decoder(undisturbed):
    from transformers import AutoModelForCausalLM

    import slamlab

    folder, _ = undisturbed
    pruned = [cell for cell in _results(folder)["cells"] if cell["pruned"]]
    assert pruned, "at a tolerance of 50 % some block of some cell is removed"
    checkpoint = folder / "runs" / pruned[0]["pruned"]["checkpoint"]
    decoder = AutoModelForCausalLM.from_pretrained(checkpoint / "decoder")
    assert decoder.config.num_hidden_layers == 12 - pruned[0]["max_depth"]
    assert slamlab.load(checkpoint).num_parameters() == pruned[0]["num_parameters"]["pruned"]


def test_a_finished_sweep_computes_nothing(undisturbed):
    folder, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "trials").iterdir()}
    written = (folder / "reports" / NAME / "index.html").read_bytes()
    done = _run(folder / "runs", folder / "reports")
    assert done.returncode == 0, done.stderr
    assert "nothing to compute" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs" / "trials").iterdir()} == before
    assert (folder / "reports" / NAME / "index.html").read_bytes() == written


def test_one_backbone_for_both_cells_is_healed_and_scored(undisturbed):
    folder, _ = undisturbed
    options = ["--name", "backbone", "--rungs", "unhealed,full", "--heal-steps", "2"]
    done = _run(folder / "runs", folder / "reports", *options, script="backbone.py")
    assert done.returncode == 0, done.stdout + done.stderr
    results = _results(folder, "backbone")
    (joint,) = results["joints"]
    assert [member["task"] for member in joint["members"]] == ["asr", "st"]
    heals = [heal for heal in joint["heals"] if heal["status"] == "complete"]
    assert heals
    assert all(len(heal["members"]) == 2 for heal in heals)
    if joint["max_depth"]:
        assert (folder / "runs" / joint["checkpoint"] / "slam.json").is_file()
        assert all("test" in tests for tests in joint["tests"])
    (rung,) = results["rungs"]
    assert rung["rung"] == "unhealed"
    assert rung["num_looks"] >= 2
    assert "together" in (folder / "reports" / "backbone" / "report.md").read_text()


def test_a_killed_sweep_goes_on_to_the_same_answer(undisturbed, tmp_path):
    """By bisection: with two workers, what frontier asks next depends on which of two trials happens to end first."""
    reference, _ = undisturbed
    options = ["--sampler", "bisect", "--name", "killed"]
    assert _run(reference / "runs", reference / "reports", *options).returncode == 0
    store = tmp_path / "runs"
    store.mkdir()
    (store / "cache").symlink_to(reference / "runs" / "cache")  # speech and features may be shared; trials may not
    driver = subprocess.Popen(
        _command(store, tmp_path / "reports", *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    trials = store / "trials"
    deadline = time.monotonic() + 300
    while len(list(trials.glob("*.json"))) < 4:  # both bases and two probes
        assert driver.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    finished = {path: path.stat().st_mtime_ns for path in trials.glob("*.json")}
    done = _run(store, tmp_path / "reports", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished trial was repeated"
    assert _answer(_results(tmp_path, "killed")) == _answer(_results(reference, "killed"))
