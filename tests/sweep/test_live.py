"""The live view, drawn on terminals of several sizes."""

import io

import pytest
from rich.console import Console

from slamlab.sweep.live import View, active_first, bound_in_words, headline

RUNNING = {
    "cell": "cell 7", "what": "probe -6 at 2", "log": "x", "began": 0.0, "worker": "", "stage": "heal", "step": 30,
    "num_steps": 40, "loss": 1.25, "left_s": 61.0,
}  # fmt: skip


def snapshot(num_cells, num_running=1):
    cells = {
        f"cell {i}": {
            "state": "answered" if i % 2 else "searched",
            "heals": 3,
            "feasible": {"depth": 5, "start": 3, "p_feasible": 0.98},
            "infeasible": None,
        }
        for i in range(num_cells)
    }
    running = [{**RUNNING, "cell": f"cell {7 + i}"} for i in range(num_running)]
    counts = {"num_ended": 7, "num_expected": 12.0, "num_failures": 0, "per_hour": 14.0, "left_s": 492.0}
    return {"sweep": "tiny", **counts, "running": running, "cells": cells}


def drawn(snapshot, width=100, height=30):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(View(snapshot))
    return console.file.getvalue().splitlines()


def test_it_shows_counts_cells_and_what_runs():
    text = "\n".join(drawn(snapshot(9)))
    for told in (
        "7 of about 12 trials",
        "14 an hour",
        "8:12 left",
        "-5 at 3 (P 0.98)",
        "probe -6 at 2",
        "30/40",
        "loss 1.250",
        "1:01 left",
    ):
        assert told in text


@pytest.mark.parametrize("height", [8, 12, 24, 50])
@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(("num_cells", "num_running"), [(1, 0), (3, 2), (2_000, 64)])
def test_it_fits_the_terminal(num_cells, num_running, width, height):
    lines = drawn(snapshot(num_cells, num_running), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_of_many_cells_the_active_ones_are_shown_and_the_others_counted():
    lines = drawn(snapshot(10_000, 2))
    assert active_first(snapshot(10_000, 2))[:3] == ["cell 8", "cell 7", "cell 0"]
    assert any("more cells: 5,000 searched, 5,000 answered in all" in line for line in lines)


def test_names_from_outside_cannot_draw():
    told = snapshot(1)
    told["cells"] = {"\x1b[2Jevil [red]": told["cells"]["cell 0"]}
    told["sweep"] = "\x1b[2J"
    text = "\n".join(drawn(told))
    assert "\x1b[2J" not in text and "\\x1b[2Jevil [red]" in text


def test_a_line_without_a_pace_tells_no_time():
    assert "left" not in headline({**snapshot(1), "left_s": None})
    assert bound_in_words(None) == "–"
    assert bound_in_words({"depth": 2, "start": 1, "p_feasible": None}) == "-2 at 1 (by its heal alone)"
