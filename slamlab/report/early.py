"""What stopping early did to probes: by which bound, and how many utterances were never decoded.

A score that names `num_planned` tells how many utterances a full scoring takes; those of empty references are decoded
and dropped, so that a score has seen `num_utterances` + `num_empty_references` of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slamlab.report.writing import DASH, NBSP, metric_name, percent
from slamlab.scoring.metrics import METRICS

Look = Mapping[str, Any]
"""A probe, or what a joint heal cost one cell."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What early stopping spared over some probes.

    Attributes:
        num_looks: Probes that tell how many utterances they planned.
        num_hopeless: Those that were stopped as hopeless.
        num_safe: Those that were stopped as safe.
        num_spared: Utterances planned and not decoded.
        num_planned: Utterances planned, of all these probes.
    """

    num_looks: int
    num_hopeless: int
    num_safe: int
    num_spared: int
    num_planned: int

    @property
    def num_stopped(self) -> int:
        """Probes that were stopped."""
        return self.num_hopeless + self.num_safe

    def __str__(self) -> str:
        """Write it in numbers: `176 of 960 utterances (18.3 %)`."""
        share = percent(self.num_spared / self.num_planned) if self.num_planned else percent(0)
        return f"{self.num_spared} of {self.num_planned} utterances ({share})"


def saving(looks: Iterable[Look]) -> Saving:
    """Return what early stopping spared, over the looks that tell how much they planned."""
    known = [look for look in looks if "num_planned" in look]
    stopped = [look for look in known if look.get("stopped_early")]
    reasons = [look["stopped_early"] for look in stopped]
    return Saving(
        num_looks=len(known),
        num_hopeless=reasons.count("hopeless"),
        num_safe=reasons.count("safe"),
        num_spared=sum(look["num_planned"] - num_seen(look) for look in stopped),
        num_planned=sum(look["num_planned"] for look in known),
    )


def num_seen(score: Look) -> int:
    """Return how many utterances were decoded for a score."""
    return int(score["num_utterances"] + score.get("num_empty_references", 0))


def ending(score: Look) -> str:
    """Write how scoring ended: `stopped: hopeless after 64 of 240`, `whole`; nothing where that is not recorded."""
    if "num_planned" not in score:
        return ""
    if not score.get("stopped_early"):
        return "whole"
    return f"stopped: {score['stopped_early']} after {num_seen(score)} of {score['num_planned']}"


def num_scored(scores: Mapping[str, Any], name: str = "num_utterances") -> str:
    """Write how much of a split was scored: `240`, and `240 → 64` where the pruned model was stopped.

    Args:
        scores: Both models' scores on the split.
        name: What is counted; a dash where it was not recorded.
    """
    baseline, pruned = scores["baseline"], scores.get("pruned") or {}
    stopped = f"{NBSP}→{NBSP}{pruned[name]}" if was_stopped(pruned) and name in pruned else ""
    return f"{baseline.get(name, DASH)}{stopped}"


def was_stopped(score: Look) -> bool:
    """Say whether scoring ended before the last utterance."""
    return bool(score.get("stopped_early"))


def joint_looks(joints: Sequence[Mapping[str, Any]]) -> list[Look]:
    """Return what each complete joint heal cost each cell."""
    heals = [heal for joint in joints for heal in joint["heals"]]
    return [member for heal in heals if heal["status"] == "complete" for member in heal["members"]]


def how_stopped(
    scoring: Mapping[str, Any] | None,
    metrics: Collection[str],
    probes: Sequence[Look],
    joints: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return, as paragraphs, when scoring of a probe stopped early, and what that spared.

    Args:
        scoring: `sweep.scoring` of the records, None where it is not recorded.
        metrics: Those of the sweep's cells.
        probes: All probes of the sweep.
        joints: All joint answers.
    """
    delta = (scoring or {}).get("early_stop")
    if delta == 0:
        return ["Early stopping was off: every probe was scored on all its utterances of the selection split."]
    told = [_bounds(delta, metrics)] if delta else []
    together = joint_looks(joints)
    found = saving([*probes, *together])
    if not found.num_looks:
        return told
    noun = "scorings of probes and joint heals" if any("num_planned" in look for look in together) else "probes"
    spared = f"Over all {noun} of the sweep, {found} were spared that way: "
    spared += f"{found.num_hopeless} of {found.num_looks} {noun} were stopped as hopeless, {found.num_safe} as safe."
    if any("num_planned" not in look for look in together):
        spared += " What it spared in joint heals is not recorded."
    told.append(spared)
    if found.num_stopped:
        told.append(
            "The figures of a stopped probe are those of the utterances scored by then, compared with the unpruned "
            "model on the same ones. As it was these figures that ended it, they tend to exaggerate, and neither its "
            "interval nor its P(heal alone) allows for that: what the bound is about is only on which side of the "
            "tolerance the whole selection split lies."
        )
    return told


def _bounds(delta: float, metrics: Collection[str]) -> str:
    """Return by which bound scoring stops, for the metrics of a sweep."""
    rates = [metric_name(name) for name, metric in METRICS.items() if name in metrics and metric.is_error_rate]
    others = [metric_name(name) for name, metric in METRICS.items() if name in metrics and not metric.is_error_rate]
    told = (
        "Scoring of a probe stopped early, on the selection split only, once the utterances scored so far settled on "
        "which side of the tolerance the whole of it lies; utterances come in random order."
    )
    if rates:
        told += (
            f" For {' and '.join(rates)} the bound is a betting martingale for sampling without replacement "
            "(Waudby-Smith and Ramdas, arXiv:2006.04347), which holds however often one looks: a probe is hopeless "
            "where it shows that the tolerance is exceeded, safe where it shows that it is kept, and the chance that "
            f"the whole selection split contradicts it is at most delta = {delta:g} for either."
        )
    if others:
        told += (
            f" For {' and '.join(others)}, no sum over utterances, the paired bootstrap is asked at each of a planned "
            f"number of looks: a probe is hopeless where P(heal alone) is at most delta / looks, with delta = "
            f"{delta:g}. That is approximate, as the bootstrap is, and never calls a probe safe."
        )
    return told
