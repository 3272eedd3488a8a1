"""The main job as a user meets it: what it offers, and how it says that something cannot be done."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load_script
from typer.testing import CliRunner

from slamlab.sweep.command import split
from slamlab.sweep.mount import MARK
from slamlab.sweep.settings import Settings

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "sweeps" / "max_prune.py"
SHIPPED = ROOT / "slamlab" / "zoo" / "bases" / "qwen-mini-whisper-base"
SMALL = ["--heal-steps", "2", "--num-train", "8", "--num-selection", "12", "--num-test", "12"]


@pytest.fixture(scope="module")
def max_prune():
    return load_script("sweeps/max_prune.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder in which the few recordings that every sweep looks at are made once."""
    return tmp_path_factory.mktemp("mistakes")


@pytest.fixture
def run(max_prune, tmp_path, monkeypatch):
    """Run the script in this process, in a folder of its own and with the hub out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    runner = CliRunner()

    def invoke(*arguments):
        return runner.invoke(max_prune.app, [*arguments], env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})

    return invoke


def test_the_defaults_of_the_command_are_those_of_a_sweep(max_prune):
    (command,) = max_prune.app.registered_commands
    offered = {name: one.default for name, one in inspect.signature(command.callback).parameters.items()}
    offered["num_beams"], offered["rungs"] = offered.pop("beams"), tuple(offered["rungs"])
    kept = {field.name: field.default for field in dataclasses.fields(Settings)}
    common = offered.keys() & kept.keys() - {"name", "profile", "store", "workers", "num_selection", "num_test"}
    assert {name: offered[name] for name in common} == {name: kept[name] for name in common}
    assert common >= {"tolerance", "alpha", "seed", "sampler", "price", "num_beams", "resample", "early_stop"}


def _manifest(folder, rows, name="recordings.jsonl"):
    (folder / name).write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def _only_error(stderr):
    """Return the one line that a mistake is answered with."""
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(".")
    return line


def _refused(done, received):
    assert done.exit_code == 2, done.output
    assert received in _only_error(done.stderr)
    assert "Traceback" not in done.output


def test_help_names_every_option_and_says_what_it_is_for(run, max_prune):
    shown = run("--help")
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    (command,) = max_prune.app.registered_commands
    options = [f"--{name.replace('_', '-')}" for name in inspect.signature(command.callback).parameters]
    assert len(options) > 25
    for option in options:
        assert f" {option} " in text, option
    for said in (
        "largest block of decoder layers",
        "[default: 0.25]",
        "[default: qwen]",
        "goes on after any interruption",
    ):
        assert said in text, said


MISTAKES = [
    (["--family", "gpt"], "got gpt"),
    (["--family", "qwen,gpt"], "got gpt"),
    (["--scale", "70b"], "got 70b"),
    (["--encoder", "wisper"], "got wisper"),
    (["--task", "tts"], "got tts"),
    (["--language", "xx"], "got xx"),
    (["--language", "it"], "--language it"),
    (["--task", "st", "--language", "en"], "--task st with --language en"),
    (["--tolerance", "-1"], "got -1.0"),
    (["--tolerance", "nan"], "got nan"),
    (["--alpha", "0.7"], "got 0.7"),
    (["--workers", "0"], "got 0"),
    (["--sampler", "guess"], "got guess"),
    (["--price", "0"], "got 0.0"),
    (["--price", "nan"], "got nan"),
    (["--max-heals", "0"], "got 0"),
    (["--rungs", "full,half"], "got half"),
    (["--sampler", "paper", "--rungs", "short"], "--sampler paper with --rungs full,short"),
    (["--num-test", "1"], "got 1"),
    (["--heal-lr", "-0.1"], "got -0.1"),
    (["--heal-batch", "0"], "got 0"),
    (["--lora-r", "-1"], "got -1"),
    (["--zero-stage", "4"], "got 4"),
    (["--precision", "fp8"], "got fp8"),
    (["--profile", "pockets"], "got pockets"),
    (["--base", "nowhere"], "got nowhere"),
    (["--base", "."], "slam.json"),
    (["--base", str(SHIPPED), "--family", "llama"], "got --family llama"),
    (["--base", str(SHIPPED), "--scale", "7b"], "got --scale 7b"),
    (["--heal-target", "layer", "--lora-r", "8"], "got --lora-r: leave one of them out"),
    (["--heal-target", "head"], "got head: choose one of them"),
    (["--data", "librispeak"], "got 'librispeak'"),
    (["--data", "missing.jsonl"], "got missing.jsonl"),
    (["--name", "../up"], "got '../up'"),
    (["--seed", "-1"], "got -1"),
    (["--address", "127.0.0.1:1"], "got 127.0.0.1:1"),
    (["--address", "cluster"], "got cluster"),
    (["--store", "/proc/self/runs"], "got /proc/self/runs"),
]


@pytest.mark.parametrize(
    ("options", "received"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(run, monkeypatch, folder, options, received):
    monkeypatch.chdir(folder)
    _refused(run(*options), received)


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        (['{"audio": \n'], "line 1 of recordings.jsonl"),
        (["[]\n"], "line 1 of recordings.jsonl, a list"),
        ([{"audio": "a.wav", "text": "hello"}], "no language on line 1"),
        ([{"audio": "a.wav", "text": "hello", "language": "klingon"}], "'klingon' on line 1"),
        ([{"audio": "../a.wav", "text": "hello", "language": "en"}], "'../a.wav' on line 1"),
        ([{"audio": "a.wav", "text": "hello", "language": "en"}], "1 bad of 1"),
        ([], "none in recordings.jsonl"),
    ],
    ids=["cut", "list", "column", "language", "outside", "audio", "empty"],
)
def test_a_broken_manifest_is_named_with_its_line(run, tmp_path, rows, received):
    _refused(run("--data", _manifest(tmp_path, rows)), received)


def test_the_papers_grid_is_planned_without_weights_or_data(run, tmp_path):
    done = run("--family", "all", "--scale", "1.5b,3b,7b,1b,8b", "--profile", "paper", "--plan", "--gpu-price", "2")
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    for decoder in ("qwen-1.5b", "qwen-7b", "llama-8b"):
        assert decoder in told
    assert "GPU-hours at 2" in told
    assert not any((tmp_path / "runs").rglob("*.flac"))


def test_a_store_that_is_a_file_is_refused_and_kept(run, tmp_path):
    (tmp_path / "runs").write_text("mine")
    _refused(run(), f"got {tmp_path / 'runs'} (File exists)")
    assert (tmp_path / "runs").read_text() == "mine"


def test_an_encoder_that_cannot_be_had_stops_the_sweep_before_it_begins(run, tmp_path):
    _refused(run("--encoder", "nobody/nothing", *SMALL), "nobody/nothing")
    assert not (tmp_path / "runs" / "trials").exists()
    assert not (tmp_path / "reports").exists()


def test_a_mistake_leaves_no_trials_and_no_report(run, tmp_path):
    run("--family", "gpt")
    assert not (tmp_path / "reports").exists()
    assert not (tmp_path / "runs" / "ledger.db").exists()


def test_options_that_typer_cannot_read_are_refused_too(run):
    for options in (["--tolerance", "much"], ["--no-such-option"], ["--workers", "1.5"]):
        done = run(*options)
        assert done.exit_code == 2
        assert options[0] in done.stderr


def test_a_mistake_in_a_real_process(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--task", "st", "--language", "en"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert _only_error(done.stderr) == (
        "error: the corpus pocket has data for asr en, asr de, asr fr, asr es, st de, st fr, st es, "
        "got --task st with --language en: choose a pair that it has, or bring another corpus with --data."
    )
    assert done.stdout.startswith("Profile ")
    assert len(done.stdout.splitlines()) == 1


PLAN = """
import runpy, sys

sys.argv = ["max_prune.py", "--plan", "--family", "all", "--profile", "pocket"]
try:
    runpy.run_path(SCRIPT, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print([name for name in ("ray", "deepspeed") if name in sys.modules])
"""


def test_a_plan_runs_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PLAN.replace("SCRIPT", repr(str(SCRIPT)))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
    *shown, loaded = done.stdout.splitlines()
    assert loaded == "[]", "a plan needs neither Ray nor DeepSpeed"
    text = " ".join("\n".join(shown).split())
    assert text.startswith("Profile pocket (as asked).")
    assert "Plan: nothing has been run" in text
    for family in ("qwen", "llama"):
        for question in ("asr en", "asr de", "st de-en"):
            assert f"{family}-mini whisper-base {question}" in text
    left = {path.relative_to(tmp_path).parts[1] for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert left <= {MARK, "cache"}, "no ledger, no trial"
    assert not (tmp_path / "reports").exists()


def test_a_sweep_is_named_after_its_question(max_prune):
    from slamlab.sweep.launch import sweep_name

    assert (
        sweep_name("max_prune", ["qwen"], [], ["owner/name"], ["asr", "st"], ["de"]) == "max_prune-qwen-name-asr-st-de"
    )
    assert sweep_name("max_prune", ["qwen"], changed={}) == "max_prune-qwen"
    names = {sweep_name("max_prune", ["qwen"], changed=changed) for changed in ({"seed": 1}, {"seed": 2}, {"r": 1})}
    assert len(names) == 3
    assert all(name.startswith("max_prune-qwen-") for name in names)
    assert split(["qwen, llama", "", "x,"]) == ["qwen", "llama", "x"]
