"""What the trials of a sweep take, told before they run: for a plan, and for a budget to be kept.

Times are those of the store's records where there are any of a scale, a kind and a heal of as much work; else the
pocket profile's own figures; else estimated by :mod:`slamlab.sweep.gpu_time`, and marked so. A heal on several devices
is taken to do the same work in all, in a part of the time: device-seconds count every device that works.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from slamlab.sweep.cells import Cell
from slamlab.sweep.gpu_time import base_gpu_s, gpu_seconds
from slamlab.sweep.settings import Settings
from slamlab.zoo.profiles import RUNGS

# Seconds on one core of a server CPU, measured with the pocket profile; used until the store has timings of its own.
POCKET_STEP_S = {"mini": 0.2, "135m": 4.0}
POCKET_SCORE_S = {"mini": 15.0, "135m": 300.0}
HEALS = ("probe", "joint", "control", "joint_control")
"""Kinds of trial that heal."""
OF_ONE_CELL = {"joint": "probe", "joint_final": "final", "joint_control": "control"}
"""Trials that do for all cells of a base what another kind does for one."""
NUM_SPLITS = 3
"""Scored with a base; a look scores one, or a part of it."""

Key = tuple[str, str, str, int, tuple[int, int] | None]
"""Scale, kind, rung, number of cells, and steps and batch of the heal."""


@dataclass(frozen=True, kw_only=True)
class Took:
    """Time of a trial, or of several one after the other.

    Attributes:
        device_s: Seconds of all devices together.
        wall_s: Seconds from beginning to end.
        is_estimated: Whether a part is worked out, as nothing like it was ever timed.
    """

    device_s: float
    wall_s: float
    is_estimated: bool = False

    def __add__(self, other: Took) -> Took:
        return Took(
            device_s=self.device_s + other.device_s,
            wall_s=self.wall_s + other.wall_s,
            is_estimated=self.is_estimated or other.is_estimated,
        )

    def __mul__(self, times: float) -> Took:
        return Took(device_s=self.device_s * times, wall_s=self.wall_s * times, is_estimated=self.is_estimated)


NO_TIME = Took(device_s=0.0, wall_s=0.0)


class Timings:
    """What trials of a sweep are expected to take.

    Args:
        settings: The sweep.
        records: Of finished trials, of this sweep or others.
    """

    def __init__(self, settings: Settings, records: Iterable[Mapping[str, Any]]) -> None:
        self._settings = settings
        self._known: dict[Key, dict[int, list[tuple[float, float]]]] = {}  # by devices
        self._seen: set[str] = set()
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Learn from a finished trial, once."""
        if record["fingerprint"] in self._seen:
            return
        self._seen.add(record["fingerprint"])
        facts, kind, num_cells = record.get("facts", {}), record["kind"], len(record.get("members", [record["cell"]]))
        facts = facts.get("pruned", facts)
        train = (facts.get("heal") or {}).get("train")
        work = (train["num_steps"], train["batch_size"]) if train and kind in HEALS else None
        key = record["cell"]["scale"], kind, record.get("rung", "full"), num_cells, work
        took = record["device_seconds"], record["wall_seconds"]
        self._known.setdefault(key, {}).setdefault(facts.get("devices", 1), []).append(took)

    def of(self, kind: str, cell: Cell, *, rung: str = "full", num_cells: int = 1) -> Took:
        """Return what a trial is expected to take.

        Args:
            kind: As a :class:`~slamlab.sweep.settings.Request` names it. A base's training is not among it.
            cell: Whose trial it is; of a joint one, any member.
            rung: How closely a probe looks.
            num_cells: Members of a joint trial.
        """
        if known := self._measured(kind, cell, rung, num_cells):
            return known
        if alone := OF_ONE_CELL.get(kind):
            return self.of(alone, cell) * num_cells
        if kind == "control":  # a probe's heal, scored where a final is
            return self.of("probe", cell) + self.of("final", cell)
        if rung != "full":
            whole, score, share = self.of(kind, cell), self._score(cell), RUNGS[rung]
            scoring = score * share.score_fraction
            healing = Took(
                device_s=max(whole.device_s - score.device_s, 0.0),
                wall_s=max(whole.wall_s - score.wall_s, 0.0),
                is_estimated=whole.is_estimated,
            )
            return healing * share.heal_fraction + scoring
        seconds, is_estimated = self._assumed(cell)
        heal_s = seconds["heal"] if kind == "probe" else 0.0
        wall_s = seconds[kind] - heal_s + heal_s / self._settings.devices
        return Took(device_s=seconds[kind], wall_s=wall_s, is_estimated=is_estimated)

    def training(self, cell: Cell) -> Took:
        """Return what training a cell's base is expected to take, on one device."""
        if not self._is_pocket(cell):
            seconds = base_gpu_s(self._settings, cell)
            return Took(device_s=seconds, wall_s=seconds, is_estimated=True)
        recipe = self._settings.recipes().base_recipe(cell.scale)
        stages = [stage.num_steps for stage in (recipe.text, recipe.align, recipe.speech) if stage is not None]
        seconds = 2 * sum(stages) * POCKET_STEP_S[cell.scale]
        return Took(device_s=seconds, wall_s=seconds)

    def _score(self, cell: Cell) -> Took:
        """Return what scoring one split is expected to take."""
        return self.of("base", cell) * (1 / NUM_SPLITS)

    def _measured(self, kind: str, cell: Cell, rung: str, num_cells: int) -> Took | None:
        recipe = RUNGS[rung].heal_recipe(self._settings.heal_recipe(cell)) if kind in HEALS else None
        work = (recipe.train.num_steps * num_cells, recipe.train.batch_size) if recipe else None
        known = self._known.get((cell.scale, kind, rung, num_cells, work))
        if known is None:
            return None
        if kind == "base":  # the first of some has trained it too
            device_s, wall_s = min(one for took in known.values() for one in took)
            return Took(device_s=device_s, wall_s=wall_s)
        devices = self._settings.devices
        if devices in known or kind not in HEALS:
            took = known.get(devices) or [one for several in known.values() for one in several]
            return Took(device_s=fmean(device for device, _ in took), wall_s=fmean(wall for _, wall in took))
        # Timed on another number of devices only: the same work, shared out anew but for the scoring.
        device_s = fmean(device for took in known.values() for device, _ in took)
        scoring_s = min(self._score(cell).device_s * num_cells, device_s)
        return Took(device_s=device_s, wall_s=scoring_s + (device_s - scoring_s) / devices)

    def _assumed(self, cell: Cell) -> tuple[dict[str, float], bool]:
        """Return device-seconds by kind, of a probe's heal too, and whether they are worked out."""
        if not self._is_pocket(cell):
            return gpu_seconds(self._settings, cell), True
        score_s = POCKET_SCORE_S[cell.scale]
        heal_s = self._settings.heal_recipe(cell).train.num_steps * POCKET_STEP_S[cell.scale]
        return {"base": NUM_SPLITS * score_s, "probe": heal_s + score_s, "final": 2 * score_s, "heal": heal_s}, False

    def _is_pocket(self, cell: Cell) -> bool:
        """Say whether a core's times for a cell are known: nothing was timed for a profile that asks for GPUs."""
        return cell.scale in POCKET_STEP_S and not self._settings.recipes().gpus_per_trial
