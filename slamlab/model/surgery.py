"""Removing a block of layers from a decoder, for any causal language model of `transformers` whose layers stand alone.

Follows "Measuring the Redundancy of Decoder Layers in SpeechLLMs" (arXiv 2603.05121) and Gromov et al. (arXiv
2403.17887): the layers [start, start + depth) go, the residual stream entering the first goes on to the layer after
the last. The receiving layer is, as in LLM-Streamline (Chen et al., arXiv 2403.19135), the kept one before the block.

Whatever is counted or listed by layer follows the kept ones, else a cache looks for layers that are gone, or a reloaded
checkpoint comes back at full depth with random weights: the configuration's depth and per-layer lists, and `layer_idx`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from slamlab.errors import ModelError

PER_LAYER_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Entries of a configuration that hold one value a layer."""


@dataclass(frozen=True)
class LayerBlock:
    """The layers [start, start + depth), counted from zero.

    Attributes:
        start: First layer of the block.
        depth: Number of layers; 0 is the empty block.

    Raises:
        ModelError: `start` or `depth` is negative.
    """

    start: int
    depth: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.depth < 0:
            raise ModelError("start and depth of a block are 0 or more", self, "count layers from 0")

    @property
    def stop(self) -> int:
        """First layer after the block."""
        return self.start + self.depth

    def fraction(self, num_layers: int) -> float:
        """Return the prune fraction, depth / num_layers."""
        return self.depth / num_layers

    def check(self, num_layers: int) -> None:
        """Raise a :class:`ModelError` unless the block fits a decoder of `num_layers` and leaves it a layer."""
        if self.stop > num_layers:
            raise ModelError(f"a block lies within the decoder's {num_layers} layers", self, "start or end it earlier")
        if self.depth >= num_layers:
            raise ModelError(f"at least one of {num_layers} layers is kept", self, "remove fewer layers")


def receiving_layer(block: LayerBlock, num_layers: int, side: Literal["before", "after"] = "before") -> int:
    """Return the index, in the pruned decoder, of the layer at the seam that is to be healed.

    Args:
        block: The block that was removed.
        num_layers: Layers of the decoder before the removal.
        side: The kept layer just before or just after the block; at either end of the decoder, the one there is.

    Raises:
        ModelError: The block does not fit, or there is no such side.
    """
    block.check(num_layers)
    if side not in ("before", "after"):
        raise ModelError("the receiving layer is before or after the block", repr(side), "choose one of the two")
    before, last = block.start - 1, num_layers - block.depth - 1
    return max(before, 0) if side == "before" else min(before + 1, last)


def original_index(layer: int, block: LayerBlock) -> int:
    """Return which layer of the whole decoder a layer of the pruned one is."""
    return layer if layer < block.start else layer + block.depth


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder layers of a causal language model, also inside PEFT's wrapper or a SpeechLLM's.

    Raises:
        ModelError: There is no single list of layers, or a layer needs more than the one before it.
    """
    stack = _stack(model)
    return getattr(stack, _list_name(stack))


def without(model: Any, block: LayerBlock) -> Any:
    """Return a copy of a model that lacks a block of decoder layers; `model` itself stays as it was.

    The removed layers are never copied, so the copy costs no more memory than it has weights.

    Args:
        model: Any model that :func:`decoder_layers` accepts.
        block: What to remove; an empty block gives an equal copy.

    Raises:
        ModelError: The block does not fit, or the shortened configuration would not build the kept layers again.
    """
    stack = _stack(model)
    name = _list_name(stack)
    layers = getattr(stack, name)
    block.check(len(layers))
    kept = [i for i in range(len(layers)) if not block.start <= i < block.stop]
    setattr(stack, name, nn.ModuleList(layers[i] for i in kept))
    try:
        pruned = copy.deepcopy(model)
    finally:
        setattr(stack, name, layers)
    _renumber(_stack(pruned), name, kept)
    return pruned


@contextmanager
def skipping(model: nn.Module, block: LayerBlock) -> Iterator[None]:
    """Let the residual stream pass a block unchanged for a while, without a copy: a look at a removal, unhealed.

    Call the model without a cache: the skipped layers would fill theirs.

    Raises:
        ModelError: The block does not fit.
    """
    layers = decoder_layers(model)
    block.check(len(layers))
    handles = [layers[i].register_forward_hook(_identity, with_kwargs=True) for i in range(block.start, block.stop)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the residual stream [batch, time, dim] among the arguments of a decoder layer."""
    return args[0] if args else kwargs["hidden_states"]


def _identity(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    states = layer_input(args, kwargs)
    return (states, *output[1:]) if isinstance(output, tuple) else states


def _stack(model: Any) -> Any:
    """Return the module that owns the decoder's layers and configuration."""
    if not hasattr(model, "get_decoder"):
        raise ModelError("a decoder is a transformers model", type(model).__name__, "load it with transformers")
    stack = model
    while (inner := stack.get_decoder()) is not stack:
        stack = inner
    config, reason = stack.config, ""
    # Gemma3n, Gemma4 and the like: layers that read the keys and values, or an input, of one particular other layer.
    if getattr(config, "num_kv_shared_layers", 0) or "reuse" in (getattr(config, "kv_sharing_modes", None) or ()):
        reason = "layers that reuse the keys and values of others"
    elif getattr(config, "hidden_size_per_layer_input", 0):
        reason = "an embedding of its own for every layer"
    elif getattr(config, "is_heterogeneous", False):
        reason = "a configuration of its own for every layer"
    if reason:
        raise ModelError(
            "a layer that can be removed needs nothing but the layer before it",
            f"{config.model_type}, which has {reason}",
            "use a decoder with plain layers, such as Llama, Qwen or Gemma 3",
        )
    return stack


def _list_name(stack: Any) -> str:
    depth = stack.config.num_hidden_layers
    lists = [n for n, child in stack.named_children() if isinstance(child, nn.ModuleList) and len(child) == depth]
    if len(lists) != 1:
        raise ModelError(
            f"a decoder has one list of its {depth} layers", f"{len(lists)} in {type(stack).__name__}", "use another"
        )
    return lists[0]


def _renumber(stack: Any, name: str, kept: list[int]) -> None:
    """Let everything that is counted or listed by layer follow the kept ones.

    Args:
        stack: Already shortened; its configuration is that of the full depth.
        name: Attribute that holds the layers.
        kept: Their former indices.
    """
    config, layers = stack.config, getattr(stack, name)
    lists = {key: vars(config)[key] for key in PER_LAYER_LISTS if vars(config).get(key) is not None}
    removed = set(range(config.num_hidden_layers)).difference(kept)
    config.num_hidden_layers = len(kept)
    for key, values in lists.items():
        setattr(config, key, [values[i] for i in kept])
    if hasattr(config, "max_window_layers"):
        config.max_window_layers -= sum(i < config.max_window_layers for i in removed)
    if hasattr(stack, "has_sliding_layers"):
        stack.has_sliding_layers = "sliding_attention" in config.layer_types
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    _check_rebuilds(stack, name)


def _check_rebuilds(stack: Any, name: str) -> None:
    """Refuse a stack whose configuration builds other layers than it has: a checkpoint would not come back.

    So an architecture with a per-layer rule unknown here (a number of leading dense layers, say) fails at once.
    """
    with torch.device("meta"):
        expected = getattr(type(stack)(copy.deepcopy(stack.config)), name)
    actual = dict(getattr(stack, name).named_modules())
    for path, module in expected.named_modules():
        for key, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str) and not key.startswith("_")
            if plain and key not in ("training", "gradient_checkpointing") and _get(actual.get(path), key) != value:
                raise ModelError(
                    f"the layers of {stack.config.model_type} follow from its shortened configuration",
                    f"{key} {_get(actual.get(path), key)} for {value} in layer {path}",
                    "remove another block, or use another decoder",
                )


def _get(module: nn.Module | None, key: str) -> Any:
    return getattr(module, key, None)
