"""The probes of a sweep as a table for other programs: unrounded numbers, nothing where there is none."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from slamlab.report.results import cell_key, rung_of

CELL = ("family", "scale", "encoder", "task", "language")
COLUMNS = (
    *CELL, "num_layers", "start", "depth", "rung", "repeat", "status", "verdict", "metric", "value",
    "relative_degradation", "ci95_low", "ci95_high", "num_utterances", "p_within", "p_feasible", "device_seconds",
    "fingerprint",
)  # fmt: skip


def probes_csv(probes: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> str:
    """Return one row a probe, in the order of the records. Rates, losses and their intervals are fractions.

    Args:
        probes: The records.
        cells: Those of the cells, which tell numbers of layers.
    """
    num_layers = {cell_key(cell): cell.get("num_layers") for cell in cells}
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for probe in probes:
        low, high = probe.get("ci95") or (None, None)
        writer.writerow(
            {
                **probe,
                **{name: probe["cell"][name] for name in CELL},
                "num_layers": num_layers.get(cell_key(probe["cell"])),
                "rung": rung_of(probe),
                "ci95_low": low,
                "ci95_high": high,
            }
        )
    return table.getvalue()
