"""What a sweep is doing, told as it happens: lines a person can follow, a live view on a terminal, logs, a status file.

A line is printed when a trial starts and when it ends, with what came of it. In between a terminal has the live view
(:mod:`slamlab.sweep.live`); anything else gets a line where a trial stands somewhere new for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from slamlab.credentials import redacted
from slamlab.scoring.metrics import METRICS
from slamlab.sweep.live import live as live_view
from slamlab.sweep.logs import TrialLogs
from slamlab.sweep.standing import Standing, StatusFile, clock
from slamlab.terminal import one_line

if TYPE_CHECKING:
    from slamlab.sweep.campaign import Campaign
    from slamlab.sweep.settings import Request
    from slamlab.training.base import Progress

SAY_EVERY_S, SAY_EVERY_STEPS = 10.0, 50
Result = TypeVar("Result")
VERDICT_STYLE = {"feasible": "green", "undecided": "yellow", "infeasible": "red"}


class Watcher:
    """Tells what happens in a sweep, from where it is opened to where it is closed.

    Args:
        console: Where lines go.
        campaign: The sweep.
        num_expected: Trials expected of the whole sweep, for the time left.
        live: Whether a terminal gets the live view.
        report: Where the report will be.
    """

    def __init__(
        self,
        console: Console,
        campaign: Campaign,
        num_expected: float,
        *,
        live: bool = True,
        report: Path | None = None,
    ) -> None:
        self._console, self._store = console, campaign.store
        name, store = campaign.settings.name, campaign.store
        self._standing = Standing(campaign, num_expected, report)
        self._logs = TrialLogs(store.root / "logs" / name, store.is_gone)
        self._status = StatusFile(
            store.root / "status" / f"{name}.json", self._standing, store.share, is_gone=store.is_gone
        )
        # A console may be told to take any file for a terminal; only a real one is drawn on.
        self._is_live = live and console.is_interactive and console.file.isatty()
        self._said_s: dict[Request, float] = {}
        self._open = ExitStack()

    def __enter__(self) -> Watcher:
        self._open.enter_context(self._status)
        if self._is_live:
            self._open.enter_context(live_view(self._console, self._standing))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def say(self, line: str) -> None:
        """Say something that is about no one trial."""
        self._console.print(one_line(redacted(line)), markup=False, highlight=False, soft_wrap=True)

    def started(self, request: Request) -> None:
        """Say that a trial starts."""
        again = " (second attempt)" if request.attempt > 1 else ""
        self._said_s[request] = time.monotonic()
        self._standing.started(request, in_words(request), self._log(request))
        self._say(request, f"starts{again}")

    def advanced(
        self, request: Request, progress: Progress | None, *, worker: str = "", lines: Sequence[str] = ()
    ) -> None:
        """Say where a trial stands, at most every ten seconds; a note always.

        Args:
            request: The trial.
            progress: Its last step; None where it has ended.
            worker: Host and process that run it.
            lines: More for its log.
        """
        if worker and self._standing.moved(request, worker):
            self._logs.write(request, f"runs on {worker}")
        self._standing.advanced(request, progress)
        if lines:
            self._logs.write(request, "\n".join(lines))
        if progress is None:
            return
        if progress.note:
            self._say(request, progress.note)
            return
        loss = f", loss {progress.loss:.3f}" if progress.loss is not None else ""
        where = f"{progress.stage} {progress.step}/{progress.num_steps}{loss}"
        now = time.monotonic()
        if not self._is_live and now - self._said_s.get(request, 0.0) >= SAY_EVERY_S:
            self._said_s[request] = now
            self._say(request, where)
        else:
            self._logs.write(request, where)

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
        self._standing.completed(request, record)
        self._say(request, f"{found} ({record['wall_seconds']:.0f} s){self._left()}", markup=True)

    def failed(self, request: Request, reason: str, details: str) -> None:
        """Say why a trial failed, and where its log is."""
        reason, details = redacted(reason), redacted(details)
        self._standing.failed(request, reason, self._log(request))
        if details:
            self._logs.write(request, details)
        self._say(request, f"FAILED: {one_line(reason)} (log: {self._logs.path(request)})")
        if details:
            self._console.print(details, style="dim", markup=False, highlight=False)

    def cut_short(self, request: Request, reason: str) -> None:
        """Say why a trial ended early without having failed."""
        self._standing.cut_short(request)
        self._say(request, f"CUT SHORT: {one_line(redacted(reason))}")

    def _left(self) -> str:
        """Return the time left, from the pace so far."""
        if (left_s := self._standing.left_s()) is None:
            return ""
        standing = self._standing
        return f"; {standing.num_ended} of about {standing.num_expected:.0f} trials, {clock(left_s)} left"

    def _log(self, request: Request) -> str:
        return self._store.relative(self._logs.path(request))

    def _say(self, request: Request, text: str, *, markup: bool = False) -> None:
        head = f"[{clock(self._standing.elapsed_s)}] {request.cell.name}: {in_words(request)}: "
        line = Text.from_markup(escape(head) + (text if markup else escape(text)))
        self._logs.write(request, line.plain.removeprefix(head))
        self._console.print(line, highlight=False, soft_wrap=True)


def in_words(request: Request) -> str:
    """Return what a trial does, without its cell."""
    what: str = request.kind
    if request.depth:
        what = f"{what} -{request.depth} at {request.start}"
    if request.rung != "full":
        what += f" ({request.rung})"
    if request.repeat:
        what += f" (heal {request.repeat + 1})"
    return what


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
