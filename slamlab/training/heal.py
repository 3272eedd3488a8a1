"""Healing after surgery: LoRA (Hu et al., arXiv 2106.09685) on the layer at the seam, with the projector unfrozen.

Follows "Measuring the Redundancy of Decoder Layers in SpeechLLMs" (arXiv 2603.05121): r=64 on the MLP of the receiving
layer, joint with the projector. The update is merged into the layer afterwards, so a healed model is a plain one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from slamlab.data.batching import Example
from slamlab.errors import ModelError
from slamlab.model.slam import SlamModel, cast
from slamlab.model.surgery import decoder_layers
from slamlab.training import zero
from slamlab.training.loop import Step, train
from slamlab.training.resume import Keeper
from slamlab.zoo.profiles import HealRecipe


def heal(
    model: SlamModel,
    receiving_layer: int | None,
    batches: Iterator[Sequence[Example]],
    recipe: HealRecipe,
    seed: int,
    keeper: Keeper | None = None,
) -> Iterator[Step]:
    """Heal a pruned model in place; yield after every optimiser step.

    Args:
        model: Already pruned; every parameter is left frozen and the LoRA update merged.
        receiving_layer: Index, in the pruned decoder, of the layer that learns; None for every layer.
        batches: Endless training batches; of a heal that goes on, those after the steps done.
        recipe: LoRA and optimisation.
        seed: Seed of LoRA's initial weights and dropout.
        keeper: Where a heal that was killed goes on from, and this one is kept; None to keep nothing.

    Raises:
        ModelError: The receiving layer has none of the target modules.
        TrialFailed: The loss is not finite, or diverges.
    """
    torch.manual_seed(seed)
    model.requires_grad_(False)
    dtype = model.dtype
    adapted = None
    if recipe.whole_layer:
        layers = decoder_layers(model.decoder)
        for layer in layers if receiving_layer is None else [layers[receiving_layer]]:
            layer.requires_grad_(True)
    elif recipe.r:
        adapted = _add_lora(model.decoder, receiving_layer, recipe)
    model.projector.requires_grad_(recipe.projector)
    try:
        yield from train(model, batches, recipe.train, keeper)
    finally:
        if not zero.is_partitioned(model):  # as one of several ranks that failed leaves it
            cast(model, dtype)  # first: a merge in bf16 would round the update away where the model itself is fp32
            if adapted is not None:
                model.decoder = adapted.merge_and_unload()
            model.requires_grad_(False).eval()


def _add_lora(decoder: Any, receiving_layer: int | None, recipe: HealRecipe) -> Any:
    """Put LoRA on the target modules of one or all layers of `decoder`, in place, and return PEFT's handle on it."""
    from peft import LoraConfig, get_peft_model

    layer = r"\d+" if receiving_layer is None else str(receiving_layer)
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=rf".*\blayers\.{layer}\..*\b(?:{'|'.join(recipe.target_modules)})",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(decoder, config)
    except ValueError as error:
        raise ModelError(
            "the receiving layer has the modules that LoRA targets",
            f"{', '.join(recipe.target_modules)} on {'any layer' if receiving_layer is None else f'layer {layer}'}",
            "name linear layers of this decoder as target modules",
        ) from error
