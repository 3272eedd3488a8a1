"""How fast is a healing step? Ours against others on equal work, side by side in one run.

- ours: `slamlab.training.heal`, a DeepSpeed engine (the ZeRO stage that is asked for) under our loop;
- plain: the same model, LoRA and optimiser in a plain PyTorch loop;
- trainer: the same in the `Trainer` of `transformers`.

All three take the same batches from the same initial weights, so that their losses must agree: the greatest difference
is printed. A ratio is another way's time for a step over ours; 0.95 or more says that we are at most 5 % slower. On a
GPU a decoder of Qwen2.5-7B's shape with random weights is healed too, for tokens a second and the share of the
device's arithmetic that is used. Decoders are random: weights change neither time nor memory.

Examples:

    python benchmarks/heal.py
    python benchmarks/heal.py --width 576 --layers 30 --steps 6 --repeats 2 --json heal.json
"""

from __future__ import annotations

import copy
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from slamlab.data.batching import Example
from slamlab.errors import OptionError, exit_on_user_error
from slamlab.model.slam import SlamConfig, SlamModel
from slamlab.training.heal import heal
from slamlab.training.loop import learning_rate
from slamlab.zoo.decoders import train_tokenizer
from slamlab.zoo.profiles import HealRecipe, TrainRecipe

FRAME_WIDTH, FRAME_RATE_HZ, WORDS_PER_S = 512, 50, 2.5
NUM_WARM = 2
"""First steps of a run, which allocate and are not timed."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16, by the makers' data sheets; of a card by the first name that is part of its own."""
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}


def new_model(config: PreTrainedConfig, device: str, dtype: torch.dtype) -> SlamModel:
    """Return a SpeechLLM with a random decoder."""
    torch.manual_seed(0)
    with torch.device(device):
        decoder = AutoModelForCausalLM.from_config(config, dtype=dtype)
    names = SlamConfig(
        family="qwen", scale="mini", encoder="none", encoder_width=FRAME_WIDTH, stack=5, projector_hidden=2048
    )
    return SlamModel(names, decoder, train_tokenizer(["a"], vocab_size=259)).to(device, dtype).eval()


def new_batches(model: SlamModel, batch_size: int, seconds: float, num: int = 4) -> list[list[Example]]:
    """Return batches of noise, from half of `seconds` up to all of it, each answered by as many words as people say."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(seconds / 2, seconds, batch_size)
    return [
        [
            model.example(
                rng.standard_normal((round(FRAME_RATE_HZ * one), FRAME_WIDTH)).astype(np.float16),
                "".join(chr(97 + letter) for letter in rng.integers(0, 26, round(WORDS_PER_S * one))),
                task="asr",
                language="en",
            )
            for one in lengths
        ]
        for _ in range(num)
    ]


def ours(
    model: SlamModel, layer: int, batches: Iterator[list[Example]], recipe: HealRecipe
) -> tuple[list[float], float]:
    """Heal as a sweep does."""
    losses, ends = [], []
    for step in heal(model, layer, batches, recipe, seed=0):
        losses.append(step.loss)
        ends.append(time.perf_counter())
    return losses, _per_step(ends)


def plain(
    model: SlamModel, layer: int, batches: Iterator[list[Example]], recipe: HealRecipe
) -> tuple[list[float], float]:
    """Heal in a plain PyTorch loop."""
    optimizer, how = _adapt(model, layer, recipe), recipe.train
    model.train()
    losses, ends = [], []
    for step in range(how.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, how)
        loss = model(next(batches))
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], how.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))  # as progress and the check for divergence need it
        ends.append(time.perf_counter())
    return losses, _per_step(ends)


def trainer(
    model: SlamModel, layer: int, batches: Iterator[list[Example]], recipe: HealRecipe
) -> tuple[list[float], float]:
    """Heal in the Trainer of `transformers`."""
    optimizer, how = _adapt(model, layer, recipe), recipe.train
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, how) / how.peak_lr)
    wrapped, timer = _Wrapped(model), _Timer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=how.num_steps,
            max_grad_norm=how.clip_norm,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        given = [next(batches) for _ in range(how.num_steps)]
        one = _Trainer(wrapped, arguments, train_dataset=given, optimizers=(optimizer, schedule), callbacks=[timer])
        one.train()
    return [float(loss) for loss in wrapped.losses], _per_step(timer.ends)


WAYS: dict[str, Callable[..., tuple[list[float], float]]] = {"ours": ours, "plain": plain, "trainer": trainer}


def _adapt(model: SlamModel, layer: int, recipe: HealRecipe) -> torch.optim.Optimizer:
    """Put LoRA where a heal has it, and return the optimiser of what is trained."""
    torch.manual_seed(0)
    model.requires_grad_(False)
    target = rf".*\blayers\.{layer}\..*\b(?:{'|'.join(recipe.target_modules)})"
    lora = LoraConfig(r=recipe.r, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout, target_modules=target)
    get_peft_model(model.decoder, lora)
    model.projector.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=recipe.train.peak_lr, weight_decay=recipe.train.weight_decay)


def _per_step(ends: list[float]) -> float:
    """Return the seconds of a step, the first ones left out."""
    return (ends[-1] - ends[NUM_WARM - 1]) / (len(ends) - NUM_WARM)


class _Wrapped(nn.Module):
    """A model in the form that the Trainer calls; keeps the losses, which it would only log as means."""

    def __init__(self, model: SlamModel) -> None:
        super().__init__()
        self.model, self.losses = model, []

    def forward(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        loss = self.model(examples)
        self.losses.append(loss.detach())
        return {"loss": loss}


class _Trainer(Trainer):
    def get_train_dataloader(self) -> Any:
        return [{"examples": batch} for batch in self.train_dataset]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs


class _Timer(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def side_by_side(model: SlamModel, batches: list[list[Example]], recipe: HealRecipe, repeats: int) -> dict[str, Any]:
    """Run all ways in turns, and return their ratios and how far their losses differ."""
    layer = model.decoder.config.num_hidden_layers // 2
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses: dict[str, list[float]] = {}
    for turn in range(repeats):
        names = list(WAYS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            losses[name], per_step = WAYS[name](copy.deepcopy(model), layer, cycle(batches), recipe)
            seconds[name].append(per_step)
    others = [name for name in WAYS if name != "ours"]
    ratios = {name: np.array(seconds[name]) / np.array(seconds["ours"]) for name in others}
    return {
        "time_to_ours": {
            name: {"median": float(median(ratio)), "least": float(ratio.min()), "most": float(ratio.max())}
            for name, ratio in ratios.items()
        },
        "largest_loss_difference": {
            name: float(np.abs(np.array(losses[name]) - np.array(losses["ours"])).max()) for name in others
        },
        "losses": losses["ours"],
    }


def utilisation(batch_size: int, seconds: float, num_steps: int) -> dict[str, Any]:
    """Heal a decoder of Qwen2.5-7B's shape in bf16 on the GPU; return its speed, memory and use of the arithmetic."""
    model = new_model(Qwen2Config(**QWEN_7B), "cuda", torch.bfloat16)
    batches = new_batches(model, batch_size, seconds)
    how = TrainRecipe(num_steps=num_steps, batch_size=batch_size, peak_lr=5e-4, precision="bf16", zero_stage=1)
    with torch.no_grad():
        shapes = [model.sequences(batch)[1] for batch in batches]
    positions = float(np.mean([mask.numel() for mask in shapes]))
    torch.cuda.reset_peak_memory_stats()
    _, per_step = ours(model, QWEN_7B["num_hidden_layers"] // 2, cycle(batches), HealRecipe(train=how))
    name = torch.cuda.get_device_name()
    body = sum(p.numel() for key, p in model.decoder.named_parameters() if "layers" in key)
    # Forward 2 FLOPs a weight and position, and 2 backward for the gradient of the inputs: frozen weights have none of
    # their own. Attention, head, LoRA and projector are left out, so that the share is a lower bound.
    flops = 4 * body * positions
    peak = next((value for card, value in PEAK_FLOPS.items() if card in name), None)
    return {
        "device": name,
        "batch_size": batch_size,
        "positions_a_step": positions,
        "seconds_a_step": per_step,
        "positions_a_second": positions / per_step,
        "model_flops_utilisation": flops / per_step / peak if peak else None,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def main(
    width: Annotated[int, typer.Option(help="Width of the decoder that ways are compared on, a multiple of 64.")] = 384,
    layers: Annotated[int, typer.Option(help="Its layers.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Utterances a step.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of the longest utterance.")] = 6.0,
    steps: Annotated[int, typer.Option(help="Steps of a run; the first two are not timed.")] = 8,
    repeats: Annotated[int, typer.Option(help="Runs of each way, in turns.")] = 3,
    zero_stage: Annotated[int, typer.Option(help="DeepSpeed ZeRO stage of ours, 0 to 3.")] = 0,
    large_batch_size: Annotated[int, typer.Option(help="Utterances a step of the 7B shape, on a GPU.")] = 32,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure what a healing step costs, against other ways of taking it."""
    with exit_on_user_error():
        if min(width, layers, batch_size, repeats) < 1 or width % 64 or steps <= NUM_WARM or not 1 <= seconds <= 30:
            raise OptionError(
                f"counts are 1 or more, the width a multiple of 64, the steps more than {NUM_WARM}, 1 to 30 seconds",
                f"width {width}, {layers} layers, batch {batch_size}, {steps} steps, {repeats} repeats, {seconds} s",
                "choose others",
            )
        how = TrainRecipe(num_steps=steps, batch_size=batch_size, peak_lr=1e-3, zero_stage=zero_stage)
        recipe = HealRecipe(train=how, r=64, dropout=0.0)  # dropout draws differently in each way
        console, device = Console(soft_wrap=True, highlight=False), "cuda" if torch.cuda.is_available() else "cpu"
        config = Qwen2Config(
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 64 * 64,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            vocab_size=4096,
        )
        model = new_model(config, device, torch.float32)
        results: dict[str, Any] = {
            "decoder": f"random Qwen2, {layers} layers of width {width}, fp32",
            "work": f"{steps} steps of {batch_size} utterances of up to {seconds:g} s, ZeRO stage {zero_stage}",
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "num_threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed", "peft", "accelerate")},
            **side_by_side(model, new_batches(model, batch_size, seconds), recipe, repeats),
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
        if device == "cuda":
            results["qwen2.5-7b shape"] = utilisation(large_batch_size, seconds, steps)
        else:
            results["qwen2.5-7b shape"] = "not run: there is no GPU here"
        console.print(results)
        if json_file is not None:
            json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
