"""What a sweep will take, told before anything runs: trials, time, disk, price.

Times are those of the store's records where there are any of a scale, else of the pocket profile's own figures, else
estimated by :mod:`slamlab.sweep.gpu_time`, and said to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from slamlab.search.joint import MAX_HEALS as MAX_JOINT_HEALS
from slamlab.search.strategies import expected_num_heals
from slamlab.sweep.bases import base_name, existing_folder
from slamlab.sweep.cells import Cell, joint_cell
from slamlab.sweep.gpu_time import GPU, UTILISATION, base_gpu_s, gpu_seconds
from slamlab.sweep.settings import Settings
from slamlab.sweep.store import Store
from slamlab.zoo.decoders import find_decoder
from slamlab.zoo.profiles import RUNGS

# Seconds on one core of a server CPU, measured with the pocket profile; used until the store has timings of its own.
POCKET_STEP_S = {"mini": 0.2, "135m": 4.0}
POCKET_SCORE_S = {"mini": 15.0, "135m": 300.0}
BYTES_A_WEIGHT = 4
JOINT_HEALS = 2.0
"""Heals that a joint search is expected to take: one at the edge that its cells' evidence names, one beside it."""
KINDS = ("base", "probe", "final")


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What is expected of one cell.

    Attributes:
        cell: The cell.
        origin: Where its base comes from: `shipped`, `given`, `trained` (kept in the store), or `to be trained`.
        num_layers: Layers of the decoder.
        num_others: Trials beside the heals: the base, and the final scoring and the control of an answer of its own.
        num_looks: Looks of a curve at a model as it is cut; what else looks without a full heal is not foreseen.
        num_probes: Full heals expected, as :func:`~slamlab.search.strategies.expected_num_heals` says.
        max_probes: Heals at most.
        device_s: Device-seconds expected.
        is_estimated: Whether they are worked out, as nothing like it was ever timed.
        disk_bytes: For the base and the healed models that may win.
    """

    cell: Cell
    origin: str
    num_layers: int
    num_others: int
    num_probes: float
    max_probes: int
    device_s: float
    is_estimated: bool
    disk_bytes: float
    num_looks: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is expected of a sweep."""

    cells: tuple[CellPlan, ...]
    workers: int
    controls: bool = False

    @property
    def num_expected(self) -> float:
        """Trials expected: a base, probes and a final scoring a cell."""
        return sum(cell.num_probes + cell.num_others for cell in self.cells)

    @property
    def max_trials(self) -> int:
        """Trials at most, not counting second attempts."""
        return sum(cell.max_probes + cell.num_others for cell in self.cells)

    @property
    def num_looks(self) -> int:
        """Looks of curves at models as they are cut."""
        return sum(cell.num_looks for cell in self.cells)

    @property
    def device_s(self) -> float:
        """Device-seconds expected."""
        return sum(cell.device_s for cell in self.cells)

    @property
    def is_estimated(self) -> bool:
        """Whether a part of the time is worked out, not measured."""
        return any(cell.is_estimated for cell in self.cells)

    @property
    def wall_s(self) -> float:
        """Wall seconds expected with the workers asked for."""
        lanes = self.workers if self.num_looks else min(self.workers, len(self.cells))  # no look waits for another
        return self.device_s / lanes

    @property
    def disk_bytes(self) -> float:
        """Bytes the store will grow by."""
        return sum(cell.disk_bytes for cell in self.cells)


def estimate(settings: Settings, store: Store) -> Estimate:
    """Return what a sweep is expected to take; runs nothing."""
    timings = _timings(store)
    trained: set[tuple[str, str, str]] = set()
    cells = []
    for cell in settings.cells:
        spec = find_decoder(cell.family, cell.scale)
        found = existing_folder(cell, settings, store)
        name = (cell.family, cell.scale, cell.encoder)
        trains = found is None and name not in trained
        trained.add(name)
        num_looks, num_probes, max_probes = _looks(settings, spec.num_layers)
        answers = not (settings.joint or settings.curve)
        kinds = KINDS if answers or settings.joint else KINDS[:2]
        seconds, is_estimated = _seconds(settings, timings, cell, kinds)
        device_s = seconds["base"] + num_probes * seconds["probe"] + (seconds["final"] if answers else 0)
        device_s += seconds["probe"] + seconds["final"] if answers and settings.control else 0
        # A base is scored on all splits, mapped beside: a look scores a part of one.
        device_s += num_looks * seconds["base"] / 3 * RUNGS["unhealed"].score_fraction
        device_s += _train_seconds(settings, cell) if trains else 0.0
        model_bytes = spec.num_params_billion * 1e9 * BYTES_A_WEIGHT
        cells.append(
            CellPlan(
                cell=cell,
                origin=found[1] if found else "to be trained",
                num_layers=spec.num_layers,
                num_others=1 + answers + (answers and settings.control),
                num_probes=num_probes,
                max_probes=max_probes,
                device_s=device_s,
                is_estimated=is_estimated or (trains and cell.scale not in POCKET_STEP_S),
                disk_bytes=model_bytes * (num_probes / 2 + trains),
                num_looks=num_looks,
            )
        )
    if settings.joint:
        cells += [_joint_plan(settings, timings, joint) for joint in dict.fromkeys(map(joint_cell, settings.cells))]
    return Estimate(cells=tuple(cells), workers=settings.workers, controls=settings.control)


def _looks(settings: Settings, num_layers: int) -> tuple[int, float, int]:
    """Return how many looks without a heal are planned for a cell, how many heals, and how many at most."""
    if curve := settings.curve:
        num_blocks = curve.max_blocks(num_layers, settings.seed)
        num_heals = num_blocks if curve.healed else 0
        return num_blocks, float(num_heals), num_heals
    return 0, *expected_num_heals(settings.sampler, num_layers, max(num_layers - 1, 1), settings.max_heals)


def _joint_plan(settings: Settings, timings: dict[tuple[str, str], list[float]], joint: Cell) -> CellPlan:
    """Return what is expected of a joint search: each of its heals is as long as its members' together."""
    spec = find_decoder(joint.family, joint.scale)
    members = [cell for cell in settings.cells if base_name(cell) == base_name(joint)]
    seconds, is_estimated = _seconds(settings, timings, members[0], KINDS)
    device_s = len(members) * (JOINT_HEALS * seconds["probe"] + seconds["final"])
    device_s += len(members) * (seconds["probe"] + seconds["final"]) if settings.control else 0
    return CellPlan(
        cell=joint,
        origin="that of its members",
        num_layers=spec.num_layers,
        num_others=1 + settings.control,
        num_probes=JOINT_HEALS,
        max_probes=MAX_JOINT_HEALS,
        device_s=device_s,
        is_estimated=is_estimated,
        disk_bytes=spec.num_params_billion * 1e9 * BYTES_A_WEIGHT,
    )


def table(expected: Estimate, gpu_price: float | None = None) -> Table:
    """Return an estimate as a table for the terminal.

    Args:
        expected: The estimate.
        gpu_price: Of a GPU-hour, in any currency; None to name no price.
    """
    shown = Table(title="Plan: nothing has been run", title_justify="left", caption_justify="left")
    for heading in ("cell", "layers", "base", "heals expected", "at most", "device time", "disk"):
        shown.add_column(heading, justify="left" if heading in ("cell", "base") else "right")
    for cell in expected.cells:
        shown.add_row(
            cell.cell.name,
            str(cell.num_layers),
            cell.origin,
            f"{cell.num_probes:.1f}",
            str(cell.max_probes),
            "~" * cell.is_estimated + clock(cell.device_s),
            f"{cell.disk_bytes / 1e9:.2f} GB",
        )
    device, wall = ("~" * expected.is_estimated + clock(s) for s in (expected.device_s, expected.wall_s))
    each = f"a base, its heals{', a final scoring and a control' if expected.controls else ' and a final scoring'}"
    each += " for each cell"
    if expected.num_looks:
        each = f"a base and its heals for each cell; {expected.num_looks} looks at most without a heal besides"
    told = (
        f"About {expected.num_expected:.0f} trials, at most {expected.max_trials} ({each}); device time {device}, wall "
        f"time {wall} with {expected.workers} at a time; disk {expected.disk_bytes / 1e9:.2f} GB."
    )
    if expected.is_estimated:
        model = f"one {GPU} at {UTILISATION:.0%} of its peak, encoders left out"
        told += f" Times with ~ are worked out, not measured: {model}."
    if gpu_price is not None:
        hours = expected.device_s / 3600
        told += f" Price: {hours:,.1f} GPU-hours at {gpu_price:g} each are {hours * gpu_price:,.2f}."
    shown.caption = told
    return shown


def maps_table(settings: Settings, store: Store, *, lora_steps: int) -> Table:
    """Return what making the maps of cells is expected to take, as a table for the terminal; runs nothing.

    Args:
        settings: Of the cells.
        store: Whose timings are used.
        lora_steps: Steps a cell that LoRA adapts the decoder for, over all cells of a base together; 0 for no such map.
    """
    timings = _timings(store)
    shown = Table(title="Plan: nothing has been run", title_justify="left", caption_justify="left")
    for heading in ("cell", "layers", "base", "LoRA steps of its base", "device time"):
        shown.add_column(heading, justify="left" if heading in ("cell", "base") else "right")
    total_s: float | None = 0.0
    seen: set[tuple[str, str, str]] = set()
    for cell in settings.cells:
        found = existing_folder(cell, settings, store)
        steps = lora_steps * sum(base_name(one) == base_name(cell) for one in settings.cells)
        device_s = None
        if seconds := _known_seconds(timings, cell, KINDS[:1]) or _pocket_seconds(settings, cell):
            device_s = seconds["base"] * (1 + bool(lora_steps) / 3)  # a base is scored on three splits, LoRA on one
            if base_name(cell) not in seen:  # what cells share is made for the first of them
                device_s += steps * POCKET_STEP_S.get(cell.scale, 0.0)
                device_s += 0.0 if found else _train_seconds(settings, cell)
        seen.add(base_name(cell))
        total_s = None if total_s is None or device_s is None else total_s + device_s
        shown.add_row(
            cell.name,
            str(find_decoder(cell.family, cell.scale).num_layers),
            found[1] if found else "to be trained",
            str(steps) if lora_steps else "none",
            "never timed" if device_s is None else clock(device_s),
        )
    num_models = len(settings.cells) * (1 + bool(lora_steps))
    time = "never timed" if total_s is None else clock(total_s)
    shown.caption = f"Maps of {num_models} models, one after the other; device time {time}."
    return shown


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _timings(store: Store) -> dict[tuple[str, str], list[float]]:
    """Return the device-seconds of finished trials by scale and kind, without cheap looks."""
    timings: dict[tuple[str, str], list[float]] = {}
    for record in store.records():
        if record.get("rung", "full") == "full":
            timings.setdefault((record["cell"]["scale"], record["kind"]), []).append(record["device_seconds"])
    return timings


def _known_seconds(
    timings: dict[tuple[str, str], list[float]], cell: Cell, kinds: Sequence[str]
) -> dict[str, float] | None:
    if not all((cell.scale, kind) in timings for kind in kinds):
        return None
    return {kind: fmean(timings[cell.scale, kind]) for kind in kinds}


def _seconds(
    settings: Settings, timings: dict[tuple[str, str], list[float]], cell: Cell, kinds: Sequence[str]
) -> tuple[dict[str, float], bool]:
    """Return the device-seconds of a cell's trials by kind, and whether they are worked out for want of timings."""
    seconds = _known_seconds(timings, cell, kinds) or _pocket_seconds(settings, cell)
    return (seconds, False) if seconds else (gpu_seconds(settings, cell), True)


def _was_timed(settings: Settings, cell: Cell) -> bool:
    """Say whether a core's times for a cell are known: nothing was timed for a profile that asks for GPUs."""
    return cell.scale in POCKET_STEP_S and not settings.recipes().gpus_per_trial


def _pocket_seconds(settings: Settings, cell: Cell) -> dict[str, float] | None:
    if not _was_timed(settings, cell):
        return None
    score_s = POCKET_SCORE_S[cell.scale]
    heal_s = settings.heal_recipe(cell).train.num_steps * POCKET_STEP_S[cell.scale]
    return {"base": 3 * score_s, "probe": heal_s + score_s, "final": 2 * score_s}


def _train_seconds(settings: Settings, cell: Cell) -> float:
    if not _was_timed(settings, cell):
        return base_gpu_s(settings, cell)
    recipe = settings.recipes().base_recipe(cell.scale)
    stages: Iterable[int] = (
        stage.num_steps for stage in (recipe.text, recipe.align, recipe.speech) if stage is not None
    )
    return 2 * sum(stages) * POCKET_STEP_S[cell.scale]
