"""`sweeps/redundancy.py` as a user meets it: real maps of the shipped model, small."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script
from typer.testing import CliRunner

SCRIPT = Path(__file__).parents[1] / "sweeps" / "redundancy.py"
SMALL = ["--num-utterances", "6", "--num-resamples", "40", "--num-test", "12", "--lora-steps", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    module = load_script("sweeps/redundancy.py")
    folder = tmp_path_factory.mktemp("redundancy")
    places = ["--store", str(folder / "runs"), "--reports", str(folder / "reports")]

    def invoke(*arguments):
        done = CliRunner().invoke(module.app, [*arguments, *places], env={"COLUMNS": "250", "NO_COLOR": "1"})
        return done, folder / "reports"

    return invoke


def test_maps_are_made_compared_and_shown(run):
    done, reports = run("--profile", "pocket", "--task", "asr", "--language", "en,de", "--name", "maps", *SMALL)
    assert done.exit_code == 0, done.output
    told = json.loads((reports / "maps" / "redundancy.json").read_text(encoding="utf-8"))
    complete = [one for one in told["maps"] if one["status"] == "complete"]
    assert len(complete) == len(told["maps"]) / 2 == 12
    with np.load(reports / "maps" / "maps.npz") as arrays:
        assert {name.partition(".")[0] for name in arrays} == {one["key"] for one in complete}
    axes = {pair["axis"] for pair in told["agreement"]}
    assert axes == {"view", "language", "selection"}
    text = (reports / "maps" / "report.md").read_text(encoding="utf-8")
    assert "--lora-steps 0" in text
    assert "cannot tell" in text.lower() or "too small" in text.lower(), "six utterances tell little, and it says so"
    html = (reports / "maps" / "index.html").read_bytes()
    (reports / "maps" / "index.html").unlink()
    script = SCRIPT.with_name("report.py")
    subprocess.run([sys.executable, str(script), str(reports / "maps")], cwd=reports, check=True, capture_output=True)
    assert (reports / "maps" / "index.html").read_bytes() == html, "from its records alone, the same bytes"
    again, _ = run("--profile", "pocket", "--task", "asr", "--language", "en,de", "--name", "maps", *SMALL)
    assert again.exit_code == 0
    assert json.loads((reports / "maps" / "redundancy.json").read_text(encoding="utf-8"))["maps"] == told["maps"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-utterances", "1"], "2 utterances or more"),
        (["--lora-steps", "-1"], "steps"),
        (["--language", "xx"], "xx"),
        (["--family", "gpt"], "gpt"),
    ],
)
def test_a_mistake_gets_one_sentence(run, arguments, message):
    done, _ = run("--profile", "pocket", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
