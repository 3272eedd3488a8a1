"""DeepSpeed's life in a process: it starts once, listens to nobody outside, and leaves a model as it found it."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slamlab.data.batching import Example
from slamlab.errors import OptionError
from slamlab.model.slam import SlamModel, load
from slamlab.training import zero
from slamlab.training.loop import train
from slamlab.zoo.profiles import TrainRecipe

NewModel = Callable[..., SlamModel]
Stream = Callable[[int], Iterator[list[Example]]]
STAGES = [(0, "fp32"), (1, "fp32"), (1, "bf16"), (2, "bf16"), (3, "fp32"), (3, "bf16")]


def test_a_configuration_follows_from_a_recipe() -> None:
    recipe = TrainRecipe(
        num_steps=5,
        batch_size=24,
        accumulation=3,
        peak_lr=1e-3,
        clip_norm=0.5,
        precision="bf16",
        zero_stage=2,
    )
    config = zero.engine_config(recipe, world_size=4)
    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"] == {"enabled": True}
    assert config["zero_optimization"] == {"stage": 2}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    offloaded = zero.engine_config(replace(recipe, offload=True), world_size=4)
    assert offloaded["zero_optimization"] == {"stage": 2, "offload_optimizer": host}
    offloaded = zero.engine_config(replace(recipe, offload=True, zero_stage=3), world_size=4)
    assert offloaded["zero_optimization"] == {"stage": 3, "offload_optimizer": host, "offload_param": host}


def test_offloading_needs_a_stage() -> None:
    with pytest.raises(OptionError, match="needs a ZeRO stage of 1 or more, got 0: pass --zero-stage 2"):
        TrainRecipe(num_steps=5, batch_size=4, peak_lr=1e-3, offload=True)


@pytest.mark.parametrize(("batch_size", "world_size"), [(24, 5), (3, 2)])
def test_a_batch_that_workers_cannot_share_is_refused(batch_size: int, world_size: int) -> None:
    recipe = TrainRecipe(num_steps=5, batch_size=batch_size, accumulation=3, peak_lr=1e-3)
    with pytest.raises(OptionError, match=f"among the {world_size} workers"):
        zero.engine_config(recipe, world_size)


def test_starting_twice_keeps_the_group() -> None:
    zero.start()
    group = torch.distributed.group.WORLD
    zero.start()
    assert torch.distributed.group.WORLD is group
    assert torch.distributed.get_world_size() == 1


def test_alone_it_listens_on_loopback_only() -> None:
    """In a process of its own: other tests may have opened ports in this one."""
    script = """
import json, os
from slamlab.training import zero
zero.start()
import psutil
listening = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
print(json.dumps([listening, os.environ["GLOO_SOCKET_IFNAME"]]))
"""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
    env = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    listening, interface = json.loads(done.stdout.splitlines()[-1])
    assert set(listening) <= {"127.0.0.1", "::1"}
    assert interface.startswith("lo")


@pytest.mark.parametrize(
    ("zero_stage", "precision", "offload"),
    [*((*stage, False) for stage in STAGES), (1, "bf16", True), (3, "bf16", True)],
)
def test_a_model_is_plain_again(
    zero_stage: int,
    precision: Any,
    offload: bool,
    new_model: NewModel,
    stream: Stream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zero.start()
    import deepspeed

    engines = []
    initialize = deepspeed.initialize

    def remember(**arguments: object) -> tuple:
        made = initialize(**arguments)
        engines.append(weakref.ref(made[0]))
        return made

    monkeypatch.setattr(deepspeed, "initialize", remember)
    model = new_model(tied=True)
    model.decoder.model.layers[0].requires_grad_(False)
    num_parameters = model.num_parameters()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    recipe = TrainRecipe(
        num_steps=2, batch_size=4, peak_lr=1e-2, precision=precision, zero_stage=zero_stage, offload=offload
    )
    for _ in range(2):  # text, then speech: what one engine leaves, the next one finds
        list(train(model, stream(4), recipe))

    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(
        hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
    )
    for parameter in model.parameters():
        assert type(parameter) is nn.Parameter
        assert parameter.grad is None
        assert not any(name.startswith(("ds_", "_hp", "_z3")) for name in vars(parameter))
    assert {p.requires_grad for p in model.decoder.model.layers[0].parameters()} == {False}
    assert {p.requires_grad for p in model.decoder.model.layers[1].parameters()} == {True}
    assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight
    assert model.num_parameters() == num_parameters

    gc.collect()
    assert [engine() for engine in engines] == [None, None]  # nor its optimiser's state

    batch = next(stream(4))
    with torch.inference_mode():
        loss = model(batch)
        model.save(tmp_path)
        for same in (load(tmp_path), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(same(batch), loss)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_caller_that_stops_early_keeps_a_plain_model(zero_stage: int, new_model: NewModel, stream: Stream) -> None:
    model, reference = new_model(), new_model()
    steps = train(model, stream(4), TrainRecipe(num_steps=9, batch_size=4, peak_lr=1e-2, zero_stage=zero_stage))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    shapes = {name: weight.shape for name, weight in reference.state_dict().items()}
    assert {name: weight.shape for name, weight in model.state_dict().items()} == shapes
    assert torch.isfinite(model(next(stream(4))))
