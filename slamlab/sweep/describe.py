"""A base that others can trust: trained by its recipe, scored on every task and language, and described in a card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slamlab.data.joined import JoinedCorpus
from slamlab.data.utterance import Corpus
from slamlab.model.slam import CONFIG_FILE
from slamlab.scoring.metrics import METRICS
from slamlab.sweep.bases import CARD_FILE
from slamlab.sweep.cells import Cell
from slamlab.sweep.progress import follow
from slamlab.sweep.results import commit, versions
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.trial import Bench
from slamlab.training.base import BaseRequest, make_base
from slamlab.zoo.corpora import CORPORA, names_in
from slamlab.zoo.decoders import find_decoder
from slamlab.zoo.profiles import as_json


def train_and_describe(
    settings: Settings, corpus: Corpus, out: Path, say: Callable[[str], None], *, init: Path | None = None
) -> None:
    """Train a base into a folder, unless it holds one, then score it and write `card.json` and `README.md`.

    The weights are kept in bf16, which halves what ships; the scores are of those very weights.

    Args:
        settings: Of a sweep over all tasks and languages of one family, scale and encoder.
        corpus: Its corpus.
        out: The model's folder.
        say: Takes a line of progress.
        init: A base with a card to go on from; None to begin anew.
    """
    cell = settings.cells[0]
    recipe = settings.recipes().base_recipe(cell.scale)
    languages = tuple(dict.fromkeys(one.language for one in settings.cells))
    if not (out / CONFIG_FILE).is_file():
        bench = Bench(settings)
        request = BaseRequest(
            family=cell.family,
            scale=cell.scale,
            encoder=cell.encoder,
            recipe=recipe,
            seed=settings.seed,
            languages=languages,
            init=init,
        )
        steps = make_base(request, corpus, bench.features(cell.encoder), bench.store.cache / "models")
        model = follow(steps, f"{cell.family}-{cell.scale}", say).to(torch.bfloat16)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as draft:  # a half-written model is never taken for one
            model.save(Path(draft) / "model", with_decoder=not find_decoder(cell.family, cell.scale).is_pretrained)
            shutil.copytree(Path(draft) / "model", out, dirs_exist_ok=True)
    parts = corpus.parts if isinstance(corpus, JoinedCorpus) else {corpus.name: corpus}
    records: dict[tuple[str, Cell], dict[str, Any]] = {}
    for source, (name, part) in zip(names_in(settings.corpus), parts.items(), strict=True):
        cells = tuple(one for one in settings.cells if part.has(one.task, one.language))
        asked = replace(
            settings, base=str(out), corpus=source, corpus_fingerprint=part.fingerprint, cells=cells, base_identities={}
        )
        bench = Bench(asked)
        for one in cells:
            records[name, one] = follow(bench.run(Request(kind="base", cell=one)), f"{one.name} {name}", say)
    record = next(iter(records.values()))
    card = {
        "family": cell.family,
        "scale": cell.scale,
        "encoder": cell.encoder,
        "data": list(parts),
        "corpora": {name: part.fingerprint for name, part in parts.items()},
        "languages": languages,
        "recipe": as_json(recipe),
        "init": json.loads((init / CARD_FILE).read_text(encoding="utf-8")) if init else None,
        "seed": settings.seed,
        "num_parameters": record["num_parameters"],
        "num_layers": record["num_layers"],
        "scores": {
            name: {one.name: _shown(known) for (owner, one), known in records.items() if owner == name}
            for name in dict.fromkeys(owner for owner, _ in records)
        },
        "commit": commit(),
        "versions": versions(),
    }
    (out / CARD_FILE).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_card_text(card, records), encoding="utf-8")


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    names = ("metric", "value", "ci95", "num_utterances", "signature")
    return {split: {name: score[name] for name in names} for split, score in record["scores"].items()}


def _card_text(card: dict[str, Any], records: dict[tuple[str, Cell], dict[str, Any]]) -> str:
    """Return the model card."""
    corpora, languages, commands = _corpora(card), ",".join(card["languages"]), _commands(card, "FOLDER")
    if card["init"]:
        corpora = f"{_corpora(card['init'])}, then on {corpora}"
    lines = [
        f"# {card['family']}-{card['scale']} on {card['encoder']}",
        "",
        f"An unpruned SLAM model (speech encoder, projector, decoder of {card['num_layers']} layers; "
        f"{card['num_parameters'] / 1e6:.2f} M parameters without the encoder), trained on {corpora}, languages "
        f"{languages}, with seed {card['seed']}. It knows what these teach and little else: it exists so that layers "
        "can be removed from it.",
        "",
        "| corpus | cell | split | score | 95 % interval | utterances |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (corpus, cell), record in records.items():
        for split, score in record["scores"].items():
            is_rate = METRICS[score["metric"]].is_error_rate
            value, low, high = (
                f"{100 * number:.1f} %" if is_rate else f"{number:.1f}" for number in (score["value"], *score["ci95"])
            )
            lines.append(
                f"| {corpus} | {cell.task} {cell.language} | {split} | {score['metric'].upper()} {value} "
                f"| {low} to {high} | {score['num_utterances']} |"
            )
    lines += [
        "",
        "Recipe, signatures, versions and commit are in `card.json`. Made again by:",
        "",
        *(f"    {command}" for command in commands),
        "",
    ]
    return "\n".join(lines)


def _corpora(card: dict[str, Any]) -> str:
    """Return the corpora in the order they were given, which is that of the lessons."""
    return ",".join(name if name in CORPORA else "MANIFEST" for name in card.get("data", card["corpora"]))


def _commands(card: dict[str, Any], folder: str) -> list[str]:
    """Return the commands that make a base, in their order."""
    languages = ",".join(card.get("languages", ["all"]))
    command = (
        f"python sweeps/train_base.py {folder} --family {card['family']} --scale {card['scale']} --encoder "
        f"{card['encoder']} --data {_corpora(card)} --language {languages} --seed {card['seed']}"
    )
    if not card.get("init"):
        return [command]
    before = f"{folder}-BEFORE"
    return [*_commands(card["init"], before), f"{command} --init {before}"]
