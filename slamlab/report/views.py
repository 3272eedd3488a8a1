"""What the page says about one cell, and about what all cells of a base can lose together."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from slamlab.report import controls, costs, early, scores, tables
from slamlab.report import joints as joint_parts
from slamlab.report.answers import cell_answer
from slamlab.report.drawing import Image
from slamlab.report.figures import draw_degradation, draw_map
from slamlab.report.gains import gain_facts, sizes_of
from slamlab.report.results import cell_key, cell_verdict, is_full, joint_verdict
from slamlab.report.samples import Sample, artefact, choose, read_hypotheses
from slamlab.report.tables import Badge, Table
from slamlab.report.writing import duration, layers, metric_name, piece_of


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure on the page: where it lies, what it shows in words, and the drawing for inside the page."""

    path: str
    caption: str
    inline: Markup


@dataclass(frozen=True, kw_only=True)
class CellView:
    """What the page says about one cell.

    Attributes:
        anchor: Its id in the page.
        warning: What a corpus score hides of the pruned model's answers, empty where there is nothing to tell.
        signatures: (metric, signature) of the scores.
        guards: How many answers are degenerate, None where that is not recorded.
        guards_note: How to read that.
        control: The pruned model against the same heal with nothing removed, None where that was not made.
        control_note: How that was made.
        underlined: The part of `samples_rule` that holds only where underlining can be shown.
        notes: One sentence for everything that could not be shown.
    """

    anchor: str
    name: str
    badge: Badge
    answer: str
    warning: str
    facts: tuple[tuple[str, str], ...]
    scores: Table | None
    signatures: tuple[tuple[str, str], ...]
    guards: Table | None
    guards_note: str
    control: Table | None
    control_note: str
    figures: tuple[Figure, ...]
    samples: tuple[Sample, ...]
    samples_rule: str
    underlined: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JointView:
    """What the page says about one joint answer.

    Attributes:
        anchor: Its id in the page.
        predicted: What the cells' own looks say of it, empty where that is not recorded.
        heals: None where none was made.
        costs: What every complete joint heal cost every cell, None where there is none.
        control: The joint model against the same heal with nothing removed, None where that was not made.
        control_note: How that was made.
    """

    anchor: str
    name: str
    badge: Badge
    answer: str
    members: Table
    predicted: str
    heals: Table | None
    costs: Table | None
    control: Table | None
    control_note: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def view_joints(
    joints: Sequence[Mapping[str, Any]],
    cells: Sequence[Mapping[str, Any]],
    anchors: Sequence[str],
    tolerance: float,
) -> list[JointView]:
    """Return what the page says about joint answers.

    Args:
        joints: The records.
        cells: Records of the cells, as :func:`slamlab.report.joints.as_members` shows them.
        anchors: Ids of the cells in the page.
        tolerance: Largest relative degradation accepted, a fraction.
    """
    known = {cell_key(cell): cell for cell in cells}
    ids = {cell_key(cell): anchor for cell, anchor in zip(cells, anchors, strict=True)}
    views = []
    for i, joint in enumerate(joints, 1):
        notes = [] if joint.get("tests") else ["No joint model was scored on the test split."]
        if not joint["heals"]:
            notes.append("No joint heal was made.")
        if reason := (joint.get("control") or {}).get("reason"):
            notes.append(f"What the same joint heal does with nothing removed is not known: {str(reason).rstrip('.')}.")
        views.append(
            JointView(
                anchor=f"joint-{i:02d}",
                name=joint_parts.base_of(joint),
                badge=Badge(joint_verdict(joint)),
                answer=joint_parts.joint_answer(joint, known, tolerance) + costs.cut_sentence(joint),
                members=joint_parts.members_table(joint, known, ids),
                predicted=joint_parts.predicted(joint),
                heals=joint_parts.joint_heals_table(joint) if joint["heals"] else None,
                costs=joint_parts.costs_table(joint) if any(map(_complete, joint["heals"])) else None,
                control=controls.joint_table(joint, known),
                control_note=controls.note(joint),
                facts=tuple(joint_parts.joint_facts(joint, known)),
                notes=tuple(notes),
            )
        )
    return views


def joint_scores(joints: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], scores.Splits]:
    """Return, by cell, what the joint model scored on the test splits."""
    return {
        cell_key(member): splits
        for joint in joints
        for member, splits in zip(joint["members"], joint.get("tests") or (), strict=False)
    }


def _complete(look: Mapping[str, Any]) -> bool:
    return look["status"] == "complete"


def view_cell(
    cell: Mapping[str, Any],
    probes: Sequence[Mapping[str, Any]],
    tolerance: float,
    store: Path,
    anchor: str,
    images: dict[str, Image],
    joint: scores.Splits | None = None,
) -> CellView:
    """Return what the page says about a cell.

    Args:
        cell: The record.
        probes: Those of the cell.
        tolerance: Largest relative degradation accepted, a fraction.
        store: The store's folder.
        anchor: Its id in the page.
        images: Takes the figures, by path without suffix.
        joint: What a joint model scored on the test splits in place of one of the cell's own.
    """
    answered = cell_verdict(cell) != "failed"
    notes: list[str] = []
    figures: list[Figure] = []
    samples: list[Sample] = []
    rule, piece = "", "word"
    if answered:
        figures = _figures(cell, probes, tolerance, store, anchor, images, notes)
        piece = piece_of(cell)
        samples, rule = _samples(cell, store, joint["test"]["hypotheses"] if joint else None, piece, notes)
        notes += scores.stopped_notes(cell)
    return CellView(
        anchor=anchor,
        name=tables.cell_name(cell),
        badge=Badge(cell_verdict(cell)),
        answer=cell_answer(cell, len({(p["start"], p["depth"]) for p in probes if is_full(p)}), tolerance)
        + controls.sentence(cell)
        + costs.cut_sentence(cell),
        warning=scores.guards_warning(cell, joint) if answered else "",
        facts=tuple(_facts(cell, probes)),
        scores=scores.scores_table(cell) if answered else None,
        signatures=tuple(scores.signatures(cell, joint)) if answered else (),
        guards=scores.guards_table(cell, joint) if answered else None,
        guards_note=scores.guards_note(piece),
        control=controls.cell_table(cell) if answered else None,
        control_note=controls.note(cell),
        figures=tuple(figures),
        samples=tuple(samples),
        samples_rule=rule,
        underlined=_underlined(piece),
        notes=tuple(notes),
    )


def _facts(cell: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (name, value) of what else is recorded about a cell."""
    facts = []
    if cell["verdict"] in ("feasible", "undecided"):
        facts.append(("Layers removed", f"{layers(cell['start'], cell['max_depth'])}, counted from 0"))
    if (cell.get("pruned") or {}).get("checkpoint"):
        facts.append(("Healed checkpoint, in the store", cell["pruned"]["checkpoint"]))
    if cell.get("pruned"):
        facts += gain_facts(sizes_of(cell), cell["pruned"].get("speed"))
    if cell.get("num_heals") is not None:
        facts.append(("Models healed", str(cell["num_heals"])))
    if num_cheap := sum(_complete(probe) and not is_full(probe) for probe in probes):
        facts.append(("Cheaper looks", str(num_cheap)))
    if any(map(early.was_stopped, probes)):
        facts.append(("Spared by stopping probes early", str(early.saving(probes))))
    for name, label in (("device_seconds", "Device time"), ("wall_seconds", "Wall time")):
        if cell.get(name) is not None:
            facts.append((label, duration(cell[name])))
    return facts


def _figures(
    cell: Mapping[str, Any],
    probes: Sequence[Mapping[str, Any]],
    tolerance: float,
    store: Path,
    anchor: str,
    images: dict[str, Image],
    notes: list[str],
) -> list[Figure]:
    figures = []
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(cell_key(cell))).strip("-.").lower()

    def add(kind: str, image: Image, caption: str) -> None:
        path = f"figures/{anchor.removeprefix('cell-')}-{slug}-{kind}"
        images[path] = image
        figures.append(Figure(path=path, caption=caption, inline=Markup(image.inline(f"{anchor}-{kind}"))))

    chosen = {**cell["pruned"], "start": cell["start"], "depth": cell["max_depth"]} if cell.get("pruned") else None
    if chosen or probes:
        add(
            "degradation",
            draw_degradation(probes, cell["num_layers"], tolerance, chosen),
            _degradation_caption(cell, probes),
        )
    else:
        notes.append("No probe was tried, so there is no degradation figure.")
    if not cell.get("map"):
        notes.append("The records name no angular-distance map.")
        return figures
    distance = _read_map(store, cell["map"], cell["num_layers"])
    if distance is None:
        notes.append(f"The angular-distance map is not in this store ({cell['map']}).")
        return figures
    picked = cell["verdict"] in ("feasible", "undecided")
    add(
        "map",
        draw_map(distance, cell["start"] if picked else None, cell["max_depth"]),
        "Angular distance between the residual stream entering a block and leaving it: dark blocks change it least. "
        + ("The frame is the chosen block." if picked else "No block was chosen."),
    )
    return figures


def _degradation_caption(cell: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> str:
    caption = (
        f"{metric_name(cell['metric'])}: relative degradation on the selection split against the fraction of layers "
        "removed, one mark a probe, bars are 95 % intervals. "
    )
    if any(_complete(probe) and not is_full(probe) for probe in probes):
        caption += "Hollow grey marks are looks without a full heal; those beyond the axis stand at its edge. "
    if any(map(early.was_stopped, probes)):
        caption += "A probe whose scoring was stopped early stands where it stood by then. "
    if cell.get("searched_only"):
        return caption + "This cell was searched on the selection split only."
    return caption + (
        "The star is the chosen block on the test split." if cell.get("pruned") else "No block reached the test split."
    )


def _read_map(store: Path, relative: str, num_layers: int) -> np.ndarray | None:
    """Return the map [L+1, L+1], None where the store lacks it or it is damaged."""
    try:
        with np.load(artefact(store, relative), allow_pickle=False) as arrays:
            distance = np.asarray(arrays["distance"], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError):
        return None
    usable = distance.shape == (num_layers + 1,) * 2 and np.isfinite(distance[np.triu_indices(num_layers + 1)]).all()
    return distance if usable else None


def _samples(
    cell: Mapping[str, Any], store: Path, joint_hypotheses: str | None, piece: str, notes: list[str]
) -> tuple[list[Sample], str]:
    """Return what the models said on the test split, and how it was chosen."""
    missing = "hypotheses not in this store"
    baseline = read_hypotheses(store, cell["baseline"]["hypotheses"])
    if baseline is None:
        notes.append(f"Unpruned model: {missing} ({cell['baseline']['hypotheses']}).")
        return [], ""
    pruned = None
    own = (cell.get("pruned") or {}).get("hypotheses")
    if named := own or joint_hypotheses:
        pruned = read_hypotheses(store, named)
        if pruned is None:
            notes.append(f"{'Pruned' if own else 'Joint'} model: {missing} ({named}).")
    samples = choose(baseline, pruned, piece=piece)
    order = "most improved to the most harmed by pruning" if pruned else "fewest to the most errors"
    rule = (
        f"{len(samples)} of {len(baseline)} utterances of the test split, taken by rule at even spacing from the "
        f"{order} ({piece} edits against the reference).{_underlined(piece)}"
    )
    if pruned and not own:
        rule += " The pruned model is the joint one."
    return samples, rule


def _underlined(piece: str) -> str:
    return f" {piece.capitalize()}s that differ from the reference are underlined."
