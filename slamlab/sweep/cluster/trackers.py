"""Ray's own callbacks for TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import tune

from slamlab.errors import OptionError
from slamlab.sweep.tracking import Tracking


class TrackingCallback(Tracking, tune.Callback):  # type: ignore[misc]  # Tune passes all by keyword
    """What Tune takes for a callback."""


def logger_of(tracker: str, sweep: str, root: Path) -> tune.Callback:
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
