"""Angular-distance maps of cells: of text alone and of speech, of the unpruned model and of one with a LoRA decoder.

As in Figure 1 of "Measuring the Redundancy of Decoder Layers in SpeechLLMs" (arXiv 2603.05121). A map is a trial like
any other: its record lies in the store under a fingerprint of all that can change it, and is never computed twice.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from slamlab.credentials import redacted
from slamlab.errors import OptionError, TrialFailed, UserError
from slamlab.model import surgery
from slamlab.model.redundancy import ALL, AngularDistance, DistanceMap, feed_speech, feed_text
from slamlab.model.slam import SlamModel, load
from slamlab.sweep.bases import Base, base_name
from slamlab.sweep.cells import Cell
from slamlab.sweep.progress import follow
from slamlab.sweep.results import commit, versions
from slamlab.sweep.settings import TRIAL_REVISION, Request, Settings
from slamlab.sweep.store import Store, fingerprint
from slamlab.sweep.trial import MAP_BATCH_SIZE, Bench, Steps, device_name
from slamlab.training.base import Progress, compute_features, speech_stream
from slamlab.training.heal import heal
from slamlab.zoo.profiles import HealRecipe, as_json

SELECTIONS = (ALL, "audio", "prompt", "answer", "last")
VIEWS = (("text", ALL), *(("speech", selection) for selection in SELECTIONS))
"""What is fed to the decoder, and the positions averaged over."""
DECODERS = ("base", "lora")
NO_LORA = "no LoRA decoder was asked for (--lora-steps 0)"
CONVENTION = "entry [l, l + n] is the distance across the n layers from l on, counted from 0"
Say = Callable[[str], None]
Made = dict[tuple[Cell, str], dict[str, Any] | str]
"""By cell and decoder, the record of its maps, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """How maps are made.

    Attributes:
        num_utterances: Utterances of the selection split that a map averages over.
        num_resamples: Bootstrap resamples of them.
        lora: How the decoder is adapted; None for no such map.
    """

    num_utterances: int = 64
    num_resamples: int = 200
    lora: HealRecipe | None = None

    def __post_init__(self) -> None:
        if self.num_utterances < 2:
            raise OptionError("a map averages over 2 utterances or more", self.num_utterances, "ask for more")
        if not 40 <= self.num_resamples <= 10_000:
            raise OptionError("an interval takes 40 to 10000 resamples", self.num_resamples, "use 200")

    @property
    def decoders(self) -> tuple[str, ...]:
        """Which decoders of a cell are mapped, of :data:`DECODERS`."""
        return DECODERS if self.lora is not None else DECODERS[:1]


class MapBench(Bench):
    """Makes maps, one cell and decoder after the other.

    Args:
        settings: Cells, corpus, store and the rest of a sweep.
        how: How maps are made.
    """

    def __init__(self, settings: Settings, how: MapSettings) -> None:
        super().__init__(settings)
        self.how = how

    def run_maps(self, cell: Cell, decoder: str) -> Steps:
        """Map a cell's model, unpruned (`base`) or with a LoRA decoder (`lora`); yield progress, return the record.

        Raises:
            TrialFailed: The LoRA decoder diverged.
        """
        base = yield from self._get_base(cell)
        facts = {
            **self._facts(cell, base),
            "kind": "map",
            "decoder": "base" if decoder == "base" else self._lora_facts(cell, base),
            "num_utterances": self.how.num_utterances,
            "num_resamples": self.how.num_resamples,
            "num_test": self.settings.num_test,
            "seed": self.settings.seed,
        }
        if known := self.store.read_record(fingerprint(facts)):
            return known
        self._restart_clock()
        if decoder == "base":
            model = base.model
            record = yield from self.run(Request(kind="base", cell=cell))
            score = record["scores"]["test"]
            self._restart_clock()  # what the base cost is told by its own record
        else:
            model = yield from self._lora_model(cell, base)
            key = fingerprint(self._lora_facts(cell, base))
            evaluation = self._evaluations(cell, base, key, ("test",))["test"]
            yield from evaluation.run(model, self.features(cell.encoder), "decode test")
            score = evaluation.score(self.store)
        yield Progress(stage="map", step=0, num_steps=1)
        maps = self._maps(model, cell)
        wall_s, device_s = self._clock.read()
        record = {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": "map",
            "cell": cell.as_dict(),
            "decoder": decoder,
            "num_layers": len(surgery.decoder_layers(model.decoder)),
            "views": [
                {
                    "view": view,
                    "selection": selection,
                    "num_utterances": one.num_utterances,
                    "num_positions": one.num_positions,
                }
                for (view, selection), one in maps.items()
            ],
            "score": score,
            "maps": self._keep(maps),
            "device": device_name(),
            "wall_seconds": wall_s,
            "device_seconds": device_s,
        }
        self.store.write_record(record)
        return record

    def _lora_jobs(self, cell: Cell) -> list[Cell]:
        """Return the cells whose speech a LoRA decoder learns from: all that share the base."""
        return [one for one in self.settings.cells if base_name(one) == base_name(cell)]

    def _lora_recipe(self, cell: Cell) -> HealRecipe:
        assert self.how.lora is not None
        train = self.how.lora.train
        return replace(self.how.lora, train=replace(train, num_steps=train.num_steps * len(self._lora_jobs(cell))))

    def _lora_facts(self, cell: Cell, base: Base) -> dict[str, Any]:
        """Return what can change the weights of a model with a LoRA decoder."""
        return {
            "revision": TRIAL_REVISION,
            "kind": "lora",
            "base": base.fingerprint,
            "jobs": [[one.task, one.language] for one in self._lora_jobs(cell)],
            "encoder": self.features(cell.encoder).fingerprint,
            "corpus": self.corpus.fingerprint,
            "recipe": as_json(self._lora_recipe(cell)),
            "seed": self.settings.seed,
        }

    def _lora_model(self, cell: Cell, base: Base) -> Generator[Progress, None, SlamModel]:
        """Return the base trained on with LoRA on every decoder layer, and the projector."""
        folder = self.store.checkpoint_folder(fingerprint(self._lora_facts(cell, base)))
        if self.store.has_folder(folder):
            return load(folder).to(base.model.device)
        recipe, features = self._lora_recipe(cell), self.features(cell.encoder)
        # A copy: a block of no layers removes none.
        decoder = surgery.without(base.model.decoder, surgery.LayerBlock(0, 0))
        model = base.model.with_decoder(decoder)
        jobs = [
            (utterance, one.task)
            for one in self._lora_jobs(cell)
            for utterance in self.corpus.utterances(one.language, "train", recipe.num_train)
        ]
        yield from compute_features(features, [utterance for utterance, _ in jobs])
        stream = speech_stream(model, jobs, features, recipe.train.batch_size, self.settings.seed)
        for step in heal(model, None, stream, recipe, self.settings.seed):
            yield Progress(stage="lora", step=step.step, num_steps=step.num_steps, loss=step.loss)
        self.store.put_folder(folder, model.save)
        self.store.keep_folder(folder)
        return model

    def _maps(self, model: SlamModel, cell: Cell) -> dict[tuple[str, str], DistanceMap]:
        """Return the maps of a model on the selection split, by view and selection."""
        utterances = self._scored(cell, "selection")[: self.how.num_utterances]
        batches = [utterances[i : i + MAP_BATCH_SIZE] for i in range(0, len(utterances), MAP_BATCH_SIZE)]
        options: dict[str, Any] = {"num_resamples": self.how.num_resamples, "seed": self.settings.seed}
        with torch.inference_mode():
            with AngularDistance(model.decoder, **options) as text:
                for batch in batches:
                    text.update(feed_text(model, [utterance.text for utterance in batch]))
            with AngularDistance(model.decoder, SELECTIONS, **options) as speech:
                for batch in batches:
                    speech.update(feed_speech(model, self._examples(model, cell, batch)))
        return {(view, selection): (text if view == "text" else speech).map(selection) for view, selection in VIEWS}

    def _keep(self, maps: Mapping[tuple[str, str], DistanceMap]) -> str:
        content = io.BytesIO()
        arrays: dict[str, Any] = {}
        for (view, selection), one in maps.items():
            arrays[f"{view}.{selection}.distance"] = one.distance
            arrays[f"{view}.{selection}.resampled"] = one.resampled
        np.savez_compressed(content, **arrays)
        return self.store.put_bytes("maps", ".npz", content.getvalue())


def make_maps(settings: Settings, how: MapSettings, say: Say) -> Made:
    """Make the maps of every cell that are not in the store, one after the other.

    A cell whose map fails ends none of the others.

    Args:
        settings: Cells, corpus, store and the rest of a sweep.
        how: How maps are made.
        say: Takes a line of progress.
    """
    bench, made = MapBench(settings, how), Made()
    for cell in settings.cells:
        for decoder in how.decoders:
            what = f"{cell.name}, {decoder}"
            try:
                made[cell, decoder] = follow(bench.run_maps(cell, decoder), what, say)
            except (TrialFailed, UserError) as error:
                made[cell, decoder] = str(error)
                say(f"{what}: {error}")
    return made


def collect_maps(
    settings: Settings, how: MapSettings, made: Made, *, command: str, corpus_name: str, problems: Iterable[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what a report of maps is made from; a map that failed is told with its reason.

    Args:
        settings: Cells, corpus, store and the rest of a sweep.
        how: How maps were made.
        made: What came of it.
        command: How to run it again.
        corpus_name: Name of the corpus.
        problems: What was left out of the corpus, and why.

    Returns:
        The content of `redundancy.json` without agreement, and the arrays of `maps.npz`: `<key>.distance`
        [L + 1, L + 1] and `<key>.resampled` [R, L + 1, L + 1] of every complete map.
    """
    maps: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    store = Store(settings.store)
    for cell in settings.cells:
        for decoder in DECODERS:
            record = made.get((cell, decoder))
            for view, selection in VIEWS:
                key = f"m{len(maps) + 1:02d}"
                one = {"key": key, **cell.as_dict(), "decoder": decoder, "view": view, "selection": selection}
                if not isinstance(record, dict):
                    unknown = dict.fromkeys(("num_layers", "num_utterances", "num_positions", "score"))
                    status, reason = ("failed", redacted(record)) if record else ("not run", NO_LORA)
                    maps.append({**one, **unknown, "status": status, "reason": reason})
                    continue
                maps.append(one | _told(record, view, selection))
                with np.load(io.BytesIO(store.read_bytes(record["maps"])), allow_pickle=False) as kept:
                    for name in ("distance", "resampled"):
                        arrays[f"{key}.{name}"] = kept[f"{view}.{selection}.{name}"]
    told = {
        "schema_version": 1,
        "kind": "redundancy",
        "sweep": {
            "name": settings.name,
            "profile": settings.profile,
            "seed": settings.seed,
            "num_resamples": how.num_resamples,
            "num_utterances": how.num_utterances,
            "lora": None if how.lora is None else as_json(how.lora),
            "corpus": {
                "name": corpus_name,
                "fingerprint": settings.corpus_fingerprint,
                "problems": list(problems),
            },
            "convention": CONVENTION,
            "command": command,
            "commit": commit(),
            "versions": versions(),
        },
        "maps": maps,
    }
    return told, arrays


def _told(record: Mapping[str, Any], view: str, selection: str) -> dict[str, Any]:
    """Return what is told of a map that was made."""
    (seen,) = (one for one in record["views"] if (one["view"], one["selection"]) == (view, selection))
    score = {name: record["score"][name] for name in ("metric", "value", "ci95", "num_utterances", "signature")}
    return {
        "num_layers": record["num_layers"],
        "num_utterances": seen["num_utterances"],
        "num_positions": seen["num_positions"],
        "score": score,
        "status": "complete",
        "fingerprint": record["fingerprint"],
        "device_seconds": record["device_seconds"],
    }
