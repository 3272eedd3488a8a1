"""Which models there are to export, and what is known of each: from a sweep's `results.json`, or a checkpoint alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slamlab.errors import DataError, OptionError, StoreError, UserError
from slamlab.model.slam import CONFIG_FILE
from slamlab.zoo.towers import is_speechllm

RESULTS_FILE = "results.json"
SPLITS = {"selection": "selection", "test": "test", "test-voices": "test_voices"}
"""Splits in the order in which they are told, and where a cell keeps each but `test`, which it keeps in itself."""
_IDENTITY = ("family", "scale", "encoder", "task", "language")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A healed model and what a sweep says of it.

    Attributes:
        name: Of a folder, unique within a report.
        checkpoint: The model's folder.
        found: The cell's or joint answer's entry in the results; empty for a checkpoint alone.
        sweep: What the results say of the whole sweep; likewise.
        questions: The cells that the model answers for, as the results identify cells.
        scores: By question: `baseline` and `pruned` of every split.
    """

    name: str
    checkpoint: Path
    found: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, Any] = field(default_factory=dict)
    questions: tuple[Mapping[str, Any], ...] = ()
    scores: tuple[Mapping[str, Mapping[str, Any]], ...] = ()


def read_answers(source: Path, store: Path, cell: str = "") -> list[Answer]:
    """Return the models that a report or a checkpoint folder names.

    Args:
        source: A report's folder, or a model's.
        store: The store that the report's checkpoints lie in.
        cell: Words that name one cell of a report, such as `asr en` or `joint`; empty for every cell with a model.

    Raises:
        DataError: The folder is neither, or its results are not what a sweep wrote.
        OptionError: No cell has this name, or several have, or it has no model.
        StoreError: The store lacks a checkpoint.
    """
    if _is_model(source):
        if cell:
            rule = "--cell chooses from a report"
            raise OptionError(rule, f"--cell {cell!r} with a checkpoint", "leave it out")
        return [Answer(name=_slug(source.resolve().name), checkpoint=source)]
    path = source / RESULTS_FILE
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        told = [*results["cells"], *results.get("joints", [])]
        entries = [(_name(one), one) for one in told]
        if cell:
            entries = [_only(entries, cell)]
        answers = [_answer(name, one, results, store) for name, one in entries if _checkpoint(one)]
    except UserError:  # a ValueError too
        raise
    except OSError:
        rule = (
            f"what is exported is a report's folder (with {RESULTS_FILE}), a model's ({CONFIG_FILE}) or a SpeechLLM's"
        )
        raise DataError(rule, source, "give the folder that a sweep wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        received = f"{path} ({type(error).__name__}: {error})"
        raise DataError("results are those of a sweep", received, "run the sweep again to write them") from None
    if not answers:
        why = "; ".join(f"{name}: {one.get('reason') or 'no layers can go'}" for name, one in entries)
        rule, remedy = "a model to export was healed and scored on the test split", "finish the sweep, or allow it more"
        raise DataError(rule, f"none in {path} ({why or 'no cells'})", remedy)
    return answers


def _is_model(folder: Path) -> bool:
    """Say whether a folder is that of a SLAM model, or of a SpeechLLM of `transformers`."""
    return (folder / CONFIG_FILE).is_file() or is_speechllm(folder)


def _name(one: Mapping[str, Any]) -> str:
    """Name a cell or joint answer; that of a SpeechLLM by the last part of where it came from, said once."""
    if one["family"] == one["encoder"]:
        return " ".join((Path(one["family"]).name, one["task"], one["language"]))
    return " ".join(str(one[part]) for part in _IDENTITY)


def _only(entries: list[tuple[str, dict[str, Any]]], cell: str) -> tuple[str, dict[str, Any]]:
    wanted = set(cell.split())
    found = [(name, one) for name, one in entries if wanted <= set(name.split())]
    names = ", ".join(f"{name!r}" for name, _ in found or entries)
    if len(found) != 1:
        raise OptionError(f"--cell names one of {names}", repr(cell), "give enough words to tell it from the others")
    (name, one) = found[0]
    if not _checkpoint(one):
        raise OptionError(
            "a model to export was healed and scored on the test split",
            f"none for {name!r} ({one.get('reason') or 'no layers can go'})",
            "choose another cell",
        )
    return found[0]


def _checkpoint(one: Mapping[str, Any]) -> str | None:
    """Return where a cell's or joint answer's model lies in the store, None where there is none."""
    return one.get("checkpoint") if "members" in one else (one.get("pruned") or {}).get("checkpoint")


def _answer(name: str, one: dict[str, Any], results: Mapping[str, Any], store: Path) -> Answer:
    folder = (store / str(_checkpoint(one))).resolve()
    if not (folder.is_relative_to(store.resolve()) and _is_model(folder)):
        rule = f"the checkpoint of {name!r} lies in the store"
        raise StoreError(rule, f"no model in {folder}", "pass --store with the sweep's own, or run the sweep again")
    if "members" in one:
        cells = {_key(cell): cell for cell in results["cells"]}
        questions = tuple(one["members"])
        scores = tuple(
            {
                split: {"baseline": _split(cells[_key(member)], split)["baseline"], "pruned": pruned}
                for split, pruned in tests.items()
            }
            for member, tests in zip(questions, one["tests"], strict=True)
        )
        # What only its members' cells say: of which base, and by which metric.
        found = {"base": cells[_key(questions[0])].get("base"), **one}
        metrics = tuple({**member, "metric": cells[_key(member)]["metric"]} for member in questions)
        return Answer(
            name=_slug(name), checkpoint=folder, found=found, sweep=results["sweep"], questions=metrics, scores=scores
        )
    splits = {split: _split(one, split) for split in SPLITS}
    known = {split: both for split, both in splits.items() if both.get("baseline") and both.get("pruned")}
    question = {**{part: one[part] for part in _IDENTITY}, "metric": one["metric"]}
    return Answer(
        name=_slug(name), checkpoint=folder, found=one, sweep=results["sweep"], questions=(question,), scores=(known,)
    )


def _split(cell: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    return cell if split == "test" else (cell.get(SPLITS[split]) or {})


def _key(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(cell[part] for part in _IDENTITY)


def _slug(name: str) -> str:
    """Return a name that is one folder's on any file system; an encoder's name may be a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
