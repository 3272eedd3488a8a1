"""A worker: an actor that runs one trial after another, so that what one loaded the next one finds in memory."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import tune

from slamlab.disk import disk_full
from slamlab.errors import SlamlabError, StoreAway, StoreError
from slamlab.sweep.cluster.ranks import WORKER_DIED, RankTeam
from slamlab.sweep.healing import RankLost
from slamlab.sweep.logs import Teller
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store
from slamlab.training.base import Progress

if TYPE_CHECKING:
    from slamlab.sweep.trial import Bench, Steps

REPORT_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: with a record, or for a reason. An object, since Tune flattens the dictionaries it passes on.

    Attributes:
        record: What the trial found.
        reason: Why there is no record, in a sentence.
        details: The traceback of what nobody foresaw.
        device_seconds: What a trial without a record took, as far as known.
        is_lost: Whether there is no record since a process was lost, through no fault of the trial as far as known.
        stop: Why the sweep ends here, and this trial did not fail: a disk is full, or the store stays away.
    """

    record: dict[str, Any] | None = None
    reason: str = ""
    details: str = ""
    device_seconds: float = 0.0
    is_lost: bool = False
    stop: StoreError | None = None


WORKER_LOST = Outcome(reason=WORKER_DIED, is_lost=True)


class TrialRunner(tune.Trainable):
    """An actor that runs one trial after another, a few seconds of it at each of Tune's steps."""

    def setup(self, config: dict[str, Any], settings: Settings) -> None:  # type: ignore[override]
        """Begin a trial."""
        import torch

        torch.set_num_threads(settings.recipes().cpus_per_trial)
        self._settings = settings
        self._bench: Bench | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same actor."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Go on with the trial for a few seconds.

        Returns:
            Where it stands; or, with `done`, its record or the reason of its failure. And what goes into its log.
        """
        with self._teller.listening():
            told = self._go_on()
        if told["done"]:
            self._teller.hear(None)
        lines, losses = self._teller.take()
        return {**told, "lines": lines, "losses": losses}

    def _go_on(self) -> dict[str, Any]:
        until = time.monotonic() + REPORT_EVERY_S
        progress: Progress | None = None
        try:
            while time.monotonic() < until:
                progress = next(self._steps)
                self._teller.hear(progress)
                if progress.note:
                    break
        except StopIteration as end:
            return {"done": True, "outcome": Outcome(record=end.value)}
        except StoreAway as error:
            return {"done": True, "outcome": Outcome(reason=str(error), stop=error)}
        except SlamlabError as error:
            lost = isinstance(error, RankLost)
            return {"done": True, "outcome": Outcome(reason=str(error), device_seconds=self._spent(), is_lost=lost)}
        except Exception as error:
            if full := disk_full(error):
                return {"done": True, "outcome": Outcome(reason=str(full), stop=full)}
            # One bad cell never stops the others: whatever went wrong is this trial's failure, told in full.
            reason = f"{type(error).__name__}: {error}"
            told = Outcome(reason=reason, details=traceback.format_exc(), device_seconds=self._spent())
            return {"done": True, "outcome": told}
        return {"done": False, "progress": progress}

    def cleanup(self) -> None:
        """Let go of a trial that Tune stopped."""
        self._steps.close()

    def _spent(self) -> float:
        return self._bench.spent_device_s() if self._bench else 0.0

    def _begin(self, config: dict[str, Any]) -> None:
        self._teller = Teller()
        self._steps = self._run(Request.from_dict(config["request"]))

    def _run(self, request: Request) -> Steps:
        """Run a trial on this actor's bench; the first one makes it, so that what fails there has its reason told."""
        from slamlab.sweep.trial import Bench

        if self._bench is None:
            Store(self._settings.store).awaited()
            team = RankTeam(self._settings) if self._settings.devices > 1 else None
            self._bench = Bench(self._settings, team)
        return (yield from self._bench.run(request))
