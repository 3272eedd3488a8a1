"""The Ray Tune run that serves a whole sweep, and maps made on a cluster: the only file that knows Ray.

Tune asks a searcher for trials and places them on the cluster; the searcher asks the campaign. Workers are actors that
stay alive from trial to trial, so that what a trial loaded (torch, corpus, base) the next one finds in memory. Tune's
own state is never restored: what a sweep knows is in the ledger, and a run starts from there.

A heal on several devices runs on plain actors in the bundles of its trial's placement group, one rank each. Not by Ray
Train: its controller asks for a placement group of its own, beside the one that the trial already holds, and waits for
ever where trials hold all devices. Each heal has processes of its own: torch and DeepSpeed have no clean way out of a
process group that lost a rank, other than to end.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import stat
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before Ray is imported, which reads them then. No result files a trial beside our records; no `uv run` in workers.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.queue import Queue
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from slamlab.disk import disk_full
from slamlab.errors import OptionError, SlamlabError, StoreError
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cluster import largest
from slamlab.sweep.healing import RankLost
from slamlab.sweep.heartbeat import HANG_MINUTES, Heartbeats, hang_seconds
from slamlab.sweep.logs import Teller, trial_name
from slamlab.sweep.progress import Watcher
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.tracking import Tracking, metrics_of
from slamlab.training.base import Progress

if TYPE_CHECKING:
    from slamlab.sweep.cells import Cell
    from slamlab.sweep.maps import Made, MapSettings
    from slamlab.sweep.trial import Bench, Steps
    from slamlab.zoo.profiles import HealRecipe

REPORT_EVERY_S, SAY_EVERY_S = 5.0, 0.5
CALL_S, NOTICE_S = 10.0, 10.0
OBJECT_STORE_BYTES = 200_000_000
"""Nothing but settings travels through Ray's object store on one machine."""
LOOK_EVERY_S, PATIENCE_S = 5.0, 1800.0
"""How long a sweep waits for nodes where nothing says that any will come."""


def start_ray(address: str | None = None) -> dict[str, float]:
    """Join the cluster at `address`, or start Ray on this machine alone, and return the resources there are.

    Raises:
        OptionError: No cluster answers at the address.
    """
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            _stay_on_loopback()
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            options["_temp_dir"] = str(_private_folder() / "ray")
        try:
            if address not in (None, "auto"):
                _call(address)
            ray.init(address=address or "local", **options)
        except ConnectionError:
            raise OptionError(
                "--address names a running Ray cluster", address, "start one (ray up), or leave it out"
            ) from None
    return ray.cluster_resources()


def _call(address: str) -> None:
    """Raise ConnectionError where nobody answers at HOST:PORT: Ray itself would go on asking for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CALL_S).close()
    except (OSError, OverflowError, ValueError) as error:  # nobody there, or no port
        raise ConnectionError(address) from error


def _stay_on_loopback() -> None:
    """Have Ray's own servers listen on 127.0.0.1 only, as it does on laptops; alone, it listens to every network.

    The switch is private to Ray and read from the environment at import, hence the guard; a test looks at the ports.
    """
    from ray._private import ray_constants

    if hasattr(ray_constants, "ENABLE_RAY_CLUSTER"):
        ray_constants.ENABLE_RAY_CLUSTER = False


def _private_folder() -> Path:
    """Return a folder that no other user enters: Ray lets everybody write to that of its sockets and logs.

    Raises:
        StoreError: Somebody else made it.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"slamlab-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "another user's")
        folder.chmod(0o700)
    except OSError as error:
        rule, remedy = "Ray's folder on this machine is one's own", "set RAY_TMPDIR to a folder of yours"
        raise StoreError(rule, f"{folder} ({error.strerror})", remedy) from None
    return folder


def run(campaign: Campaign, watcher: Watcher, track: Sequence[str] = (), hang_minutes: float = HANG_MINUTES) -> None:
    """Run trials until the campaign is finished.

    Args:
        campaign: Says which trial is next, and learns what came of it.
        watcher: Shows what happens.
        track: Trackers that are told as well.
        hang_minutes: How long a worker may tell nothing; 0 for as long as it likes.

    Raises:
        OptionError: A tracker wants a login, and there is none.
        StoreError: A disk is full.
    """
    settings = campaign.settings
    profile = settings.recipes()
    a_device: dict[str, float] = {"CPU": profile.cpus_per_trial, "GPU": profile.gpus_per_trial}
    resources = tune.PlacementGroupFactory([a_device] * settings.devices)
    found: dict[str, dict[str, float]] | None = {} if track else None
    loggers = {name: _logger(name, settings.name, campaign.store.root) for name in track}
    heart = HeartbeatCallback(Heartbeats(hang_seconds(hang_minutes)))
    searcher = CampaignSearcher(campaign, watcher, heart.killed, found)
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
            storage_path=str(campaign.store.root / "ray"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[heart, *([] if found is None else [TrackingCallback(loggers, found, watcher.say)])],
        ),
    )
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


class TrackingCallback(Tracking, tune.Callback):  # type: ignore[misc]  # Tune passes all by keyword
    """What Tune takes for a callback."""


def _logger(tracker: str, sweep: str, root: Path) -> tune.Callback:
    """Return Ray's callback for a tracker; what it keeps on this machine lies in the store's folder."""
    folder = root / tracker
    folder.mkdir(exist_ok=True)
    if tracker == "tensorboard":
        from ray.tune.logger import TBXLoggerCallback
        from tensorboardX import SummaryWriter

        def writer(path: str, **options: Any) -> SummaryWriter:
            # Ray's own folder is elsewhere, and copied now and then: nothing to look at while a trial runs.
            return SummaryWriter(str(folder / sweep / Path(path).stem), **options)

        tensorboard = TBXLoggerCallback()
        tensorboard._summary_writer_cls = writer
        return tensorboard
    if tracker == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        return MLflowLoggerCallback(tracking_uri=uri, experiment_name=sweep)
    import wandb
    from ray.air.integrations.wandb import WandbLoggerCallback

    if os.environ.get("WANDB_MODE") not in ("offline", "disabled") and not wandb.api.api_key:
        rule, remedy = "--track wandb sends to your account", "run `wandb login`, or set WANDB_MODE=offline"
        raise OptionError(rule, "no login", remedy)
    return WandbLoggerCallback(project="slamlab", group=sweep, dir=str(folder))


def await_nodes(settings: Settings, address: str | None, say: Callable[[str], None], devices: int = 1) -> None:
    """Return when the cluster has the CPUs and GPUs that a trial takes; where it has not, ask its autoscaler for them.

    Args:
        settings: The sweep.
        address: Of the cluster; None for this machine, which does not grow.
        say: Takes a line of progress.
        devices: Devices that one trial takes.

    Raises:
        OptionError: There are too few, and no more can come; or none came for :data:`PATIENCE_S`, where how far the
            cluster grows is not known.
    """
    profile = settings.recipes()
    a_device = {"CPU": profile.cpus_per_trial, "GPU": profile.gpus_per_trial}
    needed = {name: devices * each for name, each in a_device.items() if each}

    def lacking(amounts: Mapping[str, float]) -> bool:
        return any(amounts.get(name, 0) < amount for name, amount in needed.items())

    there = ray.cluster_resources()
    if not lacking(there):
        return
    takes = " and ".join(f"{amount} {name}" for name, amount in needed.items())
    has = " and ".join(f"{there.get(name, 0):g} {name}" for name in needed)
    most = largest() if address is not None else there
    if most is None or not lacking(most):
        limit_s = PATIENCE_S if most is None else math.inf
        at_most = f" (for {limit_s / 60:.0f} minutes at most)" if most is None else ""
        say(f"Waiting for nodes{at_most}: a trial takes {takes}, and the cluster has {has} so far.")
        began_s, came = time.monotonic(), False
        # Something that waits for room is what an autoscaler acts on.
        room = ray.util.placement_group([{name: each for name, each in a_device.items() if each}] * devices)
        while not came and time.monotonic() - began_s < limit_s:
            came = room.wait(LOOK_EVERY_S)
        ray.util.remove_placement_group(room)
        if came:
            say(f"Nodes came after {time.monotonic() - began_s:.0f} s.")
            return
    raise OptionError(
        f"a trial of the profile {profile.name} takes {takes}",
        f"{has} in the cluster",
        "add nodes, or pass --profile pocket" + " or fewer --devices" * (devices > 1),
    )


def make_maps_on_cluster(settings: Settings, how: MapSettings, say: Callable[[str], None]) -> Made:
    """Make maps as :func:`slamlab.sweep.maps.make_maps` does, each base's in a task of its own.

    A base is loaded once, and its LoRA decoder is trained once, so its cells stay together.

    Args:
        settings: Cells, corpus, store and the rest of a sweep.
        how: How maps are made.
        say: Takes a line of progress.
    """
    from slamlab.sweep.bases import base_name

    profile = settings.recipes()
    remote = ray.remote(num_cpus=profile.cpus_per_trial, num_gpus=profile.gpus_per_trial, max_retries=0)(_make_maps)
    lines = Queue(actor_options={"num_cpus": 0})
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in settings.cells:
        cells.setdefault(base_name(cell), []).append(cell)
    tasks = {remote.remote(replace(settings, cells=tuple(of_base)), how, lines): of_base for of_base in cells.values()}
    made: Made = {}
    while tasks:
        ended, _ = ray.wait(list(tasks), timeout=SAY_EVERY_S)
        while not lines.empty():
            say(lines.get())
        for task in ended:
            of_base = tasks.pop(task)
            try:
                made |= ray.get(task)
            except ray.exceptions.RayError as error:
                lost = isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError)
                reason = WORKER_LOST.reason if lost else str(error).strip().splitlines()[-1]
                say(f"{', '.join(of_base[0].name.split()[:2])}: FAILED: {reason}")
                made |= {(cell, decoder): reason for cell in of_base for decoder in how.decoders}
    lines.shutdown()
    return made


def _make_maps(settings: Settings, how: MapSettings, lines: Queue) -> Made:
    import torch

    from slamlab.sweep.maps import make_maps

    torch.set_num_threads(settings.recipes().cpus_per_trial)
    return make_maps(settings, how, lines.put)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: with a record, or for a reason. An object, since Tune flattens the dictionaries it passes on.

    Attributes:
        record: What the trial found.
        reason: Why there is no record, in a sentence.
        details: The traceback of what nobody foresaw.
        device_seconds: What a trial without a record took, as far as known.
        is_lost: Whether there is no record since a process was lost, through no fault of the trial as far as known.
        stop: Why the sweep ends here, and this trial did not fail: a disk is full.
    """

    record: dict[str, Any] | None = None
    reason: str = ""
    details: str = ""
    device_seconds: float = 0.0
    is_lost: bool = False
    stop: StoreError | None = None


WORKER_LOST = Outcome(reason="the worker died (out of memory, or its node was lost)", is_lost=True)


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

        team = RankTeam(self._settings) if self._settings.devices > 1 else None
        self._bench = self._bench or Bench(self._settings, team)
        return (yield from self._bench.run(request))


class Rank:
    """An actor that is one rank of one heal.

    Args:
        settings: The sweep.
        gpus: Ids of the GPUs that it shares with the trial; None where it has its own.
    """

    def __init__(self, settings: Settings, gpus: list[str] | None) -> None:
        self._settings = settings
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def address(self) -> tuple[str, int]:
        """Return where the ranks can meet: this node and a free port."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def alive(self) -> None:
        """Answer; waits for a heal that runs."""

    def heal(self, rank: int, address: tuple[str, int], request: Request, recipe: HealRecipe) -> Iterator[Progress]:
        """Take part in a heal; yield progress."""
        where = {"MASTER_ADDR": address[0], "MASTER_PORT": str(address[1]), "LOCAL_RANK": "0"}
        os.environ.update(where, RANK=str(rank), WORLD_SIZE=str(self._settings.devices))
        import torch

        from slamlab.sweep.trial import Bench

        torch.set_num_threads(self._settings.recipes().cpus_per_trial)
        yield from Bench(self._settings).heal_as_rank(request, recipe)

    def follow(self, rank: int, address: tuple[str, int], request: Request, recipe: HealRecipe) -> None:
        """Take part in a heal and tell nothing."""
        for _ in self.heal(rank, address, request, recipe):
            pass


class RankTeam:
    """Ranks in the bundles of the trial that this process runs; its own is the first, whose device rank 0 takes over.

    Args:
        settings: The sweep.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def heal(self, request: Request, recipe: HealRecipe) -> Iterator[Progress]:
        """Heal on all devices; see :class:`slamlab.sweep.healing.Team`."""
        ranks: list[Any] = []
        first: Any
        ready: Any
        try:
            ranks += self._start()
            address = ray.get(ranks[0].address.remote())
            first = ranks[0].heal.options(num_returns="streaming").remote(0, address, request, recipe)
            waiting = [first, *(one.follow.remote(i, address, request, recipe) for i, one in enumerate(ranks) if i)]
            while waiting:
                (ready,), _ = ray.wait(waiting)
                if ready is not first:
                    ray.get(ready)
                    waiting.remove(ready)
                elif (progress := next(first, None)) is not None:
                    yield ray.get(progress)
                else:
                    waiting.remove(first)
        except ray.exceptions.RayActorError:
            raise RankLost(WORKER_LOST.reason) from None
        except ray.exceptions.RayTaskError as error:
            if _one_died(ranks):  # the others then see no more than a broken connection
                raise RankLost(WORKER_LOST.reason) from None
            raise error.cause from None
        finally:
            for one in ranks:
                ray.kill(one)

    def _start(self) -> list[Any]:
        profile, ranks = self._settings.recipes(), []
        group: Any = ray.util.get_current_placement_group()  # a trial has one
        for bundle in range(self._settings.devices):
            share = {"num_cpus": profile.cpus_per_trial, "num_gpus": profile.gpus_per_trial}
            strategy = PlacementGroupSchedulingStrategy(group, bundle)
            options = share if bundle else {"num_cpus": 0, "num_gpus": 0}
            gpus = [str(gpu) for gpu in ray.get_gpu_ids()] if not bundle else None
            ranks.append(ray.remote(Rank).options(scheduling_strategy=strategy, **options).remote(self._settings, gpus))
        return ranks


def _one_died(ranks: list[Any]) -> bool:
    """Say whether an actor died; those that live may be busy and not answer."""
    answers = [one.alive.remote() for one in ranks]
    ended, _ = ray.wait(answers, num_returns=len(answers), timeout=NOTICE_S)
    try:
        ray.get(ended)
    except ray.exceptions.RayActorError:
        return True
    return False


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
        self.stopped_by: StoreError | None = None
        self._requests: dict[str, Request] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the configuration of a trial to start, None to be asked later, or that the search is over."""
        if self.stopped_by:
            return Searcher.FINISHED
        request = self._campaign.next()
        if request is None:
            return Searcher.FINISHED if self._campaign.finished else None
        self._requests[trial_id] = request
        self._campaign.begin(request)
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
