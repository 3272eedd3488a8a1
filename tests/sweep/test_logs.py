"""Logs by trial."""

import os
import sys

import pytest
from small_world import cell

from slamlab.sweep.cells import Cell
from slamlab.sweep.logs import Teller, TrialLogs, trial_name
from slamlab.sweep.settings import Request
from slamlab.training.base import Progress


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"kind": "base"}, "base.attempt1"),
        ({"kind": "probe", "depth": 5, "start": 3}, "probe-depth5-at3.attempt1"),
        ({"kind": "probe", "depth": 5, "start": 3, "rung": "short"}, "probe-depth5-at3.short.attempt1"),
        ({"kind": "final", "depth": 5, "start": 3, "repeat": 1, "attempt": 2}, "final-depth5-at3.heal2.attempt2"),
    ],
)
def test_a_name_tells_which_trial_it_is(changed, name):
    assert trial_name(Request(cell=cell(), **changed)) == f"qwen-mini-whisper-base-asr-en.{name}"


def test_a_name_stays_in_its_folder_and_fits(tmp_path):
    strange = Cell(family="../../a/" + "x" * 300, scale="given", encoder="..\0\n/b", task="asr", language="en")
    name = trial_name(Request(kind="base", cell=strange))
    assert not {"/", "\0", "\n"} & set(name) and not name.startswith(".") and len(name) < 200
    TrialLogs(tmp_path / "logs").write(Request(kind="base", cell=strange), "a line")
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [f"{name}.log"]


def test_a_log_has_lines_that_no_terminal_obeys(tmp_path):
    logs, request = TrialLogs(tmp_path), Request(kind="base", cell=cell())
    logs.write(request, "10 %\r50 %\r\x1b[31mdone\n\nhttps://me:hf_secret@host/x")
    first, second = logs.path(request).read_text().splitlines()
    assert first.endswith(" \\x1b[31mdone") and second.endswith(" https://***@host/x")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "logs").write_text("")
    TrialLogs(tmp_path / "logs").write(Request(kind="base", cell=cell()), "lost")


def test_a_worker_tells_stages_losses_and_what_it_printed(capsys):
    teller = Teller()
    with teller.listening():
        for step in (1, 2):
            teller.hear(Progress(stage="heal", step=step, num_steps=2, loss=step / 2))
        teller.hear(Progress(stage="heal", step=0, num_steps=1, note="a note is no stage"))
        teller.hear(Progress(stage="decode", step=1, num_steps=1))
        print("said")
        print("warned", file=sys.stderr)
    teller.hear(None)
    lines, losses = teller.take()
    assert losses == [(1, 0.5), (2, 1.0)]
    assert [line.split(" took")[0] for line in lines] == ["heal", "said\nwarned\n", "decode"]
    assert capsys.readouterr() == ("said\n", "warned\n")  # it still goes where it went
    assert teller.take() == ([], [])


def test_what_is_printed_is_heard_when_a_trial_breaks():
    teller = Teller()
    with pytest.raises(OSError), teller.listening():
        print("before")
        raise OSError(os.EX_OSERR, "gone")
    assert teller.take()[0] == ["before\n"]
