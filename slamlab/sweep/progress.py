"""What a sweep is doing, as lines a person can follow: which trial, how far, what came of it, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape

from slamlab.scoring.metrics import METRICS
from slamlab.sweep.plan import clock
from slamlab.sweep.settings import Request
from slamlab.terminal import one_line
from slamlab.training.base import Progress

SAY_EVERY_S, SAY_EVERY_STEPS = 10.0, 50
Result = TypeVar("Result")
VERDICT_STYLE = {"feasible": "green", "undecided": "yellow", "infeasible": "red"}


class Watcher:
    """Prints a line when a trial starts, stands somewhere new for a while, or ends.

    Args:
        console: Where lines go.
        num_expected: Trials expected of the whole sweep, for the time left.
        num_settled: Trials that ended in earlier runs.
    """

    def __init__(self, console: Console, num_expected: float, num_settled: int) -> None:
        self._console, self._num_expected, self._num_settled = console, num_expected, num_settled
        self._began_s = time.monotonic()
        self._said_s: dict[Request, float] = {}
        self._num_ended = num_settled

    def started(self, request: Request) -> None:
        """Say that a trial starts."""
        again = " (second attempt)" if request.attempt > 1 else ""
        self._said_s[request] = time.monotonic()
        self._say(request, f"starts{again}")

    def advanced(self, request: Request, progress: Progress) -> None:
        """Say where a trial stands, at most every ten seconds; a note always."""
        if progress.note:
            self._say(request, progress.note)
            return
        now = time.monotonic()
        if now - self._said_s.get(request, 0.0) >= SAY_EVERY_S:
            self._said_s[request] = now
            loss = f", loss {progress.loss:.3f}" if progress.loss is not None else ""
            self._say(request, f"{progress.stage} {progress.step}/{progress.num_steps}{loss}")

    def completed(self, request: Request, record: Mapping[str, Any]) -> None:
        """Say what a trial found."""
        if request.kind == "probe":
            found = f"{_show(record['scores']['selection'])}, {_change(record['relative_degradation'], record['ci95'])}"
        elif request.kind == "joint":
            changes = zip(record["scores"], record["relative_degradation"], record["ci95"], strict=True)
            found = "; ".join(f"{escape(name)} {_change(change, ci95)}" for name, change, ci95 in changes)
        elif request.is_joint:
            found = "; ".join(f"{escape(name)} {_splits(scores)}" for name, scores in record["scores"].items())
        else:
            found = _splits(record["scores"])
        if "verdict" in record:
            style = VERDICT_STYLE[record["verdict"]]
            sure = f"P(within) {record['p_feasible']:.2f}" if "p_feasible" in record else ""
            found += f" -> [{style}]{record['verdict']}[/{style}] {sure}".rstrip()
        self._num_ended += request.rung == "full"  # cheap looks are not planned for, nor long
        self._say(request, f"{found} ({record['wall_seconds']:.0f} s){self._left()}", markup=True)

    def failed(self, request: Request, reason: str, details: str) -> None:
        """Say why a trial failed."""
        self._num_ended += request.attempt > 1 and request.rung == "full"
        self._say(request, f"FAILED: {one_line(reason)}")
        if details:
            self._console.print(details, style="dim", markup=False, highlight=False)

    def _left(self) -> str:
        """Return the time left, from the pace so far."""
        remaining = self._num_expected - self._num_ended
        if remaining <= 0 or self._num_ended == self._num_settled:
            return ""
        pace_s = (time.monotonic() - self._began_s) / (self._num_ended - self._num_settled)
        return f"; {self._num_ended} of about {self._num_expected:.0f} trials, {clock(pace_s * remaining)} left"

    def _say(self, request: Request, text: str, *, markup: bool = False) -> None:
        what: str = request.kind
        if request.depth:
            what = f"{what} -{request.depth} at {request.start}"
        if request.rung != "full":
            what += f" ({request.rung})"
        if request.repeat:
            what += f" (heal {request.repeat + 1})"
        head = f"[{clock(time.monotonic() - self._began_s)}] {request.cell.name}: {what}: "
        line = escape(head) + (text if markup else escape(text))
        self._console.print(line, markup=True, highlight=False, soft_wrap=True)


def follow(steps: Generator[Progress, None, Result], what: str, say: Callable[[str], None]) -> Result:
    """Run steps to their end, saying now and then where they stand."""
    began_s, stage, stage_began_s = time.monotonic(), "", 0.0
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        now_s = time.monotonic()
        if progress.stage != stage:
            stage, stage_began_s = progress.stage, now_s
        if progress.step % SAY_EVERY_STEPS == 0 and progress.step:
            left_s = (now_s - stage_began_s) / progress.step * (progress.num_steps - progress.step)
            loss = f", loss {progress.loss:.3f}" if progress.loss is not None else ""
            say(
                f"[{clock(now_s - began_s)}] {what}: {stage} {progress.step}/{progress.num_steps}{loss}, "
                f"{clock(left_s)} left"
            )


def _show(score: Mapping[str, Any]) -> str:
    value = f"{score['value']:.1%}" if METRICS[score["metric"]].is_error_rate else f"{score['value']:.1f}"
    early = f" ({score['stopped_early']} after {score['num_utterances']})" if score.get("stopped_early") else ""
    return f"{score['metric'].upper()} {value}{early}"


def _splits(scores: Mapping[str, Any]) -> str:
    return ", ".join(f"{split} {_show(score)}" for split, score in scores.items())


def _change(change: float | None, ci95: list[float | None]) -> str:
    """Return a relative degradation with its interval, as markup."""
    low, high = (f"{end:+.0%}" if end is not None else "unbounded" for end in ci95)
    return f"{'unbounded' if change is None else f'{change:+.0%}'} \\[{low}, {high}]"
