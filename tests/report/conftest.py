"""A sweep as records hold it: one cell of each verdict, and a store with what they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LAYERS = 12
HOSTILE = "<script>alert('said')</script> | `x` & \u2028 \U0001f600"
WORDS = "the ship leaves the harbour at seven and four friends wait near the old bridge".split()  # noqa: SIM905


def _cell(task: str, language: str, family: str = "qwen") -> dict[str, str]:
    return {"family": family, "scale": "mini", "encoder": "whisper-base", "task": task, "language": language}


def _write_hypotheses(store: Path, name: str, error_rate: float, seed: int, first: str = "") -> str:
    rng, lines = np.random.default_rng(seed), []
    sentences = np.random.default_rng(0)  # the same references for both models of a cell
    for i in range(40):
        words = list(sentences.choice(WORDS, size=9))
        said = [str(rng.choice(WORDS)) if rng.random() < error_rate else word for word in words]
        reference, hypothesis = " ".join(words), first if i == 0 and first else " ".join(said)
        record = {"id": f"{i:04d}-voice", "reference": reference.capitalize() + ".", "hypothesis": hypothesis}
        record |= {"reference_normalized": reference, "hypothesis_normalized": hypothesis}
        lines.append(json.dumps(record, ensure_ascii=False))
    path = store / "hypotheses" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"hypotheses/{name}.jsonl"


def _write_map(store: Path, name: str, weakest: int) -> str:
    ends = np.arange(LAYERS + 1)
    step = 0.03 + 0.012 * np.abs(np.arange(LAYERS) - weakest)
    residual = np.concatenate([[0.0], np.cumsum(step)])
    distance = np.abs(residual[:, None] - residual[None, :]) ** 0.7 * 0.35
    distance[ends, ends] = 0
    path = store / "maps" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, distance=distance)
    return f"maps/{name}.npz"


def _wer(value: float, hypotheses: str, n: int = 300) -> dict[str, Any]:
    errors = round(value * 9 * n)
    return {
        "value": value,
        "num_utterances": n,
        "signature": "wer|whisper-english(spelling=none)|jiwer=4.0.0",
        "hypotheses": hypotheses,
        "num_words": 9 * n,
        "insertions": errors // 10,
        "deletions": errors // 5,
        "substitutions": errors - errors // 10 - errors // 5,
    }


def _pruned(value: float, degradation: float, ci95: list[float | None], hypotheses: str) -> dict[str, Any]:
    return {
        "value": value,
        "relative_degradation": degradation,
        "ci95": ci95,
        "hypotheses": hypotheses,
        "checkpoint": "checkpoints/0123456789abcdef",
    }


def _probe(
    cell: dict[str, str], start: int, depth: int, value: float, degradation: float, half: float, verdict: str
) -> dict[str, Any]:
    return {
        "cell": cell,
        "start": start,
        "depth": depth,
        "rung": "full",
        "split": "selection",
        "status": "complete",
        "value": value,
        "relative_degradation": degradation,
        "ci95": [degradation - half, degradation + half],
        "p_within": {"feasible": 0.991, "undecided": 0.537, "infeasible": 0.002}[verdict],
        "verdict": verdict,
        "hypotheses": "hypotheses/not-kept.jsonl",
        "fingerprint": f"{depth:02d}" * 16,
        "wall_seconds": 71.3 + depth,
    }


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """Return records, and the store that they name files of."""
    store = tmp_path / "runs"
    english, german, translated, broken = (
        _cell("asr", "en"),
        _cell("asr", "de"),
        _cell("st", "de"),
        _cell("asr", "en", "llama"),
    )
    answered = {"num_layers": LAYERS, "num_heals": 4, "device_seconds": 512.4, "wall_seconds": 603.9}
    unpruned = _write_hypotheses(store, "en-base", 0.05, 1)
    pruned = _write_hypotheses(store, "en-pruned", 0.09, 2, first=HOSTILE)
    translation = _write_hypotheses(store, "st-base", 0.25, 3)
    translation_pruned = _write_hypotheses(store, "st-pruned", 0.3, 4)
    german_unpruned = _write_hypotheses(store, "de-base", 0.08, 5)
    bleu = {"num_utterances": 300, "signature": "nrefs:1|case:mixed|tok:13a|smooth:exp|version:2.5.1"}
    cells: list[dict[str, Any]] = [
        {
            **english,
            **answered,
            "max_depth": 4,
            "start": 6,
            "max_fraction": 4 / LAYERS,
            "verdict": "feasible",
            "metric": "wer",
            "baseline": _wer(0.05312, unpruned),
            "pruned": _pruned(0.06134, 0.15474, [0.02131, 0.24817], pruned)
            | {"p_within": 0.978, "verdict": "feasible"},
            "selection": {
                "baseline": _wer(0.0541, "hypotheses/a.jsonl", 200),
                "pruned": _pruned(0.0598, 0.1054, [-0.011, 0.223], "hypotheses/b.jsonl"),
            },
            "test_voices": {
                "baseline": _wer(0.0922, "hypotheses/c.jsonl", 150),
                "pruned": _pruned(0.1087, 0.17896, [0.041, 0.317], "hypotheses/d.jsonl"),
            },
            "num_parameters": {"base": 4_104_192, "pruned": 3_290_112},
            "map": _write_map(store, "en", 8),
        },
        {
            **translated,
            **answered,
            "max_depth": 3,
            "start": 7,
            "max_fraction": 0.25,
            "verdict": "undecided",
            "reason": "undecided on the selection split, undecided on the test split",
            "metric": "bleu",
            "baseline": {**bleu, "value": 31.24, "hypotheses": translation},
            "pruned": _pruned(28.41, 0.09059, [-0.0312, 0.2722], translation_pruned),
            "selection": {"baseline": {**bleu, "value": 30.9, "hypotheses": "hypotheses/e.jsonl"}, "pruned": None},
            "test_voices": None,
            "map": _write_map(store, "st", 9),
        },
        {
            **german,
            **answered,
            "max_depth": 0,
            "start": 0,
            "max_fraction": 0.0,
            "verdict": "none",
            "metric": "wer",
            "baseline": _wer(0.0817, german_unpruned),
            "pruned": None,
            "selection": {"baseline": _wer(0.0831, "hypotheses/f.jsonl", 200), "pruned": None},
            "test_voices": None,
            "map": _write_map(store, "de", 5),
        },
        {**broken, "verdict": "failed", "reason": "the base's loss became NaN at step 812"},
    ]
    probes = [
        _probe(english, 8, 3, 0.0561, 0.037, 0.11, "feasible"),
        _probe(english, 6, 4, 0.0598, 0.1054, 0.117, "feasible"),
        _probe(english, 6, 5, 0.0673, 0.244, 0.15, "undecided"),
        _probe(english, 5, 6, 0.0913, 0.6876, 0.21, "infeasible"),
        {
            "cell": english,
            "start": 4,
            "depth": 8,
            "rung": "full",
            "split": "selection",
            "status": "failed",
            "reason": "the loss became NaN at step 12",
        },
        _probe(translated, 7, 3, 28.4, 0.0809, 0.19, "undecided"),
        _probe(translated, 6, 5, 12.3, 0.602, 0.12, "infeasible"),
        _probe(german, 5, 1, 0.1204, 0.4489, 0.17, "infeasible"),
        _probe(german, 4, 3, 0.9313, 10.207, 1.3, "infeasible"),
    ]
    probes[-1]["ci95"] = [8.1, None]
    results = {
        "schema_version": 1,
        "sweep": {
            "name": "max_prune-qwen",
            "profile": "pocket",
            "tolerance": 0.25,
            "alpha": 0.05,
            "seed": 7,
            "commit": "f29fd9e",
            "versions": {"torch": "2.9.1", "transformers": "5.23.0", "optuna": "5.0.0", "ray": "2.60.0"},
            "command": "python sweeps/max_prune.py --family qwen --profile pocket --seed 7",
            "corpus": {"name": "pocket", "fingerprint": "9f2c61d0a4b7", "problems": []},
            "sampler": "bisect",
            "convention": "a block of depth n starting at l is the layers l to l+n-1, counted from 0",
            "heal": {"mini": {"r": 64, "alpha": 64, "side": "before", "train": {"num_steps": 100, "peak_lr": 0.001}}},
            "started": "2026-11-23T20:36:49Z",
            "num_trials": 17,
            "num_failed": 3,
        },
        "cells": cells,
        "probes": probes,
    }
    return results, store
