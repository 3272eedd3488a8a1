"""Degradation against depth: the blocks that a curve is made of, and the sampler that takes them in their order.

A curve is no search: it takes one block a depth by each of several rules, whatever the others have shown, and
recommends none. A block on which two rules agree is taken once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from optuna.study import Study

from slamlab.errors import OptionError
from slamlab.search.evidence import Proposal, Recommendation, Rung, SearchSpace
from slamlab.search.sampler import Names
from slamlab.search.strategies import Block, PlainSampler, Tries

METHODS = ("paper", "deepest", "random")
"""Rules that name a start for every depth.

paper: Where the angular distance is least (Gromov et al., arXiv 2403.17887; Moumen et al., arXiv 2603.05121).
deepest: The deepest layers but the very last, which stays: the simpler strategy that Gromov et al. compare with, as
    removing the last layer does harm of its own.
random: Any start, drawn from the seed and the depth alone, so that it is the same in all cells of as many layers.
"""
MAX_FRACTION = 0.75
"""Deepest block of a curve for which nobody named depths: beyond, decoders of the literature have long collapsed."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a curve is asked to show.

    Attributes:
        methods: Of :data:`METHODS`.
        depths: Layers to remove, as counts (`4`) or as fractions of the decoder's layers (`0.25`, which takes the
            nearest count, 1 at least); none for every depth up to :data:`MAX_FRACTION` of the layers.
        healed: Whether blocks are also looked at after a full heal, not only as they are cut.

    Raises:
        OptionError: No method or an unknown one, or a depth that is neither.
    """

    methods: tuple[str, ...] = METHODS
    depths: tuple[str, ...] = ()
    healed: bool = True

    def __post_init__(self) -> None:
        known = ", ".join(METHODS)
        if not self.methods:
            raise OptionError(f"a curve has one method or more, of {known}", "none", "name one")
        for method in self.methods:
            if method not in METHODS:
                raise OptionError(f"a method is one of {known}", method, "choose among them")
        for depth in self.depths:
            _read(depth)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The looks that are taken at every block, the cheapest first."""
        return ("unhealed", "full") if self.healed else ("unhealed",)

    def depths_of(self, num_layers: int) -> list[int]:
        """Return the depths in a decoder of so many layers, shallow to deep, each once.

        Raises:
            OptionError: A depth that leaves no layer.
        """
        if not self.depths:
            return list(range(1, max(1, math.floor(MAX_FRACTION * num_layers)) + 1))
        found = set()
        for given in self.depths:
            number = _read(given)
            depth = number if isinstance(number, int) else max(1, round(number * num_layers))
            if depth >= num_layers:
                raise OptionError(
                    f"a curve removes between 1 and {num_layers - 1} of {num_layers} layers",
                    given,
                    "name a lesser depth, or a fraction such as 0.5, which suits decoders of any size",
                )
            found.add(depth)
        return sorted(found)

    def blocks(self, space: SearchSpace, seed: int) -> dict[str, list[Block]]:
        """Return the (start, depth) of every depth, by method."""

        def start(method: str, depth: int) -> int:
            return int(space.starts(depth)[0]) if method == "paper" else _start(method, space.num_layers, depth, seed)

        depths = self.depths_of(space.num_layers)
        return {method: [(start(method, depth), depth) for depth in depths] for method in self.methods}

    def max_blocks(self, num_layers: int, seed: int) -> int:
        """Count the blocks, at most: which start has the least distance is known only with a base."""
        known = [method for method in self.methods if method != "paper"]
        return sum(
            len({_start(method, num_layers, depth, seed) for method in known}) + ("paper" in self.methods)
            for depth in self.depths_of(num_layers)
        )


class CurveSampler(PlainSampler):
    """Looks at every block of a curve once, first at all of them as they are cut, then after a heal.

    Args:
        space: The blocks of the cell.
        curve: What is to be shown.
        alpha: A block is feasible when it is so with probability 1 - alpha.
        seed: Of the random starts.
        max_running: Looks at a time.
        names: How the study calls things.

    Raises:
        OptionError: A depth that leaves no layer, or an option out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        curve: Curve,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        max_running: int = 1,
        names: Names | None = None,
    ) -> None:
        super().__init__(space, alpha=alpha, max_running=max_running, names=names)
        self.rungs = curve.rungs
        self.by_method = curve.blocks(space, seed)
        self._blocks = sorted({block for blocks in self.by_method.values() for block in blocks}, key=_by_depth)

    def choose(self, tried: Mapping[Block, Tries]) -> Block | None:
        """Return the shallowest block that is neither known nor running."""
        return next(
            (one for one in self._blocks if one not in tried or not (tried[one].settled or tried[one].running)), None
        )

    def suggest(self, study: Study) -> Proposal | None:
        """Return the block to look at now, and how closely; None where all are known or running."""
        tried = {rung: self.tried(study, rung) for rung in self.rungs}
        if _num_running(tried.values()) >= self.max_running:
            return None
        for rung in self.rungs:
            if block := self.choose(tried[rung]):
                return Proposal(start=block[0], depth=block[1], rung=rung)
        return None

    def recommend(self, study: Study) -> Recommendation:
        """Return that no block is recommended: a curve explores, and an answer is for a search to give."""
        return Recommendation(start=0, depth=0, verdict="none")


def _start(method: str, num_layers: int, depth: int, seed: int) -> int:
    """Return the start that a method names without a look at the decoder."""
    if method == "deepest":
        return num_layers - 1 - depth
    return int(np.random.default_rng([seed, depth]).integers(num_layers - depth + 1))


def _read(depth: str) -> int | float:
    """Return a depth as a count of layers, or as a fraction of them."""
    try:
        number = float(depth) if "." in depth else int(depth)
    except ValueError:
        number = 0
    if number >= 1 if isinstance(number, int) else 0 < number < 1:
        return number
    raise OptionError(
        "a depth is a count of layers from 1 on, or a fraction of them between 0 and 1",
        repr(depth),
        "pass for example --depths 1,2,4,8 or --depths 0.1,0.25,0.5",
    )


def _by_depth(block: Block) -> tuple[int, int]:
    return block[1], block[0]


def _num_running(rungs: Iterable[Mapping[Block, Tries]]) -> int:
    return sum(tries.running for tried in rungs for tries in tried.values())
