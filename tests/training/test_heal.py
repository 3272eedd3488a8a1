"""Healing: what it may change, that the merge is exact, and that a plain model comes out whatever happens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from slamlab.data.batching import Example, Prompt
from slamlab.errors import ModelError, TrialFailed
from slamlab.model.slam import SlamModel, cast, load
from slamlab.model.surgery import LayerBlock, without
from slamlab.training.heal import heal
from slamlab.training.loop import OutOfMemory, train
from slamlab.zoo.profiles import HealRecipe, TrainRecipe

NewModel = Callable[..., SlamModel]
Stream = Callable[[int], Iterator[list[Example]]]
TRAIN = TrainRecipe(num_steps=4, batch_size=4, peak_lr=1e-2)
RECIPE = HealRecipe(train=TRAIN, r=4, alpha=8)
TARGETS = {f"decoder.model.layers.1.mlp.{name}.weight" for name in RECIPE.target_modules}
LAYER = TARGETS | {
    *(f"decoder.model.layers.1.self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"decoder.model.layers.1.{name}_layernorm.weight" for name in ("input", "post_attention")),
}
PROJECTOR = {f"projector.{part}.{kind}" for part in ("norm", "up", "down") for kind in ("weight", "bias")}


def changed(model: SlamModel, before: SlamModel) -> set[str]:
    """Name the weights that differ in any bit."""
    old = before.state_dict()
    assert old.keys() == model.state_dict().keys()
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, old[name])}


def is_plain(model: SlamModel) -> bool:
    return (
        type(model.decoder) is LlamaForCausalLM
        and not hasattr(model.decoder, "peft_config")
        and not any(isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer) for m in model.modules())
        and all(type(p) is nn.Parameter and not p.requires_grad for p in model.parameters())
        and not any(m.training for m in model.modules())
    )


@pytest.mark.parametrize(
    ("options", "zero_stage", "expected"),
    [
        ({}, 0, TARGETS | PROJECTOR),
        ({}, 3, TARGETS | PROJECTOR),
        ({"projector": False}, 0, TARGETS),
        ({"r": 0}, 0, PROJECTOR),
        ({"whole_layer": True}, 0, LAYER | PROJECTOR),
        ({"whole_layer": True, "projector": False}, 3, LAYER),
        ({"target_modules": ("q_proj",)}, 0, {"decoder.model.layers.1.self_attn.q_proj.weight"} | PROJECTOR),
    ],
)
def test_only_the_seam_and_the_projector_change(
    options: dict[str, Any], zero_stage: int, expected: set[str], new_model: NewModel, stream: Stream
) -> None:
    # Twelve layers: layer 1 is neither layer 10 nor layer 11.
    model, before = new_model(num_layers=12, tied=True), new_model(num_layers=12, tied=True)
    recipe = replace(RECIPE, train=replace(TRAIN, zero_stage=zero_stage), **options)
    list(heal(model, 1, stream(4), recipe, seed=0))
    assert changed(model, before) == expected
    assert is_plain(model)


def test_lora_on_every_layer_changes_every_layer(new_model: NewModel, stream: Stream) -> None:
    model, before = new_model(num_layers=12, tied=True), new_model(num_layers=12, tied=True)
    list(heal(model, None, stream(4), RECIPE, seed=0))
    everywhere = {name.replace("layers.1.", f"layers.{i}.") for name in TARGETS for i in range(12)}
    assert changed(model, before) == everywhere | PROJECTOR
    assert is_plain(model)


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (3, "fp32"), (1, "bf16")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_healed_model_is_a_plain_one_of_the_same_type(
    zero_stage: int, precision: Any, dtype: torch.dtype, new_model: NewModel, stream: Stream, tmp_path: Path
) -> None:
    model, before = new_model(tied=True), new_model(tied=True)
    cast(model, dtype)
    cast(before, dtype)
    recipe = replace(RECIPE, train=replace(TRAIN, zero_stage=zero_stage, precision=precision))
    losses = [step.loss for step in heal(model, 1, stream(4), recipe, seed=0)]
    assert len(losses) == 4
    assert is_plain(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert changed(model, before) >= TARGETS
    model.save(tmp_path)
    loaded = load(tmp_path)
    batch = next(stream(4))
    with torch.inference_mode():
        assert torch.equal(loaded(batch), model(batch))
    assert changed(loaded, model) == set()


def test_the_merge_is_exact(new_model: NewModel, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = new_model(), next(stream(4))
    logits, merge = [], peft.tuners.lora.LoraModel.merge_and_unload

    def before_merge(adapted: Any) -> Any:
        with torch.inference_mode():
            inputs, mask, labels = model.eval().sequences(batch)
            logits.append(model.answer_logits(inputs, mask, labels.shape[1]))
        layer = adapted.get_submodule("model.model.layers.1.mlp.down_proj")
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        logits.append((layer.base_layer.weight + 8 / 4 * b @ a).detach().clone())
        return merge(adapted)

    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", before_merge)
    list(heal(model, 1, stream(4), RECIPE, seed=0))
    with torch.inference_mode():
        inputs, mask, labels = model.sequences(batch)
        merged = model.answer_logits(inputs, mask, labels.shape[1])
    before, by_hand = logits
    torch.testing.assert_close(merged, before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.decoder.model.layers[1].mlp.down_proj.weight, by_hand, rtol=1e-6, atol=1e-6)


def test_healing_in_bf16_is_merged_in_the_models_own_precision(new_model: NewModel, stream: Stream) -> None:
    """A bf16 weight near 0.1 moves in steps of 5e-4: an update merged at that precision is mostly lost."""
    model = new_model()
    train_recipe = replace(TRAIN, precision="bf16", zero_stage=1)
    list(heal(model, 1, stream(4), replace(RECIPE, train=train_recipe), seed=0))
    weight = model.decoder.model.layers[1].mlp.down_proj.weight
    assert not torch.equal(weight, weight.bfloat16().float())


def test_the_first_loss_is_the_unhealed_models(new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    with torch.inference_mode():
        unhealed = float(model(next(stream(4))))
    steps = heal(model, 1, stream(4), replace(RECIPE, dropout=0.5), seed=0)
    assert next(steps).loss == pytest.approx(unhealed, abs=1e-6)
    assert next(steps).loss != pytest.approx(unhealed, abs=1e-3)


def test_no_steps_change_nothing(new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    assert list(heal(model, 1, stream(4), replace(RECIPE, train=replace(TRAIN, num_steps=0)), seed=0)) == []
    assert changed(model, new_model()) == set()
    assert is_plain(model)


def test_equal_seeds_heal_alike(new_model: NewModel, stream: Stream) -> None:
    healed = [new_model() for _ in range(3)]
    for model, seed in zip(healed, (0, 0, 1), strict=True):
        list(heal(model, 1, stream(4), RECIPE, seed))
    assert changed(healed[1], healed[0]) == set()
    assert changed(healed[2], healed[0]) >= TARGETS


@pytest.mark.parametrize("projector", [True, False])
def test_activations_computed_again_draw_the_same_dropout(projector: bool, new_model: NewModel, stream: Stream) -> None:
    kept, again = new_model(), new_model()
    recipe = replace(RECIPE, dropout=0.5, projector=projector)
    expected = [step.loss for step in heal(kept, 1, stream(4), recipe, seed=0)]
    recipe = replace(recipe, train=replace(TRAIN, gradient_checkpointing=True))
    assert [step.loss for step in heal(again, 1, stream(4), recipe, seed=0)] == expected
    assert changed(again, kept) == set()
    assert is_plain(again)


def test_a_pruned_model_gets_better(new_model: NewModel, stream: Stream) -> None:
    base = new_model(num_layers=4)
    list(train(base, stream(8), TrainRecipe(num_steps=60, batch_size=8, peak_lr=5e-3)))
    pruned = SlamModel(base.config, without(base.decoder, LayerBlock(start=1, depth=2)), base.tokenizer)
    pruned.projector.load_state_dict(base.projector.state_dict())
    before = copy.deepcopy(base)
    recipe = replace(RECIPE, train=TrainRecipe(num_steps=40, batch_size=8, peak_lr=1e-2))
    losses = [step.loss for step in heal(pruned, 0, stream(8), recipe, seed=0)]
    assert fmean(losses[-4:]) < fmean(losses[:2]) - 0.5
    assert changed(base, before) == set()  # the base serves the next probe


@pytest.mark.parametrize(("layer", "modules"), [(1, ("nonesuch",)), (7, RECIPE.target_modules)])
def test_unknown_targets_are_refused(layer: int, modules: tuple[str, ...], new_model: NewModel, stream: Stream) -> None:
    model = new_model().eval()
    with pytest.raises(ModelError, match=f"on layer {layer}"):
        next(heal(model, layer, stream(4), replace(RECIPE, target_modules=modules), seed=0))
    assert is_plain(model)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_failed_trial_leaves_a_plain_model(
    zero_stage: int, new_model: NewModel, stream: Stream, examples: list[Example], tmp_path: Path
) -> None:
    broken = Example(source=np.full((4, 6), np.nan, dtype=np.float16), prompt=Prompt((), (50,)), answer=(4, 5))
    model = new_model()
    recipe = replace(RECIPE, train=replace(TRAIN, zero_stage=zero_stage))
    with pytest.raises(TrialFailed, match="nan at step 2"):
        list(heal(model, 1, iter([examples[:4], [broken] * 4]), recipe, seed=0))
    assert is_plain(model)
    model.save(tmp_path)
    assert changed(load(tmp_path), model) <= TARGETS | PROJECTOR  # NaN is unlike itself


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_heal_that_runs_out_of_memory_says_so_and_leaves_a_plain_model(
    zero_stage: int, new_model: NewModel, stream: Stream
) -> None:
    """The allocator's own error, in the middle of a forward pass."""
    model = new_model()
    recipe = replace(RECIPE, train=replace(TRAIN, zero_stage=zero_stage))
    steps = heal(model, 1, stream(4), recipe, seed=0)
    next(steps)
    norm = model.decoder.model.layers[1].input_layernorm
    handle = norm.register_forward_pre_hook(lambda *_: torch.empty(1 << 60) and None)
    with pytest.raises(OutOfMemory, match="the device ran out of memory at step 2 with 4 utterances at a time"):
        next(steps)
    handle.remove()
    assert is_plain(model)
    assert torch.isfinite(model(next(stream(4))))


def test_a_caller_that_stops_early_keeps_a_plain_model(new_model: NewModel, stream: Stream) -> None:
    model = new_model()
    steps = heal(model, 1, stream(4), RECIPE, seed=0)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert is_plain(model)
    assert changed(model, new_model()) == TARGETS | PROJECTOR
