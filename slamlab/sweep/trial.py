"""One trial from top to bottom, in the order of the paper's method (arXiv 2603.05121).

A trial is a generator: it yields where it stands and ends with its record. It knows nothing of Ray, Optuna or the other
trials; what it needs of a base or a probe it reads from the store, or makes again. The record lies in the store before
the trial ends, under a fingerprint of everything that can change it: an equal trial, in whatever sweep, reads it there.
So does a trial that was killed find the model that it healed and the answers that this model has given.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

from slamlab.data.batching import Example
from slamlab.data.utterance import SPLITS, Utterance
from slamlab.model import surgery
from slamlab.model.redundancy import ALL, AngularDistance, feed_speech
from slamlab.model.slam import SlamModel
from slamlab.scoring.metrics import METRICS
from slamlab.sweep.bases import Base, base_name, find_base
from slamlab.sweep.cells import Cell
from slamlab.sweep.device import Clock, device, device_name
from slamlab.sweep.evaluate import LOOK_EVERY, EarlyStop, Evaluation, decode_facts
from slamlab.sweep.healing import Healer, Team
from slamlab.sweep.settings import TRIAL_REVISION, Request, Settings
from slamlab.sweep.speed import BATCH_SIZE, compare_speed
from slamlab.sweep.store import fingerprint
from slamlab.training.base import Progress
from slamlab.zoo.profiles import HealRecipe

MAP_BATCH_SIZE = 16
NUM_MAP_UTTERANCES = 64
"""Utterances of the selection split that an angular-distance map averages over (about 3,000 positions)."""

Steps = Generator[Progress, None, dict[str, Any]]


class Bench(Healer):
    """Where a worker runs its trials; keeps corpus, features and the last base in memory from one to the next.

    Args:
        settings: The sweep.
        team: Who heals on several devices; None where this process does it all.
    """

    def __init__(self, settings: Settings, team: Team | None = None) -> None:
        super().__init__(settings, team)
        self._base: Base | None = None
        self._lines: list[str] = []
        self.store.say = self._lines.append

    def run(self, request: Request) -> Steps:
        """Run one trial; yield progress and return its record.

        Raises:
            TrialFailed: There is no score, for the reason given.
        """
        self._restart_clock()
        run = {
            "base": self._run_base,
            "probe": self._run_pruned,
            "final": self._run_final,
            "joint": self._run_pruned,
            "joint_final": self._run_final,
            "control": self._run_control,
            "joint_control": self._run_control,
        }[request.kind]
        record = yield from self._telling(run(request))
        if "wall_seconds" not in record:  # else it was read, not computed
            record["wall_seconds"], record["device_seconds"] = self._clock.read()
            record["device"], record["sweep"] = device_name(), self.settings.name  # whose budget it was
            self.store.write_record(record)
        return record

    def heal_as_rank(self, request: Request, recipe: HealRecipe) -> Generator[Progress, None, None]:
        """Take one rank's part in a heal that others started; torch's process group tells which rank it is."""
        base = yield from self._get_base(request.cell, "cpu")  # what is cut out of it goes to the device alone
        yield from self._take_part(request, base, recipe)

    def _telling(self, steps: Steps) -> Steps:
        """Go through steps, and tell as notes what the store says meanwhile: nobody sees a worker's stderr."""
        try:
            while True:
                progress = next(steps)
                yield from self._notes()
                yield progress
        except StopIteration as end:
            yield from self._notes()
            return cast(dict[str, Any], end.value)
        finally:
            steps.close()

    def _notes(self) -> Iterator[Progress]:
        while self._lines:
            yield Progress(stage="store", step=0, num_steps=1, note=self._lines.pop(0))

    def _restart_clock(self) -> None:
        self._clock = Clock()

    def spent_device_s(self) -> float:
        """Return the device-seconds that the trial at hand has taken so far."""
        return self._clock.read()[1]

    def _run_base(self, request: Request) -> Steps:
        """Get the unpruned model, score it on every split, and map its redundancy."""
        cell = request.cell
        base = yield from self._get_base(cell)
        facts = self._base_facts(cell, base)
        if known := self.store.read_record(fingerprint(facts)):
            return known
        scores = {}
        for split, evaluation in self._evaluations(cell, base, base.fingerprint, SPLITS[1:]).items():
            yield from evaluation.run(base.model, self.features(cell.encoder), f"decode {split}")
            scores[split] = evaluation.score(self.store)
        yield Progress(stage="map", step=0, num_steps=1)
        return {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": "base",
            "cell": cell.as_dict(),
            "base": {"fingerprint": base.fingerprint, "origin": base.origin},
            "num_layers": len(surgery.decoder_layers(base.model.decoder)),
            "num_parameters": base.model.num_parameters(),
            "scores": scores,
            "map": self._map(base.model, cell),
        }

    def _run_pruned(self, request: Request) -> Steps:
        """Remove a block, heal as far as the rung says, and score on the selection split."""
        base = yield from self._get_base(request.cell)
        facts = self._pruned_facts(request, base)
        if known := self.store.read_record(fingerprint(facts)):
            return known
        key = fingerprint(self._model_facts(request, base))
        heal_before = self.store.read_heal(key)
        scores = yield from self._score_pruned(request, base, SPLITS[1:2])
        heal = self.store.read_heal(key)
        if heal == heal_before:  # healed by a trial that was killed, or by another sweep: its cost is this trial's too
            self._clock.add(heal["wall_seconds"], heal["device_seconds"])
        checkpoint = self.store.checkpoint_folder(key)
        # Of what a lower rung looked at, or what cannot win, no checkpoint is ever asked for.
        if request.rung == "full" and all(
            self._may_win(member, base, scores[member.name]["selection"]) for member in self._members(request)
        ):
            self.store.keep_folder(checkpoint)
        else:
            self.store.drop_folder(checkpoint)
        return {
            **self._pruned_record(request, facts, base, scores),
            "rung": request.rung,
            "repeat": facts.get("repeat", 0),
            "num_layers": len(surgery.decoder_layers(base.model.decoder)),
            "losses": heal["losses"],
            **({"notes": heal["notes"]} if "notes" in heal else {}),
        }

    def _run_final(self, request: Request) -> Steps:
        """Score a healed model on the splits that are reported, which the search never saw, and time it."""
        base = yield from self._get_base(request.cell)
        facts = self._final_facts(request, base)
        if known := self.store.read_record(fingerprint(facts)):
            return known
        checkpoint = self.store.checkpoint_folder(fingerprint(self._model_facts(request, base)))
        if not self.store.has_folder(checkpoint):  # wanted, whatever has been answered already
            yield from self._pruned_model(request, base)
        self.store.keep_folder(checkpoint)
        scores = yield from self._score_pruned(request, base, SPLITS[2:])
        yield Progress(stage="speed", step=0, num_steps=1)
        cell = self._members(request)[0]
        frames = self.features(cell.encoder).get(self._scored(cell, SPLITS[2])[:BATCH_SIZE])
        speed = compare_speed(base.model, checkpoint, frames, cell, self.profile.decode_precision)
        return {
            **self._pruned_record(request, facts, base, scores),
            "repeat": request.repeat,
            "checkpoint": self.store.relative(checkpoint),
            **({"speed": speed} if speed else {}),
        }

    def _run_control(self, request: Request) -> Steps:
        """Heal the whole decoder as a pruned one was, and score it where that was scored.

        A heal is also more training. What this model gains over the base it gains by that alone.
        """
        base = yield from self._get_base(request.cell)
        facts = self._final_facts(request, base)
        if known := self.store.read_record(fingerprint(facts)):
            return known
        scores = yield from self._score_pruned(request, base, SPLITS[2:])
        self.store.drop_folder(self.store.checkpoint_folder(fingerprint(self._model_facts(request, base))))
        return {**self._pruned_record(request, facts, base, scores), "repeat": request.repeat}

    def _pruned_record(
        self, request: Request, facts: dict[str, Any], base: Base, scores: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what is told of every pruned model; of a joint one, scores by member."""
        record = {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": request.kind,
            "cell": request.cell.as_dict(),
            "start": request.start,
            "depth": request.depth,
            "num_parameters": base.model.num_parameters() - _num_parameters(base.model, request),
        }
        if not request.is_joint:
            return {**record, "scores": scores[request.cell.name]}
        return {**record, "members": [member.as_dict() for member in self._members(request)], "scores": scores}

    def _may_win(self, cell: Cell, base: Base, score: dict[str, Any]) -> bool:
        """Say whether a probe's score is within the tolerance of the base's, on the selection split."""
        if score["stopped_early"]:
            return bool(score["stopped_early"] == "safe")
        known = self.store.read_record(fingerprint(self._base_facts(cell, base)))
        if known is None:  # lost since the probe was asked for
            return True
        unpruned, tolerance = known["scores"]["selection"]["value"], self.settings.tolerance
        if METRICS[score["metric"]].is_error_rate:
            return bool(score["value"] <= (1 + tolerance) * unpruned)
        return bool(score["value"] >= (1 - tolerance) * unpruned)

    def _get_base(self, cell: Cell, where: str | None = None) -> Generator[Progress, None, Base]:
        """Return the base of a cell, from memory where the last trial had the same; on the device, if not elsewhere."""
        if self._base is None or self._base.name != base_name(cell):
            self._base = None  # first let go of the other one
            self._base = yield from find_base(cell, self.settings, self.corpus, self.features(cell.encoder), self.store)
            self._base.model.to(where or device())
        return self._base

    def _evaluations(
        self, cell: Cell, base: Base, model: str, splits: Sequence[str], rung: str = "full", *, pruned: bool = False
    ) -> dict[str, Evaluation]:
        """Return the evaluations of a model, by its fingerprint, on those of the splits that the corpus has."""
        evaluations = {}
        for split in splits:
            utterances = self._scored(cell, split, rung)
            if not utterances:
                continue
            said = {
                "revision": TRIAL_REVISION,
                "model": model,
                "encoder": self.features(cell.encoder).fingerprint,
                "corpus": self.corpus.fingerprint,
                "question": [cell.task, cell.language, split],
                "decode": decode_facts(self.profile, self.settings.num_beams),
            }
            evaluations[split] = Evaluation(
                cell,
                utterances,
                self.store.journal(fingerprint(said)),
                self.profile,
                num_beams=self.settings.num_beams,
                stop=self._early_stop(cell, base) if pruned and split == "selection" else None,
                by_speaker=self.settings.resample == "speaker",
            )
        return evaluations

    def _early_stop(self, cell: Cell, base: Base) -> EarlyStop | None:
        """Return when a probe of a cell may stop, None where it may not, or where the base's answers are lost."""
        known = self.store.read_record(fingerprint(self._base_facts(cell, base)))
        if known is None or not self.settings.early_stop:
            return None
        records = self.store.read_hypotheses(known["scores"]["selection"]["hypotheses"])
        return EarlyStop(
            base=records, tolerance=self.settings.tolerance, delta=self.settings.early_stop, every=LOOK_EVERY
        )

    def _score_pruned(self, request: Request, base: Base, splits: Sequence[str]) -> Steps:
        """Score a pruned model for every cell that it answers for, by the cell's name and split.

        The model is loaded, or made, only where an answer is missing.
        """
        key = fingerprint(self._model_facts(request, base))
        evaluations = [
            (member, split, evaluation)
            for member in self._members(request)
            for split, evaluation in self._evaluations(member, base, key, splits, request.rung, pruned=True).items()
        ]
        if not all(evaluation.finished() for *_, evaluation in evaluations):
            model = yield from self._pruned_model(request, base)
            for member, split, evaluation in evaluations:
                yield from evaluation.run(model, self.features(member.encoder), f"decode {split}")
        scores: dict[str, Any] = {}
        for member, split, evaluation in evaluations:
            scores.setdefault(member.name, {})[split] = evaluation.score(self.store)
        return scores

    def _map(self, model: SlamModel, cell: Cell) -> str:
        """Keep the angular-distance map over audio, prompt and reference answer; return where it lies."""
        utterances = self._scored(cell, "selection")[:NUM_MAP_UTTERANCES]
        with torch.inference_mode(), AngularDistance(model.decoder) as meter:
            for begin in range(0, len(utterances), MAP_BATCH_SIZE):
                examples = self._examples(model, cell, utterances[begin : begin + MAP_BATCH_SIZE])
                meter.update(feed_speech(model, examples)[ALL])
        content = io.BytesIO()
        np.savez(content, distance=meter.matrix())
        return self.store.put_bytes("maps", ".npz", content.getvalue())

    def _examples(self, model: SlamModel, cell: Cell, utterances: Sequence[Utterance]) -> list[Example]:
        """Return utterances as sequences of audio, prompt and reference answer."""
        frames = self.features(cell.encoder).get(utterances)
        return [
            model.example(source, utterance.target(cell.task), task=cell.task, language=utterance.language)
            for source, utterance in zip(frames, utterances, strict=True)
        ]


def _num_parameters(model: SlamModel, request: Request) -> int:
    """Count the weights of the layers that a request removes."""
    layers = surgery.decoder_layers(model.decoder)[request.start : request.start + request.depth]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())
