"""One trial from top to bottom, in the order of the paper's method (arXiv 2603.05121).

A trial is a generator: it yields where it stands and ends with its record. It knows nothing of Ray, Optuna or the other
trials; what it needs of a base or a probe it reads from the store, or makes again. The record lies in the store before
the trial ends, under a fingerprint of everything that can change it: an equal trial, in whatever sweep, reads it there.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
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
from slamlab.sweep.bases import Base, base_name, find_base
from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import TRIAL_REVISION, Request, Settings
from slamlab.sweep.store import Store, fingerprint
from slamlab.training.base import Progress, compute_features, speech_stream
from slamlab.training.heal import heal
from slamlab.zoo.corpora import open_corpus
from slamlab.zoo.profiles import RUNGS, HealRecipe

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
        run = {
            "base": self._run_base,
            "probe": self._run_pruned,
            "final": self._run_final,
            "joint": self._run_pruned,
            "joint_final": self._run_final,
        }[request.kind]
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
        scores = yield from self._score_splits(base.model, cell, SPLITS[1:])
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
        model, losses = yield from self._prune(request, base)
        scores = yield from self._score_members(model, request, SPLITS[1:2])
        # Of what a lower rung looked at, or what cannot win, no checkpoint is ever asked for.
        if request.rung == "full" and all(
            self._may_win(member, base, scores[member.name]["selection"]) for member in self._members(request)
        ):
            self.store.put_folder(self.store.checkpoint_folder(fingerprint(facts)), model.save)
        return {
            **self._pruned_record(request, facts, model, scores),
            "rung": request.rung,
            "repeat": facts.get("repeat", 0),
            "num_layers": len(surgery.decoder_layers(base.model.decoder)),
            "losses": losses,
        }

    def _run_final(self, request: Request) -> Steps:
        """Score a healed model on the splits that are reported, which the search never saw."""
        base = yield from self._get_base(request.cell)
        pruned = self._pruned_facts(request, base)
        num_test = self.settings.num_test
        facts = {"revision": TRIAL_REVISION, "kind": request.kind, "pruned": pruned, "num_test": num_test}
        if known := self.store.read_record(fingerprint(facts)):
            return known
        checkpoint = self.store.checkpoint_folder(fingerprint(pruned))
        if checkpoint.is_dir():
            model = load(checkpoint).to(_device())
        else:
            model, _ = yield from self._prune(request, base)
            self.store.put_folder(checkpoint, model.save)
        scores = yield from self._score_members(model, request, SPLITS[2:])
        return {
            **self._pruned_record(request, facts, model, scores),
            "repeat": request.repeat,
            "checkpoint": self.store.relative(checkpoint),
        }

    def _pruned_record(
        self, request: Request, facts: dict[str, Any], model: SlamModel, scores: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what is told of every pruned model; of a joint one, scores by member."""
        record = {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": request.kind,
            "cell": request.cell.as_dict(),
            "start": request.start,
            "depth": request.depth,
            "num_parameters": model.num_parameters(),
        }
        if not request.is_joint:
            return {**record, "scores": scores[request.cell.name]}
        return {**record, "members": [member.as_dict() for member in self._members(request)], "scores": scores}

    def _members(self, request: Request) -> list[Cell]:
        """Return the cells that a request's model answers for: its own, or all with the same base."""
        if not request.is_joint:
            return [request.cell]
        return [cell for cell in self.settings.cells if base_name(cell) == base_name(request.cell)]

    def _recipe(self, request: Request) -> HealRecipe | None:
        """Return how a request's model is healed, None where it is not.

        A joint heal takes the steps of its members' heals together, so that each cell's speech is seen as often as in
        a heal of its own: what a joint model then lacks is not for want of training.
        """
        members = self._members(request)
        recipe = RUNGS[request.rung].heal_recipe(self.settings.heal_recipe(members[0]))
        if recipe is None:
            return None
        return replace(recipe, train=replace(recipe.train, num_steps=recipe.train.num_steps * len(members)))

    def _facts(self, cell: Cell, base: Base, rung: str = "full") -> dict[str, Any]:
        """Return what can change the score of any model of a cell."""
        return {
            "revision": TRIAL_REVISION,
            "task": cell.task,
            "language": cell.language,
            "normaliser": normaliser(cell.language, cell.task).signature,
            "base": base.fingerprint,
            "encoder": self.features(cell.encoder).fingerprint,
            "corpus": self.corpus.fingerprint,
            "num_selection": len(self._scored(cell, "selection", rung)),
            "decode": {
                "greedy": True,
                "tokens_per_s": self.profile.decode_tokens_per_s,
                "spare_tokens": SPARE_TOKENS,
                "loop": [LOOP_REPEATS, LOOP_TOKENS],
            },
        }

    def _base_facts(self, cell: Cell, base: Base) -> dict[str, Any]:
        return {**self._facts(cell, base), "kind": "base", "num_test": self.settings.num_test}

    def _pruned_facts(self, request: Request, base: Base) -> dict[str, Any]:
        """Return what can change the scores of a request's pruned model on the selection split.

        Rung and repeat are named, not only what they amount to: a record tells them of the request that asked for it.
        """
        facts: dict[str, Any] = {"block": {"start": request.start, "depth": request.depth}, "rung": request.rung}
        recipe = self._recipe(request)
        if recipe is None:
            facts |= {"heal": None}  # and nothing is drawn
        else:
            facts |= {"heal": asdict(recipe), "seed": self.settings.seed, "repeat": request.repeat}
        if request.is_joint:
            members = [self._facts(member, base) for member in self._members(request)]
            return {"kind": "joint", "members": members, **facts}
        return {**self._facts(request.cell, base, request.rung), "kind": "probe", **facts}

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
        if self._base is None or self._base.name != base_name(cell):
            self._base = None  # first let go of the other one
            self._base = yield from find_base(cell, self.settings, self.corpus, self.features(cell.encoder), self.store)
            self._base.model.to(_device())
        return self._base

    def _scored(self, cell: Cell, split: str, rung: str = "full") -> list[Utterance]:
        """Return the utterances that a cell is scored on; the rung limits those of the selection split."""
        if split != "selection":
            return self.corpus.utterances(cell.language, split, self.settings.num_test)
        utterances = self.corpus.utterances(cell.language, split, self.settings.num_selection)
        return utterances[: RUNGS[rung].num_scored(len(utterances))]

    def _prune(self, request: Request, base: Base) -> Generator[Progress, None, tuple[SlamModel, list[float]]]:
        """Return the base without a request's block, healed by its recipe, and the losses."""
        block, recipe, model = LayerBlock(request.start, request.depth), self._recipe(request), base.model
        # Also to score it unhealed: skipped in place, the block's layers would still be computed for every token.
        pruned = SlamModel(model.config, surgery.without(model.decoder, block), model.tokenizer).eval()
        pruned.projector.to(model.device, model.dtype).load_state_dict(model.projector.state_dict())
        if recipe is None:
            return pruned, []
        receiver = surgery.receiving_layer(block, len(surgery.decoder_layers(model.decoder)), recipe.side)
        jobs = [
            (utterance, member.task)
            for member in self._members(request)
            for utterance in self.corpus.utterances(member.language, "train", recipe.num_train)
        ]
        losses = yield from self._heal(pruned, receiver, jobs, recipe, self.settings.seed + request.repeat)
        return pruned, losses

    def _heal(
        self, model: SlamModel, receiver: int, jobs: Sequence[tuple[Utterance, str]], recipe: HealRecipe, seed: int
    ) -> Generator[Progress, None, list[float]]:
        """Heal a pruned model in place on (utterance, task) pairs, mixed as they come, and return the losses."""
        features = self.features(model.config.encoder)
        yield from compute_features(features, [utterance for utterance, _ in jobs])
        stream = speech_stream(model, jobs, features, recipe.train.batch_size, seed)
        losses = []
        for step in heal(model, receiver, stream, recipe, seed):
            losses.append(step.loss)
            yield Progress(stage="heal", step=step.step, num_steps=step.num_steps, loss=step.loss)
        return losses

    def _score_members(self, model: SlamModel, request: Request, splits: Sequence[str]) -> Steps:
        """Score a pruned model for every cell that it answers for, by the cell's name and split."""
        scores = {}
        for member in self._members(request):
            scores[member.name] = yield from self._score_splits(model, member, splits, request.rung)
        return scores

    def _score_splits(self, model: SlamModel, cell: Cell, splits: Sequence[str], rung: str = "full") -> Steps:
        """Score a model on those of the splits that the corpus has."""
        scores = {}
        for split in splits:
            if utterances := self._scored(cell, split, rung):
                scores[split] = yield from self._score(model, cell, utterances, f"decode {split}")
        return scores

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
