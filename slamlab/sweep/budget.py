"""A budget of device time: what a sweep has spent, and whether another trial fits beside what must still be done.

Spent is what this sweep's trials took, failed attempts included as far as they told; what another sweep had computed
costs nothing. A trial is begun where it fits together with what runs and with what is due: the scoring of every answer
so far (and its control, where asked for), and a first heal in each cell whose base was begun, as a base alone answers
nothing. In a joint sweep the joint answer alone is due: the bases of all its cells, a joint heal, its scoring. The
scoring of an answer is begun while anything is left, so that a heal that took longer than foreseen does not cost it.
What trials take is as :mod:`slamlab.sweep.timings` expects it: a budget is exceeded by no more than they exceed that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slamlab.sweep.cells import JOINT, Cell, joint_cell
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.timings import NO_TIME, Took

if TYPE_CHECKING:
    from slamlab.sweep.campaign import Campaign

ROUNDING_S = 1e-6


class Budget:
    """What is left of a sweep's budget.

    Args:
        campaign: The sweep, its ledgers opened.
    """

    def __init__(self, campaign: Campaign) -> None:
        self._campaign, self._settings = campaign, campaign.settings
        self.limit_s = self._settings.budget_s
        self.spent_s = sum(
            sum(spent_s(self._settings, record) for record in ledger.records) + ledger.failed_device_s
            for ledger in campaign.ledgers.values()
        )
        self._due: tuple[dict[Cell, float], float] | None = None

    def fits(self, request: Request) -> bool:
        """Say whether a trial may begin now."""
        if self.limit_s is None:
            return True
        left_s = self.limit_s - self.spent_s - sum(self.expect(one).device_s for one in self._campaign.running)
        if request.kind in ("final", "joint_final"):
            return left_s > ROUNDING_S
        return self.expect(request).device_s + self._due_beside(request) <= left_s + ROUNDING_S

    def expect(self, request: Request) -> Took:
        """Return what a trial is expected to take, training a base that is not there included."""
        members = self._campaign.members(request.cell) if request.is_joint else [request.cell]
        timings = self._campaign.timings
        took = timings.of(request.kind, members[0], rung=request.rung, num_cells=len(members))
        return took + self._training(request.cell) if request.kind == "base" else took

    def _training(self, cell: Cell) -> Took:
        return self._campaign.timings.training(cell) if self._campaign.must_train(cell) else NO_TIME

    def spend(self, device_s: float) -> None:
        """Note what a trial took."""
        self.spent_s += device_s

    def changed(self) -> None:
        """Forget what is due: a trial began or ended."""
        self._due = None

    def _due_beside(self, request: Request) -> float:
        """Return the device-seconds that are due once a trial has begun, it and what runs left out."""
        if self._due is None:
            owners = self._campaign.joints or self._settings.cells
            due = {owner: self._due_of(owner, None) for owner in owners}
            self._due = due, sum(due.values())
        due, total_s = self._due
        owner = joint_cell(request.cell) if self._campaign.joints else request.cell
        return total_s - due[owner] + self._due_of(owner, request)

    def _due_of(self, owner: Cell, request: Request | None) -> float:
        """Return what is due for the answer of a cell, or of a joint one, given what runs, and a request."""
        campaign, settings, ledger = self._campaign, self._settings, self._campaign.ledgers[owner]
        is_joint = owner.task == JOINT
        members = campaign.members(owner) if is_joint else [owner]
        asked = [one for one in campaign.running if one.cell == owner or one.cell in members]
        asked += [request] if request else []
        bases = {member: campaign.ledgers[member].singles["base"] for member in members}
        begun = [one.cell for one in asked if one.kind == "base"]
        missing = [member for member, base in bases.items() if base.record is None and member not in begun]
        if any(base.failed for base in bases.values()) or (len(missing) == len(members) and not asked):
            return 0.0
        lacking_s = sum(campaign.timings.of("base", member).device_s for member in missing)
        if missing and not begun:
            lacking_s += self._training(missing[0]).device_s  # once for all of a base
        if any(one.kind in ("final", "joint_final") for one in asked):
            return self._control_s(owner)
        if any(one.is_control for one in asked):
            return 0.0
        look = Request(kind="joint" if is_joint else "probe", cell=owner, rung="unhealed" if settings.curve else "full")
        answer_s = 0.0 if settings.curve else self._final_s(owner) + self._control_s(owner)
        if any((one.kind, one.rung) == (look.kind, look.rung) for one in asked):
            return lacking_s + answer_s
        looked = any(key[2] == look.rung and one.settled for key, one in ledger.probes.items())
        if (is_joint and asked) or not looked:
            sampler = campaign.samplers.get(owner)
            if not asked and sampler is not None and sampler.suggest(ledger.study) is None:
                return 0.0  # the search has nothing to ask
            return lacking_s + self.expect(look).device_s + answer_s
        if asked:
            return answer_s
        wish = campaign.to_be_scored(owner)
        return 0.0 if wish is None else self._control_s(owner) + (0.0 if wish.is_control else self._final_s(owner))

    def _final_s(self, owner: Cell) -> float:
        return self.expect(Request(kind="joint_final" if owner.task == JOINT else "final", cell=owner)).device_s

    def _control_s(self, owner: Cell) -> float:
        if not self._settings.control:
            return 0.0
        return self.expect(Request(kind="joint_control" if owner.task == JOINT else "control", cell=owner)).device_s


def spent_s(settings: Settings, record: Mapping[str, Any]) -> float:
    """Return the device-seconds that a sweep spent on a trial: none where another sweep did.

    A record that does not tell whose it is, as older ones, counts as the sweep's own.
    """
    return float(record["device_seconds"]) if record.get("sweep", settings.name) == settings.name else 0.0
