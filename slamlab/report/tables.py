"""Rows of the report's tables, and how numbers are written: percent, intervals, sizes, times.

Every function is plain: records in, text out. A relative degradation is positive where the pruned model is worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slamlab.report.results import cell_key, cell_verdict, is_full, rung_of
from slamlab.zoo.languages import LANGUAGES

NBSP = "\u00a0"
DASH = "–"
SYMBOLS = {"feasible": "●", "undecided": "◇", "infeasible": "✕", "none": "✕", "failed": "!"}
"""As the figures mark them, so that neither needs colour."""
WORDS = {"none": "no block found"}
RUNGS = {"unhealed": "unhealed look", "short": "short heal", "full": "full heal"}
P_ALONE, P_ALL = "P(heal alone)", "P(all evidence)"
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


def probability(p: float | None) -> str:
    """Write a probability with three decimals, a dash where there is none."""
    return DASH if p is None else f"{p:.3f}"


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


def metric_of(cell: Mapping[str, Any], known: Mapping[str, Any] | None) -> str:
    """Return the metric of a cell, by its record where there is one, else by its task."""
    return (known or {}).get("metric") or ("bleu" if cell["task"] == "st" else "wer")


def removed(record: Mapping[str, Any]) -> str:
    """Write how many layers an answer removes: `4 of 12 (33.3 %)`."""
    return f"{record['max_depth']} of {record['num_layers']} ({percent(record['max_fraction'])})".replace(" ", NBSP)


def cells_table(cells: Sequence[Mapping[str, Any]], anchors: Sequence[str], *, split: str = "test") -> Table:
    """Return one row a cell: the answer, with its scores on a split, `test` or `selection`."""
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
    rows = tuple(
        Row(texts=_cell_texts(cell, split), anchor=anchor) for cell, anchor in zip(cells, anchors, strict=True)
    )
    return Table(columns=columns, rows=rows, numeric=frozenset(range(2, 8)))


def _cell_texts(cell: Mapping[str, Any], split: str) -> tuple[str, ...]:
    verdict = cell_verdict(cell)
    head = (cell_name(cell), Badge(verdict))
    if verdict == "failed":
        return (*head, *[DASH] * 6)
    scores = cell if split == "test" else cell.get(split)
    sizes = cell.get("num_parameters")
    if scores is None:
        return (*head, removed(cell), *[DASH] * 4, _sizes(sizes) if sizes else DASH)
    baseline, pruned = scores["baseline"], scores.get("pruned")
    return (
        *head,
        removed(cell),
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
    columns: tuple[str, ...] = ("Split", "Verdict", "Unpruned", "Pruned, healed", DEGRADATION, P_ALONE)
    judged = (cell.get("selection") or {}).get("pruned") or {}
    by_evidence = judged.get("p_feasible") is not None
    columns += (P_ALL, "n") if by_evidence else ("n",)
    columns += ("Words", "Ins / del / sub") if wer else ()
    rows = []
    for split, name in SPLITS.items():
        scores = cell if split == "test" else cell.get(split)
        if scores is None:
            continue
        baseline, pruned = scores["baseline"], scores.get("pruned") or {}
        if cell.get("searched_only") and not pruned:
            name = f"{name.removesuffix(' (reported)')} (unpruned only)"
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
            probability(pruned.get("p_within")),
        )
        texts += (probability(pruned.get("p_feasible")),) if by_evidence else ()
        texts += (str(baseline["num_utterances"]),)
        texts += (str(baseline.get("num_words", DASH)), _edits(baseline, pruned)) if wer else ()
        rows.append(Row(texts=texts))
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(2, len(columns))))


def _edits(*scores: Mapping[str, Any]) -> str:
    """Write the kinds of errors of models, as far as they were recorded: `14 / 28 / 101 → 17 / 33 / 116`."""
    names = ("insertions", "deletions", "substitutions")
    known = [score for score in scores if all(name in score for name in names)]
    return " → ".join(" / ".join(str(score[name]) for name in names) for score in known) or DASH


def probes_table(probes: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row a probe, in the order of the records; `cells` tell its metric and number of layers.

    What no probe has gets no column: all evidence, the number of a heal, and n where all looks are full.
    """
    by_key = {cell_key(cell): cell for cell in cells}
    rows = [_probe_texts(probe, by_key.get(cell_key(probe["cell"])) or {}) for probe in probes]
    empty = set()
    if not any(probe.get("p_feasible") is not None for probe in probes):
        empty.add(P_ALL)
    if not any(probe.get("repeat") for probe in probes):
        empty.add("Heal")
    if all(map(is_full, probes)):
        empty.add("n")
    judged = ("Verdict", "Score", DEGRADATION, P_ALONE, P_ALL)
    columns = ("Cell", "Layers", "Depth", "Fraction", "Heal", *judged, "n", "Rung", "Time")
    kept = [i for i, column in enumerate(columns) if column not in empty]
    left = ("Cell", "Verdict", "Rung")
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


def correlation(tau: float | None) -> str:
    """Write a rank correlation with sign and two decimals: `+0.67`."""
    return DASH if tau is None else f"{tau:+.2f}".replace("-", "−")


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
