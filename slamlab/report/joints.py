"""What all cells of a base can lose together: the answer in a sentence, and its tables.

A joint answer is about its members, the cells of one base (family, scale, encoder): one block is removed, and one model
is healed on the speech of all of them and scored on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slamlab.report.answers import change
from slamlab.report.early import ending, was_stopped
from slamlab.report.gains import Sizes, gain, gain_facts
from slamlab.report.results import CELL_VERDICTS, cell_key, cell_verdict, joint_verdict
from slamlab.report.scores import also
from slamlab.report.tables import (
    DEGRADATION,
    P_ALL,
    P_ALONE,
    Badge,
    Row,
    Table,
    decoder_name,
    encoder_name,
    heal_number,
    question_name,
    removed,
)
from slamlab.report.writing import (
    DASH,
    NBSP,
    degradation,
    duration,
    layers,
    metric_name,
    metric_of,
    metric_value,
    percent,
    probability,
)

NOT_SCORED = "not scored on the test split"
Cells = Mapping[tuple[str, ...], Mapping[str, Any]]
"""Records of cells by what makes them themselves."""


def base_of(joint: Mapping[str, Any]) -> str:
    """Write the base that a joint answer is about: `qwen mini on whisper-base`."""
    return f"{decoder_name(joint)} on {encoder_name(joint)}"


def as_members(cells: Sequence[Mapping[str, Any]], joints: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return cells as they are to be shown beside joint answers.

    A member is searched on the selection split, and the joint model is scored on the test split in its place. Records
    call such a cell undecided; it is shown with the verdict of its own split instead, marked as `searched_only`. A cell
    that is doubted for another reason stays as it is.
    """
    members = {cell_key(member) for joint in joints for member in joint["members"]}
    return [_searched(cell) if cell_key(cell) in members else dict(cell) for cell in cells]


def _searched(cell: Mapping[str, Any]) -> dict[str, Any]:
    own = (cell.get("selection") or {}).get("pruned")
    unscored = (cell.get("reason") or NOT_SCORED).startswith(NOT_SCORED)
    if not own or cell.get("pruned") or cell["verdict"] not in ("feasible", "undecided"):
        return dict(cell)
    if cell["verdict"] == "undecided" and not unscored:
        return dict(cell)
    kept = {name: value for name, value in cell.items() if name != "reason" or not unscored}
    verdict = "feasible" if own.get("verdict") == "feasible" else "undecided"
    return {**kept, "verdict": verdict, "searched_only": True}


def joint_answer(joint: Mapping[str, Any], cells: Cells, tolerance: float) -> str:
    """Return a joint answer as one or two sentences.

    Args:
        joint: The record.
        cells: Records of the cells.
        tolerance: Largest relative degradation accepted, a fraction.
    """
    verdict, base, within = joint_verdict(joint), base_of(joint), percent(tolerance)
    if verdict == "failed":
        reason = str(joint.get("reason") or "no joint heal was scored").rstrip(".")
        return f"There is no joint answer for {base}: {reason}."
    num = len(joint["members"])
    every = {1: f"the one cell of {base}", 2: f"both cells of {base}"}.get(num, f"all {num} cells of {base}")
    binding = _binding(joint, cells)
    if verdict == "none":
        num_tried = len({(heal["start"], heal["depth"]) for heal in joint["heals"]})
        tried = "1 block was" if num_tried == 1 else f"{num_tried} blocks were"
        return (
            f"No block of layers is known that {every} can together lose within the tolerance of {within}: {tried} "
            f"healed jointly{binding}."
        )
    block = f"{joint['max_depth']} of {joint['num_layers']} layers ({percent(joint['max_fraction'])})"
    if verdict == "undecided":
        why = str(joint.get("reason") or "the evidence does not settle whether each stays within the tolerance")
        return f"It is undecided whether {every} can together lose {block}: {why.rstrip('.')}{binding}."
    kept = f"each within a relative loss of {within}" if num > 1 else f"within a relative loss of {within}"
    bought = gain(_sizes(joint, cells), joint.get("speed"))
    return f"{every[0].upper()}{every[1:]} can together lose {block}, {kept}{binding}.{bought}"


def _sizes(joint: Mapping[str, Any], cells: Cells) -> Sizes:
    """Return the parameters of the base, which its cells tell of, and of the joint model."""
    members = (cells.get(cell_key(member)) or {} for member in joint["members"])
    base = next((cell["num_parameters"]["base"] for cell in members if cell.get("num_parameters")), None)
    return base, joint.get("num_parameters")


def _binding(joint: Mapping[str, Any], cells: Cells) -> str:
    """Return which cell limits the answer, and what the joint model costs it on the test split, as a clause."""
    if not joint.get("binding"):
        return ""
    member = joint["binding"]["member"]
    clause = f"; the binding cell is {question_name(member)}"
    for one, splits in zip(joint["members"], joint.get("tests") or (), strict=False):
        if cell_key(one) == cell_key(member):
            metric = metric_of(member, cells.get(cell_key(member)))
            n = f"n{NBSP}={NBSP}{splits['test']['num_utterances']}"
            return f"{clause}, at {change(splits['test'], metric)} on the test split ({n})"
    return clause


def joint_headline(joints: Sequence[Mapping[str, Any]], answers: Sequence[str], tolerance: float) -> str:
    """Return the answer of a joint sweep: over all bases where several are feasible, else the most prunable one's."""
    verdicts = [joint_verdict(joint) for joint in joints]
    order = {verdict: -i for i, verdict in enumerate(CELL_VERDICTS)}
    # max() keeps the first of equals, so that the order of the records decides.
    best = max(range(len(joints)), key=lambda i: (order[verdicts[i]], joints[i].get("max_fraction") or 0))
    if (num := verdicts.count("feasible")) < 2:
        return answers[best]
    which = f"each of the {num} bases" if num == len(joints) else f"{num} of {len(joints)} bases"
    block = f"{joints[best]['max_depth']} of {joints[best]['num_layers']} layers"
    return (
        f"In {which}, all cells can together lose a block of layers, each within a relative loss of "
        f"{percent(tolerance)}: the largest is {block} ({percent(joints[best]['max_fraction'])}), of "
        f"{base_of(joints[best])}.{gain((None, None), joints[best].get('speed'))}"
    )


def members_table(joint: Mapping[str, Any], cells: Cells, anchors: Mapping[tuple[str, ...], str]) -> Table:
    """Return one row a member: the joint model on the test split, beside what the cell can lose alone."""
    tests = joint.get("tests") or [{}] * len(joint["members"])
    voices = any("test-voices" in splits for splits in tests)
    columns: tuple[str, ...] = ("Cell", "Verdict on test", "Unpruned", "Pruned, healed jointly", DEGRADATION)
    columns += ("The same, unheard voices",) if voices else ()
    others = sorted({name for splits in tests for name in splits.get("test", {}).get("also", ())})
    columns += (*map(metric_name, others), "n", "Alone, on selection")
    rows = []
    for member, splits in zip(joint["members"], tests, strict=True):
        cell, score = cells.get(cell_key(member)) or {}, splits.get("test")
        metric, baseline = metric_of(member, cell), cell.get("baseline")
        texts: tuple[str, ...] = (
            question_name(member),
            Badge(score["verdict"]) if score and score.get("verdict") else DASH,
            f"{metric_value(baseline['value'], metric)}{NBSP}{metric_name(metric)}" if baseline else DASH,
            metric_value(score["value"], metric) if score else DASH,
            degradation(score) if score else DASH,
        )
        if voices:
            texts += (degradation(splits["test-voices"]) if "test-voices" in splits else DASH,)
        texts += tuple(also(name, *(one for one in (baseline, score) if one)) for name in others)
        texts += (str((score or baseline or {}).get("num_utterances", DASH)), _alone(cell))
        rows.append(Row(texts=texts, anchor=anchors.get(cell_key(member), "")))
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(2, len(columns))))


def _alone(cell: Mapping[str, Any]) -> str:
    """Write the largest block that a cell can lose by itself."""
    if not cell or cell_verdict(cell) == "failed":
        return DASH
    if cell["verdict"] == "none":
        return "none found"
    return removed(cell) + (f",{NBSP}undecided" if cell["verdict"] == "undecided" else "")


def joint_heals_table(joint: Mapping[str, Any]) -> Table:
    """Return one row a joint heal: its verdict, and the cell that it did most harm, on the selection split."""
    repeats = any(heal.get("repeat") for heal in joint["heals"])
    columns: tuple[str, ...] = ("Layers", "Depth", *(("Heal",) if repeats else ()), "Verdict", P_ALL)
    columns += ("Most harmed cell", DEGRADATION, P_ALONE, "Time")
    rows = []
    for heal in joint["heals"]:
        complete = heal["status"] == "complete"
        worst = _most_harmed(heal) if complete else None
        texts = (
            layers(heal["start"], heal["depth"]),
            str(heal["depth"]),
            *((heal_number(heal),) if repeats else ()),
            Badge(heal["verdict"] if complete else "failed"),
            probability(heal.get("p_feasible")),
            question_name(worst["cell"]) if worst else DASH,
            degradation(worst) if worst else DASH,
            probability(worst.get("p_within")) if worst else DASH,
            duration(heal["wall_seconds"]) if heal.get("wall_seconds") is not None else DASH,
        )
        rows.append(Row(texts=texts))
    words = ("Layers", "Verdict", "Most harmed cell")
    return Table(
        columns=columns, rows=tuple(rows), numeric=frozenset(i for i, c in enumerate(columns) if c not in words)
    )


def _most_harmed(heal: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the member of the greatest degradation, None where a heal has no members."""
    harm = [float("inf") if m["relative_degradation"] is None else m["relative_degradation"] for m in heal["members"]]
    return heal["members"][harm.index(max(harm))] if harm else None


def costs_table(joint: Mapping[str, Any]) -> Table:
    """Return one row a member, one column a complete joint heal: the degradation on the selection split."""
    heals = [heal for heal in joint["heals"] if heal["status"] == "complete"]
    columns = ["Cell"]
    for heal in heals:
        again = f", heal{NBSP}{heal_number(heal)}" if heal.get("repeat") else ""
        noun = "layer" if heal["depth"] == 1 else "layers"
        columns.append(f"{noun}{NBSP}{layers(heal['start'], heal['depth'])}{again}")
    rows = tuple(
        Row(texts=(question_name(member), *(_cost(heal["members"][i]) for heal in heals)))
        for i, member in enumerate(joint["members"])
    )
    return Table(columns=tuple(columns), rows=rows, numeric=frozenset(range(1, len(columns))))


def _cost(member: Mapping[str, Any]) -> str:
    """Write what a joint heal cost a cell, and where scoring it ended, if early."""
    return degradation(member) + (f" ({ending(member)})" if was_stopped(member) else "")


def predicted(joint: Mapping[str, Any]) -> str:
    """Return what the cells' own looks say of the joint answer, as a sentence; nothing where that is not recorded."""
    prediction = joint.get("prediction")
    if not prediction:
        return ""
    told = "By the cells' own looks alone, without any joint heal, "
    if prediction["depth"] == 0:
        return f"{told}no block is more likely than not to be harmless to all of them."
    noun = "layer" if prediction["depth"] == 1 else "layers"
    details = [f"{prediction['depth']} of {joint['num_layers']}"] if joint.get("num_layers") else []
    if prediction["p_feasible"] is not None:
        details.append(f"probability {prediction['p_feasible']:.3f}")
    return (
        f"{told}the deepest block that is more likely than not to be harmless to all of them is {noun} "
        f"{layers(prediction['start'], prediction['depth'])}" + (f" ({', '.join(details)})." if details else ".")
    )


def joint_facts(joint: Mapping[str, Any], cells: Cells) -> list[tuple[str, str]]:
    """Return (name, value) of what else is recorded about a joint answer."""
    facts = []
    if joint["verdict"] in ("feasible", "undecided"):
        facts.append(("Layers removed", f"{layers(joint['start'], joint['max_depth'])}, counted from 0"))
    if joint.get("p_feasible") is not None:
        facts.append((f"{P_ALL} that every cell is within the tolerance", probability(joint["p_feasible"])))
    if (joint.get("binding") or {}).get("p_within") is not None:
        facts.append(("P(within) of the binding cell, a layer deeper", probability(joint["binding"]["p_within"])))
    facts += gain_facts(_sizes(joint, cells), joint.get("speed"))
    if joint.get("checkpoint"):
        facts.append(("Healed checkpoint, in the store", joint["checkpoint"]))
    num_heals = sum(heal["status"] == "complete" for heal in joint["heals"])
    facts.append(("Models healed jointly", str(num_heals)))
    return facts
