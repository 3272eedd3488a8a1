"""Fixtures of the sweep's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import torch
from real_trials import BASE, CELL, FINAL, PROBE, finish, weights_of
from small_world import small_sweep

import slamlab.sweep.campaign
import slamlab.sweep.results
import slamlab.sweep.speed
from slamlab.data.grammar import sentences
from slamlab.model.slam import SlamConfig, SlamModel
from slamlab.scoring.score import degradation
from slamlab.sweep.settings import Settings
from slamlab.sweep.store import Store
from slamlab.sweep.trial import Bench
from slamlab.zoo.corpora import open_corpus
from slamlab.zoo.decoders import find_decoder, new_mini, train_tokenizer


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


@pytest.fixture(scope="module")
def no_look_ups() -> Iterator[None]:
    """Look for no commit and no versions, where results are collected many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slamlab.sweep.results, "commit", lambda: "unknown")
        patch.setattr(slamlab.sweep.results, "versions", dict)
        yield


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Build settings of a pocket sweep, with changes."""

    def build(**changed: Any) -> Settings:
        return small_sweep(**({"store": tmp_path / "runs"} | changed))

    return build


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where speech, frames and converted weights are made once for all stores of real trials."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random model of 12 layers."""
    tokenizer = train_tokenizer([" " + text for texts in sentences(200, 0) for text in texts.values()])
    config = SlamConfig(
        family="qwen", scale="mini", encoder="whisper-base", encoder_width=512, stack=5, projector_hidden=32
    )
    torch.manual_seed(0)
    decoder = new_mini(find_decoder("qwen", "mini"), tokenizer, seed=0)
    folder = tmp_path_factory.mktemp("base") / "qwen-mini"
    SlamModel(config, decoder, tokenizer).save(folder)
    return folder


@pytest.fixture(scope="session")
def quick_turns() -> Iterator[None]:
    """Let the speed of random miniatures be measured in little time: no test is about how fast they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slamlab.sweep.speed, "RUNS", ((1, 1), (2, 3)))
        yield


@pytest.fixture(scope="session")
def new_bench(
    tmp_path_factory: pytest.TempPathFactory, speech: Path, base: Path, quick_turns: None
) -> Callable[..., Bench]:
    """Return a function that makes a bench on a store of its own, or on a given one."""

    def make(store: Path | None = None, **changed: Any) -> Bench:
        if store is None:
            store = Store(tmp_path_factory.mktemp("runs")).open(min_free_bytes=0).root
            (store / "cache").symlink_to(speech)
        given: dict[str, Any] = {
            "name": "trial",
            "profile": "pocket",
            "cells": (CELL,),
            "corpus": "pocket",
            "corpus_fingerprint": open_corpus("pocket", speech, seed=0).fingerprint,
            "base": str(base),
            "heal": {"num_steps": 2, "batch_size": 2, "r": 4, "num_train": 4},
            "num_selection": 6,
            "num_test": 4,
            # Of an untrained model every answer is as bad as any: with this much tolerance a checkpoint is kept.
            "tolerance": 9.0,
        }
        return Bench(Settings(store=store, **(given | changed)))

    return make


@pytest.fixture(scope="session")
def ran(new_bench: Callable[..., Bench]) -> tuple[Bench, dict[str, Any], dict[str, list[str]], dict[str, Any]]:
    """Run base, probe and final of one block, in the order of a sweep."""
    bench = new_bench()
    records, stages = {}, {}
    for request in (BASE, PROBE, FINAL):
        records[request.kind], stages[request.kind] = finish(bench.run(request))
        if request.kind == "base":
            before = weights_of(bench._base.model)
    return bench, records, stages, before
