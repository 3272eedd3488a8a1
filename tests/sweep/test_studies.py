"""The file of studies, compared with what Optuna itself reads and writes."""

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from slamlab.sweep.studies import StudyFile

DISTRIBUTIONS = {"depth": IntDistribution(1, 11), "rung": CategoricalDistribution(["short", "full"])}
TELLING = ("number", "state", "value", "params", "distributions", "user_attrs", "constraints", "system_attrs")
TELLING += ("datetime_start", "datetime_complete")


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def study():
    """Return a study in memory with a trial of every state."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING):
        trial = study.ask(fixed_distributions=DISTRIBUTIONS)
        trial.set_user_attr("ci95", [None, 0.25])
        if state == TrialState.COMPLETE:
            trial.set_constraint("degradation", -0.125)
            study.tell(trial, 0.1)
        elif state == TrialState.FAIL:
            study.tell(trial, state=state)
    return study


def _told(trials):
    return [{name: getattr(trial, name) for name in TELLING} for trial in trials]


def _by_optuna(url, name):
    return optuna.load_study(study_name=name, storage=url)


def test_optuna_reads_what_was_written(url, study):
    file = StudyFile(url)
    kept = file.add({"a": {"cell": {"task": "asr"}}, "b": {}})
    file.write(kept["a"].id, *study.trials)
    found = _by_optuna(url, "a")
    assert _told(found.trials) == _told(study.trials)
    assert found.user_attrs == {"cell": {"task": "asr"}}
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert found.best_trial.number == 0
    assert _by_optuna(url, "b").trials == []


def test_what_optuna_wrote_is_read(url, study):
    theirs = optuna.create_study(study_name="a", storage=url, direction="maximize")
    theirs.set_user_attr("base", "f" * 64)
    theirs.add_trials(study.trials)
    kept = StudyFile(url).read("a")["a"]
    assert kept.attrs == {"base": "f" * 64}
    assert _told(kept.trials) == _told(theirs.trials)


def test_a_trial_that_is_written_again_is_as_it_is_then(url, study):
    file = StudyFile(url)
    kept = file.add({"a": {}})["a"]
    file.write(kept.id, *study.trials)
    running = study.ask(fixed_distributions=DISTRIBUTIONS)
    file.write(kept.id, study.trials[running.number])
    running.set_user_attr("fingerprint", "0")
    study.tell(running, 0.2)
    file.write(kept.id, study.trials[running.number])
    assert _told(_by_optuna(url, "a").trials) == _told(study.trials)


def test_rewriting_a_study_touches_no_other(url, study):
    file = StudyFile(url)
    kept = file.add({"a": {}, "b": {}})
    for one in kept.values():
        file.write(one.id, *study.trials)
    file.rewrite(kept["a"].id, study.trials[:1])
    assert _told(_by_optuna(url, "a").trials) == _told(study.trials[:1])
    assert _told(_by_optuna(url, "b").trials) == _told(study.trials)
    file.set_attr(kept["a"].id, "base", "0")
    file.set_attr(kept["a"].id, "base", "1")
    assert {name: one.attrs for name, one in file.read("").items()} == {"a": {"base": "1"}, "b": {}}


def test_a_name_begins_as_it_is_written_not_as_a_pattern(url):
    file = StudyFile(url)
    file.add({"a_b | x": {}, "axb | x": {}, "a%b | x": {}})
    assert file.read("a_b | ").keys() == {"a_b | x"}
    assert file.read("a%b | ").keys() == {"a%b | x"}


@pytest.mark.parametrize("num_studies", [2, 20])
def test_all_studies_are_read_by_as_many_queries_as_one(url, study, num_studies):
    file = StudyFile(url)
    for kept in file.add({f"a{i}": {} for i in range(num_studies)}).values():
        file.write(kept.id, *study.trials)
    asked = []
    note = sqlalchemy.event.listens_for(file._engine, "before_cursor_execute")
    note(lambda connection, cursor, statement, *_: asked.append(statement))
    assert len(file.read("a")) == num_studies
    assert len(asked) == 7
