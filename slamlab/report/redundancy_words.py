"""What maps say, in sentences: which blocks are least distant, whether maps agree, and where that cannot be told.

The verdict on a pair of maps goes by the interval of tau within depths and by the permutation test; every sentence and
table of a report asks :func:`verdict` for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slamlab.report.agreement import MIN_RESAMPLES, Map
from slamlab.report.redundancy_records import Drawn
from slamlab.report.tables import Badge, decoder_name
from slamlab.report.writing import DASH, NBSP, correlation, layers, percent

AGREES_FROM = 0.5
"""Tau within depths from which maps agree: both then order three of four pairs of equally deep blocks alike."""
ALPHA = 0.05
MIN_UTTERANCES = 20
"""With fewer, the bootstrap's interval is too narrow to be relied on, and no verdict is given."""
AXES = {
    "view": "Text against speech",
    "decoder": "Decoder as in the base against LoRA",
    "encoder": "Encoder against encoder",
    "task": "Task against task",
    "language": "Language against language",
    "scale": "Scale against scale",
    "family": "Family against family",
    "selection": "Positions against positions",
}
"""Axes in the order in which they are told, and what is compared along them."""
BADGES = {"agree": "feasible", "unclear": "undecided", "differ": "infeasible"}
WORDS = {"agree": "agree", "unclear": "cannot tell", "differ": "differ", "same": "one map"}
QUESTION = "on which blocks change the residual stream least"


def verdict(pair: Mapping[str, Any]) -> str:
    """Return whether two maps `agree` or `differ`, whether that is `unclear`, or whether they are the `same` map."""
    if pair["is_identical"]:
        return "same"
    ends = pair["within"]["ci95"]
    if ends is None or pair["p"] is None or pair["num_utterances"] < MIN_UTTERANCES:
        return "unclear"
    if ends[0] >= AGREES_FROM and pair["p"] <= ALPHA:
        return "agree"
    return "differ" if ends[1] < AGREES_FROM else "unclear"


def badge(pair: Mapping[str, Any]) -> str:
    """Write the verdict on a pair as a badge; that two maps are one is no verdict."""
    found = verdict(pair)
    return Badge(BADGES[found], WORDS[found]) if found in BADGES else f"={NBSP}{WORDS[found]}"


def compared(pairs: Sequence[Mapping[str, Any]], axis: str) -> list[Mapping[str, Any]]:
    """Return the pairs along an axis that were compared, those of one and the same map included."""
    return [pair for pair in pairs if pair["axis"] == axis and pair["status"] == "complete"]


def headline(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Say whether text and speech agree: the paper's claim that redundancy is inherited from the text model."""
    judged = [found for found in map(verdict, compared(pairs, "view")) if found != "same"]
    if not judged:
        return "No map of text was compared with one of speech."
    counts, n = Counter(judged), len(judged)
    in_all = "in the one comparison made" if n == 1 else f"in all {n} comparisons"
    if counts["agree"] == n:
        return f"Text and speech agree {QUESTION}, {in_all}."
    if counts["differ"] == n:
        return f"Text and speech differ {QUESTION}, {in_all}."
    if counts["unclear"] == n:
        return f"Whether text and speech agree {QUESTION} cannot be told, {in_all}."
    told = [f"agree {QUESTION} in {counts['agree']} of {n} comparisons"] if counts["agree"] else []
    if counts["differ"]:
        told.append(f"differ in {counts['differ']}" if told else f"differ {QUESTION} in {counts['differ']} of {n}")
    ending = f"; in {counts['unclear']} it cannot be told" if counts["unclear"] else ""
    return f"Text and speech {' and '.join(told)}{ending}."


def axis_sentence(pairs: Sequence[Mapping[str, Any]], axis: str, numbers: Mapping[str, int]) -> str:
    """Say what holds along an axis, what does not, and what cannot be told, with the numbers of the extreme pairs.

    Args:
        pairs: All pairs.
        axis: One of :data:`AXES`.
        numbers: Number of each map by key.

    Returns:
        An empty text where no pair along the axis was compared.
    """
    own = compared(pairs, axis)
    told = [pair for pair in own if verdict(pair) != "same"]
    if not told:
        return f"{AXES[axis]}: all {len(own)} pairs are one map twice, and say nothing." if own else ""
    counts = Counter(map(verdict, told))
    if len(told) == 1:
        sentence = f"{AXES[axis]}: {WORDS[verdict(told[0])]}. {_pair(told[0], numbers)}."
    else:
        verbs = {"agree": ("agrees", "agree"), "differ": ("differs", "differ"), "unclear": ("cannot be told",) * 2}
        parts = [f"{counts[name]} {verb[counts[name] > 1]}" for name, verb in verbs.items() if counts[name]]
        ordered = sorted(told, key=lambda pair: -2 if pair["within"]["value"] is None else pair["within"]["value"])
        ends = [f"{estimate(pair['within'])} (maps {_maps(pair, numbers)})" for pair in (ordered[0], ordered[-1])]
        n = sorted({pair["num_utterances"] for pair in told})
        sentence = (
            f"{AXES[axis]}: of {len(told)} pairs {', '.join(parts)}; tau from {' to '.join(ends)}, n = {_span(n)}."
        )
    if counts["unclear"]:
        sentence += f" {_why_unclear([pair for pair in told if verdict(pair) == 'unclear'])}"
    if len(own) > len(told):
        sentence += f" In {len(own) - len(told)} more the maps are one and the same: one decoder on one input."
    return sentence


def _pair(pair: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    """Write the numbers of a pair."""
    p = "" if pair["p"] is None else f", p = {p_value(pair['p'])}"
    return (
        f"Between maps {_maps(pair, numbers)} tau is {estimate(pair['within'])}{p}, n = {pair['num_utterances']}; "
        f"their best blocks overlap by {share(pair['overlap'])} (by chance {pair['chance']:.2f})"
    )


def _maps(pair: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    return f"{numbers[pair['a']]} and {numbers[pair['b']]}"


def _span(counts: Sequence[int]) -> str:
    """Write counts in ascending order by their ends."""
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _why_unclear(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Say why a verdict could not be given."""
    reasons: Counter[str] = Counter()
    for pair in pairs:
        ends = pair["within"]["ci95"]
        if pair["num_utterances"] < MIN_UTTERANCES:
            reasons[f"n is below {MIN_UTTERANCES}"] += 1
        elif pair["p"] is None:
            reasons["a map orders no blocks"] += 1
        elif ends is None:
            reasons[f"there are fewer than {MIN_RESAMPLES} paired resamples"] += 1
        elif ends[0] < AGREES_FROM <= ends[1]:
            reasons[f"the interval holds {AGREES_FROM:g}, so that n is too small to tell"] += 1
        else:
            reasons["layers that have nothing to do with another could agree as well by chance"] += 1
    only = next(iter(reasons)) if len(reasons) == 1 else ""
    listed = "; ".join(f"{number} as {reason}" for reason, number in sorted(reasons.items()))
    return f"It cannot be told because {only}." if only else f"It cannot be told: {listed}."


def best_sentences(drawn: Sequence[Drawn]) -> list[str]:
    """Say, for every decoder, where the least distant block of a quarter of its layers is, by maps of all positions.

    One sentence a decoder (family and scale), with how many maps say so, distances, intervals and n. Maps that are one
    and the same, as those of one decoder on the same texts, count once.
    """
    by_decoder: dict[str, list[Drawn]] = {}
    seen: set[bytes] = set()
    for one in drawn:
        if one.map is None or one.record["selection"] != "all" or one.map.distance.tobytes() in seen:
            continue
        seen.add(one.map.distance.tobytes())
        by_decoder.setdefault(decoder_name(one.record), []).append(one)
    return [_best_sentence(name, own) for name, own in by_decoder.items()]


def _best_sentence(name: str, drawn: Sequence[Drawn]) -> str:
    maps = [one.map for one in drawn if one.map is not None]
    num_layers = maps[0].num_layers
    depth = quarter(num_layers)
    found: dict[int, list[int]] = {}
    for one in drawn:
        if one.map is not None:
            found.setdefault(best_start(one.map, depth), []).append(one.number)
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    told = [f"layers {layers(start, depth)}{_who(own, len(maps))}" for start, own in ranked]
    values = [float(one.distance[best_start(one, depth), best_start(one, depth) + depth]) for one in maps]
    between = f"{min(values):.3f}" if len(values) == 1 else f"{min(values):.3f} to {max(values):.3f}"
    ends = [band(one, depth) for one in maps]
    low = min((end[0] for end in ends if end is not None), default=None)
    high = max((end[1] for end in ends if end is not None), default=None)
    within = "" if low is None or high is None else f", 95{NBSP}% intervals within [{low:.3f}, {high:.3f}]"
    n = _span(sorted({one.num_utterances for one in maps}))
    block = "block of 1 layer" if depth == 1 else f"block of {depth} layers"
    return (
        f"In {name} ({num_layers} layers) the least distant {block} ({percent(depth / num_layers)}) is "
        f"{', '.join(told)}: angular distance {between}{within}, n = {n}."
    )


def _who(numbers: Sequence[int], num_maps: int) -> str:
    """Write which maps, or how many, have their least distant block somewhere."""
    if num_maps == 1:
        return ""
    if len(numbers) > 2:
        return f" in {len(numbers)} of {num_maps} different maps"
    return f" in map{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}"


def quarter(num_layers: int) -> int:
    """Return the depth nearest to a quarter of the layers, at least 1."""
    return max(1, int(num_layers / 4 + 0.5))


def best_start(one: Map, depth: int) -> int:
    """Return the first layer of the least distant block of a depth."""
    return int(np.diagonal(one.distance, depth).argmin())


def band(one: Map, depth: int) -> tuple[float, float] | None:
    """Return the percentile interval of the distance of a depth's least distant block, that block held fixed."""
    start = best_start(one, depth)
    values = one.resampled[:, start, start + depth].astype(np.float64)
    values = values[np.isfinite(values)]
    if len(values) < MIN_RESAMPLES:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def stability(one: Map, depth: int) -> float | None:
    """Return the share of resamples whose least distant block of a depth is the map's; None with too few of them."""
    rows = np.diagonal(one.resampled, depth, axis1=1, axis2=2)
    rows = rows[np.isfinite(rows).all(1)]
    return float((rows.argmin(1) == best_start(one, depth)).mean()) if len(rows) >= MIN_RESAMPLES else None


def input_name(record: Mapping[str, Any]) -> str:
    """Write what a map's decoder was fed and whether it was adapted: `speech, LoRA decoder`."""
    fed = "text alone" if record["view"] == "text" else "speech"
    return f"{fed}, LoRA decoder" if record["decoder"] == "lora" else fed


def estimate(one: Mapping[str, Any]) -> str:
    """Write a correlation with its interval: `+0.82 [+0.74, +0.88]`."""
    ends = one["ci95"]
    return correlation(one["value"]) + ("" if ends is None else f" [{', '.join(map(correlation, ends))}]")


def share(one: Mapping[str, Any]) -> str:
    """Write an overlap with its interval: `0.81 [0.72, 0.90]`."""
    if one["value"] is None:
        return DASH
    return f"{one['value']:.2f}" + ("" if one["ci95"] is None else " [{:.2f}, {:.2f}]".format(*one["ci95"]))


def p_value(p: float | None) -> str:
    """Write a p value with two digits, a dash where there is none."""
    return DASH if p is None else f"{p:.2g}"
