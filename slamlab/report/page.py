"""The page: `report.md`, a self-contained `index.html`, and the figures, from records alone.

Nothing here computes a result or reads a clock: what the page says is in `results.json` or in the store's files.
Transcripts and names are untrusted text: Jinja escapes them in the page, :func:`escape_markdown` in the Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from slamlab.errors import StoreError
from slamlab.report import controls, costs, method, published, scores, tables
from slamlab.report.answers import headline, verdict_counts
from slamlab.report.curves import view_curves
from slamlab.report.drawing import Image
from slamlab.report.early import how_stopped
from slamlab.report.joints import as_members, base_of, joint_headline
from slamlab.report.probes_csv import probes_csv
from slamlab.report.results import cell_key, cell_verdict, check_results, is_full, joint_verdict, rung_of
from slamlab.report.tables import Badge
from slamlab.report.views import joint_scores, view_cell, view_joints
from slamlab.report.writing import layers, percent

TEMPLATES = Path(__file__).parent / "templates"


def render(results: Mapping[str, Any], store: Path, out: Path) -> None:
    """Write the report of a sweep.

    Args:
        results: Records, as :mod:`slamlab.report.results` describes them.
        store: The store's folder; files that it lacks are said to be lacking.
        out: The report's folder; `report.md`, `index.html`, `probes.csv` and `figures/` in it are replaced.

    Raises:
        DataError: The records lack a part.
        StoreError: The report's folder cannot be written.
    """
    check_results(results, "the records given")
    costs.check_costs(results, "the records given")
    images: dict[str, Image] = {}
    context = _context(results, store, images)
    files = {
        out / "report.md": environment(markdown=True).get_template("report.md.jinja").render(context).encode(),
        out / "index.html": environment(markdown=False).get_template("index.html.jinja").render(context).encode(),
        out / "probes.csv": probes_csv(results["probes"], results["cells"]).encode(),
    }
    write_files(files, images, out)


def write_files(files: dict[Path, bytes], images: Mapping[str, Image], out: Path) -> None:
    """Write the files of a report and its figures, in both formats; figures of earlier records go.

    Args:
        files: Contents by path.
        images: Figures by path in the report's folder, without suffix.
        out: The report's folder.

    Raises:
        StoreError: It cannot be written, or a file of it is a link.
    """
    for stem, image in images.items():
        files |= {out / f"{stem}.svg": image.svg, out / f"{stem}.png": image.png}
    for path in (out / "figures", *files):
        if path.is_symlink():  # of a report that somebody else made: what it points to is not the report's
            remedy = "remove the link, or copy the report without links"
            raise StoreError("a report is written to its folder alone", f"{path}, a link", remedy)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for old in (out / "figures").iterdir():
            if old.suffix in (".svg", ".png") and old not in files:
                old.unlink()
        for file, content in files.items():
            file.write_bytes(content)
    except OSError as error:
        raise StoreError(
            "a report's folder can be written", f"{out} ({error.strerror})", "write it elsewhere"
        ) from None


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, in a paragraph or a table; what is `Markup` stays."""
    if isinstance(text, Markup):
        return str(text)
    flat = re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*", " ", str(text))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", flat)


def code_markdown(text: str) -> Markup:
    """Return text as a Markdown code span, fenced by more backticks than it holds."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return Markup(f"{fence}{pad}{' '.join(text.split())}{pad}{fence}")


def environment(*, markdown: bool) -> Environment:
    """Return what fills the templates in, for Markdown or for HTML, each with its own escapes."""
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=not markdown,
        finalize=escape_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    jinja.filters["code"] = code_markdown
    jinja.tests["badge"] = lambda text: isinstance(text, Badge)
    return jinja


def _context(results: Mapping[str, Any], store: Path, images: dict[str, Image]) -> dict[str, Any]:
    """Return what the templates show; figures drawn on the way go to `images` by path without suffix."""
    sweep, probes, joints = results["sweep"], results["probes"], results.get("joints") or []
    tolerance, cells = sweep["tolerance"], as_members(results["cells"], joints)
    anchors = [f"cell-{i:02d}" for i in range(1, len(cells) + 1)]
    own: dict[tuple[str, ...], list[Mapping[str, Any]]] = {cell_key(cell): [] for cell in cells}
    for probe in probes:
        own.setdefault(cell_key(probe["cell"]), []).append(probe)
    stand_ins = joint_scores(joints)
    curves = view_curves(results, images) if results.get("curves") else None
    cell_views = [
        view_cell(cell, own[cell_key(cell)], tolerance, store, anchor, images, stand_ins.get(cell_key(cell)))
        for cell, anchor in zip(cells, anchors, strict=True)
        if not curves  # they have no answer that a cell's own part could be about
    ]
    joint_views = view_joints(joints, cells, anchors, tolerance)
    verdicts = [joint_verdict(joint) for joint in joints] or [cell_verdict(cell) for cell in cells]
    metrics = {cell["metric"] for cell in cells if cell_verdict(cell) != "failed"}
    shown = ("command", "cost", "heal", "versions")
    return {
        "sweep": sweep,
        "headline": curves.headline
        if curves
        else joint_headline(joints, [view.answer for view in joint_views], tolerance)
        if joints
        else _headline(cells, [view.answer for view in cell_views], tolerance),
        "verdict_counts": [] if curves else verdict_counts(verdicts),
        "counted": ("base", "bases") if joints else ("cell", "cells"),
        "tolerance": percent(tolerance),
        "curves": curves,
        "joints": joint_views,
        "cells_table": tables.cells_table(
            cells, anchors, split="selection" if joints else "test", others=_control_column(cells)
        ),
        "against_paper": None if curves else published.against_paper(cells, anchors, sweep["corpus"]["name"]),
        "cells": cell_views,
        "probes_table": tables.probes_table(probes, cells),
        "probes_note": method.probes_note(sweep, probes),
        "rungs_table": tables.rungs_table(results.get("rungs") or []),
        "how_chosen": method.how_chosen(sweep),
        "how_healed": method.how_healed(probes, len(joints)),
        "how_scored": [
            *method.how_decoded(sweep),
            *method.how_judged(sweep, probes, len(joints), metrics),
            *how_stopped(sweep.get("scoring"), metrics, probes, joints),
        ],
        "caveats": method.caveats(sweep, probes, len(joints)),
        "heal_table": tables.facts_table(sweep["heal"]),
        "run_table": tables.facts_table({name: value for name, value in sweep.items() if name not in shown}),
        "versions_table": tables.facts_table(sweep["versions"], ("Package", "Version")),
        "signatures": _signatures(cells, stand_ins),
        "failures": _failures(cells, probes, joints),
        "costs": costs.view_costs(results, cells),
    }


def _headline(cells: Sequence[Mapping[str, Any]], answers: Sequence[str], tolerance: float) -> str:
    """Return the answer of a sweep, with what its controls say where it is about several cells."""
    told = headline(cells, answers, tolerance)
    return told if told in answers else told + controls.headline(cells) + costs.headline(cells)


def _control_column(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the column of what answers cost against their controls, none where no cell has a control."""
    compared = [controls.of_cell(cell) for cell in cells]
    return [(controls.HEADING, [controls.in_short(one) for one in compared])] if any(compared) else []


def _failures(
    cells: Sequence[Mapping[str, Any]], probes: Sequence[Mapping[str, Any]], joints: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return (what, why) of everything that has no result."""
    failures = [(tables.cell_name(cell), cell.get("reason")) for cell in cells if cell_verdict(cell) == "failed"]
    failures += [(f"{tables.cell_name(p['cell'])}, {_look(p)}", p.get("reason")) for p in probes if _failed(p)]
    for joint in joints:
        name = f"{base_of(joint)}, all cells together"
        if joint["verdict"] == "failed":
            failures.append((name, joint.get("reason")))
        failures += [(f"{name}, {_look(heal)}", heal.get("reason")) for heal in joint["heals"] if _failed(heal)]
    return [(name, reason or "no reason was recorded") for name, reason in failures]


def _failed(look: Mapping[str, Any]) -> bool:
    return look["status"] == "failed"


def _look(look: Mapping[str, Any]) -> str:
    """Write the block that was looked at, and how, where that was not a first full heal."""
    told = f"layers {layers(look['start'], look['depth'])}"
    told += "" if is_full(look) else f", {tables.RUNGS.get(rung_of(look), rung_of(look))}"
    return told + (f", heal {tables.heal_number(look)}" if look.get("repeat") else "")


def _signatures(
    cells: Sequence[Mapping[str, Any]], stand_ins: Mapping[tuple[str, ...], scores.Splits]
) -> list[tuple[str, str]]:
    """Return (metric, signature) pairs of all cells, each once."""
    answered = [cell for cell in cells if cell_verdict(cell) != "failed"]
    return sorted({pair for cell in answered for pair in scores.signatures(cell, stand_ins.get(cell_key(cell)))})
