"""What every strategy is: an Optuna sampler over the blocks of one cell, which also says when to stop and what to take.

A strategy is a function of a study's trials and nothing else: :meth:`BlockSampler.suggest` gives the same proposal for
the same trials, in whatever process, so that a study can be stopped, resumed, extended and run by many workers at once.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from slamlab.errors import OptionError
from slamlab.search.evidence import RUNGS, Look, Proposal, Recommendation, Rung, SearchSpace, State

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a study calls what a look is made of: parameters, and user attributes of a finished trial.

    Attributes:
        depth, start, rung: Parameters.
        rungs: Value of the parameter `rung` for each rung there is.
        degradation, se, p_within: User attributes; the last is optional.
        interrupted: User attribute, true where a trial ended because its process did: it told nothing of its block.
    """

    depth: str = "depth"
    start: str = "start"
    rung: str = "rung"
    rungs: Mapping[Rung, Any] = field(default_factory=lambda: {rung: rung for rung in RUNGS})
    degradation: str = "relative_degradation"
    se: str = "se"
    p_within: str = "p_within"
    interrupted: str = "interrupted"


class BlockSampler(BaseSampler):
    """An Optuna sampler over blocks.

    Args:
        space: The blocks of the cell.
        alpha: A block is recommended as feasible when it is so with probability 1 - alpha.
        names: How the study calls things.
    """

    def __init__(self, space: SearchSpace, *, alpha: float, names: Names | None = None) -> None:
        if not 0 < alpha <= 0.5:
            raise OptionError("alpha is above 0 and at most 0.5", alpha, "use 0.05")
        self.space, self.alpha, self.names = space, alpha, names or Names()
        self._seen: dict[tuple[Any, ...], Look] = {}

    @abstractmethod
    def suggest(self, study: Study) -> Proposal | None:
        """Return the block to look at now; None where nothing is worth it, or running looks must end first."""

    @abstractmethod
    def recommend(self, study: Study) -> Recommendation:
        """Return the block to remove, and with what confidence."""

    @abstractmethod
    def p_feasible(self, study: Study, blocks: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return, for healed (start, depth) [Q], the probability that the degradation is within the tolerance."""

    def has_shown(self, study: Study, start: int, depth: int) -> bool:
        """Say whether a full look at a block has itself shown a degradation within the tolerance."""
        return any(
            (look.start, look.depth, look.rung) == (start, depth, "full")
            and look.degradation is not None
            and look.degradation <= self.space.tolerance
            for look in self.looks(study)
        )

    def should_stop(self, study: Study) -> bool:
        """Say whether nothing is worth another look, now or when the running looks have ended."""
        return not any(look.state == "running" for look in self.looks(study)) and self.suggest(study) is None

    def anyway(self, study: Study) -> Proposal:
        """Return a block for whoever does not ask :meth:`should_stop` first, as `study.optimize` does not.

        It is the recommended one, as another heal of it at least narrows the noise; without one, the most redundant
        layer.
        """
        best = self.recommend(study)
        return (
            Proposal(start=best.start, depth=best.depth)
            if best.depth
            else Proposal(start=int(self.space.starts(1)[0]), depth=1)
        )

    def ready(self, study: Study) -> bool:
        """Say whether there is a look to take now."""
        return self.suggest(study) is not None

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters of a trial."""
        names = self.names
        return {
            names.depth: IntDistribution(1, self.space.max_depth),
            names.start: IntDistribution(0, self.space.num_layers - 1),
            names.rung: CategoricalDistribution(list(names.rungs.values())),
        }

    def looks(self, study: Study) -> list[Look]:
        """Return what a study's trials looked at, in their order; trials without a block, or interrupted, are none."""
        trials = study.get_trials(deepcopy=False)
        return [look for trial in trials if (look := self._look(study.study_name, trial)) is not None]

    def block_of(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Return the (start, depth) that a trial's parameters mean."""
        return params[self.names.start], params[self.names.depth]

    def params_of(self, proposal: Proposal) -> dict[str, Any]:
        """Return a proposal as a trial's parameters."""
        names = self.names
        return {
            names.depth: proposal.depth,
            names.start: proposal.start,
            names.rung: names.rungs[proposal.rung],
        }

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: it is known from the start."""
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the suggestion as parameters; whoever asks although there is none gets :meth:`anyway`."""
        return self.params_of(self.suggest(study) or self.anyway(study))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse: a block is chosen as a whole.

        Raises:
            OptionError: Always; names the parameter that is none of a block.
        """
        known = ", ".join(self.distributions)
        raise OptionError(f"a block has the parameters {known}", param_name, "ask for these, with their distributions")

    def _look(self, study_name: str, trial: FrozenTrial) -> Look | None:
        """Return what a trial looked at; a finished one is read once."""
        key = (study_name, trial.number, trial.datetime_complete)  # the last tells studies of one name apart
        if key in self._seen:
            return self._seen[key]
        if trial.state not in STATES or not {self.names.depth, self.names.start} <= trial.params.keys():
            return None
        attrs = trial.user_attrs
        if attrs.get(self.names.interrupted):
            return None
        start, depth = self.block_of(trial.params)
        rungs: Sequence[tuple[Rung, Any]] = list(self.names.rungs.items())
        value = trial.params.get(self.names.rung, self.names.rungs["full"])
        degradation, se = attrs.get(self.names.degradation), attrs.get(self.names.se)
        is_number = degradation is None or not math.isnan(degradation)  # a NaN is what a failed heal gives
        look = Look(
            start=start,
            depth=depth,
            rung=next(rung for rung, called in rungs if called == value),
            state=STATES[trial.state] if is_number else "failed",
            degradation=degradation if is_number else None,
            se=0.0 if se is None or math.isnan(se) else se,
            p_within=attrs.get(self.names.p_within),
        )
        if trial.state.is_finished():
            self._seen[key] = look
        return look
