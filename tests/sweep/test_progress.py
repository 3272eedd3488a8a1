"""What a sweep prints: plain lines where there is no terminal, a view that goes without a trace where there is one."""

import io
import os
import pty
import re
from pathlib import Path

from rich.console import Console
from small_world import cell, small_sweep
from watched import lines_of, simulated, watch

from slamlab.errors import TrialFailed


def test_lines_say_what_starts_and_what_came_of_it(tmp_path):
    settings = small_sweep(tmp_path)
    _, console = watch(settings, simulated(settings))
    lines = lines_of(console)
    assert lines[0] == "[0:00] qwen-mini whisper-base asr en: base: starts"
    assert re.fullmatch(r".* base: selection WER .*%, test WER .*; 1 of about 6 trials, 0:\d\d left", lines[1])
    assert re.fullmatch(r".* probe -3 at 8: WER .*%, \+\d+% \[.*\] -> feasible P\(within\) 1\.00 \(20 s\).*", lines[3])
    assert re.fullmatch(r".* final -5 at 6: test WER .*, test-voices WER .* \(10 s\)", lines[-1])
    assert not any("heal 1/4" in line for line in lines)  # nobody waited ten seconds


def test_a_failure_names_its_log_which_tells_more(tmp_path):
    settings = small_sweep(tmp_path)
    _, console = watch(settings, simulated(settings, failures={("probe", cell(), 3): 1}))
    (line,) = [line for line in lines_of(console) if "FAILED" in line]
    found = re.search(r"FAILED: the probe would not work \(log: (.*)\)", line)
    assert found
    log = Path(found[1]).read_text()
    for told in (
        "starts",
        "runs on far, process 7",
        "features took 2.0 s",
        "heal 1/4, loss 2.500",
        "Traceback: of the",
    ):
        assert told in log
    assert found[1] == str(tmp_path / "logs/tiny/qwen-mini-whisper-base-asr-en.probe-depth3-at8.attempt1.log")


def test_markup_and_control_characters_are_shown_not_obeyed(tmp_path):
    settings = small_sweep(tmp_path)
    world = simulated(settings)

    def run(request):
        raise TrialFailed("[red]\x1b[2J s3://key:secret@bucket")

    world.run = run
    _, console = watch(settings, world)
    assert any("FAILED: [red]\\x1b[2J s3://***@bucket" in line for line in lines_of(console))
    assert all("secret" not in path.read_text() for path in (tmp_path / "logs").rglob("*.log"))


def test_a_file_that_is_called_a_terminal_gets_plain_lines(tmp_path):
    settings = small_sweep(tmp_path)
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    watch(settings, simulated(settings), console)
    assert "\x1b[?25l" not in console.file.getvalue()


def on_terminal(settings, **options):
    """Return what a terminal is sent."""
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as file:
        console = Console(file=file, width=100, height=30, force_terminal=True)

        def draw(request):
            if console._live_stack:
                console._live_stack[-1].refresh()

        watch(settings, simulated(settings), console, until=draw, **options)
        os.set_blocking(leader, False)
        file.flush()
        sent = b""
        try:
            while part := os.read(leader, 65536):
                sent += part
        except BlockingIOError:
            pass
    os.close(leader)
    return sent.decode()


def test_a_terminal_is_left_as_it_was(tmp_path):
    sent = on_terminal(small_sweep(tmp_path))
    assert "1 running" in sent and "heal" in sent and "does no harm" in sent
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h") == 1  # the cursor is hidden, then shown again
    assert sent.rindex("\x1b[2K") < sent.rindex("\x1b[?25h") or sent.endswith("\x1b[2K")
    assert "FAILED" not in sent and "-> " in sent  # lines scroll by above


def test_no_live_gives_a_terminal_plain_lines(tmp_path):
    sent = on_terminal(small_sweep(tmp_path), live=False)
    assert "\x1b[?25l" not in sent and "does no harm" not in sent and "-> " in sent
