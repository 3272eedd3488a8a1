"""The joint search: the deepest block that all chosen cells of a decoder can lose together.

One heal on the mixture of all cells is scored for each of them, and costs as much as theirs together. So the cells' own
looks are used first: their posterior says for every block how probable it is that all cells stay within the tolerance.
A joint heal then shows, of member c at block b, the response

    y = f(c, b) + bias + bias(c) + luck + error

where f is the latent response of heals of the cell's own, the biases are what healing together changes (the first in
all members alike), luck is what the members of one heal have in common, and error is that of test set and seed, as in
any look. All of it is Gaussian, so that joint heals are conditioned on exactly; the probability that all members are
within the tolerance together, f + bias + bias(c) <= 0, is counted over draws that are always the same. A heal that is
implausibly bad in all members against everything else diverged: the variances of its luck and its errors are widened.

Certify: a block is feasible only when it was healed jointly, every member has shown a degradation within the tolerance
in some joint heal of it, and all are within with probability 1 - alpha. Choose: as the frontier search does, with the
chance that one more joint heal certifies a block; the last heal that is allowed goes where it gains most by itself.

Shapes: M members, H joint heals, Q blocks; rows of [H M] are by heal, then by member.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.linalg import solve_triangular
from scipy.special import log_ndtr, ndtr

from slamlab.errors import DataError, OptionError
from slamlab.search.evidence import MAX_FAILURES, Look, Proposal, Recommendation, SearchSpace
from slamlab.search.frontier import ALPHA, Move, Pool, check_budget, deepest, next_move
from slamlab.search.posterior import OUTLIER_Z, Posterior
from slamlab.search.sampler import BlockSampler, Names
from slamlab.search.threads import on_one_thread

PRICE, MAX_HEALS = 0.3, 6
BIAS_SD, OWN_BIAS_SD, LUCK_SD = 0.25, 0.05, 0.05
"""Of responses, a priori: what healing together changes in all members alike, in each; what a heal changes in all."""
NUM_STARTS = 4
"""Starts of a depth that are considered: those where the cells' own looks make it most probable that all are within."""
NUM_DRAWS, NUM_OUTCOMES = 2048, 256

Block = tuple[int, int]
Heal = tuple[Look, ...]
"""What a joint heal showed, or is about to show, of each member."""


class JointPosterior:
    """The responses of joint heals, given the cells' own looks and joint heals.

    Args:
        posterior: What the cells' own looks say.
        members: Numbers of the cells in it [M].
        heals: Joint heals [H]. Running ones tell where there will be knowledge, failed ones nothing.
    """

    @on_one_thread
    def __init__(self, posterior: Posterior, members: Sequence[int], heals: Sequence[Heal]) -> None:
        self._posterior, self._members = posterior, members
        complete = [heal for heal in heals if heal[0].state == "complete"]
        self._heals = complete + [heal for heal in heals if heal[0].state == "running"]
        self._luck = np.full(len(self._heals) + 1, LUCK_SD**2)  # the last is that of a heal to come
        self._astray = np.zeros(len(self._heals) + 1)  # what each member of a diverged heal errs in by itself
        shown = posterior.shown([row for heal in complete for row in zip(members, heal, strict=True)])
        self._condition(shown.reshape(len(complete), len(members)))

    @on_one_thread
    def predict(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return mean [M] and covariance [M, M] of the members' responses at a block, without luck and error."""
        asked = [Look(start=block[0], depth=block[1])] * len(self._members)
        return self._after(*self._before(asked, self._heals))

    @on_one_thread
    def outlook(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return mean [2 M] and covariance [2 M, 2 M] of the responses at a block, then of what a heal will show."""
        asked = (Look(start=block[0], depth=block[1], state="running"),) * len(self._members)
        return self._after(*self._before(asked, [*self._heals, asked]))

    def p_within(self, block: Block) -> np.ndarray:
        """Return the probability [M] that each member is within the tolerance."""
        expected, covariance = self.predict(block)
        return ndtr(-expected / np.sqrt(np.maximum(np.diag(covariance), 1e-10)))

    def p_all_within(self, block: Block) -> float:
        """Return the probability that all members are."""
        return float(_all_within(*self.predict(block), NUM_DRAWS))

    @on_one_thread
    def chance_to_certify(self, block: Block, has_shown: np.ndarray, alpha: float) -> float:
        """Return the probability that one more joint heal certifies a block.

        Args:
            block: Its start and depth.
            has_shown: Whether each member has shown a degradation within the tolerance there [M].
            alpha: Error that is accepted.
        """
        now, before = self.predict(block)
        # The probability is a martingale: it reaches 1 - alpha hardly more often than it is high now.
        if _all_within(now, before, NUM_OUTCOMES) == 0:
            return 0.0
        num = len(self._members)
        expected, covariance = self.outlook(block)
        gain = np.linalg.solve(covariance[num:, num:], covariance[num:, :num])  # [shown, M]
        surprises = _draws(covariance[num:, num:], NUM_OUTCOMES)  # [outcomes, M]
        fits = ((expected[num:] + surprises <= 0) | has_shown).all(axis=-1)
        after = _all_within(now + surprises @ gain, before - covariance[:num, num:] @ gain, NUM_OUTCOMES)
        return float((fits & (after >= 1 - alpha)).mean())

    def _condition(self, shown: np.ndarray) -> None:
        """Take up what complete heals have shown [H, M]."""
        self._factor, self._shift = np.zeros((0, 0)), np.zeros(0)
        if not self._heals:
            return
        expected, covariance = self._before([], self._heals)
        covariance[np.diag_indices_from(covariance)] += 1e-9
        known = slice(0, shown.size)
        residual = shown.ravel() - expected[known]
        heals = [slice(begin, begin + shown.shape[1]) for begin in range(0, shown.size, shown.shape[1])]
        for _ in heals:
            inverse = np.linalg.inv(covariance[known, known])
            left = [np.linalg.inv(inverse[heal, heal]) for heal in heals]  # of a heal, given all others
            surprise = [(c @ inverse[heal] @ residual).mean() for heal, c in zip(heals, left, strict=True)]
            z = surprise / np.sqrt([c.mean() for c in left])
            odd = int(np.argmax(z))
            if z[odd] < OUTLIER_Z:
                break
            # It diverged and still gave numbers: they say little.
            self._luck[odd] += surprise[odd] ** 2
            self._astray[odd] += surprise[odd] ** 2
            covariance[heals[odd], heals[odd]] += surprise[odd] ** 2 * (1 + np.eye(shown.shape[1]))
        # Running heals count as if they had shown what is expected of them.
        missing = covariance[shown.size :, known] @ np.linalg.solve(covariance[known, known], residual)
        self._factor = np.linalg.cholesky(covariance)
        self._shift = solve_triangular(self._factor, np.r_[residual, missing], lower=True, check_finite=False)

    def _before(self, asked: Sequence[Look], heals: Sequence[Heal]) -> tuple[np.ndarray, np.ndarray]:
        """Return what the cells' own looks say of the members' responses at a block [M], then of heals [H M]."""
        rows = list(zip(self._members, asked, strict=True)) if asked else []
        shown = [row for heal in heals for row in zip(self._members, heal, strict=True)]
        expected, covariance = self._posterior.joint(rows, shown)
        member = np.array([cell for cell, _ in [*rows, *shown]])
        heal = np.r_[np.full(len(rows), -1), np.repeat(np.arange(len(heals)), len(self._members))]
        same = (heal[:, None] == heal) & (heal >= 0)
        covariance += BIAS_SD**2 + OWN_BIAS_SD**2 * (member[:, None] == member) + same * self._luck[heal]
        covariance += np.diag((heal >= 0) * self._astray[heal])
        return expected, covariance

    def _after(self, expected: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is left of :meth:`_before` when the heals that are known are conditioned on, and left out."""
        begin, end = len(self._members), len(self._members) + len(self._shift)
        asked = np.r_[:begin, end : len(expected)]
        half = solve_triangular(self._factor, covariance[begin:end, asked], lower=True, check_finite=False)
        return expected[asked] + half.T @ self._shift, covariance[np.ix_(asked, asked)] - half.T @ half


class JointSampler(BlockSampler):
    """The joint search as an Optuna sampler over the joint heals of one study.

    A finished trial tells the members' degradations, standard errors and, if it likes, shares within as lists in the
    order of `members`, under the same names as a cell's look its numbers.

    Args:
        pool: The cells of the decoder, the members among them, with their studies.
        alpha: A block is feasible when all members are within the tolerance with probability 1 - alpha.
        price: What a joint heal must be worth, in layers of every member.
        max_heals: Joint heals, failed ones among them, however much another one promises.
        max_running: Joint heals at a time.
        members: Names of the members' studies; None for all cells of the pool.
        names: How the studies call things, the joint one and the cells' own.

    Raises:
        OptionError: An option out of range, no member, one that the pool lacks, or members of several tolerances.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        alpha: float = ALPHA,
        price: float = PRICE,
        max_heals: int = MAX_HEALS,
        max_running: int = 1,
        members: Sequence[str] | None = None,
        names: Names | None = None,
    ) -> None:
        cells = list(pool.cells)
        self.members = cells if members is None else list(members)
        if unknown := [name for name in self.members if name not in cells]:
            raise OptionError("a member of a joint search is a cell of its pool", unknown[0], "add the cell first")
        self._numbers = [cells.index(name) for name in self.members]
        super().__init__(_space([pool.cells[name] for name in self.members]), alpha=alpha, names=names)
        check_budget(price, max_running, max_heals)
        self.pool, self.price, self.max_heals, self.max_running = pool, price, max_heals, max_running
        self._last: tuple[list[Heal], Posterior, JointPosterior] | None = None
        self._ranked: tuple[Posterior, list[Block]] | None = None
        self._suggested: tuple[JointPosterior, Proposal | None] | None = None

    def suggest(self, study: Study) -> Proposal | None:
        """Return the block to heal jointly now; None where nothing is worth it, or running heals must end first."""
        known, heals = self._known(study)
        if self._suggested is None or self._suggested[0] is not known:
            self._suggested = known, self._suggest(known, heals)
        return self._suggested[1]

    def recommend(self, study: Study) -> Recommendation:
        """Return the deepest certified block; without one, the deepest jointly healed one that may be harmless."""
        return self._recommend(*self._known(study))

    def prediction(self) -> Recommendation:
        """Return the deepest block that all members can probably lose together, by their own looks alone."""
        posterior, _ = self.pool.posterior(self)
        return self._predict(JointPosterior(posterior, self._numbers, []))

    def p_feasible(self, study: Study, blocks: Sequence[Block]) -> np.ndarray:
        """Return, for blocks [Q], the probability that all members are within the tolerance."""
        known, _ = self._known(study)
        return np.array([known.p_all_within(block) for block in blocks])

    def binding(self, study: Study) -> tuple[int, float]:
        """Return the member that limits the decoder, and the probability that it is within the tolerance.

        It is the one least probably within at the block that would be next: the best of those a layer deeper than the
        recommended one. Where none is recommended, at the jointly healed block where all are most probably within;
        before any joint heal, at the predicted block, or else the shallowest.
        """
        known, heals = self._known(study)
        best = self._recommend(known, heals)
        deeper = [block for block in self._candidates() if block[1] == best.depth + 1]
        if best.verdict != "none":
            tried = deeper or [(best.start, best.depth)]
        else:
            tried = sorted({_block(heal) for heal in heals if heal[0].state == "complete"})
            if not tried:
                predicted = self._predict(known)
                tried = [(predicted.start, predicted.depth) if predicted.depth else self._candidates()[0]]
        p = known.p_within(max(tried, key=lambda tried: (known.p_all_within(tried), tried[1])))
        return int(np.argmin(p)), float(p.min())

    def has_shown(self, study: Study, start: int, depth: int) -> bool:
        """Say whether every member has shown a degradation within the tolerance in some joint heal of a block."""
        return bool(self._shown(self.heals(study), (start, depth)).all())

    def heals(self, study: Study) -> list[Heal]:
        """Return the joint heals of a study by member, in the order of its trials.

        Raises:
            DataError: A complete trial that does not tell a degradation and a standard error for each member.
        """
        trials = study.get_trials(deepcopy=False)
        return [heal for trial in trials if (heal := self._heal(study.study_name, trial)) is not None]

    def looks(self, study: Study) -> list[Look]:
        """Return what the trials of a cell's study looked at; of a joint one's, the worst member of each heal."""
        if self.pool.index(study) is not None:
            return super().looks(study)
        return [
            max(heal, key=lambda look: np.inf if look.degradation is None else look.degradation)
            for heal in self.heals(study)
        ]

    def _heal(self, study_name: str, trial: FrozenTrial) -> Heal | None:
        """Return what a trial showed of each member, as if each had had a trial of its own."""
        names = self.names
        told = {name: self._told(trial, name) for name in (names.degradation, names.se, names.p_within)}
        heal = []
        for i in range(len(self.members)):
            mine = copy.copy(trial)
            mine.user_attrs = {**trial.user_attrs, **{name: values[i] for name, values in told.items()}}
            look = self._look(f"{study_name}/{i}", mine)
            if look is None or look.rung != "full":
                return None
            heal.append(look)
        if any(look.state == "failed" for look in heal):  # of one member: then of the model
            return tuple(replace(look, state="failed", degradation=None) for look in heal)
        return tuple(heal)

    def _told(self, trial: FrozenTrial, name: str) -> Sequence[Any]:
        """Return what a trial tells of each member under a name; None of each where it need not tell."""
        told = trial.user_attrs.get(name)
        if told is None and (trial.state != TrialState.COMPLETE or name == self.names.p_within):
            return [None] * len(self.members)
        if not isinstance(told, list | tuple) or len(told) != len(self.members):
            raise DataError(
                f"a joint heal tells {name} as a list, one entry for each of {len(self.members)} members",
                f"{told!r} in trial {trial.number}",
                "give the sampler the members that the study was made with",
            )
        return told

    def _known(self, study: Study) -> tuple[JointPosterior, list[Heal]]:
        """Return what is known, worked out anew only when there is more."""
        heals = self.heals(study)
        posterior, _ = self.pool.posterior(self)
        if self._last is None or self._last[0] != heals or self._last[1] is not posterior:
            known = JointPosterior(posterior, self._numbers, heals)
            self._last = heals, posterior, known
        return self._last[2], heals

    def _candidates(self) -> list[Block]:
        """Return the likeliest starts of every depth by the cells' own looks, by depth."""
        posterior, _ = self.pool.posterior(self)
        if self._ranked is None or self._ranked[0] is not posterior:
            blocks = self.space.blocks
            log_p = np.zeros(len(blocks))
            for member in self._numbers:
                expected, variance = posterior.predict(member, blocks)
                log_p += log_ndtr(-expected / np.sqrt(variance))
            at: dict[int, list[Block]] = {}
            for i in np.argsort(-log_p, kind="stable"):
                at.setdefault(blocks[i][1], []).append(blocks[i])
            self._ranked = posterior, [block for depth in sorted(at) for block in at[depth][:NUM_STARTS]]
        return self._ranked[1]

    def _suggest(self, known: JointPosterior, heals: list[Heal]) -> Proposal | None:
        running = [_block(heal) for heal in heals if heal[0].state == "running"]
        if len(running) >= self.max_running or len(heals) >= self.max_heals:
            return None
        certified = self._recommend(known, heals)
        floor = certified.depth if certified.verdict == "feasible" else 0
        failures = Counter(_block(heal) for heal in heals if heal[0].state == "failed")
        best: dict[int, tuple[float, Block]] = {}
        for block in dict.fromkeys([*self._candidates(), *map(_block, heals)]):
            depth = block[1]
            if depth <= floor or block in running or failures[block] >= MAX_FAILURES:
                continue
            p = known.chance_to_certify(block, self._shown(heals, block), self.alpha)
            if depth not in best or p > best[depth][0]:
                best[depth] = p, block
        if not best:
            return None
        depths = np.array(sorted(best))
        chances = np.array([best[n][0] for n in depths])
        if len(heals) == self.max_heals - 1:  # no other will follow: it has to gain something by itself
            last = int(np.argmax(gains := chances * (depths - floor)))
            move = Move(depth=int(depths[last]), stake=gains[last]) if gains[last] > self.price else None
        else:
            move = next_move(floor, depths, chances, self.price)
        if move is None or (running and move.depth <= max(depth for _, depth in running)):
            return None
        start, depth = best[move.depth][1]
        return Proposal(start=start, depth=depth)

    def _recommend(self, known: JointPosterior, heals: list[Heal]) -> Recommendation:
        shown = [block for block in sorted(set(map(_block, heals))) if self._shown(heals, block).all()]
        return deepest(shown, [known.p_all_within(block) for block in shown], self.alpha)

    def _predict(self, known: JointPosterior) -> Recommendation:
        candidates = self._candidates()
        found = deepest(candidates, [known.p_all_within(block) for block in candidates], 0.5)
        return replace(found, verdict="undecided") if found.depth else found

    def _shown(self, heals: Sequence[Heal], block: Block) -> np.ndarray:
        """Return whether each member [M] has shown a degradation within the tolerance in some heal of a block."""
        within = [
            [look.degradation is not None and look.degradation <= self.space.tolerance for look in heal]
            for heal in heals
            if _block(heal) == block
        ]
        return np.any(within, axis=0) if within else np.zeros(len(self.members), dtype=bool)


def _space(members: Sequence[SearchSpace]) -> SearchSpace:
    """Return the blocks of a joint study: those of all members, with their mean distances.

    Raises:
        OptionError: No member, or members of several tolerances.
    """
    if not members:
        raise OptionError("a joint search has 1 member or more", 0, "add the decoder's cells to its pool first")
    if len(tolerances := sorted({member.tolerance for member in members})) > 1:
        raise OptionError(
            "the members of a joint search have one tolerance", " and ".join(map(str, tolerances)), "choose one"
        )
    return replace(
        members[0],
        distance=np.mean([member.distance for member in members], axis=0),
        max_depth=min(member.max_depth for member in members),
        factors={},
    )


def _block(heal: Heal) -> Block:
    return heal[0].start, heal[0].depth


def _draws(covariance: np.ndarray, num: int) -> np.ndarray:
    """Return draws [num, M] of a normal law around 0: the same ones at every call, each with its opposite."""
    values, vectors = np.linalg.eigh(covariance)  # bears a covariance that rounding has made indefinite
    half = np.random.default_rng(0).standard_normal((num // 2, len(covariance)))
    return np.r_[half, -half] @ (vectors * np.sqrt(np.maximum(values, 0.0))).T


def _all_within(expected: np.ndarray, covariance: np.ndarray, num: int) -> np.ndarray:
    """Return the probabilities [...] that responses of these means [..., M] and covariance [M, M] are 0 or less."""
    return (expected[..., None, :] + _draws(covariance, num) <= 0).all(axis=-1).mean(axis=-1)


__all__ = ["JointPosterior", "JointSampler"]
