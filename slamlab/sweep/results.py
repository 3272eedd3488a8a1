"""Ledger and store in, `results.json` out: what other tools, and our own reports, read of a sweep."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slamlab.report.results import SCHEMA_VERSION
from slamlab.report.writing import metric_name
from slamlab.scoring.metrics import METRICS
from slamlab.search.agreement import rank_agreement
from slamlab.search.curve import CurveSampler
from slamlab.search.evidence import RUNGS
from slamlab.search.frontier import Pool
from slamlab.search.joint import JointSampler
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import JOINT, Cell
from slamlab.sweep.costs import cost_of, cost_of_sweep, why_not_run
from slamlab.sweep.evaluate import NUM_LOOKS
from slamlab.sweep.ledger import Attempts
from slamlab.sweep.settings import Settings
from slamlab.zoo.profiles import as_json

PACKAGES = (
    "slamlab", "torch", "transformers", "peft", "deepspeed", "ray", "optuna", "datasets", "jiwer", "sacrebleu", "numpy",
)  # fmt: skip
WORTHLESS_RATE, WORTHLESS_BLEU = 0.75, 5.0
"""An unpruned model this bad can lose layers without getting worse, and that says nothing."""
CONVENTIONS = {
    "gromov": "a block of depth n starting at l is the layers l to l+n-1, counted from 0",
    "streamline": "a block of depth n starting at l is the layers l to l+n-1, counted from 0; beforehand it is judged "
    "by the angular distance over these and the layer before them, which is kept, as LLM-Streamline does",
}
PROBE_FACTS = (
    "relative_degradation", "ci95", "p_within", "se", "fingerprint", "wall_seconds", "device_seconds", "num_parameters",
)  # fmt: skip
COUNTS = (
    "num_words", "num_characters", "insertions", "deletions", "substitutions", "also", "num_planned", "stopped_early",
    "num_empty_references", "num_empty_hypotheses", "num_loops", "num_capped", "num_premature",
)  # fmt: skip


def collect(campaign: Campaign, *, command: str, corpus_name: str, problems: Iterable[str]) -> dict[str, Any]:
    """Return what a sweep found, in the form of `results.json`.

    Args:
        campaign: The sweep.
        command: How to run it again.
        corpus_name: Name of the corpus.
        problems: What was left out of the corpus, and why.
    """
    settings = campaign.settings
    attempts = [
        one for ledger in campaign.ledgers.values() for one in (*ledger.singles.values(), *ledger.probes.values())
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep": {
            "name": settings.name,
            "profile": settings.profile,
            "tolerance": settings.tolerance,
            "alpha": settings.alpha,
            "seed": settings.seed,
            "sampler": "curve" if settings.curve else settings.sampler,
            "search": _search(settings),
            "scoring": {
                "num_beams": settings.num_beams,
                "resample": settings.resample,
                "early_stop": settings.early_stop,
                "num_looks": NUM_LOOKS,
            },
            "convention": CONVENTIONS[settings.convention],
            "heal": {cell.scale: as_json(settings.heal_recipe(cell)) for cell in settings.cells},
            "corpus": {
                "name": corpus_name,
                "fingerprint": settings.corpus_fingerprint,
                "problems": list(problems),
            },
            "command": command,
            "commit": commit(),
            "versions": versions(),
            "finished": campaign.finished,
            "cost": cost_of_sweep(campaign),
            "num_trials": sum((one.record is not None) + len(one.reasons) for one in attempts),
            "num_failed": sum(one.failed for one in attempts),
        },
        "cells": [_cell(campaign, cell) | cost_of(campaign, cell) for cell in settings.cells],
        "probes": [probe for cell in settings.cells for probe in _probes(campaign, cell)],
        "rungs": [found for decoder, pool in campaign.pools.items() for found in _rungs(campaign, decoder, pool)],
        "joints": [_joint(campaign, joint) | cost_of(campaign, joint) for joint in campaign.joints],
        "curves": [_curve(campaign, cell) for cell in settings.cells] if settings.curve else [],
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """Return the commit of the source tree, marked where its code has changed since; `unknown` outside a checkout."""
    root = Path(__file__).parents[2]
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", "slamlab/*.py", "sweeps/*.py", "pyproject.toml")
    return "unknown" if head is None else head + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    """Return what a git command prints, None where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _search(settings: Settings) -> dict[str, Any]:
    """Return what the sampler was told."""
    if curve := settings.curve:
        return {"rungs": list(curve.rungs), "methods": list(curve.methods), "depths": list(curve.depths)}
    return {"price": settings.price, "max_heals": settings.max_heals, "rungs": list(settings.rungs)}


def _curve(campaign: Campaign, cell: Cell) -> dict[str, Any]:
    """Return the blocks that the curves of a cell are made of, by method: what they cost is in the probes."""
    sampler = campaign.samplers.get(cell)
    by_method = sampler.by_method if isinstance(sampler, CurveSampler) else {}
    return {
        **cell.as_dict(),
        "methods": {
            method: [{"start": start, "depth": depth} for start, depth in blocks]
            for method, blocks in by_method.items()
        },
    }


def _cell(campaign: Campaign, cell: Cell) -> dict[str, Any]:
    """Return the answer of one cell."""
    ledger = campaign.ledgers[cell]
    base, final = ledger.singles["base"], ledger.singles["final"]
    if base.record is None:
        reasons = "; then: ".join(base.reasons) or why_not_run(campaign, cell)
        return {
            **cell.as_dict(),
            **dict.fromkeys(("num_layers", "start", "metric", "baseline", "pruned")),
            **dict.fromkeys(("max_depth", "max_fraction", "num_heals", "device_seconds", "wall_seconds"), 0),
            "verdict": "failed",
            "reason": reasons,
        }
    best = campaign.recommendation(cell)
    probe = campaign.best_probe(cell, best) if best.depth else None
    pruned: dict[str, dict[str, Any]] = {}
    if probe is not None:
        pruned["selection"] = _pruned(campaign, cell, probe, "selection") | campaign.verdict(
            cell, best.start, best.depth
        )
        if final.record is not None and _is_of(final.record, probe):
            pruned |= {split: _pruned(campaign, cell, final.record, split) for split in final.record["scores"]}
            pruned["test"] |= _speed(final.record)
    verdict: str = best.verdict
    reason: str | None = None
    if probe is not None and "test" not in pruned:
        why = "; then: ".join(final.reasons) or why_not_run(campaign, cell)
        verdict, reason = "undecided", f"not scored on the test split: {why}"
    elif probe is not None and pruned["test"]["verdict"] != "feasible":
        # Chosen on the selection split; an honest second look disagrees, so nothing is promised.
        verdict = "undecided"
        reason = f"{best.verdict} on the selection split, {pruned['test']['verdict']} on the test split"
    failed = [key[0] for key, one in ledger.probes.items() if one.failed and key[0] > best.depth and key[2] == "full"]
    if failed and verdict != "undecided":
        # The search stopped there for want of a score, not because the block does harm.
        reason = f"deeper blocks are open, as the probe of depth {min(failed)} failed"
    unpruned = base.record["scores"]["test"]
    if probe is not None and _is_worthless(unpruned):
        verdict, reason = "undecided", _worthless(base.record)
    if campaign.settings.curve:
        reason = "a sweep of curves explores the selection split and gives no answer: max_prune.py searches for one"
    records = _records([*ledger.singles.values(), *ledger.probes.values()])
    answer = {
        **cell.as_dict(),
        "num_layers": base.record["num_layers"],
        "max_depth": best.depth,
        "start": best.start if best.depth else None,
        "max_fraction": best.depth / base.record["num_layers"],
        "verdict": verdict,
        "metric": base.record["scores"]["test"]["metric"],
        "baseline": _score(base.record["scores"]["test"]),
        "pruned": pruned.get("test"),
        "selection": {
            "baseline": _score(base.record["scores"]["selection"]),
            "pruned": pruned.get("selection"),
        },
        "test_voices": None,
        "base": base.record["base"],
        "num_parameters": {"base": base.record["num_parameters"], "pruned": probe and probe["num_parameters"]},
        "map": base.record["map"],
        "p_feasible": best.p_feasible if best.depth else None,
        "num_heals": sum(key[2] == "full" and one.record is not None for key, one in ledger.probes.items()),
        "device": base.record["device"],
        "device_seconds": sum(record["device_seconds"] for record in records),
        "wall_seconds": sum(record["wall_seconds"] for record in records),
    }
    if "test-voices" in base.record["scores"]:
        answer["test_voices"] = {
            "baseline": _score(base.record["scores"]["test-voices"]),
            "pruned": pruned.get("test-voices"),
        }
    if "test" in pruned:
        answer |= _control(campaign, cell, final.record, (cell,))
    if reason:
        answer["reason"] = reason
    return answer


def _control(campaign: Campaign, cell: Cell, final: dict[str, Any] | None, members: tuple[Cell, ...]) -> dict[str, Any]:
    """Return a final's control and the pruned model compared with it, by split; for a joint answer a list of these.

    Nothing where no control was asked for; a reason where it failed or was not run.
    """
    if final is None or not campaign.settings.control:
        return {}
    control = campaign.control_of(cell, final)
    if control is None:
        reasons = campaign.ledgers[cell].singles["control"].reasons
        return {"control": {"reason": "; then: ".join(reasons) or why_not_run(campaign, cell)}}
    compared = []
    for member in members:
        healed, pruned = (
            {"scores": one["scores"][member.name] if cell.task == JOINT else one["scores"]} for one in (control, final)
        )
        compared.append(
            {
                split: {
                    "baseline": _score(score),
                    "pruned": _score(pruned["scores"][split]) | campaign.judge(member, pruned, split, unpruned=healed),
                }
                for split, score in healed["scores"].items()
            }
        )
    return {"control": {"receiver": control["start"], "splits": compared if cell.task == JOINT else compared[0]}}


def _is_of(final: dict[str, Any], probe: dict[str, Any]) -> bool:
    """Say whether a final scoring is that of a probe's model."""
    return all(final[name] == probe[name] for name in ("start", "depth", "repeat"))


def _is_worthless(score: dict[str, Any]) -> bool:
    is_rate = METRICS[score["metric"]].is_error_rate
    return bool(score["value"] >= WORTHLESS_RATE if is_rate else score["value"] <= WORTHLESS_BLEU)


def _worthless(base: dict[str, Any]) -> str:
    score = base["scores"]["test"]
    return (
        f"the unpruned model itself scores {metric_name(score['metric'])} {score['value']:.3g}: it has learned too "
        "little for anything relative to it to mean much; train the base longer"
    )


def _pruned(campaign: Campaign, cell: Cell, record: dict[str, Any], split: str) -> dict[str, Any]:
    """Return a pruned model's score on a split, compared with the base's."""
    shown = _score(record["scores"][split]) | campaign.judge(cell, record, split)
    if "checkpoint" in record:
        shown["checkpoint"] = record["checkpoint"]
    return shown


def _speed(final: dict[str, Any]) -> dict[str, Any]:
    """Return how fast a final's model decodes, nothing where it was not timed."""
    return {"speed": final["speed"]} if "speed" in final else {}


def _looked(score: dict[str, Any]) -> dict[str, Any]:
    """Return how much of a split was scored, and the metric."""
    names = ("metric", "num_utterances", "num_empty_references", "num_planned", "stopped_early")
    return {name: score[name] for name in names if name in score}


def _score(score: dict[str, Any]) -> dict[str, Any]:
    kept = ("value", "ci95", "num_utterances", "signature", "hypotheses", *COUNTS)
    return {name: score[name] for name in kept if name in score}


def _probes(campaign: Campaign, cell: Cell) -> list[dict[str, Any]]:
    """Return every probe of a cell, by depth, start, rung and repeat."""
    probes = []
    for (depth, start, rung, repeat), attempts in sorted(campaign.ledgers[cell].probes.items()):
        probe: dict[str, Any] = {
            "cell": cell.as_dict(),
            "start": start,
            "depth": depth,
            "rung": rung,
            "repeat": repeat,
            "split": "selection",
            "status": "complete" if attempts.record else "failed",
            "num_failed_attempts": len(attempts.reasons),
            **dict.fromkeys(("value", "relative_degradation", "ci95", "hypotheses", "fingerprint", "wall_seconds")),
        }
        if attempts.reasons:
            probe["reason"] = "; then: ".join(attempts.reasons)
        if record := attempts.record:
            probe |= _looked(record["scores"]["selection"]) | _score(record["scores"]["selection"])
            probe |= {name: record[name] for name in PROBE_FACTS}
            if rung == "full":  # a cheap look decides nothing
                probe |= campaign.verdict(cell, start, depth)
        probes.append(probe)
    return probes


def _rungs(campaign: Campaign, decoder: tuple[str, str], pool: Pool) -> list[dict[str, Any]]:
    """Return how each cheap rung that was used ranks blocks, against the full heal, over a decoder's cells."""
    readers = [(campaign.samplers[cell], campaign.ledgers[cell].study) for cell in campaign.samplers]
    looks = [
        sampler.looks(study)
        for (sampler, study), cell in zip(readers, campaign.samplers, strict=True)
        if (cell.family, cell.scale) == decoder and cell.task != JOINT
    ]
    used = [rung for rung in RUNGS if rung != "full" and any(look.rung == rung for own in looks for look in own)]
    return [
        {
            "family": decoder[0],
            "scale": decoder[1],
            "num_looks": sum(look.rung == rung for own in looks for look in own),
            **asdict(rank_agreement(looks, rung, seed=campaign.settings.seed)),
        }
        for rung in used
    ]


def _joint(campaign: Campaign, joint: Cell) -> dict[str, Any]:
    """Return the answer of a joint search: one block for all cells of a base, and what it costs each."""
    ledger, members = campaign.ledgers[joint], campaign.members(joint)
    answer: dict[str, Any] = {
        **joint.as_dict(),
        "members": [member.as_dict() for member in members],
        "max_depth": 0,
        "start": None,
        "verdict": "none",
        "p_feasible": None,
        "binding": None,
        "prediction": None,
        "checkpoint": None,
        "heals": _joint_heals(campaign, joint, members),
        "tests": None,
    }
    sampler = campaign.samplers.get(joint)
    if not isinstance(sampler, JointSampler):
        reason = "the unpruned model of a member was not scored"
        if any(map(campaign.cut, members)):
            reason += f": {why_not_run(campaign, members[-1])}"
        return {**answer, "verdict": "failed", "reason": reason}
    base = campaign.ledgers[members[0]].singles["base"].record
    answer["num_layers"] = base["num_layers"] if base else None
    predicted, best = sampler.prediction(), sampler.recommend(ledger.study)
    answer["prediction"] = {"start": predicted.start, "depth": predicted.depth, "p_feasible": predicted.p_feasible}
    if not any(key[2] == "full" and one.record for key, one in ledger.probes.items()):
        return {**answer, "reason": "; then: ".join(r for one in ledger.probes.values() for r in one.reasons) or None}
    member, p = sampler.binding(ledger.study)
    answer["binding"] = {"member": members[member].as_dict(), "p_within": p}
    if best.depth == 0:
        return answer
    answer |= {"max_depth": best.depth, "start": best.start, "verdict": best.verdict, "p_feasible": best.p_feasible}
    answer["max_fraction"] = best.depth / base["num_layers"] if base else None
    final = ledger.singles["final"]
    probe = campaign.best_probe(joint, best)
    if final.record is None or probe is None or not _is_of(final.record, probe):
        reason = "not scored on the test split: " + ("; then: ".join(final.reasons) or why_not_run(campaign, joint))
        return {**answer, "verdict": "undecided", "reason": reason}
    answer |= {name: final.record[name] for name in ("checkpoint", "num_parameters")} | _speed(final.record)
    answer["tests"] = [
        {
            split: _pruned(campaign, one, {"scores": final.record["scores"][one.name]}, split)
            for split in final.record["scores"][one.name]
        }
        for one in members
    ]
    answer |= _control(campaign, joint, final.record, tuple(members))
    doubtful = [
        one.name for one, test in zip(members, answer["tests"], strict=True) if test["test"]["verdict"] != "feasible"
    ]
    if doubtful:
        answer["verdict"] = "undecided"
        answer["reason"] = f"{best.verdict} on the selection split; on the test split not for {', '.join(doubtful)}"
    for one in members:
        base = campaign.ledgers[one].singles["base"].record
        if base is not None and _is_worthless(base["scores"]["test"]):
            answer["verdict"], answer["reason"] = "undecided", f"for {one.name}, {_worthless(base)}"
    return answer


def _joint_heals(campaign: Campaign, joint: Cell, members: list[Cell]) -> list[dict[str, Any]]:
    """Return the joint heals, with what each cost every member on the selection split."""
    heals = []
    for (depth, start, _, repeat), attempts in sorted(campaign.ledgers[joint].probes.items()):
        heal: dict[str, Any] = {
            "start": start,
            "depth": depth,
            "repeat": repeat,
            "status": "complete" if attempts.record else "failed",
            "reason": "; then: ".join(attempts.reasons) or None,
        }
        if record := attempts.record:
            names = ("value", "relative_degradation", "ci95", "p_within", "se")
            heal["members"] = [
                {
                    "cell": member.as_dict(),
                    **{name: record[name][i] for name in names},
                    **_looked(record["scores"][member.name]["selection"]),
                }
                for i, member in enumerate(members)
            ]
            heal |= {name: record[name] for name in ("fingerprint", "wall_seconds", "device_seconds")}
            heal |= campaign.verdict(joint, start, depth)
        heals.append(heal)
    return heals


def _records(attempts: Iterable[Attempts]) -> list[dict[str, Any]]:
    return [one.record for one in attempts if one.record is not None]
