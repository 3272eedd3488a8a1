"""Where drivers run and are killed: commands as processes of their own, what they start, and how it ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
PATH = os.pathsep.join(map(str, (HERE, HERE.parent / "sweep")))
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
GONE_S, PATIENCE_S = 120.0, 900.0
"""How long what a dead driver started may take to end, and a test waits for anything: the machine is shared."""


class Driver:
    """A command that drives a sweep, with everything that it starts.

    Args:
        command: What Python is to run.
        log: Where its output goes.
    """

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self.log, self._seen = log, {}
        environment = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        with log.open("w") as file:
            self.process = psutil.Popen(
                [sys.executable, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                cwd=log.parent,
            )

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return what it started, and what this started, as far as it was ever seen and still runs."""
        for one in (self.process, *list(self._seen.values())):
            try:
                self._seen |= {child.pid: child for child in one.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return [one for one in self._seen.values() if _runs(one)]

    def named(self, *words: str) -> list[psutil.Process]:
        """Return those of its family in whose command line all words are."""
        found = []
        for one in self.family():
            try:
                line = " ".join(one.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(one)
        return found

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait until something holds while it runs, and return that.

        Raises:
            AssertionError: It ended before, or nothing came of it.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := holds()):
            assert self.process.poll() is None, f"it ended too early:\n{self.said}"
            assert time.monotonic() < deadline_s, f"nothing came of it:\n{self.said}"
            self.family()
            time.sleep(0.05)
        return found

    def _left(self, agents: bool) -> list[psutil.Process]:
        return [one for one in self.family() if agents or not _is_agent(one)]

    def kill(self) -> None:
        """Kill it with -9."""
        self.family()
        self.process.kill()
        self.process.wait()

    def ends(self) -> int:
        """Wait for its end and return its exit code."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline_s, f"it does not end:\n{self.said}"
            self.family()
            time.sleep(0.2)
        return int(code)

    def orphans(self, *, agents: bool = True) -> list[str]:
        """Return what still runs a while after its end, by name, and end that.

        Args:
            agents: Whether Ray's agents of a node are looked for too, which call the dead for a minute before they end.
        """
        deadline_s = time.monotonic() + GONE_S
        while (left := self._left(agents)) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        names = [" ".join(one.cmdline())[:200] for one in left]
        strike(left)
        return names


def _is_agent(process: psutil.Process) -> bool:
    try:
        return process.name().startswith(AGENTS) or " ".join(process.cmdline()).startswith(AGENTS)
    except psutil.Error:
        return False


def strike(processes: Sequence[psutil.Process], how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to processes, those that are gone left out."""
    for one in processes:
        try:
            one.send_signal(how)
        except psutil.NoSuchProcess:
            continue


def pause(draw: random.Random, longest_s: float) -> None:
    """Let a random moment pass."""
    time.sleep(draw.uniform(0.0, longest_s))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
