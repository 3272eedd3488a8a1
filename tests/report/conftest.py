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


def _look(probe: dict[str, Any], rung: str) -> dict[str, Any]:
    """Return a probe as a cheaper look at its block: on fewer utterances, worse, and without a verdict."""
    worse = {"unhealed": 30.0, "short": 0.4}[rung]
    look = {**probe, "rung": rung, "num_utterances": {"unhealed": 60, "short": 120}[rung], "wall_seconds": 4.2}
    look |= {"relative_degradation": probe["relative_degradation"] + worse, "p_within": 0.0}
    look["ci95"] = [end + worse for end in probe["ci95"]]
    del look["verdict"], look["p_feasible"]
    return look


@pytest.fixture
def searched(sweep: tuple[dict[str, Any], Path]) -> tuple[dict[str, Any], Path]:
    """Return the records of a frontier search, with cheap looks and a block that was healed twice, and their store."""
    results, store = sweep
    results["sweep"] |= {
        "sampler": "frontier",
        "search": {"price": 0.2, "max_heals": None, "rungs": ["unhealed", "short", "full"]},
    }
    for probe in results["probes"]:
        if probe["status"] == "complete":
            p = {"feasible": 0.981, "undecided": 0.612, "infeasible": 0.004}[probe["verdict"]]
            probe |= {"repeat": 0, "se": 0.05, "num_utterances": 240, "p_feasible": p}
    again = {**results["probes"][2], "repeat": 1, "value": 0.0611, "relative_degradation": 0.1294, "p_within": 0.8888}
    again["ci95"] = [0.0102, 0.2511]
    results["probes"][2:3] = [results["probes"][2], again]
    full = results["probes"][:2]
    results["probes"] += [_look(probe, rung) for probe in full for rung in ("unhealed", "short")]
    english = results["cells"][0]
    english["p_feasible"] = 0.981
    english["selection"]["pruned"] |= {"p_within": 0.93, "p_feasible": 0.981, "verdict": "feasible"}
    decoder = {"family": "qwen", "scale": "mini"}
    results["rungs"] = [
        {
            **decoder,
            "rung": "unhealed",
            "num_looks": 2,
            "num_blocks": 2,
            "num_pairs": 1,
            "tau": -1.0,
            "ci95": [-1, 0.5],
        },
        {**decoder, "rung": "short", "num_looks": 2, "num_blocks": 1, "num_pairs": 0, "tau": None, "ci95": None},
    ]
    results["joints"] = []
    return results, store


def _guards(empty: int, loops: int, capped: int, premature: int) -> dict[str, int]:
    names = ("num_empty_hypotheses", "num_loops", "num_capped", "num_premature")
    return dict(zip(names, (empty, loops, capped, premature), strict=True))


def _scored(seen: int, planned: int, num_dropped: int, stopped: str | None = None) -> dict[str, Any]:
    return {
        "num_utterances": seen - num_dropped,
        "num_empty_references": num_dropped,
        "num_planned": planned,
        "stopped_early": stopped,
    }


def _chrf(value: float) -> dict[str, Any]:
    return {"also": {"chrf": {"value": value, "signature": "chrf|nrefs:1|case:mixed|nc:6|nw:0|version:2.6.0"}}}


def _write_chinese(store: Path, name: str, said: str) -> str:
    reference = "今天天气很好，我们去公园。"
    normalized = [" ".join(one for one in text if one not in "，。") for text in (reference, said)]
    record = {"id": "zh-0000", "reference": reference, "hypothesis": said}
    record |= {"reference_normalized": normalized[0], "hypothesis_normalized": normalized[1]}
    (store / "hypotheses" / f"{name}.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"hypotheses/{name}.jsonl"


def _chinese(store: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Return a cell whose characters are counted."""
    cell = {**like, "language": "zh", "metric": "cer", "test_voices": None, "selection": None}
    base, pruned = (_write_chinese(store, f"zh-{i}", said) for i, said in enumerate(("今天天气好我们去公园", "今天。")))
    cell["baseline"] = _wer(0.0712, base, 280) | {"signature": "cer|jiwer:4.0.0|norm:whisper-basic(letters=split)"}
    cell["baseline"]["num_characters"] = cell["baseline"].pop("num_words")
    cell["baseline"] |= _scored(280, 280, 0) | _guards(0, 0, 0, 0)
    cell["pruned"] = {**cell["pruned"], "value": 0.0777, "relative_degradation": 0.0913, "hypotheses": pruned}
    cell["pruned"] |= _scored(280, 280, 0) | _guards(0, 0, 2, 0)
    return cell


@pytest.fixture
def scored(searched: tuple[dict[str, Any], Path]) -> tuple[dict[str, Any], Path]:
    """Return the records of a search whose probes were stopped early, with degenerate answers counted, and their store.

    English is recorded in full, the translation with another metric, German as in older records; Chinese is scored by
    CER.
    """
    results, store = searched
    results["sweep"]["scoring"] = {"num_beams": 1, "resample": "utterance", "early_stop": 0.001}
    english, translated, *_ = results["cells"]
    english["baseline"] |= _scored(302, 302, 2) | _guards(1, 0, 0, 2)
    english["pruned"] |= _scored(302, 302, 2) | _guards(1, 11, 3, 5)
    english["selection"]["baseline"] |= _scored(240, 240, 2) | _guards(0, 0, 0, 3)
    english["selection"]["pruned"] |= _scored(192, 240, 2, "safe") | _guards(0, 1, 0, 2)
    translated["baseline"] |= _scored(300, 300, 0) | _guards(0, 0, 0, 0) | _chrf(61.23)
    translated["pruned"] |= _scored(300, 300, 0) | _guards(0, 0, 0, 0) | _chrf(58.94)
    results["cells"].append(_chinese(store, english))
    full = [probe for probe in results["probes"] if probe["status"] == "complete" and probe["rung"] == "full"]
    for probe in full:
        if probe["cell"]["language"] == "en" or probe["cell"]["task"] == "st":
            probe |= _scored(240, 240, 2)
    full[1] |= _scored(192, 240, 2, "safe")
    full[4] |= _scored(64, 240, 1, "hopeless")
    full[6] |= _scored(48, 240, 0, "hopeless")
    return results, store


def _member(cell: dict[str, str], value: float, degradation: float, half: float, p: float) -> dict[str, Any]:
    ends = [degradation - half, degradation + half]
    return {
        "cell": cell,
        "value": value,
        "relative_degradation": degradation,
        "ci95": ends,
        "p_within": p,
        "se": half / 2,
    }


def _tested(cell: dict[str, Any], value: float, degradation: float, half: float, hypotheses: str) -> dict[str, Any]:
    score = _pruned(value, degradation, [degradation - half, degradation + half], hypotheses)
    return {**score, "p_within": 0.961, "verdict": "feasible", "num_utterances": cell["baseline"]["num_utterances"]}


@pytest.fixture
def joint(searched: tuple[dict[str, Any], Path]) -> tuple[dict[str, Any], Path]:
    """Return the records of a joint sweep over three cells of one base, and their store."""
    results, store = searched
    cells = results["cells"] = results["cells"][:3]
    not_run = {"pruned": None, "verdict": "undecided", "reason": "not scored on the test split: not run"}
    english, translated, german = cells
    for cell in (english, translated):
        cell |= not_run
    english["test_voices"]["pruned"] = None
    translated["selection"]["pruned"] = _pruned(28.6, 0.0744, [-0.041, 0.1913], "hypotheses/g.jsonl") | {
        "p_within": 0.97,
        "p_feasible": 0.957,
        "verdict": "feasible",
    }
    members = [{name: cell[name] for name in ("family", "scale", "encoder", "task", "language")} for cell in cells]
    names = [_write_hypotheses(store, f"joint-{i}", 0.1 + 0.1 * (i == 1), 10 + i) for i in range(3)]
    heals = [
        {
            "start": 7,
            "depth": 3,
            "repeat": 0,
            "status": "complete",
            "reason": None,
            "members": [
                _member(members[0], 0.0588, 0.0869, 0.09, 0.999),
                _member(members[1], 28.1, 0.0906, 0.11, 0.991),
                _member(members[2], 0.0961, 0.1564, 0.1, 0.952),
            ],
            "p_feasible": 0.953,
            "verdict": "feasible",
            "wall_seconds": 214.0,
        },
        {
            "start": 6,
            "depth": 5,
            "repeat": 0,
            "status": "complete",
            "reason": None,
            "members": [
                _member(members[0], 0.0811, 0.4991, 0.14, 0.001),
                _member(members[1], 22.0, 0.288, 0.13, 0.22),
                {**_member(members[2], 0.1904, 1.2912, 0.3, 0.0), "relative_degradation": None, "ci95": [0.9, None]},
            ],
            "p_feasible": 0.0,
            "verdict": "infeasible",
            "wall_seconds": 201.0,
        },
        {
            "start": 7,
            "depth": 4,
            "repeat": 0,
            "status": "failed",
            "reason": "the loss became NaN at step 31",
        },
    ]
    results["joints"] = [
        {
            **members[0],
            "task": "joint",
            "language": "all",
            "members": members,
            "num_layers": LAYERS,
            "max_depth": 3,
            "max_fraction": 0.25,
            "start": 7,
            "verdict": "feasible",
            "p_feasible": 0.953,
            "binding": {"member": members[2], "p_within": 0.956},
            "prediction": {"start": 6, "depth": 4, "p_feasible": 0.587},
            "checkpoint": "checkpoints/fedcba9876543210",
            "num_parameters": 3_514_112,
            "heals": heals,
            "tests": [
                {
                    "test": _tested(english, 0.0577, 0.0862, 0.08, names[0]),
                    "test-voices": _tested(english, 0.1034, 0.1215, 0.13, "hypotheses/h.jsonl"),
                },
                {"test": _tested(translated, 28.5, 0.0877, 0.09, names[1])},
                {"test": _tested(german, 0.0952, 0.1652, 0.08, names[2])},
            ],
        }
    ]
    return results, store
