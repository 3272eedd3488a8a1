"""The table of faults, printed after the tests that inject them."""

from __future__ import annotations

from typing import Any

FAULTS = "faults"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was injected, and survived, by tests that passed; `record_property` brings it here."""
    reports = [one for many in terminalreporter.stats.values() for one in many if hasattr(one, "user_properties")]
    rows = [
        value
        for one in reports
        if getattr(one, "when", "") == "call"
        for name, value in one.user_properties
        if name == FAULTS
    ]
    if not rows:
        return
    rows.append(("all", *(sum(row[i] for row in rows) for i in (1, 2))))
    terminalreporter.section("faults")
    terminalreporter.write_line("| fault | injected | survived | lost |\n| --- | --- | --- | --- |")
    for what, injected, survived in rows:
        terminalreporter.write_line(f"| {what} | {injected} | {survived} | {injected - survived} |")
