"""What experiment trackers are told of a sweep, beside its own records: losses by step, then what a trial found.

Which trackers there are, and numbers by name; they go out by Ray's own callbacks
(:mod:`slamlab.sweep.cluster.trackers`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from slamlab.errors import OptionError

if TYPE_CHECKING:
    from slamlab.sweep.settings import Request

TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Trackers, and the package that each needs."""
VERDICTS = {"feasible": 1, "undecided": 0, "infeasible": -1}
"""A verdict as a number, which is all that some trackers draw."""
COUNTS = ("depth", "start", "device_seconds", "wall_seconds", "num_parameters", "p_feasible")


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return trackers by name, without repeats.

    Raises:
        OptionError: One is not known, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise OptionError(f"a tracker is one of {', '.join(TRACKERS)}", name, "choose among them with --track")
        if find_spec(TRACKERS[name]) is None:
            package = TRACKERS[name]
            raise OptionError(f"--track {name} needs the package {package}", "none", f"pip install {package}")
    return tuple(dict.fromkeys(names))


def metrics_of(request: Request, record: Mapping[str, Any]) -> dict[str, float]:
    """Return what a trial found, as numbers by name: those of a joint model once for each cell.

    `verdict` is one of :data:`VERDICTS`; an unbounded degradation is left out.
    """
    found = {name: record[name] for name in COUNTS if name in record}
    if "num_layers" in record and request.depth:
        found["fraction"] = request.depth / record["num_layers"]
    if "verdict" in record:
        found["verdict"] = VERDICTS[record["verdict"]]
    change = record.get("relative_degradation")
    if not request.is_joint:
        return found | _scores(record["scores"]) | ({} if change is None else {"relative_degradation": change})
    for i, (cell, scores) in enumerate(record["scores"].items()):
        found |= {f"{cell}/{name}": value for name, value in _scores(scores).items()}
        if change is not None and change[i] is not None:
            found[f"{cell}/relative_degradation"] = change[i]
    return found


def _scores(scores: Mapping[str, Any]) -> dict[str, float]:
    return {f"{score['metric']}/{split}": score["value"] for split, score in scores.items()}


class Steps:
    """Numbers of steps that only grow, as trackers want them, whatever stages begin again from 1."""

    def __init__(self) -> None:
        self._before = self._last = 0

    def of(self, losses: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
        """Yield losses with their steps."""
        for step, loss in losses:
            if self._before + step <= self._last:
                self._before = self._last
            self._last = self._before + step
            yield self._last, loss

    def end(self) -> int:
        """Return the step after all that were told."""
        self._last += 1
        return self._last


class Tracking:
    """Tells trackers the losses of trials, and what they found; has the methods of one of Tune's callbacks.

    A tracker that fails is left out from then on, and stops nothing.

    Args:
        loggers: Ray's callbacks, by the trackers' names.
        found: Where the metrics of a trial that ended lie, by its id.
        say: Takes a line.
    """

    def __init__(self, loggers: dict[str, Any], found: dict[str, dict[str, float]], say: Callable[[str], None]) -> None:
        self._loggers, self._found, self._say = loggers, found, say
        self._steps: dict[str, Steps] = defaultdict(Steps)

    def setup(self, **info: Any) -> None:
        """Begin."""
        self._each(lambda logger: logger.setup(**info))

    def on_trial_start(self, *, trial: Any, **info: Any) -> None:
        """Begin a trial."""
        self._each(lambda logger: logger.log_trial_start(trial))

    def on_trial_result(self, *, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """Tell a trial's losses."""
        for step, loss in self._steps[trial.trial_id].of(result.get("losses", ())):
            self._tell(trial, step, {"loss": loss})

    def on_trial_complete(self, *, trial: Any, **info: Any) -> None:
        """Tell what a trial found; the searcher was told before."""
        found = self._found.pop(trial.trial_id, {})
        step = self._steps.pop(trial.trial_id, Steps()).end()
        if found:
            self._tell(trial, step, found)
        self._each(lambda logger: logger.log_trial_end(trial, failed=not found))

    def on_trial_error(self, *, trial: Any, **info: Any) -> None:
        """End a trial whose worker died."""
        self.on_trial_complete(trial=trial)

    def on_experiment_end(self, **info: Any) -> None:
        """End."""
        self._each(lambda logger: logger.on_experiment_end(**info))

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune's own checkpoints nothing: they are never read."""
        return {}

    def _tell(self, trial: Any, step: int, metrics: Mapping[str, float]) -> None:
        self._each(lambda logger: logger.log_trial_result(step, trial, {**metrics, "training_iteration": step}))

    def _each(self, work: Callable[[Any], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                work(logger)
            except Exception as error:
                del self._loggers[name]
                self._say(f"{name} is told nothing more: {type(error).__name__}: {error}")
