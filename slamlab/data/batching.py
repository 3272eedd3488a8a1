"""Examples in, batches out: an endless, seeded order in which neighbours have alike lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

POOL_BATCHES = 16
"""Batches cut from one pool sorted by length: little padding, still a fresh mix every epoch."""


class Prompt(NamedTuple):
    """Token ids that stand before the source and after it."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training sequence: the prompt's first part, source, the prompt's second part, answer.

    Attributes:
        source: Speech as encoder frames, float16 [frames, width], or text in its place as token ids, int64 [tokens].
        prompt: Token ids around the source.
        answer: Token ids of the answer, with the end token.
    """

    source: np.ndarray
    prompt: Prompt
    answer: tuple[int, ...]


def batches(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield indices of batches without end, the same for equal arguments.

    Every index comes once an epoch; an epoch's incomplete last batch is filled from the start of its own shuffle, so
    all batches have `batch_size` entries (fewer only where there are fewer examples than that).

    Args:
        lengths: Length of each example, in any one unit.
        batch_size: Entries a batch.
        seed: Seed of the shuffles.
    """
    rng = random.Random(seed)
    indices = list(range(len(lengths)))
    size = min(batch_size, len(indices))
    while True:
        rng.shuffle(indices)
        epoch = indices + indices[: -len(indices) % size]
        cut = []
        for begin in range(0, len(epoch), POOL_BATCHES * size):
            pool = sorted(epoch[begin : begin + POOL_BATCHES * size], key=lengths.__getitem__)
            cut += [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(cut)
        yield from cut
