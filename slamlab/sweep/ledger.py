"""The ledger: one Optuna study a cell, in one storage. What a sweep knows, it knows from here.

A probe is an Optuna trial with parameters `depth` and `start`; its value is the fraction of layers removed (to be
maximised) under the constraint `degradation` <= 0, Optuna's name for "within the tolerance". What the trial measured
lies in the store under the trial's fingerprint; the study holds that fingerprint and what a dashboard should show.
Base and final trials have no parameters to search, so they are attributes of the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store

JUDGED = ("value", "relative_degradation", "ci95", "p_within", "verdict")
"""What a sweep says of a probe by its own tolerance: kept with the study, as records serve sweeps of any tolerance."""
MAX_ATTEMPTS = 2
"""A trial that failed is tried once more, then reported."""


@dataclass(kw_only=True)
class Attempts:
    """How often one trial was tried, and what came of it.

    Attributes:
        record: Its record, once it is complete.
        reasons: Why each failed attempt failed.
    """

    record: dict[str, Any] | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it failed for good."""
        return self.record is None and len(self.reasons) >= MAX_ATTEMPTS

    @property
    def settled(self) -> bool:
        """Whether nothing more will be tried."""
        return self.record is not None or self.failed


class CellLedger:
    """What is known about one cell, kept as it becomes known.

    Args:
        settings: The sweep.
        cell: The cell.
        store: Where the ledger and the trials' records lie.
        storage: Optuna's storage, shared by the cells of a sweep.
    """

    def __init__(self, settings: Settings, cell: Cell, store: Store, storage: optuna.storages.BaseStorage) -> None:
        self.cell, self._store, self._tolerance = cell, store, settings.tolerance
        name = f"{settings.name} | {cell.name} | {settings.question(cell)[:12]}"
        self._study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        if "cell" not in self._study.user_attrs:
            self._study.set_user_attr("cell", cell.as_dict())
        self._running: dict[tuple[int, int], optuna.Trial] = {}
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.ask()  # left between enqueueing and asking, it would be given out for the next probe
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Its driver is gone; the trial did not fail, it was never finished.
            self._study.tell(trial.number, state=TrialState.FAIL)
        self.singles = {kind: self._read_single(kind) for kind in ("base", "final")}
        self.probes = self._read_probes()

    def attempts(self, request: Request) -> Attempts:
        """Return what is known about the trial that a request describes."""
        if request.kind == "probe":
            return self.probes.get((request.depth, request.start), Attempts())
        return self.singles[request.kind]

    def begin(self, request: Request) -> None:
        """Note that a trial runs."""
        if request.kind == "probe":
            layers = self.singles["base"].record["num_layers"]  # type: ignore[index]
            bounds = {"depth": IntDistribution(1, layers - 1), "start": IntDistribution(0, layers - 1)}
            self._study.enqueue_trial({"depth": request.depth, "start": request.start})
            self._running[request.depth, request.start] = self._study.ask(bounds)  # type: ignore[arg-type]

    def complete(self, request: Request, record: Mapping[str, Any]) -> None:
        """Note that a trial ended with a record, which the store has."""
        if request.kind != "probe":
            self._study.set_user_attr(request.kind, record["fingerprint"])
            self.singles[request.kind].record = dict(record)
            return
        trial = self._running.pop((request.depth, request.start))
        for name in ("fingerprint", "wall_seconds", *JUDGED):
            trial.set_user_attr(name, record[name])
        if record["relative_degradation"] is not None:
            trial.set_constraint("degradation", record["relative_degradation"] - self._tolerance)
        self._study.tell(trial, request.depth / record["num_layers"])
        self.probes.setdefault((request.depth, request.start), Attempts()).record = dict(record)

    def fail(self, request: Request, reason: str) -> None:
        """Note that a trial failed, for a reason."""
        if request.kind != "probe":
            self.singles[request.kind].reasons.append(reason)
            self._study.set_user_attr(f"{request.kind}_failures", self.singles[request.kind].reasons)
            return
        trial = self._running.pop((request.depth, request.start))
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)
        self.probes.setdefault((request.depth, request.start), Attempts()).reasons.append(reason)

    def _read_single(self, kind: str) -> Attempts:
        kept = self._study.user_attrs
        record = self._store.read_record(kept[kind]) if kind in kept else None
        return Attempts(record=record, reasons=list(kept.get(f"{kind}_failures", [])))

    def _read_probes(self) -> dict[tuple[int, int], Attempts]:
        """Return the probes by (depth, start), without those that an interruption cut short."""
        probes: dict[tuple[int, int], Attempts] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.COMPLETE:
                record = self._store.read_record(trial.user_attrs["fingerprint"])
                if record is not None:  # a lost or damaged record is computed again
                    judged = {name: trial.user_attrs[name] for name in JUDGED}
                    probes.setdefault(_key(trial), Attempts()).record = record | judged
            elif "reason" in trial.user_attrs:
                probes.setdefault(_key(trial), Attempts()).reasons.append(trial.user_attrs["reason"])
        return probes


def open_ledger(settings: Settings, store: Store) -> dict[Cell, CellLedger]:
    """Open, or begin, the study of every cell of a sweep."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(store.ledger_url, engine_kwargs={"connect_args": {"timeout": 60}})
    return {cell: CellLedger(settings, cell, store, storage) for cell in settings.cells}


def _key(trial: FrozenTrial) -> tuple[int, int]:
    return trial.params["depth"], trial.params["start"]
