"""`python -m slamlab score` as somebody with two files meets it."""

import json
import subprocess
import sys

import pytest

REFERENCES = {"a": "Der Zug fährt um zehn Uhr.", "b": "Guten Morgen!", "c": "Das ist größer als vorher."}
HYPOTHESES = {"a": "der zug fährt um zehn", "b": "guten morgen", "c": "das ist größer als vorher ja"}


@pytest.fixture
def files(tmp_path):
    for name, field, texts in (
        ("refs", "reference", REFERENCES),
        ("hyps", "hypothesis", HYPOTHESES),
        ("base", "hypothesis", REFERENCES),
    ):
        lines = (json.dumps({"id": id_, field: text}) for id_, text in texts.items())
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def _run(folder, *arguments):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "slamlab", "score", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def test_a_table_to_read(files):
    done = _run(files, "refs.jsonl", "hyps.jsonl", "--language", "de", "--task", "asr", "--baseline", "base.jsonl")
    assert done.returncode == 0, done.stderr
    for text in ("WER", "15.38 %", "1 / 1 / 0 of 13 words", "unbounded", "infeasible", "Signature: wer|jiwer:"):
        assert text in done.stdout
    assert done.stderr == ""


def test_one_json_object(files):
    done = _run(files, "refs.jsonl", "hyps.jsonl", "--language", "de", "--task", "asr", "--json")
    result = json.loads(done.stdout)
    wanted = ("metric", "value", "num_utterances", "insertions", "deletions", "substitutions", "signature")
    assert {name: result[name] for name in wanted[:-1]} == {
        "metric": "wer",
        "value": pytest.approx(2 / 13),
        "num_utterances": 3,
        "insertions": 1,
        "deletions": 1,
        "substitutions": 0,
    }
    assert not {"relative_degradation", "ci95", "verdict"} & result.keys()
    again = _run(files, "refs.jsonl", "hyps.jsonl", "--language", "de", "--json", "--baseline", "hyps.jsonl")
    compared = json.loads(again.stdout)
    assert {name: compared[name] for name in wanted} == {name: result[name] for name in wanted}
    assert (compared["relative_degradation"], compared["ci95"], compared["verdict"]) == (0.0, [0.0, 0.0], "feasible")
    unbounded = json.loads(
        _run(files, "refs.jsonl", "hyps.jsonl", "--language", "de", "--json", "--baseline", "base.jsonl").stdout
    )
    assert unbounded["relative_degradation"] is None


def test_records_are_written_for_whoever_checks(files):
    done = _run(files, "refs.jsonl", "hyps.jsonl", "--language", "de", "--records", "out/records.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (files / "out" / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["reference_normalized"] for row in rows][2] == "das ist größer als vorher"


@pytest.mark.parametrize(
    ("broken", "arguments", "message"),
    [
        ({}, ("--language", "xx"), "xx"),
        ({}, ("--language", "German"), "de"),
        ({}, ("--language", "de", "--task", "tts"), "asr or st"),
        ({"hyps": b'{"id": "a", "hypothesis": "x"}\n'}, ("--language", "de"), "2 of refs.jsonl that hyps.jsonl lacks"),
        ({"hyps": b'{"id": "a", "hypothesis": "x"}\n' * 2}, ("--language", "de"), "'a' again in hyps.jsonl, line 2"),
        ({"hyps": b'{"id": "a", "hypothesis": "x"}\n{"id'}, ("--language", "de"), "hyps.jsonl, line 2"),
        ({"refs": "größer".encode("latin-1")}, ("--language", "de"), "UTF-8"),
        ({}, ("--language", "de", "--baseline", "missing.jsonl"), "missing.jsonl (No such file"),
        ({}, ("--language", "de", "--resample", "speaker"), "speaker"),
        ({}, ("--language", "de", "--records", "refs.jsonl/x"), "records are written to a file"),
    ],
)
def test_a_mistake_gets_one_sentence(files, broken, arguments, message):
    for name, content in broken.items():
        (files / f"{name}.jsonl").write_bytes(content)
    done = _run(files, "refs.jsonl", "hyps.jsonl", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert done.stdout == ""


def test_help_says_what_every_option_means(files):
    done = _run(files, "--help")
    assert done.returncode == 0
    for option in ("--language", "--task", "--baseline", "--metric", "--json", "--resample", "--spell-numbers"):
        assert option in done.stdout
