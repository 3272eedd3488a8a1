"""Tables of one cell's scores: by split, unpruned against pruned, and how many answers of each model are degenerate.

A corpus score alone hides how a pruned model fails: it may say nothing, repeat itself, run into the cap that the
audio's duration sets, or end long before the speech does. What the records count of this is shown beside the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slamlab.report.early import ending, num_scored, was_stopped
from slamlab.report.tables import DEGRADATION, P_ALL, P_ALONE, Badge, Row, Table
from slamlab.report.writing import DASH, degradation, metric_name, metric_value, percent, probability
from slamlab.scoring.metrics import METRICS

SPLITS = {
    "test": "test (reported)",
    "test_voices": "test, unheard voices",
    "selection": "selection (searched)",
}
GUARDS = {
    "num_empty_hypotheses": ("Empty", "are empty"),
    "num_loops": ("Loops", "loop"),
    "num_capped": ("Capped", "ran into the cap"),
    "num_premature": ("Premature", "ended prematurely"),
}
"""Counts of degenerate answers, each with its heading and its verb. A score has all of them or is shown without."""
WORTH_A_WARNING = 0.01
"""Share of a pruned model's answers above which a guard is told in words, where the unpruned model's is less."""
Splits = Mapping[str, Mapping[str, Any]]
"""Scores of a joint model by split, as records name splits: `test`, `test-voices`."""


def scores_table(cell: Mapping[str, Any]) -> Table:
    """Return one row a split: unpruned against pruned, with what the errors were."""
    by_evidence = ((cell.get("selection") or {}).get("pruned") or {}).get("p_feasible") is not None
    unit, others = METRICS[cell["metric"]].unit, _other_metrics(cell)
    columns: tuple[str, ...] = ("Split", "Verdict", "Unpruned", "Pruned, healed", DEGRADATION, P_ALONE)
    columns += (P_ALL, "n") if by_evidence else ("n",)
    columns += (f"{unit.capitalize()}s", "Ins / del / sub") if unit else ()
    columns += tuple(map(metric_name, others))
    rows = []
    for split, scores in _splits(cell):
        baseline, pruned = scores["baseline"], scores.get("pruned") or {}
        texts: tuple[str, ...] = (
            _split_name(cell, split, pruned),
            Badge(pruned["verdict"]) if pruned.get("verdict") else DASH,
            _with_interval(baseline, cell["metric"]),
            metric_value(pruned["value"], cell["metric"]) if pruned else DASH,
            degradation(pruned) if pruned else DASH,
            probability(pruned.get("p_within")),
        )
        texts += (probability(pruned.get("p_feasible")),) if by_evidence else ()
        texts += (num_scored(scores),)
        texts += (num_scored(scores, f"num_{unit}s"), _edits(baseline, pruned)) if unit else ()
        texts += tuple(also(name, baseline, pruned) for name in others)
        rows.append(Row(texts=texts))
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(2, len(columns))))


def also(metric: str, *scores: Mapping[str, Any]) -> str:
    """Write what models score by another metric, as far as it was recorded: `61.2 → 58.9`."""
    known = [score["also"][metric]["value"] for score in scores if metric in score.get("also", ())]
    return " → ".join(metric_value(value, metric) for value in known) or DASH


def signatures(cell: Mapping[str, Any], joint: Splits | None = None) -> list[tuple[str, str]]:
    """Return (metric, signature) pairs of all scores of a cell, each once, other metrics included.

    Args:
        cell: The record.
        joint: Scores of a joint model on the cell's speech.
    """
    pairs = set()
    for _, _, score in _by_model(cell, joint):
        if "signature" in score:
            pairs.add((metric_name(cell["metric"]), score["signature"]))
        pairs |= {(metric_name(name), other["signature"]) for name, other in score.get("also", {}).items()}
    return sorted(pairs)


def guards_table(cell: Mapping[str, Any], joint: Splits | None = None) -> Table | None:
    """Return one row a split and model: how many answers are degenerate; None where that was not recorded.

    Args:
        cell: The record.
        joint: Scores of a joint model on the cell's speech.
    """
    columns = ("Split", "Model", *(heading for heading, _ in GUARDS.values()), "Dropped references", "n")
    rows = tuple(
        Row(texts=(_bare_name(split), model, *_guard_texts(score)))
        for split, model, score in _by_model(cell, joint)
        if _has_guards(score)
    )
    return Table(columns=columns, rows=rows, numeric=frozenset(range(2, len(columns)))) if rows else None


def guards_note(piece: str) -> str:
    """Return how to read the table of degenerate answers, where normalised texts are made of `piece`s."""
    return (
        "Empty: nothing is left after normalisation. Loops: the answer repeats itself. Capped: it ran into the cap "
        "that the audio's duration sets. Premature: it ended by itself with less than half of a reference of 4 "
        f"{piece}s or more. An answer may count under several. Dropped references are empty after normalisation; n is "
        "without them."
    )


def guards_warning(cell: Mapping[str, Any], joint: Splits | None = None) -> str:
    """Return in words where a pruned model's answers are degenerate more often than the unpruned one's, else nothing.

    Args:
        cell: The record.
        joint: Scores of a joint model on the cell's speech.
    """
    sentences: list[str] = []
    baseline: Mapping[str, Any] = {}
    for split, model, score in _by_model(cell, joint):
        if model == "unpruned":
            baseline = score
        elif worse := _worse(baseline, score):
            sentences.append(
                f"of the {score['num_utterances']} answers of the {model} model on the {_bare_name(split)} split, "
                f"{', '.join(worse)}"
            )
    if not sentences:
        return ""
    return f"What the {metric_name(cell['metric'])} alone does not tell: {'; '.join(sentences)}."


def stopped_notes(cell: Mapping[str, Any]) -> list[str]:
    """Return, as one sentence or none, on how much of the selection split the chosen block was scored."""
    pruned = (cell.get("selection") or {}).get("pruned") or {}
    if not was_stopped(pruned):
        return []
    return [
        f"On the selection split the pruned model was not scored whole ({ending(pruned)} utterances): its degradation "
        "compares it with the unpruned model on the same ones, whose own score is of all."
    ]


def _splits(cell: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each split that a cell was scored on, with both models' scores."""
    for split in SPLITS:
        scores = cell if split == "test" else cell.get(split)
        if scores is not None:
            yield split, scores


def _by_model(cell: Mapping[str, Any], joint: Splits | None) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield split, model and score of everything that was scored; a split begins with the unpruned model."""
    for split, scores in _splits(cell):
        yield split, "unpruned", scores["baseline"]
        if scores.get("pruned"):
            yield split, "pruned", scores["pruned"]
        if together := (joint or {}).get(split.replace("_", "-")):
            yield split, "jointly pruned", together


def _bare_name(split: str) -> str:
    return SPLITS[split].partition(" (")[0].replace("test, unheard voices", "unheard voices")


def _split_name(cell: Mapping[str, Any], split: str, pruned: Mapping[str, Any]) -> str:
    if cell.get("searched_only") and not pruned:
        return f"{SPLITS[split].removesuffix(' (reported)')} (unpruned only)"
    return SPLITS[split]


def _with_interval(score: Mapping[str, Any], metric: str) -> str:
    """Write an unpruned model's score with its 95 % interval, where that was recorded."""
    if not score.get("ci95"):
        return metric_value(score["value"], metric)
    low, high = (DASH if end is None else metric_value(end, metric) for end in score["ci95"])
    return f"{metric_value(score['value'], metric)} [{low}, {high}]"


def _edits(*scores: Mapping[str, Any]) -> str:
    """Write the kinds of errors of models, as far as they were recorded: `14 / 28 / 101 → 17 / 33 / 116`."""
    names = ("insertions", "deletions", "substitutions")
    known = [score for score in scores if all(name in score for name in names)]
    return " → ".join(" / ".join(str(score[name]) for name in names) for score in known) or DASH


def _other_metrics(cell: Mapping[str, Any]) -> list[str]:
    return sorted({name for _, _, score in _by_model(cell, None) for name in score.get("also", ())})


def _has_guards(score: Mapping[str, Any]) -> bool:
    """Say whether a score counts degenerate answers; older records have some counts, taken by other rules."""
    return bool(score.get("num_utterances")) and all(guard in score for guard in GUARDS)


def _guard_texts(score: Mapping[str, Any]) -> Sequence[str]:
    n = score["num_utterances"]
    counts = [f"{score[guard]} ({percent(score[guard] / n)})" if score[guard] else "0" for guard in GUARDS]
    return (*counts, str(score.get("num_empty_references", DASH)), str(n))


def _worse(baseline: Mapping[str, Any], pruned: Mapping[str, Any]) -> list[str]:
    """Write the guards in which a pruned model is worse: `11 (3.7 %) loop (unpruned: 0 of 300)`."""
    if not (_has_guards(baseline) and _has_guards(pruned)):
        return []
    told = []
    for guard, (_, verb) in GUARDS.items():
        share, before = (score[guard] / score["num_utterances"] for score in (pruned, baseline))
        if share > WORTH_A_WARNING and share > before:
            base = f"unpruned: {baseline[guard]} of {baseline['num_utterances']}"
            told.append(f"{pruned[guard]} ({percent(share)}) {verb} ({base})")
    return told
