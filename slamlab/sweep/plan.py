"""What a sweep will take, told before anything runs: trials, time, disk, price, and whether a budget suffices.

Only what is left counts: what the ledger of this very sweep knows is in the store. What another sweep left there that
this one would find is not foreseen. Times are those of :mod:`slamlab.sweep.timings`.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slamlab.search.joint import MAX_HEALS as MAX_JOINT_HEALS
from slamlab.search.strategies import expected_num_heals
from slamlab.sweep.bases import base_name, existing_folder
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import JOINT, Cell, joint_cell
from slamlab.sweep.settings import Settings
from slamlab.sweep.store import Store
from slamlab.sweep.timings import NO_TIME, Timings, Took
from slamlab.zoo.decoders import find_decoder

BYTES_A_WEIGHT = 4
JOINT_HEALS = 2.0
"""Heals that a joint search is expected to take: one at the edge that its cells' evidence names, one beside it."""


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What is left to do for one cell.

    Attributes:
        cell: The cell.
        origin: Where its base comes from: `shipped`, `given`, `trained` (kept in the store), or `to be trained`.
        num_layers: Layers of the decoder.
        num_known: Trials that have ended for good, without cheap looks.
        num_others: Trials beside the heals: the base, and the final scoring and the control of an answer of its own.
        num_looks: Looks of a curve at a model as it is cut; what else looks without a full heal is not foreseen.
        num_probes: Full heals expected, as :func:`~slamlab.search.strategies.expected_num_heals` says.
        max_probes: Heals at most.
        took: Time expected.
        disk_bytes: For the base and the healed models that may win.
    """

    cell: Cell
    origin: str
    num_layers: int
    num_known: int
    num_others: int
    num_probes: float
    max_probes: int
    took: Took
    disk_bytes: float
    num_looks: int = 0

    @property
    def device_s(self) -> float:
        """Device-seconds expected."""
        return self.took.device_s

    @property
    def is_estimated(self) -> bool:
        """Whether they are worked out, as nothing like it was ever timed."""
        return self.took.is_estimated


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do of a sweep.

    Attributes:
        cells: Of each cell, then of each joint answer.
        settings: The sweep.
        spent_s: Device-seconds that the sweep has spent so far.
    """

    cells: tuple[CellPlan, ...]
    settings: Settings
    spent_s: float

    @property
    def num_known(self) -> int:
        """Trials that have ended for good, without cheap looks."""
        return sum(cell.num_known for cell in self.cells)

    @property
    def num_expected(self) -> float:
        """Trials expected: of a new sweep a base, probes and a final scoring a cell."""
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
        """Device-seconds expected, of all devices together."""
        return sum(cell.device_s for cell in self.cells)

    @property
    def is_estimated(self) -> bool:
        """Whether a part of the time is worked out, not measured."""
        return any(cell.is_estimated for cell in self.cells)

    @property
    def wall_s(self) -> float:
        """Wall seconds expected with the workers asked for: a cell's trials wait for each other, joint ones for all."""
        joint_s, alone_s = (
            [cell.took.wall_s for cell in self.cells if (cell.cell.task == JOINT) == joint] for joint in (True, False)
        )
        return sum(map(self._shared, (alone_s, joint_s)))

    @property
    def disk_bytes(self) -> float:
        """Bytes the store will grow by."""
        return sum(cell.disk_bytes for cell in self.cells)

    def _shared(self, cells_s: Sequence[float]) -> float:
        """Return the time in which workers do the work of cells."""
        longest_s = 0.0 if self.settings.curve else max(cells_s, default=0.0)  # no look waits for another
        return max(sum(cells_s) / self.settings.workers, longest_s)


def estimate(settings: Settings, store: Store, campaign: Campaign | None = None) -> Estimate:
    """Return what is left to do of a sweep; runs nothing and changes nothing.

    Args:
        settings: The sweep.
        store: Its store.
        campaign: The sweep as it stands; None to read it from the store.
    """
    if campaign is None:
        with _as_it_stands(settings, store) as found:
            return _estimate(settings, store, found)
    return _estimate(settings, store, campaign)


def _estimate(settings: Settings, store: Store, campaign: Campaign | None) -> Estimate:
    timings = campaign.timings if campaign else Timings(settings, store.records())
    trained: set[tuple[str, str, str]] = set()
    cells = []
    for cell in settings.cells:
        found = existing_folder(cell, settings, store)
        trains = found is None and base_name(cell) not in trained
        trained.add(base_name(cell))
        cells.append(_cell_plan(settings, timings, campaign, cell, found[1] if found else None, trains))
    cells += [
        _joint_plan(settings, timings, campaign, joint)
        for joint in (dict.fromkeys(map(joint_cell, settings.cells)) if settings.joint else ())
    ]
    spent_s = campaign.budget.spent_s if campaign else 0.0
    return Estimate(cells=tuple(cells), settings=settings, spent_s=spent_s)


@contextmanager
def _as_it_stands(settings: Settings, store: Store) -> Iterator[Campaign | None]:
    """Open a sweep on a copy of its ledger, which may be one that runs; None where there is no ledger."""
    ledger = store.root / "ledger.db"
    if not ledger.is_file():
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        copy, looked_at = Path(folder) / "ledger.db", Store(store.address)
        with (
            closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        looked_at.ledger_url = f"sqlite:///{copy}"
        yield Campaign(settings, looked_at)


def _cell_plan(
    settings: Settings, timings: Timings, campaign: Campaign | None, cell: Cell, origin: str | None, trains: bool
) -> CellPlan:
    """Return what is left to do for a cell."""
    num_layers = find_decoder(cell.family, cell.scale).num_layers
    left = _left(campaign, cell, *_looks(settings, num_layers), answers=not (settings.joint or settings.curve))
    trains = trains and left.base
    took = timings.of("base", cell) * left.base + (timings.training(cell) if trains else NO_TIME)
    took += _answering(timings, cell, left, settings.control)
    if left.num_looks:
        took += timings.of("probe", cell, rung="unhealed") * left.num_looks
    model_bytes = find_decoder(cell.family, cell.scale).num_params_billion * 1e9 * BYTES_A_WEIGHT
    return CellPlan(
        cell=cell,
        origin=origin or "to be trained",
        num_layers=num_layers,
        num_known=left.num_known,
        num_others=left.base + left.final + (left.control and settings.control),
        num_probes=left.num_probes,
        max_probes=left.max_probes,
        took=took,
        disk_bytes=model_bytes * (left.num_probes / 2 + trains),
        num_looks=left.num_looks,
    )


def _joint_plan(settings: Settings, timings: Timings, campaign: Campaign | None, joint: Cell) -> CellPlan:
    """Return what is left to do for a joint answer: each of its heals is as long as its members' together."""
    spec = find_decoder(joint.family, joint.scale)
    members = [cell for cell in settings.cells if base_name(cell) == base_name(joint)]
    left = _left(campaign, joint, 0, JOINT_HEALS, MAX_JOINT_HEALS, answers=True)
    return CellPlan(
        cell=joint,
        origin="that of its members",
        num_layers=spec.num_layers,
        num_known=left.num_known,
        num_others=left.final + (left.control and settings.control),
        num_probes=left.num_probes,
        max_probes=left.max_probes,
        took=_answering(timings, members[0], left, settings.control, num_cells=len(members)),
        disk_bytes=spec.num_params_billion * 1e9 * BYTES_A_WEIGHT * bool(left.num_probes),
    )


def _answering(timings: Timings, cell: Cell, left: _Left, controls: bool, num_cells: int | None = None) -> Took:
    """Return the time of the heals that are left, and of the scoring of their answer."""
    kinds = ("probe", "final", "control") if num_cells is None else ("joint", "joint_final", "joint_control")
    probe, final, control = (timings.of(kind, cell, num_cells=num_cells or 1) for kind in kinds)
    counted = ((probe, left.num_probes), (final, left.final), (control, left.control and controls))
    return sum((took * number for took, number in counted if number), NO_TIME)


@dataclass(frozen=True, kw_only=True)
class _Left:
    """Trials of a cell that are left, and how many have ended."""

    num_known: int
    base: bool
    num_looks: int
    num_probes: float
    max_probes: int
    final: bool
    control: bool


def _left(
    campaign: Campaign | None, cell: Cell, num_looks: int, num_probes: float, max_probes: int, *, answers: bool
) -> _Left:
    """Return what is left of a cell's trials, given what a new one takes."""
    if campaign is None:
        return _Left(
            num_known=0,
            base=True,
            num_looks=num_looks,
            num_probes=num_probes,
            max_probes=max_probes,
            final=answers,
            control=answers,
        )
    ledger, settled = campaign.ledgers[cell], [key for key, one in campaign.ledgers[cell].probes.items() if one.settled]
    num_full = sum(key[2] == "full" for key in settled)
    searches = any(map(campaign.look, [cell, *(campaign.members(cell) if cell.task == JOINT else [])]))
    scoring = campaign.to_be_scored(cell) if answers and not searches else None
    # A search that goes on wants one more at least, however many it was expected to take.
    least = int(searches and (num_probes > 0))
    return _Left(
        num_known=num_full + sum(one.settled for one in ledger.singles.values()),
        base=cell.task != JOINT and not ledger.singles["base"].settled,
        num_looks=max(num_looks - (len(settled) - num_full), 0) if searches else 0,
        num_probes=max(num_probes - num_full, least) if searches else 0.0,
        max_probes=max(max_probes - num_full, least) if searches else 0,
        final=answers and (searches or (scoring is not None and not scoring.is_control)),
        control=answers and (searches or scoring is not None),
    )


def _looks(settings: Settings, num_layers: int) -> tuple[int, float, int]:
    """Return how many looks without a heal are planned for a cell, how many heals, and how many at most."""
    if curve := settings.curve:
        num_blocks = curve.max_blocks(num_layers, settings.seed)
        num_heals = num_blocks if curve.healed else 0
        return num_blocks, float(num_heals), num_heals
    return 0, *expected_num_heals(settings.sampler, num_layers, max(num_layers - 1, 1), settings.max_heals)


def hours(seconds: float) -> str:
    """Return a time as hours, to three digits at least."""
    return f"{seconds / 3600:,.2f}" if seconds >= 3600 else f"{seconds / 3600:.3g}"
