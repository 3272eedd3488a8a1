"""`python -m slamlab status`: how the sweeps of a store stand, from another shell, while they run or later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from slamlab.errors import exit_on_user_error
from slamlab.sweep.live import active_first, cell_table, running_line, states
from slamlab.sweep.standing import clock
from slamlab.sweep.status import find_store, read_store
from slamlab.terminal import json_line, make_console, one_line

WATCH_EVERY_S = 2.0
WIDTH_OF_A_FILE = 160
"""Of what is not printed to a terminal, in columns: nothing there has to be left out for want of room."""
MAX_ROWS = 20
"""Cells, trials and failures that are listed of a sweep that was not asked for by name."""


# fmt: off
def status(
    store: Annotated[str, typer.Option(metavar="FOLDER_OR_URL", help="The sweeps' store.")] = "runs",
    sweep: Annotated[str | None, typer.Option(metavar="NAME", help="One sweep, in full; default: all of the store.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all there is.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
) -> None:
    # fmt: on
    """Tell how sweeps stand: what runs, what is known of each cell, what failed, where logs and report are.

    Reads only, and disturbs nothing. Example: `python -m slamlab status --store runs --watch`
    """
    console = make_console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)

    def look() -> RenderableType:
        root = find_store(store)
        found = read_store(root, sweep)
        if as_json:
            return Text(json_line({"store": str(root), "time": time.time(), "sweeps": found}))
        return Group(*_told(root, found, in_full=sweep is not None))

    with exit_on_user_error(), suppress(KeyboardInterrupt):
        if watch:
            _watch(console, look, in_place=console.is_interactive and console.file.isatty() and not as_json)
        console.print(look())


def _watch(console: Console, look: Callable[[], RenderableType], *, in_place: bool) -> NoReturn:
    """Show again and again."""
    with Live(look(), console=console, auto_refresh=False, vertical_overflow="crop") if in_place else nullcontext() as shown:
        while True:
            if shown:
                shown.update(look(), refresh=True)
            else:
                console.print(look())
            time.sleep(WATCH_EVERY_S)


def _told(root: Path, found: list[dict[str, Any]], *, in_full: bool) -> Iterator[RenderableType]:
    yield Text(one_line(f"{root}: {len(found)} sweep{'s' * (len(found) != 1)}"))
    for one in found:
        yield Text(one_line(_headline(one)), style="bold")
        if in_full or one["running"] or len(found) == 1:
            yield from _cells_and_trials(root, one, None if in_full else MAX_ROWS)


def _headline(one: Mapping[str, Any]) -> str:
    """Return name, state and counts of a sweep in a line."""
    status, now = one["status"], time.time()
    parts = [f"{one['num_finished']} finished"]
    if one["num_failed"]:
        parts.append(f"{one['num_failed']} attempts failed")
    if one["last_ended"]:
        parts.append(f"the last ended {clock(now - one['last_ended'])} ago")
    if not status:
        state = "runs" if one["running"] else "does not run"
    elif one["running"]:
        state = f"runs for {clock(now - status['began'])} (process {status['pid']} on {status['host']})"
        parts.insert(0, f"{status['num_ended']} of about {status['num_expected']:.0f} trials")
        if status["left_s"] is not None:
            parts.insert(1, f"{clock(status['left_s'])} left")
    elif status["ended"]:
        state = f"does not run since {clock(now - status['ended'])}"
    else:
        ago = clock(now - status["written"])
        state = f"its driver (process {status['pid']} on {status['host']}) was last heard of {ago} ago"
        state += ": it died, and the same command goes on" if one["running"] is False else ", and may be lost"
    return f"{one['sweep']}: {state}; {', '.join(parts)}"


def _cells_and_trials(root: Path, one: Mapping[str, Any], limit: int | None) -> Iterator[RenderableType]:
    """Yield cells, running trials and failures, of each so many at most, and where logs and report are."""
    cells, status = one["cells"], one["status"]
    running = status["running"] if status and one["running"] else []
    order = active_first({"cells": cells, "running": running})
    yield cell_table({name: cells[name] for name in order[:limit]})
    if len(order[:limit]) < len(order):
        yield Text(f"and {len(order) - len(order[:limit]):,} more cells: {states(cells)} in all")
    for trial in running[:limit]:
        yield Text(one_line(f"runs: {running_line(trial)}; log: {root / trial['log']}"))
    if len(running[:limit]) < len(running):
        yield Text(f"and {len(running) - len(running[:limit])} more trials run")
    logs = {(told["cell"], told["what"]): f"; log: {root / told['log']}" for told in (status or {}).get("failures", ())}
    failures = [(name, failure) for name in order for failure in cells[name]["failures"]]
    for name, failure in failures[:limit]:
        log = logs.get((name, failure["what"]), "")
        yield Text(one_line(f"failed: {name}: {failure['what']}: {failure['reason']}{log}"), style="red")
    if len(failures[:limit]) < len(failures):
        yield Text(f"and {len(failures) - len(failures[:limit])} more failures")
    if one["logs"]:
        yield Text(one_line(f"logs: {one['logs']}"))
    if one["report"]:
        yield Text(one_line(f"report: {one['report']}{'' if Path(one['report']).exists() else ' (not there yet)'}"))
