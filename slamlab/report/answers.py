"""The answer of a sweep in sentences, for readers who read nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slamlab.report.early import was_stopped
from slamlab.report.gains import gain, gains, sizes_of
from slamlab.report.results import CELL_VERDICTS, cell_verdict
from slamlab.report.tables import Badge, decoder_name, question_name
from slamlab.report.writing import NBSP, interval, metric_name, percent
from slamlab.scoring.metrics import METRICS


def cell_answer(cell: Mapping[str, Any], num_probes: int, tolerance: float) -> str:
    """Return the answer for one cell as a sentence.

    Args:
        cell: The record.
        num_probes: Blocks that were healed in full, or would have been.
        tolerance: Largest relative degradation accepted, a fraction.
    """
    name, question = decoder_name(cell), question_name(cell)
    if cell_verdict(cell) == "failed":
        reason = str(cell.get("reason") or "no reason was recorded").rstrip(".")
        return f"There is no answer for the {name} decoder in {question}: {reason}."
    tried = "1 block was" if num_probes == 1 else f"{num_probes} blocks were"
    if cell["verdict"] == "none" and (num_probes == 0 or "cut" in cell):
        healed = f"{tried} tried" if num_probes else "none was healed for it"
        return (
            f"No block of layers is known that the {name} decoder can lose for {question} within the tolerance of "
            f"{percent(tolerance)}: {healed}.{_remark(cell)}"
        )
    if cell["verdict"] == "none":
        return (
            f"The {name} decoder can lose no block of layers for {question} within the tolerance of "
            f"{percent(tolerance)}: {tried} tried.{_remark(cell)}"
        )
    block = f"{cell['max_depth']} of {cell['num_layers']} layers ({percent(cell['max_fraction'])})"
    if cell.get("searched_only"):
        return _searched_only(cell, block)
    pruned, cost = cell.get("pruned"), _cost(cell, cell["metric"])
    if cell["verdict"] == "undecided":
        why = cell.get("reason") or "the evidence does not settle on which side of the tolerance it lies"
        return f"It is undecided whether the {name} decoder can lose {block} for {question}{cost}: {why.rstrip('.')}."
    sentence = f"The {name} decoder can lose {block} for {question}{cost}."
    if pruned and (pruned["relative_degradation"] is None or pruned["relative_degradation"] > tolerance):
        sentence += f" On the test split that is beyond the tolerance of {percent(tolerance)}."
    return sentence + gain(sizes_of(cell), (pruned or {}).get("speed")) + _remark(cell)


def _remark(cell: Mapping[str, Any]) -> str:
    """Return what limits an answer that holds, as a sentence of its own: a depth that could not be scored."""
    reason = str(cell.get("reason") or "").rstrip(".")
    return f" {reason[0].upper()}{reason[1:]}." if reason else ""


def _searched_only(cell: Mapping[str, Any], block: str) -> str:
    """Return the answer of a cell that was searched for the sake of a joint answer, and not scored on its own after."""
    cost = _cost(cell["selection"], cell["metric"])
    doubt = "can lose" if cell["verdict"] == "feasible" else "may lose"
    sure = "" if cell["verdict"] == "feasible" else "; that is undecided"
    return (
        f"By itself, the {decoder_name(cell)} decoder {doubt} {block} for {question_name(cell)}{cost}{sure}. This was "
        "searched on the selection split only: the test split is kept for the joint model."
        f"{_remark(cell)}"
    )


def _cost(scores: Mapping[str, Any], metric: str) -> str:
    """Return what the block costs on a split, as a clause; nothing where it was not scored there."""
    pruned = scores.get("pruned")
    if pruned is None:
        return ""
    scored = pruned if was_stopped(pruned) else scores["baseline"]
    n = f"n{NBSP}={NBSP}{scored['num_utterances']}"
    if pruned["relative_degradation"] is None:
        return f", where {metric_name(metric)} was perfect before and no longer is ({n})"
    return f", at {change(pruned, metric)} relative to the unpruned model ({n})"


def change(score: Mapping[str, Any], metric: str) -> str:
    """Write a degradation so that its sign cannot mislead: for BLEU and chrF more is better."""
    name = metric_name(metric)
    if score["relative_degradation"] is None:
        return f"an unbounded loss of {name}"
    cost, ends = percent(score["relative_degradation"], sign=True), interval(score["ci95"])
    return f"{cost} {name} {ends}" if METRICS[metric].is_error_rate else f"a {name} loss of {cost} {ends}"


def headline(cells: Sequence[Mapping[str, Any]], answers: Sequence[str], tolerance: float) -> str:
    """Return the answer of a sweep: over all cells where several are feasible, else the most prunable cell's.

    Args:
        cells: The records.
        answers: The sentence of each, as of :func:`cell_answer`.
        tolerance: Largest relative degradation accepted, a fraction.
    """
    if not cells:
        return "This sweep has no cells."
    feasible = [cell for cell in cells if cell_verdict(cell) == "feasible"]
    decoders = {(decoder_name(cell), cell["num_layers"]) for cell in feasible}
    if len(feasible) > 1 and len(decoders) == 1:
        ((name, num_layers),) = decoders
        depths = sorted({cell["max_depth"] for cell in feasible})
        ends = [depths[0]] if len(depths) == 1 else [depths[0], depths[-1]]
        layers = " to ".join(str(depth) for depth in ends)
        share = " to ".join(percent(depth / num_layers) for depth in ends)
        every = "all" if len(feasible) == len(cells) else f"{len(feasible)} of"
        return (
            f"The {name} decoder can lose {layers} of {num_layers} layers ({share}) and stay within a relative loss of "
            f"{percent(tolerance)}, in {every} {len(cells)} cells.{gains(feasible)}"
        )
    order = {verdict: -i for i, verdict in enumerate(CELL_VERDICTS)}
    # max() keeps the first of equals, so that the order of the records decides.
    best = max(range(len(cells)), key=lambda i: (order[cell_verdict(cells[i])], cells[i].get("max_fraction") or 0))
    return answers[best]


def verdict_counts(verdicts: Iterable[str]) -> list[tuple[Badge, int]]:
    """Return how often each verdict was reached, without those that never were."""
    counts = Counter(verdicts)
    return [(Badge(verdict), counts[verdict]) for verdict in CELL_VERDICTS if counts[verdict]]
