"""Rows of the report's tables, and how numbers are written: percent, intervals, sizes, times.

Every function is plain: records in, text out. A relative degradation is positive where the pruned model is worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slamlab.report.results import cell_key, cell_verdict
from slamlab.zoo.languages import LANGUAGES

NBSP = "\u00a0"
DASH = "–"
SYMBOLS = {"feasible": "●", "undecided": "◇", "infeasible": "✕", "none": "✕", "failed": "!"}
"""As the figures mark them, so that neither needs colour."""
WORDS = {"none": "no block found"}
DEGRADATION = f"Relative degradation [95{NBSP}%]"
SPLITS = {
    "test": "test (reported)",
    "test_voices": "test, unheard voices",
    "selection": "selection (searched)",
}


class Badge(str):
    """A verdict as symbol and word, which a page may also colour."""

    verdict: str

    def __new__(cls, verdict: str) -> Badge:
        """Write a verdict."""
        badge = super().__new__(cls, f"{SYMBOLS[verdict]}{NBSP}{WORDS.get(verdict, verdict)}")
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


def percent(fraction: float, *, sign: bool = False) -> str:
    """Write a fraction as percent with one decimal: `25.0 %`, `+3.1 %`."""
    return f"{_signed(100 * fraction, sign)}{NBSP}%"


def interval(ci95: Sequence[float | None]) -> str:
    """Write the interval of a relative degradation, in percent; null is unbounded."""
    low, high = ci95
    left = "(−∞" if low is None else f"[{_signed(100 * low, True)}"
    right = "∞)" if high is None else f"{_signed(100 * high, True)}]"
    return f"{left}, {right}".replace(" ", NBSP)


def degradation(score: Mapping[str, Any]) -> str:
    """Write a relative degradation with its interval: `+15.5 % [+2.1, +29.8]`."""
    value = score["relative_degradation"]
    return f"{'unbounded' if value is None else percent(value, sign=True)} {interval(score['ci95'])}"


def metric_value(value: float, metric: str) -> str:
    """Write a WER in percent (`5.30 %`) or a BLEU on its scale from 0 to 100 (`31.2`)."""
    return f"{100 * value:.2f}{NBSP}%" if metric == "wer" else f"{value:.1f}"


def count(number: float) -> str:
    """Write a large number with three digits and a unit: `135 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{NBSP}{unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Write a time: `41 s`, `3.2 min`, `1.5 h`."""
    if seconds < 60:
        return f"{seconds:.0f}{NBSP}s"
    return f"{seconds / 60:.1f}{NBSP}min" if seconds < 3600 else f"{seconds / 3600:.1f}{NBSP}h"


def layers(start: int, depth: int) -> str:
    """Write a block by its first and last layer, counted from 0."""
    return f"{start}" if depth == 1 else f"{start}–{start + depth - 1}"


def decoder_name(cell: Mapping[str, Any]) -> str:
    """Write the decoder of a cell: `qwen mini`."""
    return f"{cell['family']} {cell['scale']}"


def question_name(cell: Mapping[str, Any]) -> str:
    """Write what a cell does: `English speech recognition`."""
    known = LANGUAGES.get(cell["language"])
    language = known.name if known else cell["language"]
    if cell["task"] == "asr":
        return f"{language} speech recognition"
    return f"{language} to English speech translation" if cell["task"] == "st" else f"{language} {cell['task']}"


def cell_name(cell: Mapping[str, Any]) -> str:
    """Write a cell in one line."""
    return f"{decoder_name(cell)} · {cell['encoder']} · {question_name(cell)}"


def cells_table(cells: Sequence[Mapping[str, Any]], anchors: Sequence[str]) -> Table:
    """Return one row a cell: the answer, on the test split."""
    columns = (
        "Decoder, encoder, task",
        "Verdict",
        "Layers removed",
        "Unpruned",
        "Pruned, healed",
        DEGRADATION,
        "n",
        "Parameters",
    )
    rows = tuple(Row(texts=_cell_texts(cell), anchor=anchor) for cell, anchor in zip(cells, anchors, strict=True))
    return Table(columns=columns, rows=rows, numeric=frozenset(range(2, 8)))


def _cell_texts(cell: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = cell_verdict(cell)
    head = (cell_name(cell), Badge(verdict))
    if verdict == "failed":
        return (*head, *[DASH] * 6)
    baseline, pruned, sizes = cell["baseline"], cell.get("pruned"), cell.get("num_parameters")
    return (
        *head,
        f"{cell['max_depth']} of {cell['num_layers']} ({percent(cell['max_fraction'])})".replace(" ", NBSP),
        f"{metric_value(baseline['value'], cell['metric'])}{NBSP}{cell['metric'].upper()}",
        metric_value(pruned["value"], cell["metric"]) if pruned else DASH,
        degradation(pruned) if pruned else DASH,
        str(baseline["num_utterances"]),
        _sizes(sizes) if sizes else DASH,
    )


def _sizes(sizes: Mapping[str, int | None]) -> str:
    base, pruned = sizes["base"], sizes.get("pruned")
    if not base or not pruned:
        return count(base) if base else DASH
    return f"{count(base)} → {count(pruned)}"


def scores_table(cell: Mapping[str, Any]) -> Table:
    """Return one row a split: unpruned against pruned, with what the errors were."""
    wer = cell["metric"] == "wer"
    columns: tuple[str, ...] = ("Split", "Verdict", "Unpruned", "Pruned, healed", DEGRADATION, "P(within)", "n")
    columns += ("Words", "Ins / del / sub") if wer else ()
    rows = []
    for split, name in SPLITS.items():
        scores = cell if split == "test" else cell.get(split)
        if scores is None:
            continue
        baseline, pruned = scores["baseline"], scores.get("pruned") or {}
        unpruned = metric_value(baseline["value"], cell["metric"])
        if baseline.get("ci95"):
            low, high = (DASH if end is None else metric_value(end, cell["metric"]) for end in baseline["ci95"])
            unpruned += f" [{low}, {high}]"
        texts: tuple[str, ...] = (
            name,
            Badge(pruned["verdict"]) if pruned.get("verdict") else DASH,
            unpruned,
            metric_value(pruned["value"], cell["metric"]) if pruned else DASH,
            degradation(pruned) if pruned else DASH,
            _p_within(pruned),
            str(baseline["num_utterances"]),
        )
        texts += (str(baseline.get("num_words", DASH)), _edits(baseline, pruned)) if wer else ()
        rows.append(Row(texts=texts))
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(2, len(columns))))


def _p_within(score: Mapping[str, Any]) -> str:
    return DASH if score.get("p_within") is None else f"{score['p_within']:.3f}"


def _edits(*scores: Mapping[str, Any]) -> str:
    """Write the kinds of errors of models, as far as they were recorded: `14 / 28 / 101 → 17 / 33 / 116`."""
    names = ("insertions", "deletions", "substitutions")
    known = [score for score in scores if all(name in score for name in names)]
    return " → ".join(" / ".join(str(score[name]) for name in names) for score in known) or DASH


def probes_table(probes: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row a probe, in the order of the records; `cells` tell its metric and number of layers."""
    by_key = {cell_key(cell): cell for cell in cells}
    answer = ("Cell", "Layers", "Depth", "Fraction", "Verdict", "Score", DEGRADATION)
    columns = (*answer, "P(within)", "Rung", "Time")
    rows = []
    for probe in probes:
        cell = by_key.get(cell_key(probe["cell"]), {})
        num_layers = cell.get("num_layers")
        complete = probe["status"] == "complete"
        rows.append(
            Row(
                texts=(
                    cell_name(probe["cell"]),
                    layers(probe["start"], probe["depth"]),
                    str(probe["depth"]),
                    percent(probe["depth"] / num_layers) if num_layers else DASH,
                    Badge(probe["verdict"] if complete else "failed"),
                    metric_value(probe["value"], cell.get("metric", "wer")) if complete else DASH,
                    degradation(probe) if complete else DASH,
                    _p_within(probe),
                    str(probe.get("rung", DASH)),
                    duration(probe["wall_seconds"]) if probe.get("wall_seconds") is not None else DASH,
                )
            )
        )
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset((1, 2, 3, 5, 6, 7, 9)))


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


def _signed(number: float, sign: bool) -> str:
    text = f"{number:+.1f}" if sign else f"{number:.1f}"
    return {"-0.0": "0.0", "+0.0": "0.0"}.get(text, text).replace("-", "−")
