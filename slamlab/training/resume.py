"""What a training run keeps on disk, so that one that is killed goes on as if it never was.

One file holds all of it: weights that learn, the optimiser's moments, the random state, the losses so far. Safetensors
with JSON in the header, no pickle; it replaces its predecessor in one move, so that there is one at most, and whole.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slamlab.disk import at_once, whole_file

SAVE_EVERY_S = 600.0
"""A killed heal loses this much at most; writing a 7b decoder's LoRA and projector takes a second or so of it."""
REVISION = 1
"""Raised when the state, or what is made of it, changes: older files are then foreign."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A training run between two steps.

    Attributes:
        losses: Of the steps done, in nats a token.
        tensors: What :func:`slamlab.training.zero.capture` took, on the CPU.
        wall_s: Wall seconds that these steps cost, over all processes that took them.
        device_s: Device seconds that they cost.
    """

    losses: tuple[float, ...]
    tensors: Mapping[str, torch.Tensor]
    wall_s: float
    device_s: float


class Keeper:
    """Keeps the state of one training run in a file.

    Args:
        path: The file.
        run: Fingerprint of all that makes the run what it is: a file of another run is not taken for its own.
        cost: Returns wall and device seconds of the run so far.
        every_s: Seconds between two states.
        changed: Takes the path when the file has been replaced or removed.
        patiently: Does something, again where the file system goes away meanwhile.

    Attributes:
        state: What was found in the file; None to begin anew.
        problem: Why a file that was found is not used; empty where it is, or there was none.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        cost: Callable[[], tuple[float, float]],
        every_s: float = SAVE_EVERY_S,
        changed: Callable[[Path], None] = lambda path: None,
        patiently: Callable[[Callable[[], Any]], Any] = at_once,
    ) -> None:
        self.path, self._run, self._cost, self._every_s = path, run, cost, every_s
        self._changed, self._patiently = changed, patiently
        self.problem = ""
        self.state: State | None = self._patiently(self._read)
        self._wrote_s = time.monotonic()

    def due(self) -> bool:
        """Say whether the time has come to write a state."""
        return time.monotonic() - self._wrote_s >= self._every_s

    def write(self, losses: list[float], tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the state in the file."""
        wall_s, device_s = self._cost()
        told = {"revision": REVISION, "run": self._run, "losses": losses, "wall_s": wall_s, "device_s": device_s}
        header = {"state": json.dumps(told), "sha256": _digest(tensors)}

        def replace() -> None:
            with whole_file(self.path) as draft:
                save_file(dict(tensors), draft, header)

        self._patiently(replace)
        self._changed(self.path)
        self._wrote_s = time.monotonic()

    def drop(self) -> None:
        """Remove the file: the run is over."""
        self._patiently(lambda: self.path.unlink(missing_ok=True))
        self._changed(self.path)

    def _read(self) -> State | None:
        self.problem = ""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                header = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            told = json.loads(header["state"])
            if header["sha256"] != _digest(tensors):
                self.problem = "it is damaged"
            elif (told["revision"], told["run"]) != (REVISION, self._run):
                self.problem = "it is of another run"
            else:
                return State(
                    losses=tuple(told["losses"]), tensors=tensors, wall_s=told["wall_s"], device_s=told["device_s"]
                )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            self.problem = "it is damaged"
        return None


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of tensors with their names: safetensors itself would not see a bit that flipped."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
