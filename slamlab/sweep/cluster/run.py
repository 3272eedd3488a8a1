"""The Ray Tune run that serves a whole sweep.

Tune asks a searcher for trials and places them on the cluster; the searcher asks the campaign. Tune's own state is
never restored: what a sweep knows is in the ledger, and a run starts from there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from slamlab.disk import disk_full
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cluster.trackers import TrackingCallback, logger_of
from slamlab.sweep.cluster.worker import WORKER_LOST, Outcome, TrialRunner
from slamlab.sweep.heartbeat import HANG_MINUTES, Heartbeats, hang_seconds
from slamlab.sweep.logs import trial_name
from slamlab.sweep.progress import Watcher
from slamlab.sweep.settings import Request
from slamlab.sweep.tracking import metrics_of


def run(campaign: Campaign, watcher: Watcher, track: Sequence[str] = (), hang_minutes: float = HANG_MINUTES) -> None:
    """Run trials until the campaign is finished.

    Args:
        campaign: Says which trial is next, and learns what came of it.
        watcher: Shows what happens.
        track: Trackers that are told as well.
        hang_minutes: How long a worker may tell nothing; 0 for as long as it likes.

    Raises:
        OptionError: A tracker wants a login, and there is none.
        StoreError: A disk is full, or the store went away and stayed so.
    """
    settings = campaign.settings
    profile = settings.recipes()
    resources = tune.PlacementGroupFactory([profile.resources] * settings.devices)
    found: dict[str, dict[str, float]] | None = {} if track else None
    loggers = {name: logger_of(name, settings.name, campaign.store.root) for name in track}
    heart = HeartbeatCallback(Heartbeats(hang_seconds(hang_minutes)))
    searcher = CampaignSearcher(campaign, watcher, heart.killed, found)
    scratch = tempfile.TemporaryDirectory(prefix="slamlab-tune-")  # Tune writes to it now and then; nobody reads it
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialRunner, settings=settings), resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=settings.workers,
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=lambda trial: f"{_name_of(trial)}.{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=settings.name,
            storage_path=scratch.name,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[heart, *([] if found is None else [TrackingCallback(loggers, found, watcher.say)])],
        ),
    )
    with scratch:
        tuner.fit()
    if searcher.stopped_by:
        raise searcher.stopped_by


def _name_of(trial: Any) -> str:
    return trial_name(Request.from_dict(trial.config["request"]))


class HeartbeatCallback(tune.Callback):
    """Kills the workers of trials that hang; Tune then takes them for lost.

    Args:
        beats: What is heard of trials.

    Attributes:
        killed: Why, by the ids of their trials.
    """

    def __init__(self, beats: Heartbeats) -> None:
        self._beats = beats
        self.killed: dict[str, str] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin to listen."""
        self._beats.heard(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Note a sign of life."""
        self._beats.heard(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Listen no longer."""
        self._beats.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Listen no longer."""
        self._beats.ended(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kill what hangs; Ray ends a process that does not answer even then, and the ranks that it owns, by force."""
        if hanging := self._beats.hanging():
            for trial in trials:
                if trial.trial_id in hanging and trial.temporary_state.ray_actor is not None:
                    self.killed[trial.trial_id] = self._beats.reason
                    self._beats.ended(trial.trial_id)
                    ray.kill(trial.temporary_state.ray_actor)


class CampaignSearcher(Searcher):
    """Tune's view of the campaign.

    Args:
        campaign: The sweep.
        watcher: Shows what happens.
        killed: Why a worker was killed that hung, by its trial's id.
        found: Where metrics of trials that ended are put by their ids, None where nobody wants them.

    Attributes:
        stopped_by: Why no more trials are begun; None while they are.
    """

    def __init__(
        self,
        campaign: Campaign,
        watcher: Watcher,
        killed: Mapping[str, str],
        found: dict[str, dict[str, float]] | None = None,
    ) -> None:
        super().__init__(metric="training_iteration", mode="max")
        self._campaign, self._watcher, self._killed, self._found = campaign, watcher, killed, found
        self.stopped_by: Exception | None = None
        self._requests: dict[str, Request] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the configuration of a trial to start, None to be asked later, or that the search is over."""
        if self.stopped_by:
            return Searcher.FINISHED
        try:
            request = self._campaign.next()
            if request is None:
                return Searcher.FINISHED if self._campaign.finished else None
            self._campaign.begin(request)
        except Exception as error:
            self._stop(error)
            return Searcher.FINISHED
        self._requests[trial_id] = request
        self._watcher.started(request)
        return {"request": request.as_dict()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Show where a trial stands."""
        self._tell(self._requests[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Enter what came of a trial into the ledger."""
        request = self._requests.pop(trial_id, None)
        if request is None:
            return
        if result and result.get("done"):  # else it was told
            self._tell(request, result)
        hung = self._killed.get(trial_id)
        outcome = (result or {}).get("outcome", Outcome(reason=hung) if hung else WORKER_LOST)
        try:
            self._enter(trial_id, request, outcome)
        except Exception as error:
            self._stop(error)
            self._watcher.cut_short(request, str(self.stopped_by))

    def _stop(self, error: Exception) -> None:
        """Begin nothing more: Tune would take for the trial's what is the sweep's, and go on."""
        self.stopped_by = self.stopped_by or disk_full(error) or error

    def _enter(self, trial_id: str, request: Request, outcome: Outcome) -> None:
        if outcome.stop is not None:
            self.stopped_by = outcome.stop  # the ledger has the trial as one that was cut short
            self._watcher.cut_short(request, outcome.reason)
        elif outcome.record is not None:
            judged = self._campaign.complete(request, outcome.record)
            if self._found is not None:
                self._found[trial_id] = metrics_of(request, judged)
            self._watcher.completed(request, judged)
        elif outcome.is_lost and self._campaign.lose(request, outcome.reason):
            self._watcher.cut_short(request, f"{outcome.reason}: it is begun again")
        else:
            if not outcome.is_lost:
                self._campaign.fail(request, outcome.reason, outcome.device_seconds)
            self._watcher.failed(request, outcome.reason, outcome.details)

    def _tell(self, request: Request, result: Mapping[str, Any]) -> None:
        worker = f"{result['hostname']}, process {result['pid']}"
        self._watcher.advanced(request, result.get("progress"), worker=worker, lines=result.get("lines", ()))

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune's own checkpoints nothing: they are never read."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run starts from the ledger."""
