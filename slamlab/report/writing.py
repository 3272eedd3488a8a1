"""How numbers and metrics are written: percent, intervals, sizes, times, scores.

Every function is plain: a value in, text out. A relative degradation is positive where the pruned model is worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slamlab.scoring.metrics import METRICS
from slamlab.zoo.languages import LANGUAGES

NBSP = "\u00a0"
DASH = "–"


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


def correlation(tau: float | None) -> str:
    """Write a rank correlation with sign and two decimals: `+0.67`."""
    return DASH if tau is None else f"{tau:+.2f}".replace("-", "−")


def metric_name(metric: str) -> str:
    """Write a metric as papers do: `WER`, `CER`, `BLEU`, `chrF`."""
    return "chrF" if metric == "chrf" else metric.upper()


def metric_value(value: float, metric: str) -> str:
    """Write an error rate in percent (`5.30 %`), a BLEU or chrF on its scale from 0 to 100 (`31.2`)."""
    return f"{100 * value:.2f}{NBSP}%" if METRICS[metric].is_error_rate else f"{value:.1f}"


def metric_of(cell: Mapping[str, Any], known: Mapping[str, Any] | None) -> str:
    """Return the metric of a cell, by its record where there is one, else by its task."""
    return (known or {}).get("metric") or ("bleu" if cell["task"] == "st" else "wer")


def piece_of(cell: Mapping[str, Any]) -> str:
    """Return what stands between spaces in a cell's normalised texts: a `word`, or a `character`.

    It is a character where the language is written without spaces between words, whose recognition is scored by CER. In
    other languages a CER counts characters too, but the texts hold words.
    """
    known = LANGUAGES.get(cell["language"])
    return known.unit if known and cell["metric"] == "cer" else "word"


def _signed(number: float, sign: bool) -> str:
    text = f"{number:+.1f}" if sign else f"{number:.1f}"
    return {"-0.0": "0.0", "+0.0": "0.0"}.get(text, text).replace("-", "−")
