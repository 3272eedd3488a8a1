"""Answers against their controls: what pruning itself costs, where a heal is also more training.

A healed model is compared with the base as it is. Where the base was not trained to its end, a heal makes up for what
pruning does, and more. A control went through the same heal with nothing removed: against it, the training cancels out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from slamlab.report.answers import change
from slamlab.report.results import cell_key
from slamlab.report.scores import SPLITS
from slamlab.report.tables import DEGRADATION, P_ALONE, SYMBOLS, Badge, Row, Table, question_name
from slamlab.report.writing import DASH, NBSP, degradation, metric_name, metric_of, metric_value, probability

Compared = Mapping[str, Mapping[str, Any]]
"""By split, as records name splits: the control's score as `baseline`, and `pruned` compared with it."""
HEADING = "Against the same heal, nothing removed"


def of_cell(cell: Mapping[str, Any]) -> Compared | None:
    """Return the comparison of a cell's answer with its control, None where there is none."""
    return (cell.get("control") or {}).get("splits")


def of_members(joint: Mapping[str, Any]) -> Sequence[Compared] | None:
    """Return the comparisons of a joint answer with its control, one a member, None where there are none."""
    return (joint.get("control") or {}).get("splits")


def in_short(compared: Compared | None) -> str:
    """Write the degradation against a control, with the symbol of its verdict."""
    if not compared:
        return DASH
    pruned = compared["test"]["pruned"]
    return f"{SYMBOLS[pruned['verdict']]}{NBSP}{degradation(pruned)}"


def sentence(cell: Mapping[str, Any]) -> str:
    """Return what an answer costs against its control, as a sentence that follows others, or why that is not known.

    Nothing where no control was asked for and none is missed: where the healed model is no better than the base.
    """
    metric, pruned, control = cell.get("metric") or "", cell.get("pruned"), cell.get("control") or {}
    if compared := control.get("splits"):
        baseline, against = compared["test"]["baseline"], compared["test"]["pruned"]
        return (
            f" Against the same heal with nothing removed ({metric_value(baseline['value'], metric)}{NBSP}"
            f"{metric_name(metric)}) it is {change(against, metric)}: {against['verdict']}."
        )
    if reason := control.get("reason"):
        return f" What the same heal does with nothing removed is not known: {str(reason).rstrip('.')}."
    if pruned and pruned["ci95"][1] is not None and pruned["ci95"][1] < 0:
        return (
            " The healed model is better than the unpruned one: its heal was also more training. What pruning alone "
            "costs, --control measures."
        )
    return ""


def headline(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return how many of several answers hold against their controls too, as a sentence that follows others."""
    verdicts = [compared["test"]["pruned"]["verdict"] for cell in cells if (compared := of_cell(cell))]
    if not verdicts:
        return ""
    counts = Counter(verdicts)
    told = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in ("feasible", "undecided", "infeasible") if counts[verdict]
    )
    return f" Against the same heals with nothing removed: {told}."


def cell_table(cell: Mapping[str, Any]) -> Table | None:
    """Return one row a split: the control against the pruned model, None where there is no control."""
    compared = of_cell(cell)
    return _table([("", cell["metric"], compared)]) if compared else None


def joint_table(joint: Mapping[str, Any], cells: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Table | None:
    """Return one row a member and split: the joint control against the joint model, None where there is no control."""
    compared = of_members(joint)
    if not compared:
        return None
    members = zip(joint["members"], compared, strict=True)
    return _table([(question_name(one), metric_of(one, cells.get(cell_key(one))), splits) for one, splits in members])


def note(record: Mapping[str, Any]) -> str:
    """Return how a control was made, nothing where there is none."""
    control = record.get("control") or {}
    if "receiver" not in control:
        return ""
    return (
        f"Nothing was removed; the heal was that of layer {control['receiver']} (counted from 0), which received the "
        "pruned model's too, by the same recipe, data and seed. Both models on the same utterances."
    )


def _table(compared: Sequence[tuple[str, str, Compared]]) -> Table:
    """Return one row a split of each (name, metric, comparison); names get a column where there are any."""
    named = any(name for name, *_ in compared)
    columns = (*(("Cell",) if named else ()), "Split", "Verdict", "Healed, nothing removed", "Pruned, healed")
    columns += (DEGRADATION, P_ALONE, "n")
    rows = []
    for name, metric, splits in compared:
        for split, scores in splits.items():
            baseline, pruned = scores["baseline"], scores["pruned"]
            ends = "".join(
                f" [{metric_value(low, metric)}, {metric_value(high, metric)}]" for low, high in _ends(baseline)
            )
            texts = (
                *((name,) if named else ()),
                SPLITS[split.replace("-", "_")],
                Badge(pruned["verdict"]),
                f"{metric_value(baseline['value'], metric)}{NBSP}{metric_name(metric)}{ends}",
                metric_value(pruned["value"], metric),
                degradation(pruned),
                probability(pruned.get("p_within")),
                str(baseline["num_utterances"]),
            )
            rows.append(Row(texts=texts))
    first = 3 if named else 2
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(first, len(columns))))


def _ends(score: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return the interval of a score, as one pair or none."""
    ends = score.get("ci95") or (None, None)
    return [] if None in ends else [tuple(ends)]
