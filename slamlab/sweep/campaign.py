"""Which trial comes next, over all cells of a sweep: a function of the ledger, with no Ray in it.

A cell goes from its base through probes to the final scoring of its answer. Cells move on their own: one whose base is
not there yet waits, one whose base failed ends, and neither holds up the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from slamlab.scoring.records import read_records
from slamlab.scoring.score import degradation
from slamlab.scoring.verdict import judge
from slamlab.search.bisection import Probe, Recommendation, next_depth, recommend
from slamlab.sweep.bases import base_name, existing_folder
from slamlab.sweep.cells import Cell
from slamlab.sweep.ledger import open_ledger
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store


class Campaign:
    """The state of a sweep: what is known, what runs, what to ask for next.

    Args:
        settings: The sweep.
        store: Its store.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.ledgers = open_ledger(settings, store)
        self.running: set[Request] = set()

    @property
    def finished(self) -> bool:
        """Whether no trial is left, running or to be started."""
        return not self.running and all(self._next_of(cell) is None for cell in self.settings.cells)

    @property
    def num_settled(self) -> int:
        """Trials that ended for good, in this run or before."""
        ledgers = self.ledgers.values()
        return sum(one.settled for ledger in ledgers for one in (*ledger.singles.values(), *ledger.probes.values()))

    def next(self) -> Request | None:
        """Return a trial to start now, the cells that have come least far first; None where all must wait."""
        busy = {request.cell for request in self.running}
        training = {base_name(r.cell) for r in self.running if r.kind == "base" and self._must_train(r.cell)}
        for cell in sorted(self.settings.cells, key=lambda cell: len(self.ledgers[cell].probes)):
            if cell in busy or (base_name(cell) in training and self.ledgers[cell].singles["base"].record is None):
                continue
            if request := self._next_of(cell):
                return request
        return None

    def begin(self, request: Request) -> None:
        """Note that a trial runs."""
        self.running.add(request)
        self.ledgers[request.cell].begin(request)

    def complete(self, request: Request, record: Mapping[str, Any]) -> dict[str, Any]:
        """Note that a trial ended with a record; return the record, with its verdict where it is a probe's."""
        self.running.discard(request)
        judged = dict(record)
        if request.kind == "probe":
            judged |= self.judge(request.cell, record, "selection")
        self.ledgers[request.cell].complete(request, judged)
        return judged

    def fail(self, request: Request, reason: str) -> None:
        """Note that a trial failed, for a reason."""
        self.running.discard(request)
        self.ledgers[request.cell].fail(request, reason)

    def judge(self, cell: Cell, record: Mapping[str, Any], split: str) -> dict[str, Any]:
        """Compare a pruned model's hypotheses on a split with the base's: value, interval and verdict."""
        base = self.ledgers[cell].singles["base"].record
        assert base is not None  # a probe runs only once its base is there
        files = [self.store.root / one["scores"][split]["hypotheses"] for one in (base, record)]
        compared = degradation(
            read_records(files[0]),
            read_records(files[1]),
            cell.language,
            cell.task,
            tolerance=self.settings.tolerance,
            seed=self.settings.seed,
        )
        return {
            "value": record["scores"][split]["value"],
            "relative_degradation": _finite(compared.value),
            "ci95": [_finite(end) for end in compared.ci95],
            "p_within": compared.p_within,
            "verdict": judge(compared, self.settings.tolerance, self.settings.alpha),
        }

    def recommendation(self, cell: Cell) -> Recommendation:
        """Return the answer that a cell's probes give so far."""
        return recommend(self._probes(cell), self.settings.tolerance)

    def _next_of(self, cell: Cell) -> Request | None:
        """Return the trial that a cell needs next, None where it needs no more."""
        ledger = self.ledgers[cell]
        base = ledger.singles["base"]
        if base.record is None:
            return None if base.failed else Request(kind="base", cell=cell, attempt=len(base.reasons) + 1)
        with np.load(self.store.root / base.record["map"], allow_pickle=False) as arrays:
            proposal = next_depth(base.record["num_layers"], arrays["distance"], self._probes(cell))
        if proposal is not None:
            request = Request(kind="probe", cell=cell, start=proposal.start, depth=proposal.depth)
            attempt = len(ledger.attempts(request).reasons) + 1
            return Request(kind="probe", cell=cell, start=proposal.start, depth=proposal.depth, attempt=attempt)
        best, final = self.recommendation(cell), ledger.singles["final"]
        if best.depth == 0 or final.settled:
            return None
        attempt = len(final.reasons) + 1
        return Request(kind="final", cell=cell, start=best.start, depth=best.depth, attempt=attempt)

    def _probes(self, cell: Cell) -> list[Probe]:
        """Return a cell's settled probes, as the search takes them."""
        probes = []
        for (depth, start), attempts in sorted(self.ledgers[cell].probes.items()):
            if attempts.record is not None:
                verdict, value = attempts.record["verdict"], attempts.record["relative_degradation"]
                probes.append(Probe(start=start, depth=depth, verdict=verdict, degradation=value))
            elif attempts.failed:
                probes.append(Probe(start=start, depth=depth, verdict="failed", degradation=None))
        return probes

    def _must_train(self, cell: Cell) -> bool:
        return existing_folder(cell, self.settings, self.store) is None


def _finite(number: float) -> float | None:
    """Return a number as JSON can hold it: None where it is unbounded (a base without an edit made worse)."""
    return number if math.isfinite(number) else None
