"""The ledger: one Optuna study a cell, in one file. What a sweep knows, it knows from here.

A probe is an Optuna trial with parameters `depth`, `start` and `rung`, chosen by the sampler of the cell's search; its
value is the fraction of layers removed (to be maximised) under the constraint `degradation` <= 0, Optuna's name for
"within the tolerance". What the trial measured lies in the store under the trial's fingerprint; the study holds that
fingerprint and what the search reads and a dashboard shows. Base, final and control trials have no parameters to
search, so they are attributes of the study. A joint search has a study of its own, whose trials hold a list, one entry
a member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from slamlab.search.sampler import BlockSampler
from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store
from slamlab.sweep.studies import KeptStudy, StudyFile

JUDGED = ("value", "relative_degradation", "ci95", "p_within", "se")
"""What a sweep says of a probe by its own tolerance: kept with the study, as records serve sweeps of any tolerance."""
MAX_ATTEMPTS = 2
"""A trial that failed is tried once more, then reported."""
INTERRUPTED = "interrupted"
"""Marks a trial whose driver or worker died: it did not fail, it was never finished."""
LOST = "lost"
"""Says how an interrupted trial lost its worker, while the driver lived."""
MAX_LOST = 4
"""As often is a trial begun again whose worker was lost; from then on that counts as a failure of its own."""

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

    The study that is asked lies in memory; the file has the same before a method returns.

    Args:
        settings: The sweep.
        cell: The cell.
        store: Where the trials' records lie.
        file: Where the studies of all cells lie.
        study: The cell's, in memory and without trials.
        kept: The same as the file has it.
    """

    def __init__(
        self, settings: Settings, cell: Cell, store: Store, file: StudyFile, study: optuna.Study, kept: KeptStudy
    ) -> None:
        self.cell, self._tolerance = cell, settings.tolerance
        self.study, self._file, self._id = study, file, kept.id
        self._running: dict[Request, optuna.Trial] = {}
        self.singles = {kind: _read_single(kept.attrs, kind, store) for kind in SINGLES}
        self.probes: dict[Key, Attempts] = {}
        self._lost: Counter[Key | str] = Counter({kind: kept.attrs.get(f"{kind}_lost", 0) for kind in SINGLES})
        self._take_up(kept.trials, store)
        replaced = map(store.read_record, kept.attrs.get("replaced", ()))
        self._replaced = [record for record in replaced if record is not None]
        self._failed_singles_s: float = kept.attrs.get("failed_device_s", 0.0)
        of_probes = (trial.user_attrs.get("failed_device_s", 0.0) for trial in kept.trials)
        self.failed_device_s = self._failed_singles_s + sum(of_probes)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished trials, those of answers that a better one has replaced among them."""
        attempts = (*self.singles.values(), *self.probes.values())
        found = [*self._replaced, *(one.record for one in attempts if one.record is not None)]
        return list({record["fingerprint"]: record for record in found}.values())

    def attempts(self, request: Request) -> Attempts:
        """Return what is known about the trial that a request describes."""
        if request.is_probe:
            return self.probes.get(_key_of(request), Attempts())
        return self.singles[_single(request)]

    @property
    def last_began(self) -> datetime | None:
        """When the latest probe began, those that an interruption cut short left out; None without one."""
        trials = (trial for trial in self.study.get_trials(deepcopy=False) if INTERRUPTED not in trial.user_attrs)
        return max((trial.datetime_start for trial in trials if trial.datetime_start is not None), default=None)

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
            self._keep(trial)

    def complete(self, request: Request, record: Mapping[str, Any]) -> None:
        """Note that a trial ended with a record, which the store has."""
        if not request.is_probe:
            kind = _single(request)
            if (before := self.singles[kind].record) is not None:
                self._replaced.append(before)
                self._file.set_attr(self._id, "replaced", [one["fingerprint"] for one in self._replaced])
            self._file.set_attr(self._id, kind, record["fingerprint"])
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
        self._keep(trial)
        self.probes.setdefault(_key_of(request), Attempts()).record = dict(record)

    def fail(self, request: Request, reason: str, device_s: float = 0.0) -> None:
        """Note that a trial failed, for a reason, after so many device-seconds as far as known."""
        self.failed_device_s += device_s
        if not request.is_probe:
            kind = _single(request)
            self.singles[kind].reasons.append(reason)
            self._file.set_attr(self._id, f"{kind}_failures", self.singles[kind].reasons)
            if device_s:
                self._failed_singles_s += device_s
                self._file.set_attr(self._id, "failed_device_s", self._failed_singles_s)
            return
        trial = self._running.pop(request)
        trial.set_user_attr("reason", reason)
        if device_s:
            trial.set_user_attr("failed_device_s", device_s)
        self.study.tell(trial, state=TrialState.FAIL)
        self._keep(trial)
        self.probes.setdefault(_key_of(request), Attempts()).reasons.append(reason)

    def lose(self, request: Request, reason: str) -> bool:
        """Note that a trial lost its worker; say whether it is begun again as if it never was, and not failed."""
        key = _key_of(request) if request.is_probe else _single(request)
        if self._lost[key] >= MAX_LOST:
            self.fail(request, reason)
            return False
        self._lost[key] += 1
        if not request.is_probe:
            self._file.set_attr(self._id, f"{key}_lost", self._lost[key])
            return True
        trial = self._running.pop(request)
        trial.set_user_attr(INTERRUPTED, True)
        trial.set_user_attr(LOST, reason)
        self.study.tell(trial, state=TrialState.FAIL)
        self._keep(trial)
        return True

    def _keep(self, trial: optuna.Trial) -> None:
        """Write a trial to the file as it is in memory."""
        self._file.write(self._id, self.study.get_trials(deepcopy=False)[trial.number])

    def _take_up(self, trials: Sequence[FrozenTrial], store: Store) -> None:
        """Begin with the trials of the file.

        Those that a dead driver left running are closed. Those whose records the store has lost are forgotten, to be
        computed again.
        """
        records = {
            trial.number: store.read_record(trial.user_attrs["fingerprint"])
            for trial in trials
            if trial.state == TrialState.COMPLETE
        }
        kept = [trial for trial in trials if trial.state != TrialState.COMPLETE or records[trial.number]]
        left = [trial for trial in kept if trial.state == TrialState.RUNNING]
        for trial in left:
            trial.state, trial.datetime_complete = TrialState.FAIL, datetime.now()
            if "reason" not in trial.user_attrs:  # else it had failed, and only that was still to be told
                trial.set_user_attr(INTERRUPTED, True)
        for trial in kept:
            if record := records.get(trial.number):
                judged = {name: trial.user_attrs[name] for name in JUDGED}
                self.probes.setdefault(_key(trial), Attempts()).record = record | judged
            elif "reason" in trial.user_attrs:
                self.probes.setdefault(_key(trial), Attempts()).reasons.append(trial.user_attrs["reason"])
            elif LOST in trial.user_attrs:
                self._lost[_key(trial)] += 1
        self.study.add_trials(kept)
        if len(kept) < len(trials):
            self._file.rewrite(self._id, self.study.get_trials(deepcopy=False))
        elif left:
            self._file.write(self._id, *left)


def open_ledger(settings: Settings, store: Store, cells: tuple[Cell, ...]) -> dict[Cell, CellLedger]:
    """Open, or begin, the studies of cells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with store.making_ledger():
        file = StudyFile(store.ledger_url, store.patiently)
    memory = optuna.storages.InMemoryStorage()
    nobody = optuna.samplers.RandomSampler()  # Optuna would make a sampler a study; a trial is begun with the cell's
    names = {cell: f"{settings.name} | {cell.name} | {settings.question(cell)[:12]}" for cell in cells}
    known = file.read(f"{settings.name} | ")
    trials = (trial.user_attrs.get("fingerprint", "") for kept in known.values() for trial in kept.trials)
    store.fetch_records(filter(None, trials))
    known |= file.add({name: {"cell": cell.as_dict()} for cell, name in names.items() if name not in known})
    return {
        cell: CellLedger(
            settings,
            cell,
            store,
            file,
            optuna.create_study(storage=memory, study_name=name, direction="maximize", sampler=nobody),
            known[name],
        )
        for cell, name in names.items()
    }


def _read_single(attrs: Mapping[str, Any], kind: str, store: Store) -> Attempts:
    """Return what a study's attributes tell of a trial that a cell has one of."""
    record = store.read_record(attrs[kind]) if kind in attrs else None
    return Attempts(record=record, reasons=list(attrs.get(f"{kind}_failures", [])))


def _single(request: Request) -> str:
    return request.kind.removeprefix("joint_")


def _key_of(request: Request) -> Key:
    return request.depth, request.start, request.rung, request.repeat


def _key(trial: FrozenTrial) -> Key:
    params = trial.params
    return params["depth"], params["start"], params["rung"], trial.user_attrs.get("repeat", 0)
