"""How times are taken, on a clock that the jobs themselves move."""

import time

import torch

from slamlab.model.timing import NUM_TURNS, clock_of, take_turns

LIMIT_S = 15.0


class Clock:
    """A clock that stands still but for what jobs take."""

    def __init__(self):
        self.now_s, self.ran = 0.0, []

    def __call__(self):
        return self.now_s

    def job(self, name, *seconds):
        """Return a job that takes these times one after the other, the last of them from then on."""
        times = iter(seconds)
        took = [0.0]

        def run():
            took[0] = next(times, took[0])
            self.now_s += took[0]
            self.ran.append(name)

        return run


def test_each_goes_first_as_often_as_the_other_and_once_untimed():
    clock = Clock()
    times = take_turns(clock.job("unpruned", 9.0, 2.0), clock.job("pruned", 9.0, 1.0), limit_s=LIMIT_S, now=clock)
    assert times == [(2.0, 1.0)] * NUM_TURNS
    assert NUM_TURNS % 2 == 0
    assert clock.ran == ["unpruned", "pruned"] + ["unpruned", "pruned", "pruned", "unpruned"] * (NUM_TURNS // 2)


def test_a_pace_that_drifts_leaves_the_ratios_of_neighbours():
    clock = Clock()
    slower = [0.125, *(0.125 * 2.0**turn for turn in range(NUM_TURNS))]
    times = take_turns(
        clock.job("unpruned", *(3 * one for one in slower)), clock.job("pruned", *slower), limit_s=LIMIT_S, now=clock
    )
    assert [before / after for before, after in times] == [3.0] * NUM_TURNS


def test_long_jobs_get_fewer_turns_but_both_orders():
    clock = Clock()
    times = take_turns(clock.job("unpruned", 8.0), clock.job("pruned", 5.0), limit_s=LIMIT_S, now=clock)
    assert times == [(8.0, 5.0)] * 2, "26 s are beyond the limit"
    assert clock.ran == ["unpruned", "pruned"] * 2 + ["pruned", "unpruned"]


def test_the_clock_of_a_cpu_waits_for_nothing():
    assert clock_of(torch.device("cpu")) is time.perf_counter
