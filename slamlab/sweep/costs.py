"""What answers cost, and where a budget cut their search short, as `results.json` has it."""

from __future__ import annotations

from typing import Any

from slamlab.sweep.budget import spent_s
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import Cell
from slamlab.sweep.timings import HEALS


def cost_of_sweep(campaign: Campaign) -> dict[str, Any]:
    """Return what a sweep has spent so far, the price of a device-hour if it has one, and its budget if it has one."""
    settings, limit_s = campaign.settings, campaign.budget.limit_s
    budget = None
    if limit_s is not None:
        budget = {
            "max_device_hours": settings.max_device_hours,
            "max_price": settings.max_price,
            "device_seconds": limit_s,
            "cut": campaign.finished and campaign.is_cut,
        }
    return {"device_seconds": campaign.budget.spent_s, "gpu_price": settings.gpu_price, "budget": budget}


def cost_of(campaign: Campaign, cell: Cell) -> dict[str, Any]:
    """Return what the trials of an answer cost this sweep, and what would come next where the budget has no room.

    Whose trial trained the base that cells share, pays for it.
    """
    ledger, records = campaign.ledgers[cell], campaign.ledgers[cell].records
    own_s = sum(spent_s(campaign.settings, record) for record in records)
    cost = {
        "device_seconds": own_s + ledger.failed_device_s,
        "failed_device_seconds": ledger.failed_device_s,
        "found_device_seconds": sum(record["device_seconds"] for record in records) - own_s,
        "num_trials": len(records),
        "num_heals": sum(record["kind"] in HEALS and record.get("rung") != "unhealed" for record in records),
    }
    wish = campaign.cut(cell) if campaign.finished else None
    if wish is None:
        return {"cost": cost}
    return {"cost": cost, "cut": {name: getattr(wish, name) for name in ("kind", "start", "depth", "rung")}}


def why_not_run(campaign: Campaign, cell: Cell) -> str:
    """Return why a trial that a cell lacks was not run."""
    return "the budget left no room for it" if campaign.finished and campaign.cut(cell) else "not run"
