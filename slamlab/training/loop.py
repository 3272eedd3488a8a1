"""The one training loop: base and heal, any ZeRO stage, CPU and GPU.

A generator: it yields after every optimiser step, so that a caller shows progress, stops, or lets other work run,
without the loop knowing about any of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.distributed
from torch import nn

from slamlab.data.batching import Example
from slamlab.errors import TrialFailed
from slamlab.training import zero
from slamlab.training.resume import Keeper
from slamlab.zoo.profiles import TrainRecipe

DIVERGENCE_WINDOW = 10
DIVERGENCE_RATIO = 3.0
DIVERGENCE_MARGIN_NATS = 1.0


class OutOfMemory(TrialFailed):
    """The device has too little memory for a micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one optimiser step showed.

    Attributes:
        step: Steps done, from 1.
        num_steps: Steps in all.
        loss: Mean cross-entropy of the step's batch, in nats a token.
    """

    step: int
    num_steps: int
    loss: float


def learning_rate(step: int, recipe: TrainRecipe) -> float:
    """Return the rate of a step counted from 0: linear warm-up, then linear decay that ends at zero."""
    warmup = max(1, round(recipe.warmup_fraction * recipe.num_steps))
    if step < warmup:
        return recipe.peak_lr * (step + 1) / warmup
    return recipe.peak_lr * (recipe.num_steps - step) / max(1, recipe.num_steps - warmup)


def train(
    model: nn.Module, batches: Iterator[Sequence[Example]], recipe: TrainRecipe, keeper: Keeper | None = None
) -> Iterator[Step]:
    """Train the parameters with `requires_grad`, in place; yield after every step.

    Args:
        model: Gives the loss of a batch when called with its examples, a mean over the answers' tokens; left in
            evaluation mode.
        batches: Endless batches of `recipe.batch_size` examples; each rank of several takes its share of a batch. Of
            a run that goes on, those that come after the steps done.
        recipe: Steps, batch, learning rate, precision, ZeRO stage.
        keeper: Where the run goes on from, and is kept now and then; None to keep nothing. Going on takes the same
            model, recipe and number of ranks, and ends, on a CPU bit for bit, where an undisturbed run does.

    Raises:
        OutOfMemory: The device has too little memory for a micro-batch.
        TrialFailed: The loss is not finite, or diverges: the mean of the last 10 steps is more than 3 times the mean
            of the first 10, plus 1 nat.
    """
    if recipe.num_steps == 0:
        return
    state = keeper.state if keeper else None
    losses = list(state.losses) if state else []
    if state:
        zero.restore_weights(model, state.tensors)
    model.train()
    with _out_of_memory_told(losses, recipe), _recomputing(model, recipe), zero.engine(model, recipe) as engine:
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if state:
            zero.restore(engine, state.tensors)
        for step in range(len(losses), recipe.num_steps):
            for group in engine.optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe)
            batch = next(batches)
            micro_losses = []
            for part in range(recipe.accumulation):
                own = batch[part :: recipe.accumulation][rank::world_size]
                # Micro-batches count as many times as they have tokens: the gradient is that of the batch as a whole.
                weight = _num_tokens(own) * recipe.accumulation * world_size / _num_tokens(batch)
                loss = engine(own) * weight
                engine.backward(loss)
                engine.step()
                micro_losses.append(loss.detach().float())
            # All ranks see one loss, and one decision to keep the state, so that they go on, or fail, together.
            due = keeper is not None and rank == 0 and step + 1 < recipe.num_steps and keeper.due()
            mean = torch.stack(micro_losses).mean()
            seen = torch.stack([mean, torch.full_like(mean, due)])
            torch.distributed.all_reduce(seen)
            losses.append(float(seen[0]) / world_size)
            _check(losses)
            if keeper and seen[1]:
                tensors = zero.capture(engine)
                if rank == 0:
                    keeper.write(losses, tensors)
            yield Step(step=step + 1, num_steps=recipe.num_steps, loss=losses[-1])
    model.eval()


@contextmanager
def _recomputing(model: nn.Module, recipe: TrainRecipe) -> Iterator[None]:
    """Have a decoder compute activations again for the gradient, where the recipe says so."""
    decoder: Any = getattr(model, "decoder", None)
    if not recipe.gradient_checkpointing or decoder is None:
        yield
        return
    _recompute(decoder, True)
    try:
        yield
    finally:
        _recompute(decoder, False)


def _recompute(decoder: Any, wanted: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names that all of transformers 5 has
        if wanted:
            decoder.gradient_checkpointing_enable({"use_reentrant": False})
            decoder.disable_input_require_grads()  # hooks that only re-entrant checkpoints need
        else:
            decoder.gradient_checkpointing_disable()


@contextmanager
def _out_of_memory_told(losses: Sequence[float], recipe: TrainRecipe) -> Iterator[None]:
    """Tell the errors of torch's allocators in words; that of the CPU is a RuntimeError like any other."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        size = recipe.batch_size // recipe.accumulation
        raise OutOfMemory(
            f"the device ran out of memory at step {len(losses) + 1} with {size} utterances at a time"
        ) from None


def _num_tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.answer) for example in examples)


def _check(losses: Sequence[float]) -> None:
    if not math.isfinite(losses[-1]):
        raise TrialFailed(f"the loss became {losses[-1]} at step {len(losses)}")
    if len(losses) >= 2 * DIVERGENCE_WINDOW:
        first, last = fmean(losses[:DIVERGENCE_WINDOW]), fmean(losses[-DIVERGENCE_WINDOW:])
        if last > DIVERGENCE_RATIO * first + DIVERGENCE_MARGIN_NATS:
            raise TrialFailed(f"the loss diverged: from {first:.3g} to {last:.3g} nats at step {len(losses)}")
