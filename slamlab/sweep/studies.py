"""The file of Optuna's studies: read in a few queries, written one transaction a trial.

Optuna's own storage commits every attribute of a trial by itself, with a wait for the disk each, and reads each study
by queries of its own. Here the rows are the same (it makes the tables and opens what this wrote, and so does its
dashboard; a test holds that), but a trial is written whole, and all studies of a sweep are read at once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, MetaData, Row, Table, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from slamlab.disk import at_once

PARTS = ("trial_values", "trial_params", "trial_user_attributes", "trial_system_attributes")
"""Tables of what a trial is made of."""
WAIT_S = 60
Result = TypeVar("Result")


@dataclass(kw_only=True)
class KeptStudy:
    """A study as the file has it.

    Attributes:
        id: Its number in the file.
        attrs: Its user attributes.
        trials: Its trials, in the order of their numbers.
    """

    id: int
    attrs: dict[str, Any] = field(default_factory=dict)
    trials: list[FrozenTrial] = field(default_factory=list)


class StudyFile:
    """Reads and writes studies that maximise one value, each written by one process at a time.

    Args:
        url: Of the database, as SQLAlchemy takes it; it is made where there is none.
        patiently: Does something, again where the file system goes away meanwhile.
    """

    def __init__(self, url: str, patiently: Callable[[Callable[[], Any]], Any] = at_once) -> None:
        self._patiently = patiently
        known = MetaData()

        def begin() -> Engine:
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": WAIT_S}})
            known.reflect(storage.engine)
            return storage.engine

        self._engine: Engine = patiently(begin)
        self._tables = known.tables

    def read(self, prefix: str) -> dict[str, KeptStudy]:
        """Return the studies whose names begin so, by name."""
        return self._in_one_go(lambda connection: self._read(connection, prefix))

    def _read(self, connection: Connection, prefix: str) -> dict[str, KeptStudy]:
        studies, trials, attrs = (self._tables[name] for name in ("studies", "trials", "study_user_attributes"))
        asked = studies.c.study_name.startswith(prefix, autoescape=True)
        ids = select(studies.c.study_id).where(asked)
        trial_ids = select(trials.c.trial_id).where(trials.c.study_id.in_(ids))
        rows = connection.execute(select(studies.c.study_name, studies.c.study_id).where(asked)).all()
        found = {name: KeptStudy(id=study_id) for name, study_id in rows}
        by_id = {study.id: study for study in found.values()}
        for attr in connection.execute(select(attrs).where(attrs.c.study_id.in_(ids))):
            by_id[attr.study_id].attrs[attr.key] = json.loads(attr.value_json)
        parts = {
            name: _by_trial(connection.execute(select(table).where(table.c.trial_id.in_(trial_ids))))
            for name, table in ((name, self._tables[name]) for name in PARTS)
        }
        for row in connection.execute(select(trials).where(trials.c.study_id.in_(ids)).order_by(trials.c.number)):
            own = {name: rows.get(row.trial_id, []) for name, rows in parts.items()}
            by_id[row.study_id].trials.append(_trial_of(row, own))
        return found

    def add(self, studies: Mapping[str, Mapping[str, Any]]) -> dict[str, KeptStudy]:
        """Begin studies with these names and attributes."""

        def begin(connection: Connection) -> dict[str, KeptStudy]:
            added, table = {}, self._tables["studies"]
            for name, attrs in studies.items():
                # One that is there was begun in a transaction of whose end nobody heard.
                study_id = connection.scalar(select(table.c.study_id).where(table.c.study_name == name))
                if study_id is None:
                    study_id = _insert(connection, table, study_name=name)
                    directions = self._tables["study_directions"]
                    _insert(connection, directions, study_id=study_id, objective=0, direction="MAXIMIZE")
                added[name] = KeptStudy(id=study_id, attrs=dict(attrs))
                for key, value in attrs.items():
                    self._set_attr(connection, study_id, key, value)
            return added

        return self._in_one_go(begin)

    def set_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep an attribute of a study."""
        self._in_one_go(lambda connection: self._set_attr(connection, study_id, key, value))

    def write(self, study_id: int, *trials: FrozenTrial) -> None:
        """Keep trials as they are now, whether they are new or known by their numbers."""

        def keep(connection: Connection) -> None:
            for trial in trials:
                self._write(connection, study_id, trial)

        self._in_one_go(keep)

    def rewrite(self, study_id: int, trials: Iterable[FrozenTrial]) -> None:
        """Keep these trials of a study and no others."""
        table, kept = self._tables["trials"], list(trials)

        def replace(connection: Connection) -> None:
            own = select(table.c.trial_id).where(table.c.study_id == study_id)
            for name in PARTS:
                connection.execute(delete(self._tables[name]).where(self._tables[name].c.trial_id.in_(own)))
            connection.execute(delete(table).where(table.c.study_id == study_id))
            for trial in kept:
                self._write(connection, study_id, trial)

        self._in_one_go(replace)

    def _in_one_go(self, work: Callable[[Connection], Result]) -> Result:
        """Do something in a transaction, all of it again where the file went away meanwhile."""

        def once() -> Result:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except DBAPIError:
                self._engine.dispose()  # when the file is back, a connection to what it was is of no use
                raise

        result: Result = self._patiently(once)
        return result

    def _set_attr(self, connection: Connection, study_id: int, key: str, value: Any) -> None:
        table = self._tables["study_user_attributes"]
        connection.execute(delete(table).where(table.c.study_id == study_id, table.c.key == key))
        _insert(connection, table, study_id=study_id, key=key, value_json=json.dumps(value))

    def _write(self, connection: Connection, study_id: int, trial: FrozenTrial) -> None:
        table = self._tables["trials"]
        here = (table.c.study_id == study_id) & (table.c.number == trial.number)
        told = {
            "state": trial.state.name,
            "datetime_start": _as_utc(trial.datetime_start),
            "datetime_complete": _as_utc(trial.datetime_complete),
        }
        trial_id = connection.scalar(select(table.c.trial_id).where(here))
        if trial_id is None:
            trial_id = _insert(connection, table, study_id=study_id, number=trial.number, **told)
        else:
            connection.execute(update(table).where(here).values(**told))
            for name in PARTS:
                connection.execute(delete(self._tables[name]).where(self._tables[name].c.trial_id == trial_id))
        for name, rows in _parts_of(trial).items():
            if rows:
                connection.execute(insert(self._tables[name]), [{"trial_id": trial_id, **row} for row in rows])


def _insert(connection: Connection, table: Table, **values: Any) -> int:
    """Insert a row and return its number."""
    (key,) = connection.execute(insert(table).values(**values)).inserted_primary_key or (None,)
    assert key is not None
    return int(key)


def _by_trial(rows: Iterable[Row[Any]]) -> dict[int, list[Row[Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row.trial_id].append(row)
    return dict(found)


def _parts_of(trial: FrozenTrial) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of what a trial is made of, by table."""
    return {
        "trial_values": [] if trial.value is None else [{"objective": 0, "value": trial.value, "value_type": "FINITE"}],
        "trial_params": [
            {
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ],
        "trial_user_attributes": _attrs_of(trial.user_attrs),
        "trial_system_attributes": _attrs_of(trial.system_attrs),
    }


def _attrs_of(attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]


def _trial_of(row: Row[Any], parts: Mapping[str, list[Row[Any]]]) -> FrozenTrial:
    user_attrs, system_attrs = ({attr.key: json.loads(attr.value_json) for attr in parts[name]} for name in PARTS[2:])
    distributions = {part.param_name: _from_json(part.distribution_json) for part in parts["trial_params"]}
    params = {
        part.param_name: distributions[part.param_name].to_external_repr(part.param_value)
        for part in parts["trial_params"]
    }
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=parts["trial_values"][0].value if parts["trial_values"] else None,
        datetime_start=_as_local(row.datetime_start),
        datetime_complete=_as_local(row.datetime_complete),
        params=params,
        distributions=distributions,
        user_attrs=user_attrs,
        system_attrs=system_attrs,
        intermediate_values={},
        trial_id=row.trial_id,
    )


@lru_cache(maxsize=256)
def _from_json(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _as_utc(time: datetime | None) -> datetime | None:
    """Return a local time as Optuna keeps it."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


def _as_local(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
