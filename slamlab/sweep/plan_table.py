"""Plans as tables and sentences for the terminal."""

from __future__ import annotations

from rich.table import Table

from slamlab.sweep.bases import base_name, existing_folder
from slamlab.sweep.gpu_time import GPU, UTILISATION
from slamlab.sweep.plan import Estimate, hours
from slamlab.sweep.settings import Settings
from slamlab.sweep.standing import clock
from slamlab.sweep.store import Store
from slamlab.sweep.timings import POCKET_STEP_S, Timings
from slamlab.zoo.decoders import find_decoder


def table(expected: Estimate) -> Table:
    """Return an estimate as a table for the terminal, with a price where the sweep has one of a device-hour."""
    shown = Table(title="Plan: nothing has been run", title_justify="left", caption_justify="left")
    headings = ["cell", "layers", "base", "heals expected", "at most", "device time", "disk"]
    if expected.num_known:
        headings.insert(3, "in the store")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading in ("cell", "base") else "right")
    for cell in expected.cells:
        shown.add_row(
            cell.cell.name,
            str(cell.num_layers),
            cell.origin,
            *([str(cell.num_known)] if expected.num_known else []),
            f"{cell.num_probes:.1f}",
            str(cell.max_probes),
            "~" * cell.is_estimated + clock(cell.device_s),
            f"{cell.disk_bytes / 1e9:.2f} GB",
        )
    shown.caption = " ".join([*_in_words(expected), *budget_in_words(expected)])
    return shown


def _in_words(expected: Estimate) -> list[str]:
    """Return an estimate as sentences."""
    settings, known = expected.settings, expected.num_known
    told = []
    if known:
        whole = f"{known + expected.num_expected:.0f}"
        told.append(f"{known} of about {whole} trials are in the store; what follows is what is left.")
    if not (expected.num_expected or expected.num_looks):
        return [*told, "Nothing is left to compute."]
    device, wall = ("~" * expected.is_estimated + clock(s) for s in (expected.device_s, expected.wall_s))
    each = f"a base, its heals{', a final scoring and a control' if settings.control else ' and a final scoring'}"
    each += " for each cell"
    if expected.num_looks:
        each = f"a base and its heals for each cell; {expected.num_looks} looks at most without a heal besides"
    on = f", each heal on {settings.devices} devices" if settings.devices > 1 else ""
    all_of = " of all devices together" if settings.devices > 1 else ""
    told.append(
        f"About {expected.num_expected:.0f} trials, at most {expected.max_trials} ({each}); device time {device}"
        f"{all_of}, wall time {wall} with {settings.workers} at a time{on}; disk {expected.disk_bytes / 1e9:.2f} GB."
    )
    if expected.is_estimated:
        model = f"one {GPU} at {UTILISATION:.0%} of its peak, encoders left out"
        told.append(f"Times with ~ are worked out, not measured: {model}.")
    if settings.gpu_price is not None:
        hours = expected.device_s / 3600
        told.append(
            f"Price: {hours:,.1f} GPU-hours at {settings.gpu_price:g} each are {hours * settings.gpu_price:,.2f}."
        )
    return told


def budget_in_words(expected: Estimate) -> list[str]:
    """Return as sentences whether a sweep's budget is expected to suffice; none where it has no budget."""
    limit_s = expected.settings.budget_s
    if limit_s is None:
        return []
    spent = f", {hours(expected.spent_s)} of them spent," if expected.spent_s else ""
    missing_s = expected.spent_s + expected.device_s - limit_s
    told = f"The budget of {hours(limit_s)} device-hours{spent} is "
    if missing_s <= 0:
        return [f"{told}expected to suffice."]
    return [
        f"{told}not expected to suffice: {hours(missing_s)} more would be needed. Searches are cut short then, and "
        "what was found by then is scored."
    ]


def maps_table(settings: Settings, store: Store, *, lora_steps: int) -> Table:
    """Return what making the maps of cells is expected to take, as a table for the terminal; runs nothing.

    Args:
        settings: Of the cells.
        store: Whose timings are used.
        lora_steps: Steps a cell that LoRA adapts the decoder for, over all cells of a base together; 0 for no such map.
    """
    timings = Timings(settings, store.records())
    shown = Table(title="Plan: nothing has been run", title_justify="left", caption_justify="left")
    for heading in ("cell", "layers", "base", "LoRA steps of its base", "device time"):
        shown.add_column(heading, justify="left" if heading in ("cell", "base") else "right")
    total_s: float | None = 0.0
    seen: set[tuple[str, str, str]] = set()
    for cell in settings.cells:
        found = existing_folder(cell, settings, store)
        steps = lora_steps * sum(base_name(one) == base_name(cell) for one in settings.cells)
        device_s = None
        if not (base := timings.of("base", cell)).is_estimated:
            device_s = base.device_s * (1 + bool(lora_steps) / 3)  # a base is scored on three splits, LoRA on one
            if base_name(cell) not in seen:  # what cells share is made for the first of them
                device_s += steps * POCKET_STEP_S.get(cell.scale, 0.0)
                device_s += 0.0 if found else timings.training(cell).device_s
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
