"""What pruning buys, in words: how much smaller the healed model is, and how much faster it decodes.

A speed-up is the median, over turns, of the unpruned model's time over the healed one's; beside it stand the least and
the greatest of the turns. Where these enclose 1, nothing was shown to be faster, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from slamlab.report.writing import NBSP, count, percent

NOT_MEASURED = "not measured"
Sizes = tuple[int | None, int | None]
"""Parameters of the unpruned and of the healed model, encoder not counted; None where that is not recorded."""


def sizes_of(cell: Mapping[str, Any]) -> Sizes:
    """Return the sizes that a cell's record tells of."""
    sizes = cell.get("num_parameters") or {}
    return sizes.get("base"), sizes.get("pruned")


def gain(sizes: Sizes, speed: Mapping[str, Any] | None) -> str:
    """Return what a healed model gains as a sentence that follows others, nothing where nothing is recorded.

    Args:
        sizes: Of both models.
        speed: What was timed, None where nothing was.
    """
    base, pruned = sizes
    small = (
        f"{percent(1 - pruned / base)} fewer parameters ({count(pruned)} of {count(base)})" if base and pruned else ""
    )
    if not speed:
        return f" The healed model has {small}; how fast it decodes was {NOT_MEASURED}." if small else ""
    run = _several(speed)
    middle, low, high = _range(run)
    said = (
        f"decodes {middle:.2f} times as fast ({low:.2f}–{high:.2f}, {_turns(run)}, batch {run['batch_size']}, "
        f"{speed['device']})"
    )
    return f" The healed model {f'has {small} and ' if small else ''}{said}{_doubt(low, high)}."


def gains(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return what the healed models of several cells gain, each over its own base, as a sentence that follows others.

    Args:
        cells: Records whose `pruned` model was scored.
    """
    known = [sizes for sizes in map(sizes_of, cells) if all(sizes)]
    shares = [1 - pruned / base for base, pruned in known if base and pruned]
    small = f"{_span([percent(share) for share in (min(shares), max(shares))])} fewer parameters" if shares else ""
    timed = [cell["pruned"]["speed"] for cell in cells if (cell.get("pruned") or {}).get("speed")]
    if not timed:
        return f" The healed models have {small}; how fast they decode was {NOT_MEASURED}." if small else ""
    runs = [_several(speed) for speed in timed]
    ranges = [_range(run) for run in runs]
    middles = [middle for middle, _, _ in ranges]
    devices = ", ".join(dict.fromkeys(speed["device"] for speed in timed))
    said = f"decode {_span([f'{end:.2f}' for end in (min(middles), max(middles))])} times as fast ("
    said += f"{len(timed)} of {len(cells)} timed, " if len(timed) < len(cells) else ""
    counts = {len(run["ratios"]) for run in runs}
    said += f"{min(counts)} paired runs each{' or more' * (len(counts) > 1)}, {devices})"
    doubtful = sum(low <= 1 for _, low, _ in ranges)
    said += f"; in {doubtful} of them the runs do not show that it is faster" if doubtful else ""
    return f" The healed models {f'have {small} and ' if small else ''}{said}."


def speedup(speed: Mapping[str, Any]) -> str:
    """Write how many times as fast several utterances are decoded at once: `1.62 [1.55, 1.70]`."""
    return _with_range(_several(speed))


def gain_facts(sizes: Sizes, speed: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return (name, value) of what is recorded of a healed model's size and speed."""
    base, pruned = sizes
    facts = []
    if base and pruned:
        facts.append(("Parameters, encoder not counted", f"{base:,} → {pruned:,} (−{percent(1 - pruned / base)})"))
    if not speed:
        return [*facts, ("Times as fast as unpruned", NOT_MEASURED)] if facts else []
    facts += [
        (f"Times as fast as unpruned, {_kind(run)}", f"{_with_range(run)}{_seconds(run)}, {_turns(run)}")
        for run in speed["runs"]
    ]
    threads = f", {speed['num_threads']} threads" if speed["device"] == "cpu" else ""
    told = (
        f"both models in turns, on the same test utterances, greedily, {speed['dtype']} on "
        f"{speed['device']}{threads}; the median with the least and the greatest of the turns. The end token ends "
        "nothing, so that both do the same work; the encoder, the same for both, is left out"
    )
    return [*facts, ("How speed was measured", told)]


def _several(speed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the run that stands for all: of the most utterances at once, of the longest answers."""
    return max(speed["runs"], key=lambda run: (run["batch_size"], run["num_tokens"]))


def _range(run: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return median, least and greatest ratio of a run."""
    return median(run["ratios"]), min(run["ratios"]), max(run["ratios"])


def _with_range(run: Mapping[str, Any]) -> str:
    middle, low, high = _range(run)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]".replace(" ", NBSP)


def _turns(run: Mapping[str, Any]) -> str:
    return f"{len(run['ratios'])} paired runs"


def _kind(run: Mapping[str, Any]) -> str:
    """Write what a run decodes: `batch 8, 24 tokens`; one token is what reading audio and prompt takes."""
    return f"batch {run['batch_size']}, " + (f"{run['num_tokens']} tokens" if run["num_tokens"] > 1 else "first token")


def _seconds(run: Mapping[str, Any]) -> str:
    """Write the medians of both models' times, which records hold of a GPU only."""
    if "unpruned_seconds" not in run:
        return ""
    before_ms, after_ms = 1000 * run["unpruned_seconds"], 1000 * run["pruned_seconds"]
    return f" ({before_ms:.3g} → {after_ms:.3g}{NBSP}ms)"


def _doubt(low: float, high: float) -> str:
    if high < 1:
        return ": it is slower"
    return ", which does not show that it is faster" if low <= 1 else ""


def _span(ends: Sequence[str]) -> str:
    """Write a least and a greatest value, once where they read the same."""
    return " to ".join(dict.fromkeys(ends))
