"""What a smaller model saves, measured side by side with the unpruned one in one run.

Both are folders of the same kind and type of weights. Times are of fixed work: random speech of `AUDIO_S`, and answers
of `NUM_TOKENS` whatever they say. They are taken in turns (:mod:`slamlab.model.timing`), and on a CPU, which other
programs use too, only ratios are kept. Memory is that of a process of its own for each model.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from slamlab.data.batching import Prompt
from slamlab.errors import UserError
from slamlab.export.folder import weight_bytes
from slamlab.model.decode import generate_exactly
from slamlab.model.slam import SlamModel, load
from slamlab.model.timing import clock_of, take_turns
from slamlab.zoo.encoders import SpeechEncoder, load_encoder

BATCH_SIZES = (1, 16)
AUDIO_S, NUM_TOKENS = 10.0, 40
"""Length of an utterance, and of its answer: slow speech of one token a word has four a second."""
FRAME_RATE_HZ, PROMPT = 50, Prompt((), (0,) * 4)
"""Frames a second where the encoder, whose own are counted, cannot be had; and what is asked."""
LIMIT_S = 15.0
"""How long a run may take turns."""

Jobs = dict[str, Callable[[], object]]


def measure(unpruned: Path, pruned: Path, cache: Path) -> dict[str, Any]:
    """Measure two folders of SLAM models or SpeechLLMs, on a GPU where there is one.

    Args:
        unpruned: Folder that :func:`slamlab.export.folder.write_checked` wrote of the unpruned model.
        pruned: The same of the smaller one, in the same type of weights.
        cache: Where the encoder's converted weights are kept.

    Returns:
        `device`, `dtype`, `num_threads`, `audio_s`, `num_tokens`; by `unpruned` and `pruned` each: `parameters`,
        `checkpoint_bytes` (weights in files), `peak_memory_bytes` and `memory_before_loading_bytes`, which is in it;
        `memory`, what these two are; and `runs`, each
        with `quantity`, `batch_size` and `ratios`, the unpruned model's time over the pruned one's in every turn, so
        that 2 is twice as fast. On a GPU a run has `unpruned` and `pruned` too, medians: seconds to the first token,
        tokens a second over all rows, and seconds a second of audio (real-time factor). That one alone includes the
        encoder, and is missing where the encoder cannot be had; then `no_encoder` says why. `runs` is empty where the
        device cannot hold both models at once.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folders = {"unpruned": unpruned, "pruned": pruned}
    models = {name: load(folder) for name, folder in folders.items()}
    encoder: SpeechEncoder | None = None
    num_frames, no_encoder = int(AUDIO_S * FRAME_RATE_HZ), ""
    try:
        encoder = load_encoder(models["pruned"].encoder_name, cache, device.type)
        (frames,) = encoder.encode(_noise(encoder, 1))
        num_frames = len(frames)
    except UserError as error:
        no_encoder = str(error)
    peaks = {
        name: _in_a_process_of_its_own(peak_memory, folder, device.type, num_frames) for name, folder in folders.items()
    }
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(models["pruned"].dtype).removeprefix("torch."),
        "num_threads": torch.get_num_threads(),
        "audio_s": AUDIO_S,
        "num_tokens": NUM_TOKENS,
        "parameters": {name: model.num_parameters() for name, model in models.items()},
        "checkpoint_bytes": {name: weight_bytes(folder) for name, folder in folders.items()},
        "memory": "device memory allocated" if device.type == "cuda" else "resident memory of the process",
        "peak_memory_bytes": {name: peak for name, (peak, _) in peaks.items()},
        "memory_before_loading_bytes": {name: before for name, (_, before) in peaks.items()},
        "runs": [],
    }
    if no_encoder:
        found["no_encoder"] = no_encoder
    try:
        both = [models[name].to(device) for name in folders]
        for batch_size in BATCH_SIZES:
            found["runs"] += _runs(both, encoder, num_frames, batch_size)
    except torch.OutOfMemoryError:
        found["runs"] = []
    return found


def peak_memory(folder: Path, device: str, num_frames: int) -> tuple[int, int]:
    """Load a model, let it answer the larger batch, and return the peak of memory and what it was before, in bytes.

    It is a process's whole life that is measured: call it in a new one.
    """
    import transformers.models.auto.modeling_auto  # noqa: F401 - its memory is no model's

    before = 0 if device == "cuda" else _peak_resident()
    model = load(folder).to(device)
    _answer(model, _frames(model, num_frames, BATCH_SIZES[-1]), NUM_TOKENS)
    return (torch.cuda.max_memory_allocated() if device == "cuda" else _peak_resident()), before


def _peak_resident() -> int:
    """Return the most bytes of memory that this process has held.

    `ru_maxrss` is not asked first: on Linux it survives `exec`, so that a process begins with the peak of the one that
    started it, and a small model after a large one would look large.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(peak[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _in_a_process_of_its_own(job: Callable[..., tuple[int, int]], *arguments: object) -> tuple[int, int]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, *arguments).result()


def _runs(
    models: Sequence[SlamModel], encoder: SpeechEncoder | None, num_frames: int, batch_size: int
) -> list[dict[str, Any]]:
    """Time every quantity for so many utterances at once."""
    on_gpu = models[0].device.type == "cuda"
    jobs = [_jobs(model, encoder, num_frames, batch_size) for model in models]
    # What a time in seconds is turned into.
    shown: dict[str, Callable[[float], float]] = {
        "time to first token": lambda seconds: seconds,
        "tokens per second": lambda seconds: batch_size * NUM_TOKENS / seconds,
        "real-time factor": lambda seconds: seconds / (batch_size * AUDIO_S),
    }
    runs = []
    for quantity, show in shown.items():
        if quantity not in jobs[0]:
            continue
        times = take_turns(*(own[quantity] for own in jobs), limit_s=LIMIT_S, now=clock_of(models[0].device))
        ratios = [before_s / after_s for before_s, after_s in times]
        run: dict[str, Any] = {"quantity": quantity, "batch_size": batch_size, "ratios": ratios}
        if on_gpu:  # of a CPU that others use too, only ratios mean anything
            run["unpruned"], run["pruned"] = (show(median(own)) for own in zip(*times, strict=True))
        runs.append(run)
    return runs


def _jobs(model: SlamModel, encoder: SpeechEncoder | None, num_frames: int, batch_size: int) -> Jobs:
    frames = _frames(model, num_frames, batch_size)
    with torch.inference_mode():
        ready = model.prefixes(frames, [PROMPT] * batch_size)
    jobs: Jobs = {
        "time to first token": lambda: _answer(model, frames, 1),
        "tokens per second": lambda: generate_exactly(model.decoder, ready, NUM_TOKENS),
    }
    if encoder is not None:
        waveforms = _noise(encoder, batch_size)
        jobs["real-time factor"] = lambda: _answer(model, encoder.encode(waveforms), NUM_TOKENS)
    return jobs


def _noise(encoder: SpeechEncoder, batch_size: int) -> list[np.ndarray]:
    """Return a batch of waveforms of `AUDIO_S`."""
    draw, num_samples = np.random.default_rng(0), int(AUDIO_S * encoder.sample_rate_hz)
    return [0.1 * draw.standard_normal(num_samples).astype(np.float32) for _ in range(batch_size)]


def _frames(model: SlamModel, num_frames: int, batch_size: int) -> list[np.ndarray]:
    """Return random encoder frames [T, W], float16, of a batch: what they hold changes no time."""
    draw = np.random.default_rng(0)
    shape = (num_frames, model.config.encoder_width)
    return [draw.standard_normal(shape, dtype=np.float32).astype(np.float16) for _ in range(batch_size)]


def _answer(model: SlamModel, frames: Sequence[np.ndarray], num_tokens: int) -> torch.Tensor:
    with torch.inference_mode():
        return generate_exactly(model.decoder, model.prefixes(frames, [PROMPT] * len(frames)), num_tokens)
