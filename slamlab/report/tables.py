"""Tables of many cells and of many probes, and how cells are named.

Every function is plain: records in, text out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slamlab.report.early import ending, num_scored, was_stopped
from slamlab.report.gains import sizes_of, speedup
from slamlab.report.results import cell_key, cell_verdict, is_full, rung_of
from slamlab.report.writing import (
    DASH,
    NBSP,
    correlation,
    count,
    degradation,
    duration,
    layers,
    metric_name,
    metric_of,
    metric_value,
    percent,
    probability,
)
from slamlab.zoo.decoders import GIVEN
from slamlab.zoo.languages import LANGUAGES

SYMBOLS = {"feasible": "●", "undecided": "◇", "infeasible": "✕", "none": "✕", "failed": "!"}
"""As the figures mark them, so that neither needs colour."""
WORDS = {"none": "no block found"}
RUNGS = {"unhealed": "unhealed look", "short": "short heal", "full": "full heal"}
P_ALONE, P_ALL = "P(heal alone)", "P(all evidence)"
DEGRADATION = f"Relative degradation [95{NBSP}%]"


class Badge(str):
    """A verdict as symbol and word, which a page may also colour."""

    verdict: str

    def __new__(cls, verdict: str, words: str = "") -> Badge:
        """Write a verdict, in its own words unless others are given."""
        badge = super().__new__(cls, f"{SYMBOLS[verdict]}{NBSP}{words or WORDS.get(verdict, verdict)}")
        badge.verdict = verdict
        return badge


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: its texts, and the anchor that the first of them links to."""

    texts: tuple[str, ...]
    anchor: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        columns: Headings.
        rows: As many texts as headings each.
        numeric: Columns that are aligned to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numeric: frozenset[int] = frozenset()


def decoder_name(cell: Mapping[str, Any]) -> str:
    """Write the decoder of a cell: `qwen mini`; of one by hub id or folder its last part, as `SmolLM2-360M`."""
    if cell["scale"] == GIVEN:
        return str(cell["family"]).rpartition("/")[2]
    return f"{cell['family']} {cell['scale']}"


def encoder_name(cell: Mapping[str, Any]) -> str:
    """Write the encoder of a cell; a folder by its own name, and that of a SpeechLLM as what it is."""
    if cell["encoder"] == cell["family"]:
        return "its own encoder"
    encoder = str(cell["encoder"])
    return encoder.rpartition("/")[2] if encoder.startswith("/") else encoder


def question_name(cell: Mapping[str, Any]) -> str:
    """Write what a cell does: `English speech recognition`."""
    known = LANGUAGES.get(cell["language"])
    language = known.name if known else cell["language"]
    if cell["task"] == "asr":
        return f"{language} speech recognition"
    return f"{language} to English speech translation" if cell["task"] == "st" else f"{language} {cell['task']}"


def cell_name(cell: Mapping[str, Any]) -> str:
    """Write a cell in one line."""
    return f"{decoder_name(cell)} · {encoder_name(cell)} · {question_name(cell)}"


def removed(record: Mapping[str, Any]) -> str:
    """Write how many layers an answer removes: `4 of 12 (33.3 %)`."""
    return f"{record['max_depth']} of {record['num_layers']} ({percent(record['max_fraction'])})".replace(" ", NBSP)


def cells_table(
    cells: Sequence[Mapping[str, Any]],
    anchors: Sequence[str],
    *,
    split: str = "test",
    others: Sequence[tuple[str, Sequence[str]]] = (),
) -> Table:
    """Return one row a cell: the answer, with its scores on a split, `test` or `selection`.

    Speed has a column where any cell's healed model was timed; `others` are further columns, a heading and a text a
    cell.
    """
    columns: tuple[str, ...] = (
        "Decoder, encoder, task",
        "Verdict",
        "Layers removed",
        "Unpruned",
        "Pruned, healed",
        DEGRADATION,
        "n",
        "Parameters",
    )
    speeds = [(cell.get("pruned") or {}).get("speed") for cell in cells]
    timed = any(speeds)
    columns += ("Times as fast [range]",) if timed else ()
    columns += tuple(heading for heading, _ in others)
    rows = tuple(
        Row(
            texts=(
                *_cell_texts(cell, split),
                *((speedup(speed) if speed else DASH,) if timed else ()),
                *(texts[i] for _, texts in others),
            ),
            anchor=anchor,
        )
        for i, (cell, speed, anchor) in enumerate(zip(cells, speeds, anchors, strict=True))
    )
    return Table(columns=columns, rows=rows, numeric=frozenset(range(2, len(columns))))


def _cell_texts(cell: Mapping[str, Any], split: str) -> tuple[str, ...]:
    verdict = cell_verdict(cell)
    head = (cell_name(cell), Badge(verdict))
    if verdict == "failed":
        return (*head, *[DASH] * 6)
    scores = cell if split == "test" else cell.get(split)
    sizes = _sizes(*sizes_of(cell))
    if scores is None:
        return (*head, removed(cell), *[DASH] * 4, sizes)
    baseline, pruned = scores["baseline"], scores.get("pruned")
    return (
        *head,
        removed(cell),
        f"{metric_value(baseline['value'], cell['metric'])}{NBSP}{metric_name(cell['metric'])}",
        metric_value(pruned["value"], cell["metric"]) if pruned else DASH,
        degradation(pruned) if pruned else DASH,
        num_scored(scores),
        sizes,
    )


def _sizes(base: int | None, pruned: int | None) -> str:
    if not base or not pruned:
        return count(base) if base else DASH
    return f"{count(base)} → {count(pruned)} (−{percent(1 - pruned / base)})"


def probes_table(probes: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row a probe, in the order of the records; `cells` tell its metric and number of layers.

    What no probe has gets no column: all evidence, the number of a heal, n where all were scored on all utterances, and
    how scoring ended where none was stopped early.
    """
    by_key = {cell_key(cell): cell for cell in cells}
    rows = [_probe_texts(probe, by_key.get(cell_key(probe["cell"])) or {}) for probe in probes]
    empty = set()
    if not any(probe.get("p_feasible") is not None for probe in probes):
        empty.add(P_ALL)
    if not any(probe.get("repeat") for probe in probes):
        empty.add("Heal")
    if not any(map(was_stopped, probes)):
        empty.add("Scoring")
        if all(map(is_full, probes)):
            empty.add("n")
    judged = ("Verdict", "Score", DEGRADATION, P_ALONE, P_ALL)
    columns = ("Cell", "Layers", "Depth", "Fraction", "Heal", *judged, "n", "Scoring", "Rung", "Time")
    kept = [i for i, column in enumerate(columns) if column not in empty]
    left = ("Cell", "Verdict", "Scoring", "Rung")
    return Table(
        columns=tuple(columns[i] for i in kept),
        rows=tuple(Row(texts=tuple(row[i] for i in kept)) for row in rows),
        numeric=frozenset(at for at, i in enumerate(kept) if columns[i] not in left),
    )


def _probe_texts(probe: Mapping[str, Any], cell: Mapping[str, Any]) -> tuple[str, ...]:
    num_layers, complete = cell.get("num_layers"), probe["status"] == "complete"
    verdict = Badge(probe["verdict"]) if complete and is_full(probe) else DASH
    return (
        cell_name(probe["cell"]),
        layers(probe["start"], probe["depth"]),
        str(probe["depth"]),
        percent(probe["depth"] / num_layers) if num_layers else DASH,
        heal_number(probe),
        verdict if complete else Badge("failed"),
        metric_value(probe["value"], metric_of(probe["cell"], cell)) if complete else DASH,
        degradation(probe) if complete else DASH,
        probability(probe.get("p_within")),
        probability(probe.get("p_feasible")),
        str(probe.get("num_utterances", DASH)),
        ending(probe) or DASH,
        RUNGS.get(rung_of(probe), rung_of(probe)),
        duration(probe["wall_seconds"]) if probe.get("wall_seconds") is not None else DASH,
    )


def heal_number(heal: Mapping[str, Any]) -> str:
    """Write which heal of its block one is, from 1; a dash where nothing was healed."""
    return DASH if rung_of(heal) == "unhealed" else str((heal.get("repeat") or 0) + 1)


def rungs_table(rankings: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row a decoder and cheap rung: how alike it and full heals rank the blocks of a cell."""
    columns = ("Decoder", "Look", "Kendall's tau", f"95{NBSP}% interval", "Blocks", "Pairs", "Looks")
    rows = tuple(
        Row(
            texts=(
                decoder_name(ranking),
                RUNGS.get(ranking["rung"], ranking["rung"]),
                DASH if ranking["tau"] is None else correlation(ranking["tau"]),
                DASH if ranking["ci95"] is None else f"[{', '.join(map(correlation, ranking['ci95']))}]",
                str(ranking["num_blocks"]),
                str(ranking["num_pairs"]),
                str(ranking["num_looks"]),
            )
        )
        for ranking in rankings
    )
    return Table(columns=columns, rows=rows, numeric=frozenset(range(2, 7)))


def facts_table(facts: Mapping[str, Any], names: tuple[str, str] = ("Setting", "Value")) -> Table:
    """Return nested settings as rows of dotted name and value, sorted by name."""
    return Table(columns=names, rows=tuple(Row(texts=pair) for pair in sorted(_flat(facts, ""))))


def _flat(facts: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    pairs = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            pairs.append((f"{prefix}{name}", ", ".join(map(str, value)) or DASH))
        else:
            pairs.append((f"{prefix}{name}", DASH if value is None else str(value)))
    return pairs
