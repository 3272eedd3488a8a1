"""How much faster the healed model decodes than the unpruned one, timed side by side.

Both continue the same utterances greedily by a fixed number of tokens, whatever they say: a model that ends its answers
early is not faster for it. They take turns (:mod:`slamlab.model.timing`).

Encoder and projector are no part of it. Frames are computed once and kept, and are the same for both models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from slamlab.model.decode import generate_exactly
from slamlab.model.slam import SlamModel, load
from slamlab.model.timing import NUM_TURNS, clock_of, take_turns
from slamlab.sweep.cells import Cell
from slamlab.sweep.device import device_name
from slamlab.zoo.profiles import Precision

BATCH_SIZE, NUM_TOKENS = 8, 24
RUNS = ((1, 1), (1, NUM_TOKENS), (BATCH_SIZE, NUM_TOKENS))
"""(utterances, tokens an answer): a first token, which is reading audio and prompt; a sentence; several at once."""
LIMIT_S = 15.0
"""How long a run may take turns: a large model on few cores has its scores to wait for."""


def compare_speed(
    unpruned: SlamModel, checkpoint: Path, frames: Sequence[np.ndarray], cell: Cell, precision: Precision
) -> dict[str, Any] | None:
    """Time a healed model against the unpruned one.

    Args:
        unpruned: On the device that both are to be timed on.
        checkpoint: Folder of the healed model.
        frames: Encoder frames [T, W] of an utterance each, at most `BATCH_SIZE` of which are used.
        cell: Whose prompt follows the audio.
        precision: Of both models' weights.

    Returns:
        What was measured, as records hold it: `device`, `dtype`, `num_threads` and `runs`, which have `batch_size`,
        `num_tokens` and `ratios`, the unpruned model's time over the healed one's in each turn; on a GPU also
        `unpruned_seconds` and `pruned_seconds`, medians. None where the device cannot hold both models at once.
    """
    try:
        pruned = load(checkpoint).in_precision(precision).to(unpruned.device)
        unpruned = unpruned.in_precision(precision)
        with torch.inference_mode():
            runs = _runs(unpruned, pruned, frames[:BATCH_SIZE], cell)
    except torch.OutOfMemoryError:  # the scores, which are what the trial is for, do not depend on this
        return None
    return {
        "device": device_name(),
        "dtype": str(unpruned.dtype).removeprefix("torch."),
        "num_threads": torch.get_num_threads(),
        "runs": runs,
    }


def _runs(unpruned: SlamModel, pruned: SlamModel, frames: Sequence[np.ndarray], cell: Cell) -> list[dict[str, Any]]:
    prompt = unpruned.prompt(cell.task, cell.language)
    rows = unpruned.prefixes(frames, [prompt] * len(frames))  # values change no time: both get the same
    on_gpu = unpruned.device.type == "cuda"
    runs = []
    for batch_size, num_tokens in RUNS:
        picked = rows[:batch_size]
        jobs = [partial(generate_exactly, model.decoder, picked, num_tokens) for model in (unpruned, pruned)]
        times = take_turns(*jobs, limit_s=LIMIT_S, num_turns=NUM_TURNS, now=clock_of(unpruned.device))
        run: dict[str, Any] = {
            "batch_size": len(picked),
            "num_tokens": num_tokens,
            "ratios": [before_s / after_s for before_s, after_s in times],
        }
        if on_gpu:  # of a CPU that others use too, only ratios mean anything
            run["unpruned_seconds"], run["pruned_seconds"] = map(median, zip(*times, strict=True))
        runs.append(run)
    return runs
