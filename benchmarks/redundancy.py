"""What does measuring every block's angular distance cost? Ratios of ways measured side by side in one run.

- ours: all starts and depths in one forward pass, by hooks on the residual stream, with a bootstrap over utterances;
- plain: the same forward pass without measuring anything;
- hidden_states: `output_hidden_states` of `transformers`, all states kept until the end, then compared;
- per_depth: one forward pass for every depth.

And memory: how far the peak of a process grows from 8 samples to 64 (each way in a process of its own).
The decoder is a random Llama of the given size: weights change neither time nor memory.

Examples:

    python benchmarks/redundancy.py
    python benchmarks/redundancy.py --width 896 --layers 24 --repeats 3 --json redundancy.json
"""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from slamlab.errors import OptionError, exit_on_user_error
from slamlab.model.redundancy import AngularDistance

BATCH = 4


def _decoder(width: int, layers: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        vocab_size=4096,
    )
    return LlamaForCausalLM(config).eval()


def _batches(width: int, num_samples: int, length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, length, width, generator=generator) for _ in range(num_samples // BATCH)]


def _pass(decoder: Any, inputs: torch.Tensor, **options: Any) -> Any:
    """Run the layers; logits are asked for at one position alone, as sequences of speech have few answers."""
    return decoder(inputs_embeds=inputs, use_cache=False, logits_to_keep=1, **options)


def plain(decoder: Any, batches: list[torch.Tensor]) -> None:
    """Run the decoder and measure nothing."""
    for inputs in batches:
        _pass(decoder, inputs)


def ours(decoder: Any, batches: list[torch.Tensor]) -> np.ndarray:
    """Measure every block in one pass."""
    with AngularDistance(decoder, num_resamples=200) as meter:
        for inputs in batches:
            _pass(decoder, inputs)
            meter.update(torch.ones(inputs.shape[:2], dtype=torch.bool))
    return meter.matrix()


def hidden_states(decoder: Any, batches: list[torch.Tensor]) -> np.ndarray:
    """Keep every hidden state of every sample, then compare; the last entry is taken after the final norm."""
    kept = [_pass(decoder, inputs, output_hidden_states=True).hidden_states for inputs in batches]
    streams = [torch.cat([one[i].flatten(0, 1) for one in kept]) for i in range(len(kept[0]))]
    size = len(streams)
    matrix = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1, size):
            matrix[i, j] = matrix[j, i] = _distance(streams[i], streams[j]).mean()
    return matrix


def per_depth(decoder: Any, batches: list[torch.Tensor]) -> np.ndarray:
    """Run one pass for every depth and compare the streams that are so far apart."""
    size = len(decoder.model.layers) + 1
    matrix, count = np.zeros((size, size)), 0
    for depth in range(1, size):
        for inputs in batches:
            states = _pass(decoder, inputs, output_hidden_states=True).hidden_states
            for i in range(size - depth):
                matrix[i, i + depth] += float(_distance(states[i], states[i + depth]).sum())
            count += inputs.shape[0] * inputs.shape[1] if depth == 1 else 0
    return (matrix + matrix.T) / count


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1).clamp(-1, 1).acos() / math.pi


WAYS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "ours": ours,
    "hidden_states": hidden_states,
    "per_depth": per_depth,
}


def _peak_bytes(way: str, width: int, layers: int, num_samples: int, length: int) -> int:
    """Return by how much a way raises the peak of this process, beyond the model and its inputs."""
    torch.set_num_threads(1)
    decoder, batches = _decoder(width, layers), _batches(width, num_samples, length)
    with torch.inference_mode():
        plain(decoder, batches[:1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        WAYS[way](decoder, batches)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main(
    width: Annotated[int, typer.Option(help="Width of the decoder, a multiple of 64.")] = 576,
    layers: Annotated[int, typer.Option(help="Layers of the decoder.")] = 30,
    length: Annotated[int, typer.Option(help="Positions of a sample.")] = 64,
    num_samples: Annotated[int, typer.Option(help="Samples of the timed runs, a multiple of 4.")] = 8,
    repeats: Annotated[int, typer.Option(help="Times that each way is measured, in turn.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure what measuring redundancy costs, in time and memory."""
    with exit_on_user_error():
        if min(width, layers, length, num_samples, repeats) < 1 or width % 64 or num_samples % BATCH:
            raise OptionError(
                f"counts are 1 or more, the width a multiple of 64, the samples of {BATCH}",
                f"width {width}, {layers} layers, length {length}, {num_samples} samples, {repeats} repeats",
                "choose others",
            )
        console = Console(soft_wrap=True, highlight=False)
        decoder, batches = _decoder(width, layers), _batches(width, num_samples, length)
        took_s: dict[str, list[float]] = {name: [] for name in WAYS}
        found: dict[str, Any] = {}
        with torch.inference_mode():
            plain(decoder, batches)
            for _ in range(repeats):
                for name, way in WAYS.items():
                    began_s = time.perf_counter()
                    found[name] = way(decoder, batches)
                    took_s[name].append(time.perf_counter() - began_s)
        inner = np.s_[:layers, :layers]  # all but the last entry, which `output_hidden_states` takes after the norm
        results: dict[str, Any] = {
            "decoder": f"random Llama, {layers} layers of width {width}",
            "samples": f"{num_samples} of {length} positions, in batches of {BATCH}",
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "num_threads": torch.get_num_threads(),
            "time_to_plain": {
                name: {
                    "median": float(np.median(np.array(seconds) / np.array(took_s["plain"]))),
                    "least": float(min(np.array(seconds) / np.array(took_s["plain"]))),
                    "most": float(max(np.array(seconds) / np.array(took_s["plain"]))),
                }
                for name, seconds in took_s.items()
            },
            "largest_difference": {
                name: float(np.abs(found[name] - found["ours"])[inner].max()) for name in ("hidden_states", "per_depth")
            },
        }
        context = multiprocessing.get_context("spawn")
        for way in ("plain", "ours", "hidden_states"):
            for samples in (8, 64):
                with context.Pool(1) as pool:
                    peak = pool.apply(_peak_bytes, (way, width, layers, samples, length))
                results.setdefault("peak_extra_mb", {}).setdefault(way, {})[str(samples)] = round(peak / 1e6, 1)
        console.print(results)
        if json_file is not None:
            json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
