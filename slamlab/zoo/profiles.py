"""What `pocket` and `paper` mean: every number of a recipe, in one readable place.

`paper` follows "Measuring the Redundancy of Decoder Layers in SpeechLLMs" (Moumen, Sun, Woodland; arXiv 2603.05121):
healing with LoRA r=64 on the MLP of the receiving layer with the projector unfrozen, 5,000 steps, Adam, peak learning
rate 5e-4, linear decay; base training of 50,000 steps at batch 8; greedy decoding. Those values were read in digests
of the paper, not checked against its PDF. The projector's width and frame stacking are not given there: SLAM-ASR's
(Ma et al., arXiv 2402.08846) stand in. `pocket` is the same method at the size of two CPU cores.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from slamlab.errors import OptionError

Precision = Literal["fp32", "bf16"]
MIN_SCORED = 10
"""Fewest utterances that a rung scores, where the selection split has as many."""


def _require(holds: bool, rule: str, received: object, remedy: str) -> None:
    if not holds:
        raise OptionError(rule, received, remedy)


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """How one stage of training runs: warm-up, then linear decay to zero, AdamW, clipped gradients.

    Attributes:
        num_steps: Optimiser steps.
        batch_size: Examples a step, over all accumulation steps and workers.
        accumulation: Micro-batches a step.
        peak_lr: Learning rate at the end of the warm-up.
        warmup_fraction: Share of the steps spent warming up.
        weight_decay: AdamW's decoupled weight decay.
        clip_norm: Largest L2 norm of the gradient.
        precision: `bf16` needs ZeRO stage 1 or more (DeepSpeed keeps the fp32 master weights there).
        zero_stage: DeepSpeed ZeRO stage, 0 to 3.
        gradient_checkpointing: Whether a layer's activations are computed again for its gradient and not kept: less
            memory for a second forward pass; losses stay the same.
        offload: Whether the optimiser's state, and at stage 3 all weights, wait in the host's memory for their turn on
            the device (DeepSpeed's ZeRO-Offload): less of the device's memory, slower.
    """

    num_steps: int
    batch_size: int
    peak_lr: float
    accumulation: int = 1
    warmup_fraction: float = 0.05
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: Precision = "fp32"
    zero_stage: int = 0
    gradient_checkpointing: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        _require(self.num_steps >= 0, "the number of steps is 0 or more", self.num_steps, "give a count of steps")
        _require(self.accumulation >= 1, "accumulation is 1 or more", self.accumulation, "use 1 for none")
        _require(
            self.batch_size >= 1 and self.batch_size % self.accumulation == 0,
            f"the batch is a positive multiple of the accumulation ({self.accumulation})",
            self.batch_size,
            "choose a batch that divides evenly",
        )
        _require(self.peak_lr > 0, "the peak learning rate is above 0", self.peak_lr, "try 5e-4")
        _require(0 <= self.warmup_fraction < 1, "warm-up is a share in [0, 1)", self.warmup_fraction, "try 0.05")
        _require(self.precision in ("fp32", "bf16"), "precision is fp32 or bf16", self.precision, "choose one")
        _require(self.zero_stage in (0, 1, 2, 3), "the ZeRO stage is 0, 1, 2 or 3", self.zero_stage, "choose one")
        _require(
            self.precision == "fp32" or self.zero_stage >= 1,
            "bf16 needs a ZeRO stage of 1 or more",
            self.zero_stage,
            "pass --zero-stage 1, or --precision fp32",
        )
        _require(
            self.zero_stage >= 1 or not self.offload,
            "offloading to the host's memory needs a ZeRO stage of 1 or more",
            self.zero_stage,
            "pass --zero-stage 2, or 3 to offload the weights too",
        )


@dataclass(frozen=True, kw_only=True)
class HealRecipe:
    """How a pruned model is healed: LoRA on the layer at the seam (or all of that layer), with the projector unfrozen.

    Attributes:
        train: Steps, batch, learning rate.
        r: Rank of the LoRA update; 0 trains the projector alone.
        alpha: LoRA scale; the update is multiplied by alpha / r.
        dropout: Dropout on the LoRA input.
        target_modules: Names of the linear layers, inside the receiving layer, that get LoRA.
        side: Which kept layer at the seam receives: the one `before` the removed block (as LLM-Streamline keeps
            it), or the one `after`.
        projector: Whether the projector learns too (the paper's joint healing).
        whole_layer: Whether all weights of the receiving layer learn, in place of a LoRA update to some.
        num_train: Utterances a cell heals on.
    """

    train: TrainRecipe
    r: int = 64
    alpha: int = 64
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    side: Literal["before", "after"] = "before"
    projector: bool = True
    whole_layer: bool = False
    num_train: int = 100_000

    def __post_init__(self) -> None:
        _require(self.r >= 0, "the LoRA rank is 0 or more", self.r, "use 0 for no LoRA")
        _require(
            self.r > 0 or self.projector or self.whole_layer,
            "healing trains LoRA or a whole layer, the projector, or both",
            "neither",
            "set a rank",
        )
        _require(self.num_train >= 1, "a cell heals on 1 utterance or more", self.num_train, "ask for more")
        _require(0 <= self.dropout < 1, "dropout is a share in [0, 1)", self.dropout, "try 0.05")
        _require(self.side in ("before", "after"), "the receiving side is before or after", self.side, "choose one")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How closely a pruned model is looked at.

    Attributes:
        name: Names it in requests and records.
        heal_fraction: Share of the healing recipe's steps; 0 scores the model unhealed.
        score_fraction: Share of the selection split that is scored: its first utterances, so what a lower rung scores
            is part of what a higher one does.
    """

    name: str
    heal_fraction: float
    score_fraction: float

    def __post_init__(self) -> None:
        _require(
            0 <= self.heal_fraction <= 1, "a rung heals for a share in [0, 1]", self.heal_fraction, "use 0 for none"
        )
        _require(0 < self.score_fraction <= 1, "a rung scores a share in (0, 1]", self.score_fraction, "use 1 for all")

    def num_scored(self, num_selection: int) -> int:
        """Return how many of the selection split's utterances are scored."""
        return min(max(math.ceil(self.score_fraction * num_selection), MIN_SCORED), num_selection)

    def heal_recipe(self, full: HealRecipe) -> HealRecipe | None:
        """Return the recipe with this rung's steps, over which the learning rate runs its course; None for no heal."""
        if self.heal_fraction == 0:
            return None
        num_steps = max(round(self.heal_fraction * full.train.num_steps), min(1, full.train.num_steps))
        return replace(full, train=replace(full.train, num_steps=num_steps))


RUNGS = {
    rung.name: rung
    for rung in (
        Rung(name="unhealed", heal_fraction=0.0, score_fraction=0.25),
        Rung(name="short", heal_fraction=0.1, score_fraction=0.5),
        Rung(name="full", heal_fraction=1.0, score_fraction=1.0),
    )
}
"""The rungs of a probe, cheapest first."""


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """How an unpruned SLAM model is made.

    Attributes:
        text: For a decoder that starts from random weights: learn to repeat and translate text first.
        align: For a pretrained decoder: align the projector with its embeddings first (:mod:`slamlab.training.align`).
        speech: Train on speech: the projector, and the decoder too where it started from random weights.
        num_train: Training utterances a language.
        stack: Encoder frames joined into one input of the projector.
        projector_hidden: Width of the projector's hidden layer.
    """

    speech: TrainRecipe
    text: TrainRecipe | None = None
    align: TrainRecipe | None = None
    num_train: int = 1_000_000
    stack: int = 5
    projector_hidden: int = 2048


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A scale of experiment: what a sweep does when the user names nothing else."""

    name: str
    corpus: str
    """Where the speech comes from where the user does not say."""
    scale: dict[str, str]
    encoder: str
    cells: tuple[tuple[str, str], ...]
    base: dict[str, BaseRecipe]
    """Recipe by scale; the entry `*` serves the scales without one of their own."""
    heal: dict[str, HealRecipe]
    num_selection: int
    num_test: int
    decode_tokens_per_s: float = 12.0
    """Longest answer allowed, in tokens a second of audio (fast speech has about 4-5 words a second)."""
    decode_precision: Precision = "fp32"
    """Of the weights that decode. In fp32 an answer does not depend on what shares its batch."""
    eval_batch_size: int = 64
    cpus_per_trial: int = 1
    gpus_per_trial: int = 0

    @property
    def resources(self) -> dict[str, float]:
        """CPUs and GPUs that a trial takes for each of its devices, as Ray calls them."""
        return {"CPU": self.cpus_per_trial, "GPU": self.gpus_per_trial}

    def base_recipe(self, scale: str) -> BaseRecipe:
        """Return how a base of this scale is trained."""
        return self.base.get(scale, self.base["*"])

    def heal_recipe(self, scale: str) -> HealRecipe:
        """Return how a pruned model of this scale is healed."""
        return self.heal.get(scale, self.heal["*"])


LATER = {"gradient_checkpointing": False, "offload": False, "whole_layer": False}
"""What recipes had not from the beginning, and the value that stands for how it was: told only where it is another."""


HEAL_TARGETS: dict[str, dict[str, Any]] = {
    "joint": {},
    "projector": {"r": 0},
    "decoder": {"projector": False},
    "layer": {"whole_layer": True},
}
"""What a heal trains, by name, as changes to a recipe: LoRA and projector, one of the two, or the receiving layer whole
and the projector."""


def as_json(recipe: TrainRecipe | HealRecipe | BaseRecipe) -> dict[str, Any]:
    """Return a recipe as plain data, for fingerprints and records; one that older versions had, as they told it."""
    told = asdict(recipe)
    for part in (told, *(value for value in told.values() if isinstance(value, dict))):
        for name, value in LATER.items():
            if part.get(name) == value:
                del part[name]
    return told


PAPER_HEAL = TrainRecipe(num_steps=5_000, batch_size=8, peak_lr=5e-4, precision="bf16", zero_stage=2)
LARGE = ("7b", "8b", "9b")
"""Scales of 7 billion weights and more."""

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="pocket",
            corpus="pocket",
            scale={"qwen": "mini", "llama": "mini"},
            encoder="whisper-base",
            cells=(("asr", "en"), ("asr", "de"), ("st", "de")),
            base={
                "*": BaseRecipe(
                    text=TrainRecipe(num_steps=1200, batch_size=32, peak_lr=2e-3, weight_decay=0.01),
                    speech=TrainRecipe(num_steps=1000, batch_size=32, peak_lr=1e-3, weight_decay=0.01),
                    num_train=2000,
                    projector_hidden=256,
                ),
                "135m": BaseRecipe(
                    align=TrainRecipe(num_steps=800, batch_size=32, peak_lr=2e-3),
                    # In fp32: without AMX, torch's bf16 on a CPU took 1.8 times as long.
                    speech=TrainRecipe(num_steps=1200, batch_size=8, peak_lr=1e-3),
                    num_train=8000,
                    projector_hidden=1024,
                ),
            },
            heal={
                "*": HealRecipe(train=TrainRecipe(num_steps=200, batch_size=16, peak_lr=1e-3), num_train=800),
                "135m": HealRecipe(
                    # The rate by the selection split (asr en, layers 11-18 removed, 200 steps): WER 7.1 % at 5e-4 and
                    # 3.8 % at 2e-3, where the unpruned model's is 4.4 %.
                    train=TrainRecipe(num_steps=120, batch_size=8, peak_lr=2e-3),
                    num_train=960,
                ),
            },
            num_selection=240,
            num_test=300,
        ),
        Profile(
            name="paper",
            corpus="librispeech",
            scale={"qwen": "7b", "llama": "8b"},
            encoder="wavlm-large",
            cells=(("asr", "en"),),
            base={
                "*": BaseRecipe(
                    speech=TrainRecipe(num_steps=50_000, batch_size=8, peak_lr=5e-4, precision="bf16", zero_stage=2)
                )
            },
            heal={
                "*": HealRecipe(train=PAPER_HEAL),
                # Their weights leave less of a device to activations.
                **{scale: HealRecipe(train=replace(PAPER_HEAL, gradient_checkpointing=True)) for scale in LARGE},
            },
            num_selection=2_000,
            num_test=2_620,
            decode_precision="bf16",
            eval_batch_size=16,
            cpus_per_trial=4,
            gpus_per_trial=1,
        ),
    )
}
