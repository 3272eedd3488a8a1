"""A heal on several devices: plain actors in the bundles of its trial's placement group, one rank each.

Not by Ray Train: its controller asks for a placement group of its own, beside the one that the trial already holds, and
waits for ever where trials hold all devices. Each heal has processes of its own: torch and DeepSpeed have no clean way
out of a process group that lost a rank, other than to end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from slamlab.sweep.healing import RankLost
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store
from slamlab.training.base import Progress

if TYPE_CHECKING:
    from slamlab.zoo.profiles import HealRecipe

NOTICE_S = 10.0
WORKER_DIED = "the worker died (out of memory, or its node was lost)"


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
        Store(self._settings.store).awaited()
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
            raise RankLost(WORKER_DIED) from None
        except ray.exceptions.RayTaskError as error:
            if _one_died(ranks):  # the others then see no more than a broken connection
                raise RankLost(WORKER_DIED) from None
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
