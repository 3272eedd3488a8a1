"""Which trial comes next, over all cells of a sweep: a function of the ledger, with no Ray in it.

A cell goes from its base through probes to the final scoring of its answer. Cells move on their own: one whose base is
not there yet waits, one whose base failed ends, and neither holds up the others. The searches of one decoder's cells
learn from each other, so an answer is final only when none of them has anything left to ask. A joint sweep then goes on
to the block that all cells of a base can lose together. A sweep of curves has no answer, and ends with its probes.

With a budget, what does not fit it is not asked for; where the searches of a decoder's cells want nothing that fits,
their answers are final as far as the budget goes. This too follows from the ledger: with a larger budget the same sweep
goes on.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from slamlab.credentials import redacted
from slamlab.model.surgery import LayerBlock, original_index, receiving_layer
from slamlab.scoring.bootstrap import Degradation
from slamlab.scoring.score import degradation
from slamlab.scoring.verdict import Verdict, judge
from slamlab.search.curve import CurveSampler
from slamlab.search.evidence import Proposal, Recommendation, SearchSpace, by_convention
from slamlab.search.frontier import Pool
from slamlab.search.joint import JointSampler
from slamlab.search.sampler import BlockSampler
from slamlab.search.strategies import SamplerOptions, build_sampler
from slamlab.sweep.bases import base_name, existing_folder
from slamlab.sweep.budget import Budget, spent_s
from slamlab.sweep.cells import JOINT, Cell, joint_cell
from slamlab.sweep.ledger import JUDGED, Attempts, CellLedger, open_ledger
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store
from slamlab.sweep.timings import Timings
from slamlab.sweep.turns import Turns

Decoder = tuple[str, str]
"""Family and scale."""
NOTHING = Recommendation(start=0, depth=0, verdict="none")


class Campaign:
    """The state of a sweep: what is known, what runs, what to ask for next.

    Args:
        settings: The sweep.
        store: Its store.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.joints = tuple(dict.fromkeys(map(joint_cell, settings.cells))) if settings.joint else ()
        self.ledgers = open_ledger(settings, store, (*settings.cells, *self.joints))
        self.running: set[Request] = set()
        self.samplers: dict[Cell, BlockSampler] = {}
        self.pools: dict[Decoder, Pool] = {}
        self._of_decoder: dict[Decoder, list[Cell]] = {}
        self._of_base: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in settings.cells:
            self._of_decoder.setdefault(_decoder(cell), []).append(cell)
            self._of_base.setdefault(base_name(cell), []).append(cell)
        self._turns = Turns(self.ledgers)
        self._wanted: dict[Decoder, dict[Cell, Request | None]] = {}
        self._is_quiet: dict[Decoder, bool] = {}
        for decoder, cells in self._of_decoder.items():
            self.pools[decoder] = Pool(is_told=True, order=[self.ledgers[cell].study.study_name for cell in cells])
            self._wanted[decoder] = {}
            self._open_searches(decoder)
        self.budget = Budget(self)

    @cached_property
    def timings(self) -> Timings:
        """What trials are expected to take, by what the store has of them."""
        return Timings(self.settings, self.store.records())

    @property
    def finished(self) -> bool:
        """Whether no trial is left that the budget has room for, running or to be started."""
        return not self.running and all(self._next_of(cell) is None for cell in self._turns.order())

    @property
    def is_cut(self) -> bool:
        """Whether a cell would ask for more, had the budget room for it."""
        return self.settings.budget_s is not None and any(map(self.cut, self.ledgers))

    @property
    def num_settled(self) -> int:
        """Trials that ended for good, in this run or before, without cheap looks."""
        ledgers = self.ledgers.values()
        singles = [one for ledger in ledgers for one in ledger.singles.values()]
        full = [one for ledger in ledgers for key, one in ledger.probes.items() if key[2] == "full"]
        return sum(one.settled for one in (*singles, *full))

    def members(self, joint: Cell) -> list[Cell]:
        """Return the cells that a joint cell is about."""
        return self._of_base[base_name(joint)]

    def next(self) -> Request | None:
        """Return a trial to start now, of the cells that may have one in their turn; None where all must wait."""
        training = {base_name(r.cell) for r in self.running if r.kind == "base" and self.must_train(r.cell)}
        alone = {request.cell for request in self.running if not request.is_probe}
        for cell in self._turns.order():
            if cell in alone:
                continue
            if base_name(cell) in training and cell.task != JOINT and self.ledgers[cell].singles["base"].record is None:
                continue
            if request := self._next_of(cell):
                return request
        return None

    def begin(self, request: Request) -> None:
        """Note that a trial runs."""
        self.ledgers[request.cell].begin(request, self.samplers.get(request.cell))
        self.running.add(request)
        self._turns.began(request)
        self._changed(request)

    def complete(self, request: Request, record: Mapping[str, Any]) -> dict[str, Any]:
        """Note that a trial ended with a record; return the record, with its verdict where it is a probe's."""
        self.running.discard(request)
        self._turns.ended(request)
        judged = dict(record)
        if request.is_probe:
            alone = self._judge_joint(record) if request.is_joint else self.judge(request.cell, record, "selection")
            judged |= {name: alone[name] for name in JUDGED}  # its verdict is for all evidence to give
        ledger = self.ledgers[request.cell]
        if all(one["fingerprint"] != record["fingerprint"] for one in ledger.records):
            self.budget.spend(spent_s(self.settings, record))
        ledger.complete(request, judged)
        if self.settings.budget_s is not None:
            self.timings.add(record)
        if request.kind == "base":
            self._open_searches(_decoder(request.cell))
        self._changed(request)
        if request.is_probe and request.rung == "full":
            judged |= self.verdict(request.cell, request.start, request.depth)
        self.store.send_ledger(self.settings.name)
        return judged

    def fail(self, request: Request, reason: str, device_s: float = 0.0) -> None:
        """Note that a trial failed, for a reason, after so many device-seconds as far as known."""
        self.running.discard(request)
        self._turns.ended(request)
        self.ledgers[request.cell].fail(request, redacted(reason), device_s)
        self.budget.spend(device_s)
        self._changed(request)

    def lose(self, request: Request, reason: str) -> bool:
        """Note that a trial lost its worker; say whether it is begun again, with nothing held against it."""
        self.running.discard(request)
        self._turns.ended(request)
        is_free = self.ledgers[request.cell].lose(request, redacted(reason))
        self._changed(request)
        return is_free

    def judge(
        self, cell: Cell, record: Mapping[str, Any], split: str, *, unpruned: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Compare a pruned model's hypotheses on a split with an unpruned one's; what this one model alone shows.

        Args:
            cell: The cell.
            record: Of the pruned model.
            split: Where both were scored.
            unpruned: Record of the unpruned model, None for the base's.
        """
        unpruned = unpruned or self.ledgers[cell].singles["base"].record
        assert unpruned is not None  # a probe runs only once its base is there
        compared = self._compare(cell, unpruned["scores"][split], record["scores"][split])
        return {
            "value": record["scores"][split]["value"],
            "relative_degradation": _finite(compared.value),
            "ci95": [_finite(end) for end in compared.ci95],
            "p_within": compared.p_within,
            "se": compared.se,
            "verdict": judge(compared, self.settings.tolerance, self.settings.alpha),
        }

    def verdict(self, cell: Cell, start: int, depth: int) -> dict[str, Any]:
        """Return what all evidence says of a healed block: its probability of being harmless, and the verdict."""
        sampler, study = self.samplers[cell], self.ledgers[cell].study
        p = float(sampler.p_feasible(study, [(start, depth)])[0])
        verdict: Verdict = "infeasible" if p <= self.settings.alpha else "undecided"
        if p >= 1 - self.settings.alpha and sampler.has_shown(study, start, depth):
            verdict = "feasible"
        return {"p_feasible": p, "verdict": verdict}

    def recommendation(self, cell: Cell) -> Recommendation:
        """Return the answer that a cell's probes give so far."""
        return self.samplers[cell].recommend(self.ledgers[cell].study) if cell in self.samplers else NOTHING

    def best_probe(self, cell: Cell, best: Recommendation) -> dict[str, Any] | None:
        """Return the record of the recommended block's best heal, by the selection split."""
        heals = [
            attempts.record
            for key, attempts in sorted(self.ledgers[cell].probes.items())
            if key[:3] == (best.depth, best.start, "full") and attempts.record is not None
        ]
        return min(heals, key=lambda record: _worst(record["relative_degradation"]), default=None)

    def _next_of(self, cell: Cell) -> Request | None:
        """Return the trial that a cell needs next, None where it needs no more for now."""
        wanted = self._wanted[_decoder(cell)]
        if cell not in wanted:
            wanted[cell] = self._work_out(cell)
            if wanted[cell] is None:
                self._turns.rest(cell)
        return wanted[cell]

    def cut(self, cell: Cell) -> Request | None:
        """Return the trial that a cell would ask for next, had the budget room for it; None where it asks for none."""
        is_member = self.settings.joint and cell.task != JOINT
        wish = self.look(cell) or (None if is_member else self.to_be_scored(cell))
        return None if wish is None or self.budget.fits(wish) else wish

    def to_be_scored(self, cell: Cell) -> Request | None:
        """Return the final scoring, or else the control, that a cell's answer lacks while nothing of the cell runs."""
        ledger = self.ledgers[cell]
        return self._final(cell, ledger) or self._control(cell, ledger)

    def _work_out(self, cell: Cell) -> Request | None:
        is_joint = cell.task == JOINT
        if is_joint and not self._quiet(_decoder(cell)):
            return None
        look = self.look(cell)
        if look is not None and self.budget.fits(look):
            return look
        if not self._quiet(_decoder(cell)) or (self.settings.joint and not is_joint):
            return None
        scoring = self.to_be_scored(cell)
        return scoring if scoring is not None and self.budget.fits(scoring) else None

    def look(self, cell: Cell) -> Request | None:
        """Return the base or the probe that a cell wants next, None where its search has nothing left to ask."""
        if cell in self.samplers:
            proposal = self.samplers[cell].suggest(self.ledgers[cell].study)
            return self._probe(cell, proposal) if proposal else None
        base = self.ledgers[cell].singles["base"]
        if cell.task == JOINT or base.failed:
            return None
        return Request(kind="base", cell=cell, attempt=len(base.reasons) + 1)

    def _probe(self, cell: Cell, proposal: Proposal) -> Request:
        """Return a proposal as a request: a block that was healed before is healed from another seed."""
        repeat = self.ledgers[cell].num_complete(proposal.depth, proposal.start, proposal.rung)
        request = Request(
            kind="joint" if cell.task == JOINT else "probe",
            cell=cell,
            start=proposal.start,
            depth=proposal.depth,
            rung=proposal.rung,
            repeat=repeat,
        )
        return _attempt(request, self.ledgers[cell].attempts(request))

    def _final(self, cell: Cell, ledger: CellLedger) -> Request | None:
        """Return the final scoring of a cell's answer, unless it is there or cannot be had."""
        best, final = self.recommendation(cell), ledger.singles["final"]
        if best.depth == 0 or final.failed or any(request.cell == cell for request in self.running):
            return None
        probe = self.best_probe(cell, best)
        assert probe is not None  # only a healed block is recommended
        block = best.start, best.depth, probe["repeat"]
        if final.record is not None and block == tuple(final.record[name] for name in ("start", "depth", "repeat")):
            return None
        request = Request(
            kind="joint_final" if cell.task == JOINT else "final",
            cell=cell,
            start=best.start,
            depth=best.depth,
            repeat=probe["repeat"],
        )
        return _attempt(request, Attempts(reasons=final.reasons))

    def _control(self, cell: Cell, ledger: CellLedger) -> Request | None:
        """Return the control of a cell's answer, unless none is asked for, or it is there or cannot be had."""
        final, control = ledger.singles["final"], ledger.singles["control"]
        if not self.settings.control or final.record is None or final.failed or control.failed:
            return None
        if any(request.cell == cell for request in self.running) or self.control_of(cell, final.record) is not None:
            return None
        request = Request(
            kind="joint_control" if cell.task == JOINT else "control",
            cell=cell,
            start=self.receiver(cell, final.record),
            repeat=final.record["repeat"],
        )
        return _attempt(request, Attempts(reasons=control.reasons))

    def receiver(self, cell: Cell, final: Mapping[str, Any]) -> int:
        """Return which layer of the whole decoder received the heal of a final's model."""
        base = self.ledgers[cell if cell.task != JOINT else self.members(cell)[0]].singles["base"].record
        assert base is not None
        block = LayerBlock(final["start"], final["depth"])
        side = self.settings.heal_recipe(cell).side
        return original_index(receiving_layer(block, base["num_layers"], side), block)

    def control_of(self, cell: Cell, final: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the record of a final's control, None where it was not run."""
        control = self.ledgers[cell].singles["control"].record
        wanted = self.receiver(cell, final), final["repeat"]
        return control if control and (control["start"], control["repeat"]) == wanted else None

    def _quiet(self, decoder: Decoder) -> bool:
        """Say whether nothing more will be learned about a decoder's cells one by one."""
        if decoder not in self._is_quiet:
            self._is_quiet[decoder] = self._look_for_quiet(decoder)
        return self._is_quiet[decoder]

    def _look_for_quiet(self, decoder: Decoder) -> bool:
        if any(request.kind in ("base", "probe") and _decoder(request.cell) == decoder for request in self.running):
            return False
        looks = map(self.look, self._turns.rotated(self._of_decoder[decoder]))
        return all(look is None or not self.budget.fits(look) for look in looks)

    def _open_searches(self, decoder: Decoder) -> None:
        """Build the searches of a decoder's cells whose base is there, and of joint cells all of whose bases are."""
        settings, pool = self.settings, self.pools[decoder]
        for cell in self._of_decoder[decoder]:
            if cell not in self.samplers and self.ledgers[cell].singles["base"].record is not None:
                space = self._space(cell)
                pool.add(space, self.ledgers[cell].study)
                self.samplers[cell] = self._sampler(space, pool)
        for joint in self.joints:
            members = self.members(joint)
            if _decoder(joint) == decoder and all(member in self.samplers for member in members):
                names = [self.ledgers[member].study.study_name for member in members]
                self.samplers[joint] = JointSampler(pool, alpha=settings.alpha, members=names)

    def _sampler(self, space: SearchSpace, pool: Pool) -> BlockSampler:
        settings = self.settings
        alpha, seed, max_running = settings.alpha, settings.seed, math.ceil(settings.workers / len(settings.cells))
        if settings.curve:
            return CurveSampler(space, settings.curve, alpha=alpha, seed=seed, max_running=max_running)
        told = SamplerOptions(
            alpha=alpha,
            price=settings.price,
            max_heals=settings.max_heals,
            rungs=settings.rungs,  # type: ignore[arg-type]
            seed=seed,
            max_running=max_running,
            pool=pool,
        )
        return build_sampler(settings.sampler, space, told)

    def _space(self, cell: Cell) -> SearchSpace:
        base = self.ledgers[cell].singles["base"].record
        assert base is not None
        with np.load(io.BytesIO(self.store.read_bytes(base["map"])), allow_pickle=False) as arrays:
            distance = arrays["distance"]
        return SearchSpace(
            num_layers=base["num_layers"],
            distance=by_convention(distance, self.settings.convention),
            tolerance=self.settings.tolerance,
            max_depth=base["num_layers"] - 1,
            factors={"encoder": cell.encoder, "task": cell.task, "language": cell.language},
        )

    def _compare(self, cell: Cell, base: Mapping[str, Any], score: Mapping[str, Any]) -> Degradation:
        """Return the degradation of a pruned model's score on the utterances that it was scored on."""
        pruned = self.store.read_hypotheses(score["hypotheses"])
        scored = {record.id for record in pruned}  # some of the base's, of a cheap rung or a probe stopped early
        unpruned = self.store.read_hypotheses(base["hypotheses"])
        return degradation(
            [record for record in unpruned if record.id in scored],
            pruned,
            cell.text_language,
            cell.task,
            by_speaker=self.settings.resample == "speaker",
            tolerance=self.settings.tolerance,
            seed=self.settings.seed,
        )

    def _judge_joint(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Compare a joint model with the bases of its members, one entry a member."""
        members = [Cell(**member) for member in record["members"]]
        judged = [self.judge(member, {"scores": record["scores"][member.name]}, "selection") for member in members]
        return {name: [one[name] for one in judged] for name in judged[0]}

    def _changed(self, request: Request) -> None:
        """Forget what the cells that a trial tells something about were found to need; with a budget, what any was."""
        self.budget.changed()
        cell, decoder = request.cell, _decoder(request.cell)
        shared = self.settings.budget_s is not None
        if not shared and not request.is_probe and request.kind != "base":  # no search learns from it
            self._wanted[decoder].pop(cell, None)
            self._turns.wake([cell])
            return
        self.pools[decoder].changed(self.ledgers[cell].study)
        for one in list(self._of_decoder) if shared else [decoder]:
            self._is_quiet.pop(one, None)
            self._turns.wake(self._wanted[one])
            self._wanted[one] = {}

    def must_train(self, cell: Cell) -> bool:
        """Say whether the base of a cell is not there yet."""
        return existing_folder(cell, self.settings, self.store) is None


def _decoder(cell: Cell) -> Decoder:
    return cell.family, cell.scale


def _attempt(request: Request, known: Attempts) -> Request:
    """Return a request with the number of its attempt."""
    return Request(**{**request.as_dict(), "cell": request.cell, "attempt": len(known.reasons) + 1})


def _worst(degradation: float | Sequence[float | None] | None) -> float:
    values = degradation if isinstance(degradation, Sequence) else [degradation]
    return max(math.inf if value is None else value for value in values)


def _finite(number: float) -> float | None:
    """Return a number as JSON can hold it: None where it is unbounded (a base without an edit made worse)."""
    return number if math.isfinite(number) else None
