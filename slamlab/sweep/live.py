"""The live view of a sweep: counts and time left, then its cells with their bounds, then what runs.

It is drawn from a snapshot (:meth:`slamlab.sweep.standing.Standing.snapshot`), and fits whatever the terminal has room
for: cells with running trials come first, and of the rest only their number is told.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from slamlab.sweep.standing import Standing, clock
from slamlab.terminal import one_line

REFRESHES_A_SECOND = 2
MAX_CELLS, MAX_RUNNING = 12, 16
BAR_WIDTH = 20


def live(console: Console, standing: Standing) -> Live:
    """Return a live view that is shown while it is open; lines that are printed meanwhile scroll above it."""
    return Live(
        get_renderable=lambda: View(standing.snapshot()),
        console=console,
        refresh_per_second=REFRESHES_A_SECOND,
        transient=True,
    )


class View:
    """A snapshot as a terminal shows it."""

    def __init__(self, snapshot: Mapping[str, Any]) -> None:
        self._snapshot = snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, in less lines than the terminal has."""
        room = max(console.size.height - 5, 2)
        running, cells = self._snapshot["running"], self._snapshot["cells"]
        num_running = min(len(running), MAX_RUNNING, max(room // 2, 1))
        num_cells = min(len(cells), MAX_CELLS, max(room - num_running, 1))
        yield Rule(Text(headline(self._snapshot)), style="dim", align="left")
        names = active_first(self._snapshot)
        yield cell_table({name: cells[name] for name in names[:num_cells]})
        if len(cells) > num_cells:
            yield _text(f"and {len(cells) - num_cells:,} more cells: {states(cells)} in all", "dim")
        yield running_table(running[:num_running])
        if len(running) > num_running:
            yield _text(f"and {len(running) - num_running} more trials that run", "dim")


def headline(snapshot: Mapping[str, Any]) -> str:
    """Return counts, rate and time left in a line."""
    parts = [
        one_line(snapshot["sweep"]),
        f"{snapshot['num_ended']:,} of about {snapshot['num_expected']:,.0f} trials",
        f"{len(snapshot['running'])} running",
    ]
    if snapshot["num_failures"]:
        parts.append(f"{snapshot['num_failures']} attempts failed")
    if snapshot["left_s"] is not None:
        parts += [f"{snapshot['per_hour']:,.3g} an hour", f"{clock(snapshot['left_s'])} left"]
    return " · ".join(parts)


def states(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many cells are in which state."""
    counted = Counter(cell["state"] for cell in cells.values())
    return ", ".join(f"{number:,} {state}" for state, number in counted.most_common())


def active_first(snapshot: Mapping[str, Any]) -> list[str]:
    """Return the names of the cells: those with running trials, then those that are searched, then the others."""
    active = {one["cell"] for one in snapshot["running"]}
    cells = snapshot["cells"]
    return sorted(cells, key=lambda name: (name not in active, cells[name]["state"] != "searched"))


def cell_table(cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return cells with their bounds so far."""
    table = _grid(5)
    table.add_row("cell", "does no harm", "does harm", "heals", "", style="dim")
    for name, cell in cells.items():
        bounds = _bound(cell["feasible"], "green"), _bound(cell["infeasible"], "red")
        table.add_row(_text(name), *bounds, str(cell["heals"]), cell["state"])
    return table


def running_table(running: Sequence[Mapping[str, Any]]) -> Table:
    """Return running trials with what they are at."""
    table = _grid(6)
    for one in running:
        total = one["num_steps"]
        bar = ProgressBar(total=total, completed=one["step"], width=BAR_WIDTH) if total else ""
        what = _text(f"{one['cell']}: {one['what']}")
        table.add_row(what, _text(one["stage"] or "starts"), bar, *_numbers(one))
    return table


def running_line(one: Mapping[str, Any], now: float | None = None) -> str:
    """Return a running trial in a line."""
    since = clock((time.time() if now is None else now) - one["began"])
    told = ", ".join(part for part in _numbers(one) if part)
    return one_line(f"{one['cell']}: {one['what']}: {one['stage'] or 'starts'} {told}, for {since}")


def bound_in_words(bound: Mapping[str, Any] | None) -> str:
    """Return a block and how probable it is that it does no harm."""
    if bound is None:
        return "–"
    sure = " (by its heal alone)" if bound["p_feasible"] is None else f" (P {bound['p_feasible']:.2f})"
    return f"-{bound['depth']} at {bound['start']}{sure}"


def _text(text: str, style: str = "") -> Text:
    """Return text from outside as one line, which is cut where it has no room."""
    return Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis")


def _bound(bound: Mapping[str, Any] | None, style: str) -> Text:
    return Text(bound_in_words(bound), style=style if bound else "dim")


def _numbers(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['step']}/{one['num_steps']}" if one["num_steps"] else ""
    yield f"loss {one['loss']:.3f}" if one["loss"] is not None else ""
    yield f"{clock(one['left_s'])} left" if one["left_s"] is not None else ""


def _grid(num_columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(num_columns):
        table.add_column(no_wrap=True, overflow="ellipsis")
    return table
