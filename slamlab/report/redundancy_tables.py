"""The tables of a report of maps, and every block of every map as CSV.

Every function is plain: records and arrays in, text out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slamlab.report.agreement import MIN_RESAMPLES, Map
from slamlab.report.redundancy_records import Drawn
from slamlab.report.redundancy_words import (
    AXES,
    badge,
    band,
    best_start,
    compared,
    estimate,
    input_name,
    p_value,
    quarter,
    share,
    stability,
    verdict,
)
from slamlab.report.tables import Row, Table, cell_name
from slamlab.report.writing import DASH, NBSP, correlation, layers, metric_name, metric_value, percent

POSITIONS = {
    "all": "all positions",
    "audio": "audio",
    "prompt": "prompt",
    "answer": "answer",
    "last": "last of the answer",
}
VALUES = {
    "view": {"text": "text alone", "speech": "speech"},
    "decoder": {"base": "as in the base", "lora": "LoRA"},
    "selection": POSITIONS,
}
INTERVAL = f"[95{NBSP}%]"


def maps_table(drawn: Sequence[Drawn], anchors: Sequence[str]) -> Table:
    """Return one row a map: what it is of, how good its model is, and over how much it averages.

    Args:
        drawn: The maps.
        anchors: Where the page shows the cell of each.
    """
    rows = []
    for one in drawn:
        record = one.record
        done = one.map is not None
        rows.append(
            (
                str(one.number),
                record["key"],
                cell_name(record),
                input_name(record),
                POSITIONS[record["selection"]],
                _score(record) if done else DASH,
                str(record["score"]["num_utterances"]) if done and record["score"] else DASH,
                str(record["num_layers"]) if done else DASH,
                str(record["num_utterances"]) if done else DASH,
                str(record["num_positions"]) if done else DASH,
                "complete" if done else f"{record['status']}: {why_not(record)}",
            )
        )
    columns = (
        *("Map", "Key", "Decoder, encoder, task", "Input", "Averaged over"),
        *(f"Model's score {INTERVAL}", "n scored", "Layers", "Utterances", "Positions", "Status"),
    )
    linked = tuple(Row(texts=texts, anchor=anchor) for texts, anchor in zip(rows, anchors, strict=True))
    return Table(columns=columns, rows=linked, numeric=frozenset(range(5, 10)))


def _score(record: Mapping[str, Any]) -> str:
    score = record["score"]
    if score is None:
        return DASH
    metric = score["metric"]
    ends = [DASH if end is None else metric_value(end, metric) for end in score["ci95"]]
    return f"{metric_value(score['value'], metric)}{NBSP}{metric_name(metric)} [{', '.join(ends)}]"


def why_not(record: Mapping[str, Any]) -> str:
    """Write why there is no map."""
    return (record.get("reason") or "no reason was recorded").rstrip(".")


def axes_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row an axis: how many pairs agree, and between which ends their numbers lie."""
    rows = []
    for axis, name in AXES.items():
        own = compared(pairs, axis)
        counts = Counter(map(verdict, own))
        judged = [pair for pair in own if verdict(pair) != "same"]
        left_out = sum(pair["axis"] == axis and pair["status"] == "left out" for pair in pairs)
        if not own and not left_out:
            continue
        rows.append(
            (
                name,
                *(str(counts[found]) for found in ("agree", "differ", "unclear", "same")),
                str(left_out),
                _range([pair["within"]["value"] for pair in judged], correlation),
                _range([pair["overlap"]["value"] for pair in judged], "{:.2f}".format),
                _range([pair["chance"] for pair in judged], "{:.2f}".format),
                _range([pair["num_utterances"] for pair in judged], str),
            )
        )
    columns = (
        *("Compared", "Agree", "Differ", "Cannot tell", "One map", "Left out"),
        *("Tau within depths", "Overlap", "By chance", "n"),
    )
    return Table(columns=columns, rows=_rows(rows), numeric=frozenset(range(1, 10)))


def _range(values: Sequence[Any], write: Any) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    low, high = write(min(known)), write(max(known))
    return low if low == high else f"{low} to {high}"


def pairs_table(pairs: Sequence[Mapping[str, Any]], axis: str, numbers: Mapping[str, int]) -> Table:
    """Return one row a pair compared along an axis."""
    rows = [
        (
            f"{numbers[pair['a']]} and {numbers[pair['b']]}",
            " / ".join(VALUES.get(axis, {}).get(value, value) for value in pair["values"]),
            badge(pair),
            estimate(pair["within"]),
            p_value(pair["p"]),
            correlation(pair["overall"]),
            share(pair["overlap"]),
            f"{pair['chance']:.2f}",
            str(pair["num_utterances"]),
        )
        for pair in compared(pairs, axis)
    ]
    columns = (
        *("Maps", "Which are", "Verdict", f"Tau within depths {INTERVAL}", "p", "Tau over all blocks"),
        *(f"Overlap of best blocks {INTERVAL}", "By chance", "n"),
    )
    return Table(columns=columns, rows=_rows(rows), numeric=frozenset(range(3, 9)))


def depths_of(num_layers: int) -> list[int]:
    """Return the depths that the table of best blocks tells of: about a tenth, a quarter and half of the layers."""
    return sorted({max(1, round(num_layers / 10)), quarter(num_layers), max(1, round(num_layers / 2))})


def best_table(drawn: Sequence[Drawn]) -> Table:
    """Return one row a map and depth: the least distant block."""
    rows = []
    for one in drawn:
        if one.map is None:
            continue
        for depth in depths_of(one.map.num_layers):
            start, ends, sure = best_start(one.map, depth), band(one.map, depth), stability(one.map, depth)
            value = float(one.map.distance[start, start + depth])
            rows.append(
                (
                    f"{one.number}, {input_name(one.record)}",
                    f"{depth} of {one.map.num_layers}",
                    layers(start, depth),
                    f"{value:.4f}" + ("" if ends is None else f" [{ends[0]:.4f}, {ends[1]:.4f}]"),
                    DASH if sure is None else percent(sure),
                    str(one.map.num_utterances),
                )
            )
    columns = ("Map", "Depth", "Best block", f"Angular distance {INTERVAL}", "Resamples that choose it", "n")
    return Table(columns=columns, rows=_rows(rows), numeric=frozenset(range(1, 6)))


def blocks_csv(drawn: Sequence[Drawn]) -> str:
    """Return every block of every map that was run, one a row: key, start, depth, distance, ends of its interval."""
    lines = ["key,start,depth,distance,lo,hi"]
    for one in drawn:
        if one.map is None:
            continue
        low, high = _bands(one.map)
        for depth in range(1, one.map.num_layers + 1):
            for start in range(one.map.num_layers + 1 - depth):
                at = (start, start + depth)
                ends = "," if low is None or high is None else f"{low[at]:.6f},{high[at]:.6f}"
                lines.append(f"{one.map.key},{start},{depth},{one.map.distance[at]:.6f},{ends}")
    return "\n".join(lines) + "\n"


def _bands(one: Map) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Return the ends of the percentile interval of every distance [L+1, L+1], None with too few resamples."""
    whole = one.resampled[np.isfinite(one.resampled).all((1, 2))].astype(np.float64)
    if len(whole) < MIN_RESAMPLES:
        return None, None
    low, high = np.quantile(whole, [0.025, 0.975], axis=0)
    return low, high


def _rows(texts: Sequence[tuple[str, ...]]) -> tuple[Row, ...]:
    return tuple(Row(texts=row) for row in texts)
