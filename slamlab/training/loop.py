"""The one training loop: base and heal, any ZeRO stage, CPU and GPU.

A generator: it yields after every optimiser step, so that a caller shows progress, stops, or lets other work run,
without the loop knowing about any of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.distributed
from torch import nn

from slamlab.data.batching import Example
from slamlab.errors import TrialFailed
from slamlab.training import zero
from slamlab.zoo.profiles import TrainRecipe

DIVERGENCE_WINDOW = 10
DIVERGENCE_RATIO = 3.0
DIVERGENCE_MARGIN_NATS = 1.0


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


def train(model: nn.Module, batches: Iterator[Sequence[Example]], recipe: TrainRecipe) -> Iterator[Step]:
    """Train the parameters with `requires_grad`, in place; yield after every step.

    Args:
        model: Gives the loss of a batch when called with its examples; left in evaluation mode.
        batches: Endless batches of `recipe.batch_size` examples; each rank of several takes its share of a batch.
        recipe: Steps, batch, learning rate, precision, ZeRO stage.

    Raises:
        TrialFailed: The loss is not finite, or diverges: the mean of the last 10 steps is more than 3 times the mean
            of the first 10, plus 1 nat.
    """
    if recipe.num_steps == 0:
        return
    losses: list[float] = []
    model.train()
    with zero.engine(model, recipe) as engine:
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        for step in range(recipe.num_steps):
            for group in engine.optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe)
            batch = next(batches)
            micro_losses = []
            for part in range(recipe.accumulation):
                loss = engine(batch[part :: recipe.accumulation][rank::world_size])
                engine.backward(loss)
                engine.step()
                micro_losses.append(loss.detach().float())
            # All ranks see one loss, so that they go on, or fail, together.
            mean = torch.stack(micro_losses).mean()
            torch.distributed.all_reduce(mean)
            losses.append(float(mean) / world_size)
            _check(losses)
            yield Step(step=step + 1, num_steps=recipe.num_steps, loss=losses[-1])
    model.eval()


def _check(losses: Sequence[float]) -> None:
    if not math.isfinite(losses[-1]):
        raise TrialFailed(f"the loss became {losses[-1]} at step {len(losses)}")
    if len(losses) >= 2 * DIVERGENCE_WINDOW:
        first, last = fmean(losses[:DIVERGENCE_WINDOW]), fmean(losses[-DIVERGENCE_WINDOW:])
        if last > DIVERGENCE_RATIO * first + DIVERGENCE_MARGIN_NATS:
            raise TrialFailed(f"the loss diverged: from {first:.3g} to {last:.3g} nats at step {len(losses)}")
