"""The DeepSpeed loop against a plain torch loop: same losses, same weights, at every ZeRO stage and on two ranks."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from slamlab.data.batching import Example, Prompt
from slamlab.errors import TrialFailed
from slamlab.model.slam import SlamModel
from slamlab.training.loop import Step, learning_rate, train
from slamlab.zoo.profiles import TrainRecipe

NewModel = Callable[..., SlamModel]
Stream = Callable[[int], Iterator[list[Example]]]

# Written out, not computed: two steps up, eight down, the rate at the end of the last step being zero.
RATES = [0.5e-2, 1e-2, 1e-2, 0.875e-2, 0.75e-2, 0.625e-2, 0.5e-2, 0.375e-2, 0.25e-2, 0.125e-2]
RECIPE: dict[str, Any] = {
    "num_steps": 10,
    "batch_size": 4,
    "peak_lr": 1e-2,
    "warmup_fraction": 0.2,
    "weight_decay": 0.1,
}


def plain_losses(model: SlamModel, batches: Iterator[list[Example]], clip_norm: float) -> list[float]:
    """Train as anyone would in torch alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=RECIPE["weight_decay"])
    losses = []
    for rate in RATES:
        optimizer.param_groups[0]["lr"] = rate
        loss = model.train()(next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def losses_of(steps: Iterator[Step]) -> list[float]:
    return [step.loss for step in steps]


def assert_equal_weights(model: SlamModel, other: SlamModel) -> None:
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("accumulation", "clip_norm"), [(1, 0.3), (1, 100.0), (2, 0.3)])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_losses_and_weights_are_those_of_plain_torch(
    zero_stage: int, accumulation: int, clip_norm: float, new_model: NewModel, stream: Stream
) -> None:
    plain, model = new_model(tied=True), new_model(tied=True)
    expected = plain_losses(plain, stream(4), clip_norm)
    recipe = TrainRecipe(**RECIPE, clip_norm=clip_norm, accumulation=accumulation, zero_stage=zero_stage)
    assert losses_of(train(model, stream(4), recipe)) == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.5  # there was something to agree on
    assert_equal_weights(model, plain)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_what_waits_in_the_host_s_memory_learns_the_same(zero_stage: int, new_model: NewModel, stream: Stream) -> None:
    plain, model = new_model(tied=True), new_model(tied=True)
    expected = plain_losses(plain, stream(4), 0.3)
    recipe = TrainRecipe(**RECIPE, clip_norm=0.3, accumulation=2, zero_stage=zero_stage, offload=True)
    assert losses_of(train(model, stream(4), recipe)) == pytest.approx(expected, abs=1e-5)
    assert_equal_weights(model, plain)


def test_clipping_matters_to_the_comparison(new_model: NewModel, stream: Stream) -> None:
    tight, loose = (plain_losses(new_model(tied=True), stream(4), clip) for clip in (0.3, 100.0))
    assert abs(tight[-1] - loose[-1]) > 1e-4


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_count_by_their_tokens(
    accumulation: int, new_model: NewModel, stream: Stream, examples: list[Example]
) -> None:
    """Half of a batch at a time is the same batch, also where answers are of unlike lengths."""
    uneven = [replace(one, answer=one.answer[: 1 + i % 6]) for i, one in enumerate(examples)]
    batches = [uneven[i : i + 4] for i in range(0, 16, 4)]
    plain, model = new_model(), new_model()
    expected = plain_losses(plain, cycle(batches), 0.3)
    recipe = TrainRecipe(**RECIPE, clip_norm=0.3, accumulation=accumulation)
    assert losses_of(train(model, cycle(batches), recipe)) == pytest.approx(expected, abs=1e-5)
    assert_equal_weights(model, plain)
    parts = [batches[0][part::accumulation] for part in range(accumulation)]
    with torch.inference_mode():
        mean_of_means = fmean(float(new_model()(part)) for part in parts)
    assert abs(mean_of_means - expected[0]) > 1e-3


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_activations_computed_again_change_no_loss(zero_stage: int, new_model: NewModel, stream: Stream) -> None:
    losses, weights, calls = [], [], []
    for again in (False, True):
        model, seen = new_model(tied=True), [0]
        model.requires_grad_(False).projector.requires_grad_(True)
        model.decoder.model.layers[1].mlp.requires_grad_(True)
        inner = model.decoder.model.layers[1].self_attn
        handle = inner.register_forward_pre_hook(lambda *_, seen=seen: seen.__setitem__(0, seen[0] + 1))
        recipe = TrainRecipe(**RECIPE, zero_stage=zero_stage, gradient_checkpointing=again)
        losses.append(losses_of(train(model, stream(4), recipe)))
        handle.remove()
        calls.append(seen[0])
        weights.append(model)
        assert not any(module._forward_hooks for module in model.modules())
    assert calls == [10, 20]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_equal_weights(*weights)


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    recipe = TrainRecipe(**RECIPE)
    assert [learning_rate(step, recipe) for step in range(10)] == pytest.approx(RATES, rel=1e-12)
    assert learning_rate(10, recipe) == 0
    cold = TrainRecipe(num_steps=4, batch_size=1, peak_lr=1.0, warmup_fraction=0.0)
    assert [learning_rate(step, cold) for step in range(4)] == pytest.approx([1, 1, 2 / 3, 1 / 3])
    assert learning_rate(0, TrainRecipe(num_steps=1, batch_size=1, peak_lr=1.0)) == 1


def test_steps_are_counted_and_the_model_is_left_for_evaluation(new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    steps = list(train(model, stream(4), TrainRecipe(num_steps=3, batch_size=4, peak_lr=1e-3)))
    assert [(step.step, step.num_steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert not any(module.training for module in model.modules())


def test_bf16_learns(new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    recipe = TrainRecipe(num_steps=30, batch_size=8, peak_lr=1e-2, precision="bf16", zero_stage=1)
    losses = losses_of(train(model, stream(8), recipe))
    assert fmean(losses[-5:]) < fmean(losses[:5]) - 1
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    # Rounded, these would put far positions in the wrong place, in this model and not in its checkpoint.
    rotary, exact = model.decoder.model.rotary_emb, new_model().decoder.model.rotary_emb
    assert torch.equal(rotary.inv_freq, exact.inv_freq) and rotary.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_frozen_parameters_are_untouched(zero_stage: int, new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    model.requires_grad_(False).projector.requires_grad_(True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    recipe = TrainRecipe(num_steps=3, batch_size=4, peak_lr=1e-2, weight_decay=0.1, zero_stage=zero_stage)
    list(train(model, stream(4), recipe))
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("projector.")}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == changed


def test_no_steps_change_nothing(new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    assert list(train(model, stream(4), TrainRecipe(num_steps=0, batch_size=4, peak_lr=1e-2))) == []
    assert_equal_weights(model, new_model())


def test_a_loss_that_is_no_number_fails_the_trial(new_model: NewModel, examples: list[Example]) -> None:
    broken = Example(source=np.full((4, 6), np.nan, dtype=np.float16), prompt=Prompt((), (50,)), answer=(4, 5))
    recipe = TrainRecipe(num_steps=5, batch_size=2, peak_lr=1e-3)
    steps = train(new_model(), iter([examples[:2], examples[2:4], [examples[0], broken]]), recipe)
    assert [next(steps).step, next(steps).step] == [1, 2]
    with pytest.raises(TrialFailed, match="became nan at step 3"):
        next(steps)


def test_divergence_fails_the_trial(new_model: NewModel, stream: Stream) -> None:
    recipe = TrainRecipe(num_steps=60, batch_size=4, peak_lr=20.0, warmup_fraction=0.9, clip_norm=1e9)
    with pytest.raises(TrialFailed, match=r"diverged: from [\d.]+ to [\d.]+ nats at step \d+"):
        list(train(new_model(), stream(4), recipe))


WORKER = """
import json, pickle, psutil, sys, torch
from itertools import cycle
from pathlib import Path
from slamlab.errors import TrialFailed, UserError
from slamlab.model.slam import load
from slamlab.training.loop import train
from slamlab.zoo.profiles import TrainRecipe

torch.set_num_threads(1)
folder, recipe = Path(sys.argv[1]), json.loads(sys.argv[2])
batches, broken = pickle.loads((folder / "batches.pickle").read_bytes())
answer = {}
for stage in (2, 3):
    model, shares = load(folder), set()
    handle = model.register_forward_pre_hook(lambda _, inputs: shares.add(len(inputs[0])))
    answer[stage] = [step.loss for step in train(model, cycle(batches), TrainRecipe(**recipe, zero_stage=stage))]
    handle.remove()
    answer["shares"] = list(shares)
    rank = torch.distributed.get_rank()
    torch.save(model.state_dict(), folder / f"weights-{stage}-{rank}.pt")
ports = [one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN]
answer["listening"] = sorted(set(ports))
for name, batch, error in (("nan", broken, TrialFailed), ("odd", broken[:1], UserError)):
    try:
        list(train(load(folder), cycle([batch]), TrainRecipe(num_steps=2, batch_size=len(batch), peak_lr=1e-3)))
    except error as caught:
        answer[name] = str(caught)
(folder / f"answer-{rank}.json").write_text(json.dumps(answer))
torch.distributed.destroy_process_group()
"""


def test_two_ranks_do_what_one_does(
    new_model: NewModel, stream: Stream, examples: list[Example], tmp_path: Path
) -> None:
    """All in one go: each pair of processes takes seconds to import what it needs."""
    model = new_model(tied=True)
    model.save(tmp_path)
    batches = stream(4)
    broken = Example(source=np.full((4, 6), np.nan, dtype=np.float16), prompt=Prompt((), (50,)), answer=(4, 5))
    content = ([next(batches) for _ in range(4)], [examples[0], broken])  # only the second rank meets the NaN
    (tmp_path / "batches.pickle").write_bytes(pickle.dumps(content))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path), json.dumps(RECIPE)]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            _, stderr = worker.communicate(timeout=120)
            assert worker.returncode == 0, stderr
    finally:
        for worker in workers:
            worker.kill()

    expected = plain_losses(model, stream(4), 1.0)
    for rank in range(2):
        answer = json.loads((tmp_path / f"answer-{rank}.json").read_text())
        assert answer["shares"] == [2]  # of a batch of four
        assert answer["listening"] == ["127.0.0.1"]
        assert answer["nan"] == "the loss became nan at step 1"  # on both ranks, or the other would wait for ever
        assert "divides evenly among the 2 workers" in answer["odd"]
        for stage in (2, 3):
            assert answer[str(stage)] == pytest.approx(expected, abs=1e-4)
            trained = new_model(tied=True)
            trained.load_state_dict(torch.load(tmp_path / f"weights-{stage}-{rank}.pt"))
            assert_equal_weights(trained, model)
