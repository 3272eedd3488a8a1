"""How times are taken, on a clock that the jobs themselves move, and that decoders of fewer layers do as much."""

import numpy as np
import pytest
import torch

from slamlab.data.batching import Prompt
from slamlab.model.decode import generate_exactly
from slamlab.sweep.speed import NUM_TURNS, take_turns


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
    times = take_turns(clock.job("unpruned", 9.0, 2.0), clock.job("pruned", 9.0, 1.0), now=clock)
    assert times == [(2.0, 1.0)] * NUM_TURNS
    assert NUM_TURNS % 2 == 0
    assert clock.ran == ["unpruned", "pruned"] + ["unpruned", "pruned", "pruned", "unpruned"] * (NUM_TURNS // 2)


def test_a_pace_that_drifts_leaves_the_ratios_of_neighbours():
    clock = Clock()
    slower = [0.125, *(0.125 * 2.0**turn for turn in range(NUM_TURNS))]
    times = take_turns(clock.job("unpruned", *(3 * one for one in slower)), clock.job("pruned", *slower), now=clock)
    assert [before / after for before, after in times] == [3.0] * NUM_TURNS


def test_long_jobs_get_fewer_turns_but_both_orders():
    clock = Clock()
    times = take_turns(clock.job("unpruned", 8.0), clock.job("pruned", 5.0), now=clock)
    assert times == [(8.0, 5.0)] * 2, "26 s are beyond the limit"
    assert clock.ran == ["unpruned", "pruned"] * 2 + ["pruned", "unpruned"]


@pytest.mark.parametrize("num_tokens", [1, 30])
def test_an_end_token_ends_nothing_and_neither_does_a_loop(ran, num_tokens):
    model = ran[0]._base.model
    head = model.decoder.get_output_embeddings()
    handle = head.register_forward_hook(lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor(2), 1e9))
    try:
        with torch.inference_mode():
            tokens = generate_exactly(
                model.decoder,
                model.prefixes([np.array([5, 6]), np.array([7, 8, 9])], [Prompt((), (4,))] * 2),
                num_tokens,
            )
    finally:
        handle.remove()
    assert model.tokenizer.eos_token_id == 2
    assert tokens.tolist() == [[2] * num_tokens] * 2
