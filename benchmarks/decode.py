"""How fast are answers decoded? Ours against `transformers`, and a pruned decoder against the whole one, in one run.

- ours: `slamlab.model.decode.generate`, padded batches with a cap a row and an end to loops;
- stock: `generate` of `transformers` on the same padded batch;
- alone: `generate` of `transformers`, one utterance after the other.

All three give the same tokens, which is checked. Weights are random, and no end token is let through, so that the work
is equal. A ratio is another way's time over ours. The whole decoder's time over that of one without `--remove` of its
layers is measured too, at batches of 1 and 16. On a GPU all of it is done at the shape of Llama-3.1-8B in bf16, with
tokens a second and peak memory.

Examples:

    python benchmarks/decode.py
    python benchmarks/decode.py --width 576 --layers 30 --remove 0.25 --json decode.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig

from slamlab.errors import OptionError, exit_on_user_error
from slamlab.model.decode import generate, generate_exactly
from slamlab.model.slam import left_pad
from slamlab.model.surgery import LayerBlock, without
from slamlab.model.timing import clock_of, take_turns

BATCH_SIZES = (1, 16)
NO_END, PAD = -1, 0
"""No token ends an answer."""
LIMIT_S = 120.0
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}


def new_decoder(config: LlamaConfig, device: str, dtype: torch.dtype) -> Any:
    """Return a random decoder that never ends an answer by itself."""
    torch.manual_seed(0)
    with torch.device(device):
        decoder = AutoModelForCausalLM.from_config(config, dtype=dtype)
    decoder.generation_config.eos_token_id = None
    return decoder.eval()


def prefixes(decoder: Any, num: int, length: int) -> list[torch.Tensor]:
    """Return decoder inputs of half of `length` positions up to all of it."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(length / 2, length, num).round().long().tolist()
    made = [torch.randn(one, decoder.config.hidden_size, generator=generator) for one in lengths]
    return [one.to(decoder.device, decoder.dtype) for one in made]


def ours(decoder: Any, rows: list[torch.Tensor], num_tokens: int) -> list[list[int]]:
    """Decode as an evaluation does."""
    answers = generate(
        decoder, rows, [num_tokens] * len(rows), eos_token_id=NO_END, pad_token_id=PAD, batch_size=len(rows)
    )
    return [one.tokens for one in answers]


def stock(decoder: Any, rows: list[torch.Tensor], num_tokens: int) -> list[list[int]]:
    """Decode a padded batch by `transformers`."""
    inputs, mask = left_pad(rows)
    how = {"max_new_tokens": num_tokens, "do_sample": False, "pad_token_id": PAD}
    return decoder.generate(inputs_embeds=inputs, attention_mask=mask, **how).tolist()


def alone(decoder: Any, rows: list[torch.Tensor], num_tokens: int) -> list[list[int]]:
    """Decode one by one by `transformers`."""
    return [stock(decoder, [row], num_tokens)[0] for row in rows]


def ratios(times: list[tuple[float, float]]) -> dict[str, float | int]:
    """Return the median, least and greatest of the first job's time over the second's."""
    found = [first / second for first, second in times]
    return {"median": median(found), "least": min(found), "most": max(found), "turns": len(found)}


def against_stock(decoder: Any, length: int, num_tokens: int) -> dict[str, Any]:
    """Measure ours against the other ways, at the larger batch."""
    rows, now = prefixes(decoder, BATCH_SIZES[-1], length), clock_of(decoder.device)
    said = {way.__name__: way(decoder, rows, num_tokens) for way in (ours, stock, alone)}
    # A random model may loop, and ours then ends: as far as ours went, all must say the same.
    same = {
        name: sum(one[: len(own)] == own for one, own in zip(answers, said["ours"], strict=True))
        for name, answers in said.items()
        if name != "ours"
    }
    num = [len(one) for one in said["ours"]]

    def job(way: Callable[..., Any]) -> Callable[[], object]:
        return lambda: way(decoder, rows, min(num))

    return {
        "time_to_ours": {
            way.__name__: ratios(take_turns(job(way), job(ours), limit_s=LIMIT_S, now=now)) for way in (stock, alone)
        },
        "same_answers": {name: f"{count} of {len(rows)}" for name, count in same.items()},
        "tokens_an_answer": min(num),
    }


def whole_against_pruned(decoder: Any, remove: float, length: int, num_tokens: int) -> list[dict[str, Any]]:
    """Measure a decoder against itself without a block in its middle."""
    num_layers = decoder.config.num_hidden_layers
    depth = round(remove * num_layers)
    block = LayerBlock((num_layers - depth) // 2, depth)
    pruned, now, runs = without(decoder, block), clock_of(decoder.device), []
    for batch_size in BATCH_SIZES:
        rows = prefixes(decoder, batch_size, length)
        for tokens in (1, num_tokens):
            jobs = [lambda one=one, t=tokens, rows=rows: generate_exactly(one, rows, t) for one in (decoder, pruned)]
            times = take_turns(*jobs, limit_s=LIMIT_S, now=now)
            run = {
                "batch_size": batch_size,
                "tokens": tokens,
                "layers": [num_layers, num_layers - depth],
                **ratios(times),
            }
            if decoder.device.type == "cuda":
                took = [median(pair[which] for pair in times) for which in (0, 1)]
                run["tokens_a_second"] = [batch_size * tokens / seconds for seconds in took]
            runs.append(run)
    return runs


def main(
    width: Annotated[int, typer.Option(help="Width of the decoder, a multiple of 64.")] = 384,
    layers: Annotated[int, typer.Option(help="Its layers.")] = 12,
    remove: Annotated[float, typer.Option(help="Share of the layers that the pruned one lacks.")] = 0.4,
    length: Annotated[int, typer.Option(help="Positions of the longest prefix: audio and prompt.")] = 80,
    num_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 40,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure how fast answers are decoded."""
    with exit_on_user_error():
        if min(width, layers, length, num_tokens) < 1 or width % 64 or not 0 < remove < 1 or round(remove * layers) < 1:
            raise OptionError(
                "counts are 1 or more, the width a multiple of 64, and a share in (0, 1) of the layers is removed",
                f"width {width}, {layers} layers, {remove} removed, length {length}, {num_tokens} tokens",
                "choose others",
            )
        on_gpu = torch.cuda.is_available()
        small = {"hidden_size": width, "intermediate_size": width * 8 // 3 // 64 * 64, "num_hidden_layers": layers}
        small |= {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "vocab_size": 4096}
        decoder = new_decoder(
            LlamaConfig(**(LLAMA_8B if on_gpu else small)),
            "cuda" if on_gpu else "cpu",
            torch.bfloat16 if on_gpu else torch.float32,
        )
        shape = decoder.config
        with torch.inference_mode():
            results: dict[str, Any] = {
                "decoder": f"random Llama, {shape.num_hidden_layers} layers of width {shape.hidden_size}",
                "device": torch.cuda.get_device_name() if on_gpu else "cpu: the shape of Llama-3.1-8B was not run",
                "num_threads": torch.get_num_threads(),
                "versions": {name: version(name) for name in ("torch", "transformers")},
                **against_stock(decoder, length, num_tokens),
                "whole_to_pruned": whole_against_pruned(decoder, remove, length, num_tokens),
            }
        if on_gpu:
            results["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        Console(soft_wrap=True, highlight=False).print(results)
        if json_file is not None:
            json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
