"""What answers cost: device time, price, heals; and where a budget cut their search short.

Records that tell no cost, as older ones, get no table and no sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slamlab.report.checks import NUMBER, NUMBER_OR_NULL, require, require_where_given
from slamlab.report.results import cell_verdict, joint_verdict
from slamlab.report.tables import Badge, Row, Table, cell_name, decoder_name, encoder_name
from slamlab.report.writing import DASH, duration, layers

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the page says about costs.

    Attributes:
        table: One row an answer, and their sum.
        notes: How to read it, and how the budget fared.
    """

    table: Table
    notes: tuple[str, ...]


def view_costs(results: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Costs | None:
    """Return what the page says about the costs of a sweep, None where its records do not tell.

    Args:
        results: The records.
        cells: Those of its cells, as :func:`slamlab.report.joints.as_members` shows them.
    """
    sweep, answers = results["sweep"].get("cost"), [*cells, *(results.get("joints") or ())]
    if not sweep or not all("cost" in answer for answer in answers):
        return None
    notes = [
        "Device time counts every device that worked, failed attempts as far as they told. Training a base that cells "
        "share is counted in the cell whose trial did it. What is in the store is not computed again: a repeated run "
        "saves the time of every finished trial."
    ]
    if any(answer["cost"]["found_device_seconds"] for answer in answers):
        notes.append("What other sweeps had computed cost this one nothing.")
    if price := sweep.get("gpu_price"):
        notes.append(f"Prices are at {price:g} a device-hour.")
    if told := _budget(results):
        notes.append(told)
    return Costs(table=_table(results, answers), notes=tuple(notes))


def cut_sentence(answer: Mapping[str, Any]) -> str:
    """Return that the budget cut the search of an answer short, as a sentence that follows others; else nothing."""
    cut = answer.get("cut")
    if not cut or cut["kind"] not in ("probe", "joint"):
        return ""  # what else had no room, the reason of the verdict tells
    noun, depth = "layer" if cut["depth"] == 1 else "layers", answer.get("max_depth") or 0
    told = f"the budget cut the search short before a look at {noun} {layers(cut['start'], cut['depth'])}."
    return f" {'Deeper' if 0 < depth < cut['depth'] else 'Other'} blocks are open: {told}"


def headline(answers: Sequence[Mapping[str, Any]]) -> str:
    """Return how many of several answers the budget cut short, as a sentence that follows others; else nothing."""
    num_cut = sum("cut" in answer for answer in answers)
    return f" The budget cut {num_cut} of {len(answers)} searches short: more is open there." if num_cut else ""


def in_closing(results: Mapping[str, Any]) -> list[str]:
    """Return what a sweep cost and how its budget fared, as lines for the terminal."""
    sweep, answers = results["sweep"]["cost"], [*results["cells"], *results["joints"]]
    num_trials, num_heals = (sum(answer["cost"][name] for answer in answers) for name in ("num_trials", "num_heals"))
    price = f", price {_price(sweep['device_seconds'], sweep['gpu_price'])}" if sweep["gpu_price"] else ""
    told = (
        f"{num_trials} trials with {num_heals} heals took {_hours(sweep['device_seconds'])} device-hours of this sweep"
    )
    return [f"{told}{price}.", *filter(None, [_budget(results)])]


def check_costs(results: Mapping[str, Any], source: str) -> None:
    """Check the costs of records, where they tell any."""
    require_where_given(results["sweep"], {"cost": dict}, "sweep", source)
    if "cost" in results["sweep"]:
        fields = {"device_seconds": NUMBER, "gpu_price": NUMBER_OR_NULL, "budget": (dict, type(None))}
        require(results["sweep"]["cost"], fields, "sweep.cost", source)
        if budget := results["sweep"]["cost"]["budget"]:
            require(budget, {"device_seconds": NUMBER}, "sweep.cost.budget", source)
    for part in ("cells", "joints"):
        for i, answer in enumerate(results.get(part, ())):
            require_where_given(answer, {"cost": dict, "cut": dict}, f"{part}[{i}]", source)
            if "cost" in answer:
                require(answer["cost"], dict.fromkeys(_COST, NUMBER), f"{part}[{i}].cost", source)
            if "cut" in answer:
                require(answer["cut"], {"kind": str, "start": int, "depth": int}, f"{part}[{i}].cut", source)


_COST = ("device_seconds", "failed_device_seconds", "found_device_seconds", "num_trials", "num_heals")


def _table(results: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row an answer, and their sum; what none has gets no column."""
    price, num_cells = results["sweep"]["cost"].get("gpu_price"), len(results["cells"])
    is_curve = bool(results.get("curves"))
    named = []
    for i, answer in enumerate(answers):
        is_joint = i >= num_cells
        base = f"{decoder_name(answer)} · {encoder_name(answer)}"
        name = f"{base} · all cells together" if is_joint else cell_name(answer)
        verdict = joint_verdict(answer) if is_joint else cell_verdict(answer)
        named.append((name, DASH if is_curve else Badge(verdict), answer["cost"]))
    total = {name: sum(cost[name] for *_, cost in named) for name in _COST}
    named.append(("Total", DASH, total))
    rows = [
        (
            name,
            verdict,
            str(cost["num_heals"]),
            str(cost["num_trials"]),
            duration(cost["device_seconds"]),
            duration(cost["failed_device_seconds"]),
            duration(cost["found_device_seconds"]),
            _price(cost["device_seconds"], price) if price else DASH,
            duration(cost["device_seconds"] - cost["failed_device_seconds"] + cost["found_device_seconds"]),
        )
        for name, verdict, cost in named
    ]
    columns: tuple[str, ...] = (
        "Answer",
        "Verdict",
        "Heals",
        "Trials",
        "Device time",
        "Of it failed",
        "By other sweeps",
        "Price",
    )
    columns += ("A repeated run saves",)
    empty = {"Of it failed"} if not total["failed_device_seconds"] else set()
    empty |= set() if total["found_device_seconds"] else {"By other sweeps"}
    empty |= set() if price else {"Price"}
    empty |= {"Verdict"} if is_curve else set()
    kept = [i for i, column in enumerate(columns) if column not in empty]
    return Table(
        columns=tuple(columns[i] for i in kept),
        rows=tuple(Row(texts=tuple(row[i] for i in kept)) for row in rows),
        numeric=frozenset(at for at, i in enumerate(kept) if columns[i] not in ("Answer", "Verdict")),
    )


def _budget(results: Mapping[str, Any]) -> str:
    """Return how the budget of a sweep fared, as a sentence; nothing where it has none."""
    cost, answers = results["sweep"]["cost"], [*results["cells"], *(results.get("joints") or ())]
    budget = cost.get("budget")
    if not budget:
        return ""
    priced = budget.get("max_price") is not None and f" (a price of {budget['max_price']:g})"
    told = f"Of the budget of {_hours(budget['device_seconds'])} device-hours{priced or ''}, "
    told += f"{_hours(cost['device_seconds'])} were spent"
    if num_cut := sum("cut" in answer for answer in answers):
        return (
            f"{told}; it cut {num_cut} of {len(answers)} searches short, and more is open there. The same command with "
            "a larger one goes on from here."
        )
    return f"{told}{', and no search was cut short' if results['sweep'].get('finished') else ''}."


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR_S:,.2f}" if seconds >= HOUR_S else f"{seconds / HOUR_S:.3g}"


def _price(seconds: float, price: float) -> str:
    return f"{seconds / HOUR_S * price:,.2f}"
