from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from slamlab.errors import DataError
from slamlab.report.costs import check_costs, cut_sentence, headline, in_closing, view_costs
from slamlab.report.page import render


def _cost(device_s: float, *, failed_s: float = 0.0, found_s: float = 0.0, heals: int = 2) -> dict[str, Any]:
    return {
        "device_seconds": device_s,
        "failed_device_seconds": failed_s,
        "found_device_seconds": found_s,
        "num_trials": heals + 2,
        "num_heals": heals,
    }


@pytest.fixture
def costly(sweep: tuple[dict[str, Any], Path]) -> tuple[dict[str, Any], Path]:
    """Return a sweep whose records tell what it cost."""
    results, store = sweep
    results["sweep"] |= {"cost": {"device_seconds": 9000.0, "gpu_price": None, "budget": None}, "finished": True}
    for cell, device_s in zip(results["cells"], (3600.0, 3600.0, 1800.0, 0.0), strict=True):
        cell["cost"] = _cost(device_s)
    results["joints"] = []
    return results, store


def _texts(results: dict[str, Any]) -> list[dict[str, str]]:
    costs = view_costs(results, results["cells"])
    assert costs is not None
    return [dict(zip(costs.table.columns, row.texts, strict=True)) for row in costs.table.rows]


def test_each_answer_has_its_cost_and_they_add_up(costly) -> None:
    results, _ = costly
    rows = _texts(results)
    assert [row["Device time"] for row in rows] == [
        "1.0\u00a0h",
        "1.0\u00a0h",
        "30.0\u00a0min",
        "0\u00a0s",
        "2.5\u00a0h",
    ]
    assert (rows[-1]["Answer"], rows[-1]["Heals"], rows[-1]["Trials"]) == ("Total", "8", "16")
    assert not {"Price", "Of it failed", "By other sweeps"} & rows[0].keys()


def test_price_failures_and_what_others_paid_get_columns_where_there_are_any(costly) -> None:
    results, _ = costly
    results["sweep"]["cost"]["gpu_price"] = 2.5
    results["cells"][0]["cost"] = _cost(3600.0, failed_s=600.0, found_s=1800.0)
    rows = _texts(results)
    assert [row["Price"] for row in rows] == ["2.50", "2.50", "1.25", "0.00", "6.25"]
    assert rows[0]["Of it failed"] == "10.0\u00a0min" and rows[0]["By other sweeps"] == "30.0\u00a0min"
    # 60 minutes spent, 10 of them on an attempt that failed, and 30 that another sweep spent.
    assert rows[0]["A repeated run saves"] == "1.3\u00a0h"
    assert in_closing(results)[0] == "16 trials with 8 heals took 2.50 device-hours of this sweep, price 6.25."


def test_older_records_have_no_cost(sweep, tmp_path: Path) -> None:
    results, store = sweep
    assert view_costs(results, results["cells"]) is None
    render(results, store, tmp_path / "report")
    assert "What it cost" not in (tmp_path / "report" / "report.md").read_text()


def test_a_budget_that_cut_is_told_on_the_page_and_the_terminal(costly, tmp_path: Path) -> None:
    results, store = costly
    results["sweep"]["cost"]["budget"] = {
        "max_device_hours": None, "max_price": 7.5, "device_seconds": 10_800.0, "cut": True,
    }  # fmt: skip
    results["cells"][0]["cut"] = {"kind": "probe", "start": 5, "depth": 6, "rung": "full"}
    render(results, store, tmp_path / "report")
    for name in ("report.md", "index.html"):
        page = (tmp_path / "report" / name).read_text().replace("\u00a0", " ")
        assert "What it cost" in page
        assert "Deeper blocks are open: the budget cut the search short before a look at layers 5–10." in page
        assert "Of the budget of 3.00 device-hours (a price of 7.5), 2.50 were spent; it cut 1 of 4 searches" in page
    assert "goes on from here" in in_closing(results)[1]
    del results["cells"][0]["cut"]
    assert in_closing(results)[1].endswith("2.50 were spent, and no search was cut short.")


def test_what_is_open_depends_on_what_was_found() -> None:
    cut = {"kind": "joint", "start": 3, "depth": 1, "rung": "full"}
    assert cut_sentence({"cut": cut, "max_depth": 2}).startswith(" Other blocks are open: ")
    assert "layer 3." in cut_sentence({"cut": cut, "max_depth": 0})
    assert cut_sentence({"cut": {**cut, "kind": "joint_final"}, "max_depth": 2}) == ""
    assert cut_sentence({"max_depth": 2}) == ""
    assert headline([{"cut": cut}, {}]) == " The budget cut 1 of 2 searches short: more is open there."
    assert headline([{}]) == ""


def test_nothing_is_said_to_be_impossible_where_the_search_was_cut(costly, tmp_path: Path) -> None:
    results, store = costly
    results["cells"][2]["cut"] = {"kind": "probe", "start": 3, "depth": 1, "rung": "full"}
    render(results, store, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text().replace("\u00a0", " ")
    assert "No block of layers is known that the qwen mini decoder can lose for German speech recognition" in page
    assert "can lose no block" not in page


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda results: results["sweep"].update(cost={}), "sweep.cost.device_seconds"),
        (lambda results: results["cells"][1]["cost"].pop("num_heals"), "cells[1].cost.num_heals"),
        (lambda results: results["cells"][1].update(cut={"kind": "probe"}), "cells[1].cut.start"),
    ],
)
def test_costs_that_are_damaged_are_named(costly, change, where: str) -> None:
    results = copy.deepcopy(costly[0])
    check_costs(results, "here")
    change(results)
    with pytest.raises(DataError, match=where.replace("[", r"\[").replace("]", r"\]")):
        check_costs(results, "here")
