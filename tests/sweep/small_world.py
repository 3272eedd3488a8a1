"""A sweep without models: a small world that answers requests with records such as trials write.

Hypotheses are references with words replaced, more of them the more layers go, so that every score, interval and
verdict that a test sees comes from the real scoring.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from slamlab.data.grammar import sentences
from slamlab.errors import TrialFailed
from slamlab.scoring.bootstrap import score_interval
from slamlab.scoring.records import encode_records, make_records
from slamlab.scoring.score import score_records
from slamlab.sweep.bases import base_name, existing_folder, trained_folder
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import Cell
from slamlab.sweep.results import collect
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store, fingerprint
from slamlab.zoo.profiles import RUNGS, as_json

SPLITS = ("selection", "test", "test-voices")
NUM_UTTERANCES = 40
BASE_RATE = 0.12
SECONDS = {"base": 30.0, "probe": 20.0, "final": 10.0, "joint": 60.0, "joint_final": 30.0}
SECONDS |= {"control": 25.0, "joint_control": 75.0}
SPEED = {
    "device": "cpu",
    "dtype": "float32",
    "num_threads": 1,
    "runs": [{"batch_size": 8, "num_tokens": 24, "ratios": [1.5, 1.7]}],
}
RUNG_COST = {"unhealed": 0.05, "short": 0.2, "full": 1.0}
RUNG_HARM = {"unhealed": 1.5, "short": 1.1, "full": 1.0}
"""Errors of a probe, as a multiple of those after the whole heal."""


def cell(language: str = "en", task: str = "asr", family: str = "qwen") -> Cell:
    """Return a cell of a miniature."""
    return Cell(family=family, scale="mini", encoder="whisper-base", task=task, language=language)


def small_sweep(store: Path, **changed: Any) -> Settings:
    """Return settings of a pocket sweep, with changes."""
    given: dict[str, Any] = {
        "name": "tiny",
        "profile": "pocket",
        "cells": (cell(),),
        "corpus": "pocket",
        "corpus_fingerprint": "0" * 64,  # no base ships for it
        "heal": {"num_steps": 2},
        "num_selection": NUM_UTTERANCES,
        "num_test": NUM_UTTERANCES,
        "sampler": "bisect",  # whose every step can be told beforehand
    }
    return Settings(store=store, **(given | changed))


class World:
    """Does the work of all workers.

    Args:
        settings: The sweep.
        edges: Deepest block that does no harm, by cell.
        num_layers: Layers of every decoder.
        harm: Errors beyond the edge, as a multiple of the base's (of the usual base's, where it makes none).
        steepness: Where given, harm comes by degrees instead: the degradation of a WER is 25 % half a layer beyond the
            edge, and grows by this power of e with every layer.
        test_edges: The same as `edges` for the splits that are reported, where it differs.
        base_rate: Share of words that a base gets wrong.
        failures: How often a trial fails before it succeeds, by (kind, cell, depth).
        training: Share of a base's errors that a heal with nothing removed leaves.
        timed: Whether finals tell how fast their models are, which older ones do not.
        failed_s: Device-seconds of an attempt that fails.
    """

    def __init__(
        self,
        settings: Settings,
        edges: Mapping[Cell, int],
        *,
        num_layers: int = 12,
        harm: float = 2.5,
        steepness: float | None = None,
        test_edges: Mapping[Cell, int] | None = None,
        base_rate: float = BASE_RATE,
        failures: Mapping[tuple[str, Cell, int], int] | None = None,
        training: float = 1.0,
        timed: bool = True,
        failed_s: float = 0.0,
    ) -> None:
        self.settings, self.store = settings, Store(settings.store)
        self.edges, self.num_layers, self.harm, self.base_rate = edges, num_layers, harm, base_rate
        self.test_edges, self.steepness, self.training = test_edges or edges, steepness, training
        self.failures, self.timed, self.failed_s = dict(failures or {}), timed, failed_s
        self.computed: list[Request] = []
        self.trained: list[Request] = []

    def run(self, request: Request) -> dict[str, Any]:
        """Return the record of a trial, from the store where it is known."""
        key = (request.kind, request.cell, request.depth)
        if self.failures.get(key, 0):
            self.failures[key] -= 1
            raise TrialFailed(f"the {request.kind} would not work")
        facts = self._facts(request)
        if request.kind == "base" and existing_folder(request.cell, self.settings, self.store) is None:
            self.trained.append(request)
            folder = trained_folder(request.cell, self.settings, self.store)
            self.store.patiently(lambda: folder.mkdir(parents=True, exist_ok=True))
        if known := self.store.read_record(fingerprint(facts)):
            return known
        self.computed.append(request)
        scores = {
            one.name: {split: self._score(request, one, split) for split in self._splits(request.kind)}
            for one in self._members(request)
        }
        seconds = SECONDS[request.kind] * RUNG_COST[request.rung]
        record: dict[str, Any] = {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": request.kind,
            "cell": request.cell.as_dict(),
            "num_parameters": 1000 * (self.num_layers - request.depth),
            "scores": scores if request.is_joint else scores[request.cell.name],
            "device": "cpu",
            "device_seconds": seconds,
            "wall_seconds": seconds,
            "sweep": self.settings.name,
        }
        if request.is_joint:
            record["members"] = [one.as_dict() for one in self._members(request)]
        if request.kind == "base":
            record |= {"base": {"fingerprint": "b" * 64, "origin": "trained"}, "map": self._map()}
        else:
            record |= {"start": request.start, "depth": request.depth, "rung": request.rung, "repeat": facts["repeat"]}
        if request.kind in ("final", "joint_final"):
            pruned = self._facts(replace(request, kind="joint" if request.is_joint else "probe"))
            folder = self.store.checkpoint_folder(fingerprint(pruned))
            record["checkpoint"] = self.store.put_folder(folder, lambda draft: None)
            if self.timed:
                record["speed"] = SPEED
        else:
            record["num_layers"] = self.num_layers
        self.store.write_record(record)
        return record

    def _facts(self, request: Request) -> dict[str, Any]:
        """What can change a score here: not the tolerance, nor the sweep's name."""
        facts = {
            "kind": request.kind,
            "cell": request.cell.as_dict(),
            "members": [one.as_dict() for one in self._members(request)],
            "block": [request.start, request.depth],
            "rung": request.rung,
            "repeat": 0 if request.rung == "unhealed" else request.repeat,
            "seed": self.settings.seed,
            "heal": self._recipe(request),
        }
        return json.loads(json.dumps(facts))

    def _recipe(self, request: Request) -> dict[str, Any] | None:
        """Return how a trial heals, told as real facts do."""
        members = self._members(request)
        recipe = RUNGS[request.rung].heal_recipe(self.settings.heal_recipe(members[0]))
        if recipe is None or request.kind == "base":
            return None
        num_steps = recipe.train.num_steps * len(members)
        return as_json(replace(recipe, train=replace(recipe.train, num_steps=num_steps)))

    @staticmethod
    def _splits(kind: str) -> tuple[str, ...]:
        reported = ("final", "joint_final", "control", "joint_control")
        return SPLITS if kind == "base" else SPLITS[1:] if kind in reported else SPLITS[:1]

    def _members(self, request: Request) -> list[Cell]:
        """Return the cells that a trial scores."""
        if not request.is_joint:
            return [request.cell]
        return [one for one in self.settings.cells if base_name(one) == base_name(request.cell)]

    def _score(self, request: Request, scored: Cell, split: str) -> dict[str, Any]:
        edges = self.edges if split == "selection" else self.test_edges
        rate = self.base_rate * (1 + 0.005 * request.depth)
        if self.steepness is not None:
            degradation = 0.25 * math.exp(self.steepness * (request.depth - edges[scored] - 0.5))
            rate = self.base_rate * (1 + degradation * (3 if scored.task == "st" else 1))  # BLEU moves less than WER
        elif request.depth > edges[scored]:
            rate = self.harm * (self.base_rate or BASE_RATE)
        rate = min(1.0, rate * RUNG_HARM[request.rung] * (self.training if request.is_control else 1.0))
        num_scored = RUNGS[request.rung].num_scored(NUM_UTTERANCES)
        repeat = 0 if request.rung == "unhealed" else request.repeat
        score, content = _answers(scored.task, scored.language, split, rate, num_scored, repeat)
        return score | {"hypotheses": self.store.put_bytes("hypotheses", ".jsonl", content)}

    def _map(self) -> str:
        """Keep a map whose least harmful block ends one layer before the last, at every depth."""
        layers = np.arange(self.num_layers + 1)
        distance = np.abs(layers[None, :] - layers[:, None]) + 1.0 * (layers[None, :] != self.num_layers - 1)
        content = io.BytesIO()
        np.savez(content, distance=distance)
        return self.store.put_bytes("maps", ".npz", content.getvalue())


@cache
def _answers(
    task: str, language: str, split: str, rate: float, num_scored: int, repeat: int
) -> tuple[dict[str, Any], bytes]:
    """Return the score of references of which a share of words is wrong, and the records it is the score of."""
    drawn = sentences(NUM_UTTERANCES, SPLITS.index(split))[:num_scored]
    references = [texts["en" if task == "st" else language] for texts in drawn]
    ids = [f"{language}-{split}-{i:05d}" for i in range(len(drawn))]
    # A repeat gets other words wrong in every eighth utterance.
    seeds = [i if i % 8 else i + NUM_UTTERANCES * repeat for i in range(len(drawn))]
    hypotheses = [_corrupt(text, rate, seed) for text, seed in zip(references, seeds, strict=True)]
    scored = make_records(ids, references, hypotheses, language, task)
    score = score_records(scored.records, language, task)
    kept = {
        "metric": score.metric,
        "value": score.value,
        "ci95": score_interval(score.statistics, score.metric, num_resamples=100),
        "num_utterances": score.num_utterances,
        "num_empty_references": scored.num_empty_references,
        "signature": score.signature,
        "num_planned": len(drawn),
        "stopped_early": None,
        **score.counts,
    }
    return kept, encode_records(scored.records)


def _corrupt(text: str, rate: float, seed: int) -> str:
    """Replace a share of words; what is replaced at one rate is replaced at every higher one."""
    words = text.split()
    draws = np.random.default_rng(seed).random(len(words))
    return " ".join("wrong" if draw < rate else word for word, draw in zip(words, draws, strict=True))


def events(campaign: Campaign, world: World, workers: int = 1, order: int | None = None) -> Iterator[str]:
    """Drive a campaign to its end; yield wherever its driver could die.

    Args:
        campaign: The campaign.
        world: Its workers.
        workers: Trials at a time.
        order: Seed of the order in which trials end; None for the order in which they began.
    """
    running: list[Request] = []
    draw = np.random.default_rng(order)
    while True:
        while len(running) < workers and (request := campaign.next()) is not None:
            campaign.begin(request)
            running.append(request)
            yield f"{request.kind} began"
        if not running:
            return
        request = running.pop(0 if order is None else int(draw.integers(len(running))))
        try:
            record = world.run(request)
        except TrialFailed as failure:
            campaign.fail(request, str(failure), world.failed_s)
            yield f"{request.kind} failed"
        else:
            yield f"{request.kind} is in the store"
            campaign.complete(request, record)
            yield f"{request.kind} is in the ledger"


def open_campaign(settings: Settings) -> Campaign:
    """Return a sweep's campaign, on its store."""
    return Campaign(settings, Store(settings.store).open(min_free_bytes=0))


def drive(settings: Settings, world: World, workers: int = 1, order: int | None = None) -> Campaign:
    """Run a sweep to its end and return its campaign."""
    campaign = open_campaign(settings)
    for _ in events(campaign, world, workers, order):
        pass
    assert campaign.finished
    return campaign


def results_of(campaign: Campaign) -> dict[str, Any]:
    """Return the contents of a campaign's `results.json`."""
    results = collect(campaign, command="python sweeps/max_prune.py", corpus_name="pocket", problems=())
    return json.loads(json.dumps(results, allow_nan=False))


def told(campaign: Campaign) -> str:
    """Return everything that a sweep tells, as one text to be compared."""
    return json.dumps(results_of(campaign), sort_keys=True)
