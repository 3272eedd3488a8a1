"""Fixtures of the sweep's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import torch
from small_world import small_sweep

import slamlab.sweep.campaign
from slamlab.scoring.score import degradation
from slamlab.sweep.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def _light() -> None:
    """Share the machine: one thread, and no waiting for the disk at each write of a ledger that no test keeps."""
    torch.set_num_threads(1)

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
    def do_not_sync(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")


_remembered = cache(lambda base, pruned, *which, **how: degradation(base, pruned, *which, **how))


@pytest.fixture(scope="module", autouse=True)
def _remember() -> Iterator[None]:
    """Bootstrap a pair of models once: equal sweeps are gone through many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            slamlab.sweep.campaign,
            "degradation",
            lambda base, pruned, *which, **how: _remembered(tuple(base), tuple(pruned), *which, **how),
        )
        yield


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Build settings of a pocket sweep, with changes."""

    def build(**changed: Any) -> Settings:
        return small_sweep(**({"store": tmp_path / "runs"} | changed))

    return build
