"""The page: `report.md`, a self-contained `index.html`, and the figures, from records alone.

Nothing here computes a result or reads a clock: what the page says is in `results.json` or in the store's files.
Transcripts and names are untrusted text: Jinja escapes them in the page, :func:`escape_markdown` in the Markdown.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from slamlab.errors import StoreError
from slamlab.report import tables
from slamlab.report.answers import cell_answer, headline, verdict_counts
from slamlab.report.figures import Image, draw_degradation, draw_map
from slamlab.report.results import cell_key, cell_verdict, check_results
from slamlab.report.samples import Sample, artefact, choose, read_hypotheses
from slamlab.report.tables import Badge, Table

TEMPLATES = Path(__file__).parent / "templates"


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
        notes: One sentence for everything that could not be shown.
    """

    anchor: str
    name: str
    badge: Badge
    answer: str
    facts: tuple[tuple[str, str], ...]
    scores: Table | None
    figures: tuple[Figure, ...]
    samples: tuple[Sample, ...]
    samples_rule: str
    notes: tuple[str, ...]


def render(results: Mapping[str, Any], store: Path, out: Path) -> None:
    """Write the report of a sweep.

    Args:
        results: Records, as :mod:`slamlab.report.results` describes them.
        store: The store's folder; files that it lacks are said to be lacking.
        out: The report's folder; `report.md`, `index.html` and `figures/` in it are replaced.

    Raises:
        DataError: The records lack a part.
        StoreError: The report's folder cannot be written.
    """
    check_results(results, "the records given")
    images: dict[str, Image] = {}
    context = _context(results, store, images)
    files = {
        out / "report.md": _environment(markdown=True).get_template("report.md.jinja").render(context).encode(),
        out / "index.html": _environment(markdown=False).get_template("index.html.jinja").render(context).encode(),
    }
    for stem, image in images.items():
        files |= {out / f"{stem}.svg": image.svg, out / f"{stem}.png": image.png}
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for old in (out / "figures").iterdir():
            if old.suffix in (".svg", ".png") and old not in files:
                old.unlink()  # a figure of earlier records
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


def _environment(*, markdown: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=not markdown,
        finalize=escape_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code_markdown
    environment.tests["badge"] = lambda text: isinstance(text, Badge)
    return environment


def _context(results: Mapping[str, Any], store: Path, images: dict[str, Image]) -> dict[str, Any]:
    """Return what the templates show; figures drawn on the way go to `images` by path without suffix."""
    sweep, cells, probes = results["sweep"], results["cells"], results["probes"]
    anchors = [f"cell-{i:02d}" for i in range(1, len(cells) + 1)]
    by_cell: dict[tuple[str, ...], list[Mapping[str, Any]]] = {cell_key(cell): [] for cell in cells}
    for probe in probes:
        by_cell.setdefault(cell_key(probe["cell"]), []).append(probe)
    views = [
        _view(cell, by_cell[cell_key(cell)], sweep["tolerance"], store, anchor, images)
        for cell, anchor in zip(cells, anchors, strict=True)
    ]
    shown = ("command", "heal", "versions")
    failures = [(tables.cell_name(cell), cell.get("reason")) for cell in cells if cell_verdict(cell) == "failed"]
    failures += [
        (f"{tables.cell_name(p['cell'])}, layers {tables.layers(p['start'], p['depth'])}", p.get("reason"))
        for p in probes
        if p["status"] == "failed"
    ]
    return {
        "sweep": sweep,
        "headline": headline(cells, [view.answer for view in views], results["sweep"]["tolerance"]),
        "verdict_counts": verdict_counts(cells),
        "tolerance": tables.percent(sweep["tolerance"]),
        "confidence": tables.percent(1 - sweep["alpha"]),
        "undecided_range": f"{tables.percent(sweep['alpha'])} and {tables.percent(1 - sweep['alpha'])}",
        "cells_table": tables.cells_table(cells, anchors),
        "cells": views,
        "probes_table": tables.probes_table(probes, cells),
        "heal_table": tables.facts_table(sweep["heal"]),
        "run_table": tables.facts_table({name: value for name, value in sweep.items() if name not in shown}),
        "versions_table": tables.facts_table(sweep["versions"], ("Package", "Version")),
        "signatures": _signatures(cells),
        "failures": [(name, reason or "no reason was recorded") for name, reason in failures],
    }


def _signatures(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (metric, signature) pairs, each once."""
    pairs = [
        (cell["metric"].upper(), cell["baseline"]["signature"]) for cell in cells if cell_verdict(cell) != "failed"
    ]
    return sorted(set(pairs))


def _view(
    cell: Mapping[str, Any],
    probes: Sequence[Mapping[str, Any]],
    tolerance: float,
    store: Path,
    anchor: str,
    images: dict[str, Image],
) -> CellView:
    answered = cell_verdict(cell) != "failed"
    notes: list[str] = []
    figures: list[Figure] = []
    samples: list[Sample] = []
    rule = ""
    if answered:
        figures = _figures(cell, probes, tolerance, store, anchor, images, notes)
        samples, rule = _samples(cell, store, notes)
    return CellView(
        anchor=anchor,
        name=tables.cell_name(cell),
        badge=Badge(cell_verdict(cell)),
        answer=cell_answer(cell, len({(p["start"], p["depth"]) for p in probes}), tolerance),
        facts=tuple(_facts(cell)),
        scores=tables.scores_table(cell) if answered else None,
        figures=tuple(figures),
        samples=tuple(samples),
        samples_rule=rule,
        notes=tuple(notes),
    )


def _facts(cell: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of what else is recorded about a cell."""
    facts = []
    if cell["verdict"] in ("feasible", "undecided"):
        facts.append(("Layers removed", f"{tables.layers(cell['start'], cell['max_depth'])}, counted from 0"))
    if (cell.get("pruned") or {}).get("checkpoint"):
        facts.append(("Healed checkpoint, in the store", cell["pruned"]["checkpoint"]))
    if cell.get("num_heals") is not None:
        facts.append(("Models healed", str(cell["num_heals"])))
    for name, label in (("device_seconds", "Device time"), ("wall_seconds", "Wall time")):
        if cell.get(name) is not None:
            facts.append((label, tables.duration(cell[name])))
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

    chosen = {**cell["pruned"], "depth": cell["max_depth"]} if cell.get("pruned") else None
    if chosen or probes:
        add(
            "degradation",
            draw_degradation(probes, cell["num_layers"], tolerance, chosen),
            f"{cell['metric'].upper()}: relative degradation on the selection split against the fraction of layers "
            "removed, one mark a probe, bars are 95 % intervals. "
            + ("The star is the chosen block on the test split." if chosen else "No block reached the test split."),
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


def _read_map(store: Path, relative: str, num_layers: int) -> np.ndarray | None:
    """Return the map [L+1, L+1], None where the store lacks it or it is damaged."""
    try:
        with np.load(artefact(store, relative), allow_pickle=False) as arrays:
            distance = np.asarray(arrays["distance"], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError):
        return None
    usable = distance.shape == (num_layers + 1,) * 2 and np.isfinite(distance[np.triu_indices(num_layers + 1)]).all()
    return distance if usable else None


def _samples(cell: Mapping[str, Any], store: Path, notes: list[str]) -> tuple[list[Sample], str]:
    """Return what the models said on the test split, and how it was chosen."""
    missing = "hypotheses not in this store"
    baseline = read_hypotheses(store, cell["baseline"]["hypotheses"])
    if baseline is None:
        notes.append(f"Unpruned model: {missing} ({cell['baseline']['hypotheses']}).")
        return [], ""
    pruned = None
    if cell.get("pruned"):
        pruned = read_hypotheses(store, cell["pruned"]["hypotheses"])
        if pruned is None:
            notes.append(f"Pruned model: {missing} ({cell['pruned']['hypotheses']}).")
    samples = choose(baseline, pruned)
    order = "most improved to the most harmed by pruning" if pruned else "fewest to the most errors"
    rule = (
        f"{len(samples)} of {len(baseline)} utterances of the test split, taken by rule at even spacing from the "
        f"{order} (word edits against the reference). Words that differ from the reference are underlined."
    )
    return samples, rule
