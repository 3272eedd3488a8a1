"""What trials run on, and the time that they take there."""

from __future__ import annotations

import time

import torch


def device() -> str:
    """Return where models are put, as torch names it."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """Return what trials run on, as records name it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def memory_bytes() -> float | None:
    """Return the memory of a GPU of this machine, None where it has none (those of a cluster may be unlike)."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def zero_plan(weights_bytes: float, memory_bytes: float | None, devices: int) -> tuple[int, bool]:
    """Return the ZeRO stage for a heal on several devices, and whether it offloads to the host's memory.

    What LoRA and a projector train is small, so gradients and optimiser are shared out in any case (stage 2); the
    weights too (stage 3, slower) where they would fill more than half of a device, and they wait in the host's memory
    (slower still) where even a device's share would. The other half is for activations.

    Args:
        weights_bytes: Of the unpruned decoder, in the precision of the heal.
        memory_bytes: Of a device; None is taken for 24 GB.
        devices: That share a heal.
    """
    room = (memory_bytes or 24e9) / 2
    if weights_bytes <= room:
        return 2, False
    return 3, weights_bytes / devices > room


class Clock:
    """Measures wall and device seconds from when it is made; on a CPU, the device is busy while the process is."""

    def __init__(self) -> None:
        self._wall_s, self._device_s = time.perf_counter(), time.process_time()

    def add(self, wall_s: float, device_s: float) -> None:
        """Count time that was spent before."""
        self._wall_s -= wall_s
        self._device_s -= device_s

    def read(self) -> tuple[float, float]:
        """Return wall and device seconds so far."""
        wall_s = time.perf_counter() - self._wall_s
        return wall_s, wall_s if torch.cuda.is_available() else time.process_time() - self._device_s
