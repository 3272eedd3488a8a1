"""What a sweep was asked to do, as plain data: made by a script, carried to every worker, kept in the records."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slamlab.errors import AssetError, OptionError
from slamlab.search.curve import Curve
from slamlab.search.evidence import CONVENTIONS
from slamlab.search.frontier import PRICE
from slamlab.search.strategies import SAMPLERS
from slamlab.sweep.cells import Cell
from slamlab.sweep.store import fingerprint
from slamlab.zoo.decoders import find_decoder
from slamlab.zoo.profiles import PROFILES, RUNGS, HealRecipe, Profile, TrainRecipe, as_json

TRIAL_REVISION = 3
"""Raised when a change of this package changes what a trial computes: old records then no longer serve."""


EARLY_STOP = 0.001
"""Strict: a stop against the evidence costs a block judged wrongly, and what it saves is a part of one decoding."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One sweep.

    Attributes:
        name: Names the report's folder.
        profile: `pocket` or `paper`: where every recipe comes from.
        cells: The questions.
        corpus: Name or manifest, as :func:`slamlab.zoo.corpora.open_corpus` takes it.
        corpus_fingerprint: What the corpus was when the sweep began.
        base: `auto` (shipped, else kept in the store, else trained), `train` (never the shipped one), or a folder.
        base_identities: What the base of each family, scale and encoder is made of.
        tolerance: Largest relative degradation that is accepted.
        alpha: A verdict holds with probability 1 - alpha.
        seed: Seed of training, healing and resampling.
        heal: Changes to the profile's healing recipe.
        num_selection: Utterances that the search scores on, None for the profile's.
        num_test: Utterances of the reported figures, None for the profile's.
        store: Folder or URL of the store.
        workers: Trials at the same time.
        devices: GPUs that one heal takes, or CPU workers where the profile has no GPU.
        sampler: Which strategy chooses the blocks, of :data:`slamlab.search.strategies.SAMPLERS`.
        price: Layers that a full heal must promise (frontier).
        max_heals: Full heals a cell at most, None for the strategy's own limit.
        rungs: Looks that may be taken; `full` always is.
        joint: Whether one block is wanted for all cells of a base together.
        control: Whether each answer is also compared with the same heal of the whole decoder.
        convention: What a block is judged by beforehand, of :data:`slamlab.search.evidence.CONVENTIONS`.
        curve: What is looked at where a curve over depths is wanted in place of an answer: no sampler chooses, then.
        num_beams: Beams of decoding; 1 decodes greedily, as in the paper.
        resample: What the bootstrap draws: `utterance` or `speaker`.
        early_stop: Chance accepted that a probe's scoring stops although the whole selection split would tell
            otherwise; 0 to score every utterance.
        max_device_hours: Device-hours that the sweep may take, None for any number; see :mod:`slamlab.sweep.budget`.
        max_price: The same as a price, in the currency of `gpu_price`.
        gpu_price: Of a device-hour.
    """

    name: str
    profile: str
    cells: tuple[Cell, ...]
    corpus: str
    corpus_fingerprint: str
    store: Path | str
    base: str = "auto"
    base_identities: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.25
    alpha: float = 0.05
    seed: int = 0
    heal: Mapping[str, Any]
    num_selection: int
    num_test: int
    workers: int = 1
    devices: int = 1
    sampler: str = "frontier"
    price: float = PRICE
    max_heals: int | None = None
    rungs: tuple[str, ...] = ("full",)
    joint: bool = False
    control: bool = False
    convention: str = "gromov"
    curve: Curve | None = None
    num_beams: int = 1
    resample: Literal["utterance", "speaker"] = "utterance"
    early_stop: float = EARLY_STOP
    max_device_hours: float | None = None
    max_price: float | None = None
    gpu_price: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?!\.+$)[\w.][\w.-]*", self.name):  # it names a file: neither . nor ..
            raise OptionError("a name has letters, digits, dots and dashes", repr(self.name), "pass another --name")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise OptionError("the tolerance is 0 or more", self.tolerance, "pass for example --tolerance 0.25")
        if not 0 < self.alpha < 0.5:
            raise OptionError("alpha lies between 0 and 0.5", self.alpha, "pass for example --alpha 0.05")
        if self.seed < 0:
            raise OptionError("the seed is 0 or more", self.seed, "pass for example --seed 0")
        if self.num_selection < 2 or self.num_test < 2:
            raise OptionError(
                "at least 2 utterances are scored", min(self.num_selection, self.num_test), "ask for more"
            )
        if self.workers < 1:
            raise OptionError("at least 1 trial runs at a time", self.workers, "pass --workers 1 or more")
        if self.devices < 1:
            raise OptionError("a heal takes 1 device or more", self.devices, "pass --devices 1 or more")
        if self.base not in ("auto", "train") and not Path(self.base).is_dir():
            raise AssetError("--base is auto, train, or a folder", self.base, "give a folder that slamlab wrote")
        if self.sampler not in SAMPLERS:
            raise OptionError(f"a sampler is one of {', '.join(SAMPLERS)}", self.sampler, "choose one of them")
        if not (math.isfinite(self.price) and self.price > 0):
            raise OptionError("the price of a heal is above 0 layers", self.price, f"pass for example --price {PRICE}")
        if self.max_heals is not None and self.max_heals < 1:
            raise OptionError("a cell takes 1 heal or more", self.max_heals, "pass --max-heals 1 or more")
        if self.convention not in CONVENTIONS:
            raise OptionError(
                f"a convention is {' or '.join(CONVENTIONS)}", self.convention, "choose one of them with --convention"
            )
        if self.num_beams < 1:
            raise OptionError("decoding keeps 1 beam or more", self.num_beams, "pass --beams 1 for greedy decoding")
        if self.resample not in ("utterance", "speaker"):
            raise OptionError("a bootstrap draws an utterance or a speaker", self.resample, "choose one of them")
        if not 0 <= self.early_stop < 0.5:
            raise OptionError(
                "the chance of a wrong early stop is 0 or more and below 0.5",
                self.early_stop,
                f"pass for example --early-stop {EARLY_STOP}, or 0 to score every utterance",
            )
        for option in ("max_device_hours", "max_price", "gpu_price"):
            value = getattr(self, option)
            if value is not None and not (math.isfinite(value) and value >= 0):
                option = "--" + option.replace("_", "-")
                raise OptionError(f"{option} is 0 or more", value, "pass a larger number, or leave it out")
        if self.max_price is not None and not self.gpu_price:
            raise OptionError(
                "a budget as a price needs the price of a device-hour, above 0",
                f"--max-price {self.max_price:g} {'alone' if self.gpu_price is None else 'at a price of 0'}",
                "pass for example --gpu-price 2.50, or give the budget as --max-device-hours",
            )
        for rung in self.rungs:
            if rung not in RUNGS:
                raise OptionError(f"a rung is one of {', '.join(RUNGS)}", rung, "choose among them")
        if self.sampler != "frontier" and set(self.rungs) != {"full"}:
            raise OptionError(
                "only the sampler frontier takes cheap looks",
                f"--sampler {self.sampler} with --rungs {','.join(self.rungs)}",
                "leave --rungs out, or take frontier",
            )
        for cell in self.cells:
            train = self.heal_recipe(cell).train
            if train.batch_size // train.accumulation % self.devices:
                raise OptionError(
                    f"the utterances of a healing step divide evenly among the {self.devices} devices",
                    train.batch_size,
                    "pass --heal-batch or --devices so that they do",
                )
            if self.curve:
                self.curve.depths_of(find_decoder(cell.family, cell.scale).num_layers)

    @property
    def budget_s(self) -> float | None:
        """Device-seconds that the sweep may take, by the stricter of its budgets; None where it has none."""
        hours = [] if self.max_device_hours is None else [self.max_device_hours]
        if self.max_price is not None and self.gpu_price:
            hours.append(self.max_price / self.gpu_price)
        return 3600 * min(hours) if hours else None

    def recipes(self) -> Profile:
        """Return the profile."""
        return PROFILES[self.profile]

    def heal_recipe(self, cell: Cell) -> HealRecipe:
        """Return how the probes of a cell are healed: the profile's recipe with this sweep's changes."""
        recipe = asdict(self.recipes().heal_recipe(cell.scale))
        train = recipe.pop("train")
        for name, value in self.heal.items():
            (train if name in train else recipe)[name] = value
        return HealRecipe(train=TrainRecipe(**train), **recipe)

    def question(self, cell: Cell) -> str:
        """Return the fingerprint of what a cell's study asks: equal means the same study goes on."""
        return fingerprint(
            {
                "revision": TRIAL_REVISION,
                "cell": cell.as_dict(),
                "corpus": self.corpus_fingerprint,
                "base": self.base if self.base in ("auto", "train") else str(Path(self.base).absolute()),
                "base_identity": self.base_identities.get(f"{cell.family} {cell.scale} {cell.encoder}"),
                "tolerance": self.tolerance,
                "alpha": self.alpha,
                "seed": self.seed,
                "heal": as_json(self.heal_recipe(cell)),
                "selection": self.num_selection,
                "test": self.num_test,
                "profile": self.profile,
                "num_beams": self.num_beams,
                "resample": self.resample,
                "early_stop": self.early_stop,
                **({"devices": self.devices} if self.devices > 1 else {}),
                **({"convention": self.convention} if self.convention != "gromov" else {}),  # older studies go on
            }
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One trial of a sweep, as the searcher hands it to a worker.

    Attributes:
        kind: `base` scores the unpruned model and maps its redundancy; `probe` removes a block, heals, and scores on
            the selection split; `final` scores a full probe's model on the splits that are reported; `control` removes
            nothing, heals, and scores on these. `joint`, `joint_final` and `joint_control` do the same as `probe`,
            `final` and `control` with one model for all cells of a base.
        cell: The cell; of a joint, that of :func:`~slamlab.sweep.cells.joint_cell`.
        start: First layer removed; the base has all. Of a control, the layer that its heal puts LoRA on.
        depth: Layers removed.
        rung: How closely a probe looks, as in :data:`~slamlab.zoo.profiles.RUNGS`.
        repeat: Which heal of this very block it is, from 0: each has a seed of its own, so that repeats show the
            spread between heals.
        attempt: 1, or 2 after a failure.

    Raises:
        OptionError: An unknown rung, a rung below full that is no probe's, or a repeat below 0.
    """

    kind: Literal["base", "probe", "final", "control", "joint", "joint_final", "joint_control"]
    cell: Cell
    start: int = 0
    depth: int = 0
    rung: str = "full"
    repeat: int = 0
    attempt: int = 1

    def __post_init__(self) -> None:
        if self.rung not in RUNGS:
            raise OptionError(f"a rung is one of {', '.join(RUNGS)}", self.rung, "choose one of them")
        if self.rung != "full" and self.kind != "probe":
            raise OptionError("only a probe looks less than fully", f"a {self.kind} {self.rung}", "ask for a probe")
        if self.repeat < 0:
            raise OptionError("repeats count from 0", self.repeat, "ask for repeat 0 first")

    @property
    def is_probe(self) -> bool:
        """Whether it is a look at a block, which a search has chosen."""
        return self.kind in ("probe", "joint")

    @property
    def is_joint(self) -> bool:
        """Whether one model answers for all cells of a base."""
        return self.kind in ("joint", "joint_final", "joint_control")

    @property
    def is_control(self) -> bool:
        """Whether nothing is removed before the heal."""
        return self.kind in ("control", "joint_control")

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Request:
        """Return the request that :meth:`as_dict` gave."""
        return cls(**{**data, "cell": Cell(**data["cell"])})
