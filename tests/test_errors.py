"""What a user reads when a request cannot be carried out."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from slamlab.errors import (
    AssetError,
    DataError,
    ModelError,
    OptionError,
    SlamlabError,
    StoreError,
    TrialFailed,
    UserError,
    exit_on_user_error,
)

KINDS = [OptionError, DataError, AssetError, ModelError, StoreError]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_rule_value_and_remedy(kind: type[UserError]) -> None:
    error = kind("the tolerance is 0 or more", -0.1, "try 0.25")
    assert str(error) == "the tolerance is 0 or more, got -0.1: try 0.25."
    assert (error.rule, error.received, error.remedy) == ("the tolerance is 0 or more", -0.1, "try 0.25")
    assert isinstance(error, ValueError) and isinstance(error, SlamlabError)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_cross_processes(kind: type[UserError]) -> None:
    """Ray pickles what a worker raises; the default would call the class with the message alone."""
    error = pickle.loads(pickle.dumps(kind("a rule", Path("a/file"), "a remedy")))
    assert type(error) is kind
    assert str(error) == "a rule, got a/file: a remedy."
    assert error.received == Path("a/file")


def test_a_failed_trial_is_not_the_users_mistake() -> None:
    error = pickle.loads(pickle.dumps(TrialFailed("the loss became nan at step 3")))
    assert str(error) == "the loss became nan at step 3"
    assert isinstance(error, SlamlabError) and not isinstance(error, UserError)


def test_a_user_error_ends_a_script_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving, exit_on_user_error():
        raise DataError("a rule", "a value", "a remedy")
    assert leaving.value.code == 2
    assert leaving.value.__suppress_context__
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: a rule, got a value: a remedy.\n"


@pytest.mark.parametrize("error", [TrialFailed("no score"), ValueError("a bug"), KeyboardInterrupt()])
def test_anything_else_keeps_its_traceback(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)) as caught, exit_on_user_error():
        raise error
    assert caught.value is error
    assert capsys.readouterr().err == ""
