"""One trial from top to bottom, in the order of the paper's method (arXiv 2603.05121).

A trial is a generator: it yields where it stands and ends with its record. It knows nothing of Ray, Optuna or the other
trials; what it needs of a base or a probe it reads from the store, or makes again. The record lies in the store before
the trial ends, under a fingerprint of everything that can change it: an equal trial, in whatever sweep, reads it there.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from slamlab.data.features import FeatureStore
from slamlab.data.utterance import SPLITS, Corpus, Utterance
from slamlab.model import surgery
from slamlab.model.decode import LOOP_REPEATS, LOOP_TOKENS, generate
from slamlab.model.redundancy import AngularDistance
from slamlab.model.slam import SlamModel, load, prompt_text
from slamlab.model.surgery import LayerBlock
from slamlab.scoring.bootstrap import score_interval
from slamlab.scoring.normalise import normaliser
from slamlab.scoring.records import encode_records, make_records
from slamlab.scoring.score import score_records
from slamlab.sweep.bases import Base, find_base
from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import TRIAL_REVISION, Request, Settings
from slamlab.sweep.store import Store, fingerprint
from slamlab.training.base import Progress, compute_features, speech_stream
from slamlab.training.heal import heal
from slamlab.zoo.corpora import open_corpus

NUM_MAP_UTTERANCES = 64
"""Utterances of the selection split that an angular-distance map averages over (about 3,000 positions)."""
SPARE_TOKENS = 8
"""Tokens allowed beyond the rate of speech, so that a very short recording can still be answered."""

Steps = Generator[Progress, None, dict[str, Any]]


class Bench:
    """Where a worker runs its trials; keeps corpus, features and the last base in memory from one to the next.

    Args:
        settings: The sweep.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.profile = settings.recipes()
        self.store = Store(settings.store)
        self.corpus: Corpus = open_corpus(settings.corpus, self.store.cache, seed=0)
        self._features: dict[str, FeatureStore] = {}
        self._base: Base | None = None

    def run(self, request: Request) -> Steps:
        """Run one trial; yield progress and return its record.

        Raises:
            TrialFailed: There is no score, for the reason given.
        """
        began_s, device_began_s = time.perf_counter(), time.process_time()
        run = {"base": self._run_base, "probe": self._run_probe, "final": self._run_final}[request.kind]
        record = yield from run(request)
        if "wall_seconds" not in record:  # else it was read, not computed
            record["wall_seconds"] = time.perf_counter() - began_s
            cuda = torch.cuda.is_available()
            record["device"] = torch.cuda.get_device_name() if cuda else "cpu"
            record["device_seconds"] = record["wall_seconds"] if cuda else time.process_time() - device_began_s
            self.store.write_record(record)
        return record

    def _run_base(self, request: Request) -> Steps:
        """Get the unpruned model, score it on every split, and map its redundancy."""
        cell = request.cell
        base = yield from self._get_base(cell)
        facts = self._base_facts(cell, base)
        if known := self.store.read_record(fingerprint(facts)):
            return known
        scores = {}
        for split in SPLITS[1:]:
            if utterances := self._scored(cell, split):
                scores[split] = yield from self._score(base.model, cell, utterances, f"decode {split}")
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

    def _run_probe(self, request: Request) -> Steps:
        """Remove a block, heal, and score on the selection split."""
        cell, block = request.cell, LayerBlock(request.start, request.depth)
        base = yield from self._get_base(cell)
        facts = self._probe_facts(cell, base, block)
        if known := self.store.read_record(fingerprint(facts)):
            return known
        model, losses = yield from self._heal(cell, base, block)
        score = yield from self._score(model, cell, self._scored(cell, "selection"), "decode selection")
        if self._may_win(cell, base, score):  # of the others no checkpoint is ever asked for
            self.store.put_folder(self.store.checkpoint_folder(fingerprint(facts)), model.save)
        return {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": "probe",
            "cell": cell.as_dict(),
            "start": block.start,
            "depth": block.depth,
            "rung": "full",
            "num_layers": len(surgery.decoder_layers(base.model.decoder)),
            "num_parameters": model.num_parameters(),
            "losses": losses,
            "scores": {"selection": score},
        }

    def _run_final(self, request: Request) -> Steps:
        """Score a probe's healed model on the splits that are reported, which the search never saw."""
        cell, block = request.cell, LayerBlock(request.start, request.depth)
        base = yield from self._get_base(cell)
        probe = self._probe_facts(cell, base, block)
        facts = {"revision": TRIAL_REVISION, "kind": "final", "probe": probe, "num_test": self.settings.num_test}
        if known := self.store.read_record(fingerprint(facts)):
            return known
        checkpoint = self.store.checkpoint_folder(fingerprint(probe))
        if checkpoint.is_dir():
            model = load(checkpoint).to(_device())
        else:
            model, _ = yield from self._heal(cell, base, block)
            self.store.put_folder(checkpoint, model.save)
        scores = {}
        for split in SPLITS[2:]:
            if utterances := self._scored(cell, split):
                scores[split] = yield from self._score(model, cell, utterances, f"decode {split}")
        return {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": "final",
            "cell": cell.as_dict(),
            "start": block.start,
            "depth": block.depth,
            "num_parameters": model.num_parameters(),
            "scores": scores,
            "checkpoint": self.store.relative(checkpoint),
        }

    def _facts(self, cell: Cell, base: Base) -> dict[str, Any]:
        """Return what can change the score of any model of a cell."""
        return {
            "revision": TRIAL_REVISION,
            "task": cell.task,
            "language": cell.language,
            "normaliser": normaliser(cell.language, cell.task).signature,
            "base": base.fingerprint,
            "encoder": self.features(cell.encoder).fingerprint,
            "corpus": self.corpus.fingerprint,
            "num_selection": self.settings.num_selection,
            "decode": {
                "greedy": True,
                "tokens_per_s": self.profile.decode_tokens_per_s,
                "spare_tokens": SPARE_TOKENS,
                "loop": [LOOP_REPEATS, LOOP_TOKENS],
            },
        }

    def _base_facts(self, cell: Cell, base: Base) -> dict[str, Any]:
        return {**self._facts(cell, base), "kind": "base", "num_test": self.settings.num_test}

    def _probe_facts(self, cell: Cell, base: Base, block: LayerBlock) -> dict[str, Any]:
        return {
            **self._facts(cell, base),
            "kind": "probe",
            "block": asdict(block),
            "heal": asdict(self.settings.heal_recipe(cell)),
            "seed": self.settings.seed,
        }

    def _may_win(self, cell: Cell, base: Base, score: dict[str, Any]) -> bool:
        """Say whether a probe's score is within the tolerance of the base's, on the selection split."""
        known = self.store.read_record(fingerprint(self._base_facts(cell, base)))
        if known is None:  # lost since the probe was asked for
            return True
        unpruned, tolerance = known["scores"]["selection"]["value"], self.settings.tolerance
        if score["metric"] == "wer":
            return bool(score["value"] <= (1 + tolerance) * unpruned)
        return bool(score["value"] >= (1 - tolerance) * unpruned)

    def features(self, encoder: str) -> FeatureStore:
        """Return the frames of an encoder."""
        if encoder not in self._features:
            cache = self.store.cache
            self._features[encoder] = FeatureStore(encoder, cache / "features", cache / "models", device=_device())
        return self._features[encoder]

    def _get_base(self, cell: Cell) -> Generator[Progress, None, Base]:
        """Return the base of a cell, from memory where the last trial had the same."""
        name = (cell.family, cell.scale, cell.encoder)
        if self._base is None or self._base.name != name:
            self._base = None  # first let go of the other one
            self._base = yield from find_base(cell, self.settings, self.corpus, self.features(cell.encoder), self.store)
            self._base.model.to(_device())
        return self._base

    def _scored(self, cell: Cell, split: str) -> list[Utterance]:
        """Return the utterances that a cell is scored on."""
        limit = self.settings.num_selection if split == "selection" else self.settings.num_test
        return self.corpus.utterances(cell.language, split, limit)

    def _heal(
        self, cell: Cell, base: Base, block: LayerBlock
    ) -> Generator[Progress, None, tuple[SlamModel, list[float]]]:
        """Return the base without a block, healed on the cell's training utterances, and the losses."""
        recipe, seed, model = self.settings.heal_recipe(cell), self.settings.seed, base.model
        num_layers = len(surgery.decoder_layers(model.decoder))
        pruned = SlamModel(model.config, surgery.without(model.decoder, block), model.tokenizer)
        pruned.projector.to(model.device, model.dtype).load_state_dict(model.projector.state_dict())
        utterances = self.corpus.utterances(cell.language, "train", recipe.num_train)
        yield from compute_features(self.features(cell.encoder), utterances)
        stream = speech_stream(
            pruned, [(u, cell.task) for u in utterances], self.features(cell.encoder), recipe.train.batch_size, seed
        )
        receiver = surgery.receiving_layer(block, num_layers, recipe.side)
        losses = []
        for step in heal(pruned, receiver, stream, recipe, seed):
            losses.append(step.loss)
            yield Progress(stage="heal", step=step.step, num_steps=step.num_steps, loss=step.loss)
        return pruned, losses

    def _score(self, model: SlamModel, cell: Cell, utterances: list[Utterance], stage: str) -> Steps:
        """Decode utterances and score them; the hypotheses go to the store."""
        answers, stopped = yield from self._decode(model, cell, utterances, stage)
        references = [u.target(cell.task) for u in utterances]
        scored = make_records([u.id for u in utterances], references, answers, cell.language, cell.task)
        score = score_records(scored.records, cell.language, cell.task)
        return {
            "metric": score.metric,
            "value": score.value,
            "ci95": score_interval(score.statistics, score.metric),
            "num_utterances": score.num_utterances,
            "num_empty_references": scored.num_empty_references,
            "signature": score.signature,
            **score.counts,
            "num_loops": stopped["loop"],
            "num_capped": stopped["length"],
            "hypotheses": self.store.put_bytes("hypotheses", ".jsonl", encode_records(scored.records)),
        }

    def _decode(
        self, model: SlamModel, cell: Cell, utterances: list[Utterance], stage: str
    ) -> Generator[Progress, None, tuple[list[str], Counter[str]]]:
        """Return the greedy answers to utterances, in their order, and how often each reason ended one.

        Neighbours in length share a batch.
        """
        features, batch_size = self.features(cell.encoder), self.profile.eval_batch_size
        prompt = model.tokenizer.encode(prompt_text(cell.task, cell.language), add_special_tokens=False)
        order = sorted(range(len(utterances)), key=lambda i: utterances[i].duration_s)
        answers, stopped = [""] * len(order), Counter[str]()
        for begin in range(0, len(order), batch_size):
            yield Progress(stage=stage, step=begin, num_steps=len(order))
            batch = [utterances[i] for i in order[begin : begin + batch_size]]
            caps = [int(u.duration_s * self.profile.decode_tokens_per_s) + SPARE_TOKENS for u in batch]
            with torch.inference_mode():
                prefixes = model.prefixes(features.get(batch), [prompt] * len(batch))
                generated = generate(
                    model.decoder,
                    prefixes,
                    caps,
                    eos_token_id=model.tokenizer.eos_token_id,
                    pad_token_id=model.tokenizer.pad_token_id or 0,
                    batch_size=batch_size,
                )
            for i, row in zip(order[begin : begin + batch_size], generated, strict=True):
                answers[i] = model.tokenizer.decode(row.tokens, skip_special_tokens=True).strip()
                stopped[row.stopped] += 1
        return answers, stopped

    def _map(self, model: SlamModel, cell: Cell) -> str:
        """Keep the angular-distance map over audio, prompt and reference answer; return where it lies."""
        utterances = self._scored(cell, "selection")[:NUM_MAP_UTTERANCES]
        frames = self.features(cell.encoder).get(utterances)
        with torch.inference_mode(), AngularDistance(model.decoder) as meter:
            for begin in range(0, len(utterances), 16):
                examples = [
                    model.example(source, u.target(cell.task), task=cell.task, language=u.language)
                    for source, u in zip(frames[begin : begin + 16], utterances[begin : begin + 16], strict=True)
                ]
                inputs, mask, _ = model.sequences(examples)
                model.answer_logits(inputs, mask, 1)
                meter.update(mask.bool())
        content = io.BytesIO()
        np.savez(content, distance=meter.matrix())
        return self.store.put_bytes("maps", ".npz", content.getvalue())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
