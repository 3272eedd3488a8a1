"""Redundancy maps made by tasks, those of one base by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import ray
from ray.util.queue import Queue

from slamlab.sweep.cluster.ranks import WORKER_DIED
from slamlab.sweep.settings import Settings
from slamlab.sweep.store import Store

if TYPE_CHECKING:
    from slamlab.sweep.cells import Cell
    from slamlab.sweep.maps import Made, MapSettings

SAY_EVERY_S = 0.5


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
                reason = WORKER_DIED if lost else str(error).strip().splitlines()[-1]
                say(f"{', '.join(of_base[0].name.split()[:2])}: FAILED: {reason}")
                made |= {(cell, decoder): reason for cell in of_base for decoder in how.decoders}
    lines.shutdown()
    return made


def _make_maps(settings: Settings, how: MapSettings, lines: Queue) -> Made:
    import torch

    from slamlab.sweep.maps import make_maps

    torch.set_num_threads(settings.recipes().cpus_per_trial)
    Store(settings.store).awaited()
    return make_maps(settings, how, lines.put)
