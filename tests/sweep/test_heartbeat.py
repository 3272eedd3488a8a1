"""Silence is counted while the driver looks, and ends with any sign of life."""

import math

import pytest

from slamlab.errors import OptionError
from slamlab.sweep.heartbeat import LOOK_S, Heartbeats, hang_seconds


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_a_trial_hangs_when_nothing_is_heard_for_too_long():
    clock = Clock()
    beats = Heartbeats(25.0, clock)
    for trial in ("talks", "hangs", "ended"):
        beats.heard(trial)
    beats.ended("ended")
    for _ in range(4):
        clock.now_s += 6.0
        assert beats.hanging() == []
        beats.heard("talks")
    clock.now_s += 6.0
    assert beats.hanging() == ["hangs"]
    beats.heard("hangs")
    assert beats.hanging() == []


def test_while_the_driver_stands_still_nobody_hangs():
    clock = Clock()
    beats = Heartbeats(3 * LOOK_S, clock)
    beats.heard("trial")
    clock.now_s += 3600.0  # the driver was stopped, and its workers' reports wait for it
    assert beats.hanging() == []
    for _ in range(2):
        clock.now_s += LOOK_S
        found = beats.hanging()
    assert found == ["trial"]


def test_the_option_is_in_minutes_and_zero_is_for_ever():
    assert hang_seconds(1.5) == 90.0
    assert hang_seconds(0) == math.inf
    assert Heartbeats(90.0).reason == "no sign of life for 1.5 minutes (--hang-minutes): its worker was killed"
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="a worker may be silent for 0 minutes"):
            hang_seconds(wrong)
