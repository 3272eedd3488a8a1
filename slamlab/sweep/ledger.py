"""The ledger: one Optuna study a cell, in one storage. What a sweep knows, it knows from here.

A probe is an Optuna trial with parameters `depth`, `start` and `rung`, chosen by the sampler of the cell's search; its
value is the fraction of layers removed (to be maximised) under the constraint `degradation` <= 0, Optuna's name for
"within the tolerance". What the trial measured lies in the store under the trial's fingerprint; the study holds that
fingerprint and what the search reads and a dashboard shows. Base, final and control trials have no parameters to
search, so they are attributes of the study. A joint search has a study of its own, whose trials hold a list, one entry
a member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from slamlab.search.sampler import BlockSampler
from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store

JUDGED = ("value", "relative_degradation", "ci95", "p_within", "se")
"""What a sweep says of a probe by its own tolerance: kept with the study, as records serve sweeps of any tolerance."""
MAX_ATTEMPTS = 2
"""A trial that failed is tried once more, then reported."""
INTERRUPTED = "interrupted"
"""Marks a trial whose driver died: it did not fail, it was never finished."""

SINGLES = ("base", "final", "control")
"""What a cell has one of at a time."""

Key = tuple[int, int, str, int]
"""Depth, start, rung and repeat of a probe."""


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
        self.study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        if "cell" not in self.study.user_attrs:
            self.study.set_user_attr("cell", cell.as_dict())
        self._running: dict[Request, optuna.Trial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "reason" not in trial.user_attrs:  # else it had failed, and only that was still to be told
                optuna.Trial(self.study, trial._trial_id).set_user_attr(INTERRUPTED, True)
            self.study.tell(trial.number, state=TrialState.FAIL)
        self._forget_lost(storage)
        self.singles = {kind: self._read_single(kind) for kind in SINGLES}
        self.probes = self._read_probes()

    def attempts(self, request: Request) -> Attempts:
        """Return what is known about the trial that a request describes."""
        if request.is_probe:
            return self.probes.get(_key_of(request), Attempts())
        return self.singles[_single(request)]

    def num_complete(self, depth: int, start: int, rung: str) -> int:
        """Return how often a block was looked at on a rung."""
        return sum(key[:3] == (depth, start, rung) and one.record is not None for key, one in self.probes.items())

    def begin(self, request: Request, sampler: BlockSampler | None) -> None:
        """Note that a trial runs; a probe is one that its sampler chooses, for this very state of the study."""
        if request.is_probe:
            assert sampler is not None
            self.study.sampler = sampler
            trial = self.study.ask(fixed_distributions=sampler.distributions)
            assert (trial.params["depth"], trial.params["start"]) == (request.depth, request.start)
            trial.set_user_attr("repeat", request.repeat)
            self._running[request] = trial

    def complete(self, request: Request, record: Mapping[str, Any]) -> None:
        """Note that a trial ended with a record, which the store has."""
        if not request.is_probe:
            kind = _single(request)
            self.study.set_user_attr(kind, record["fingerprint"])
            self.singles[kind] = Attempts(record=dict(record), reasons=self.singles[kind].reasons)
            return
        trial = self._running.pop(request)
        for name in ("fingerprint", "wall_seconds", *JUDGED):
            trial.set_user_attr(name, record[name])
        degradation = record["relative_degradation"]
        worst = degradation if isinstance(degradation, list) else [degradation]
        if None not in worst:
            trial.set_constraint("degradation", max(worst) - self._tolerance)
        self.study.tell(trial, request.depth / record["num_layers"])
        self.probes.setdefault(_key_of(request), Attempts()).record = dict(record)

    def fail(self, request: Request, reason: str) -> None:
        """Note that a trial failed, for a reason."""
        if not request.is_probe:
            kind = _single(request)
            self.singles[kind].reasons.append(reason)
            self.study.set_user_attr(f"{kind}_failures", self.singles[kind].reasons)
            return
        trial = self._running.pop(request)
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)
        self.probes.setdefault(_key_of(request), Attempts()).reasons.append(reason)

    def _forget_lost(self, storage: optuna.storages.BaseStorage) -> None:
        """Begin the study again without the trials whose records the store has lost: they are computed again.

        Optuna changes no trial that has ended. A driver killed in the midst of this forgets the others too, and finds
        their records in the store.
        """
        trials = self.study.get_trials(deepcopy=False)
        kept = [
            trial
            for trial in trials
            if trial.state != TrialState.COMPLETE or self._store.read_record(trial.user_attrs["fingerprint"])
        ]
        if len(kept) == len(trials):
            return
        name, attrs = self.study.study_name, self.study.user_attrs
        optuna.delete_study(study_name=name, storage=storage)
        self.study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        for attr, value in attrs.items():
            self.study.set_user_attr(attr, value)
        self.study.add_trials(kept)

    def _read_single(self, kind: str) -> Attempts:
        kept = self.study.user_attrs
        record = self._store.read_record(kept[kind]) if kind in kept else None
        return Attempts(record=record, reasons=list(kept.get(f"{kind}_failures", [])))

    def _read_probes(self) -> dict[Key, Attempts]:
        """Return the probes, without those that an interruption cut short."""
        probes: dict[Key, Attempts] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.COMPLETE:
                record = self._store.read_record(trial.user_attrs["fingerprint"])
                if record is not None:
                    judged = {name: trial.user_attrs[name] for name in JUDGED}
                    probes.setdefault(_key(trial), Attempts()).record = record | judged
            elif "reason" in trial.user_attrs:
                probes.setdefault(_key(trial), Attempts()).reasons.append(trial.user_attrs["reason"])
        return probes


def open_ledger(settings: Settings, store: Store, cells: tuple[Cell, ...]) -> dict[Cell, CellLedger]:
    """Open, or begin, the studies of cells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(store.ledger_url, engine_kwargs={"connect_args": {"timeout": 60}})
    return {cell: CellLedger(settings, cell, store, storage) for cell in cells}


def _single(request: Request) -> str:
    return request.kind.removeprefix("joint_")


def _key_of(request: Request) -> Key:
    return request.depth, request.start, request.rung, request.repeat


def _key(trial: FrozenTrial) -> Key:
    params = trial.params
    return params["depth"], params["start"], params["rung"], trial.user_attrs.get("repeat", 0)
