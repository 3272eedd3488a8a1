"""Bisection over the depth of the removed block, at the start that the redundancy map names for each depth.

The start follows Gromov et al. 2024 (arXiv:2403.17887, section 3): the block whose input and output differ least in
angle. The depth is found on the assumption that what holds for a block holds for the shallower ones. The first looks
are at a quarter, then at half of the layers: decoders in the literature lose 6 to 44 %, so that a bisection that
began at half would mostly spend its first look on a heal that fails.

Shapes: L layers; a map is [L+1, L+1], entry (l, l+n) the angular distance over the n layers from l on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slamlab.errors import DataError, ModelError
from slamlab.scoring.verdict import Verdict

Outcome = Verdict | Literal["failed"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A block that was removed, healed and scored.

    Attributes:
        start: First layer removed, zero-based.
        depth: Number of layers removed.
        verdict: `failed` where the heal gave no score, after whatever retries the caller makes.
        degradation: Relative degradation; None where there is no score.
    """

    start: int
    depth: int
    verdict: Outcome
    degradation: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerProposal:
    """The block to try next."""

    start: int
    depth: int


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The block to remove; depth 0 and verdict `none` where no block is known to do no harm."""

    start: int
    depth: int
    verdict: Literal["feasible", "undecided", "none"]


def next_depth(num_layers: int, distance: np.ndarray, probes: Sequence[Probe]) -> LayerProposal | None:
    """Return the next block to try, or None when the deepest feasible depth is known.

    Args:
        num_layers: L.
        distance: Angular distances [L+1, L+1]; only entries above the diagonal are read.
        probes: Finished probes of the cell, in any order. All but `feasible` count as not feasible.

    Raises:
        ModelError: No layer.
        DataError: A map of another shape, or with NaN where it is read.
    """
    depth = _next_depth(num_layers, probes)
    return None if depth is None else LayerProposal(start=best_start(num_layers, distance, depth), depth=depth)


def best_start(num_layers: int, distance: np.ndarray, depth: int) -> int:
    """Return the start of the most redundant block of `depth` layers, the first among equals.

    Raises:
        DataError: A map of another shape than [L+1, L+1], or with NaN for this depth.
    """
    if distance.shape != (num_layers + 1, num_layers + 1):
        raise DataError(
            f"a redundancy map of {num_layers} layers is {num_layers + 1} x {num_layers + 1}",
            " x ".join(map(str, distance.shape)),
            "compute the map of this decoder",
        )
    distances = np.diagonal(distance, offset=depth)  # [L-n+1], entry l is d(l, l+n)
    if np.isnan(distances).any():
        raise DataError(
            "a redundancy map has a distance for every block",
            f"NaN for start {int(np.isnan(distances).argmax())} and depth {depth}",
            "compute the map again, in float32 or wider",
        )
    return int(distances.argmin())


def recommend(probes: Sequence[Probe], tolerance: float) -> Recommendation:
    """Return the deepest feasible block; without one, the deepest undecided block whose degradation is in tolerance.

    Args:
        probes: Finished probes of a cell, in any order.
        tolerance: Relative degradation accepted.
    """
    feasible = [probe for probe in probes if probe.verdict == "feasible"]
    if feasible:
        deepest = max(feasible, key=_preference)
        return Recommendation(start=deepest.start, depth=deepest.depth, verdict="feasible")
    undecided = [
        probe
        for probe in probes
        if probe.verdict == "undecided" and probe.degradation is not None and probe.degradation <= tolerance
    ]
    if undecided:
        deepest = max(undecided, key=_preference)
        return Recommendation(start=deepest.start, depth=deepest.depth, verdict="undecided")
    return Recommendation(start=0, depth=0, verdict="none")


def max_num_probes(num_layers: int) -> int:
    """Return the most probes that a cell can take, over every depth its answer may be."""
    return max(_num_probes(num_layers, edge) for edge in range(num_layers))


def expected_num_probes(num_layers: int) -> float:
    """Return the mean number of probes of a cell, each answer from 0 to L-1 being as likely as another."""
    return sum(_num_probes(num_layers, edge) for edge in range(num_layers)) / num_layers


def _next_depth(num_layers: int, probes: Sequence[Probe]) -> int | None:
    """Return a depth strictly between the deepest feasible one and the next that is not, or None."""
    if num_layers < 1:
        raise ModelError("a decoder has 1 layer or more", num_layers, "choose another model")
    # Removing nothing is feasible, removing everything is not: neither is ever tried.
    low = max((probe.depth for probe in probes if probe.verdict == "feasible"), default=0)
    high = min(
        (probe.depth for probe in probes if probe.verdict != "feasible" and probe.depth > low),
        default=num_layers,
    )
    if high - low <= 1:
        return None
    if high == num_layers:
        for landmark in (num_layers // 4, num_layers // 2):
            if low < landmark:
                return landmark
    return (low + high) // 2


def _num_probes(num_layers: int, edge: int) -> int:
    """Count the probes of a search whose deepest feasible depth is `edge`."""
    probes: list[Probe] = []
    while (depth := _next_depth(num_layers, probes)) is not None:
        probes.append(Probe(start=0, depth=depth, verdict="feasible" if depth <= edge else "infeasible"))
    return len(probes)


def _preference(probe: Probe) -> tuple[int, int]:
    """Order probes by depth; of two starts at one depth the earlier is preferred, whatever the order of arrival."""
    return probe.depth, -probe.start
