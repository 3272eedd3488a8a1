"""One model's answers on one split of one cell, and their score: resumable, and stopped early where that is safe.

Answers go to a journal as they are made, so an evaluation that was killed, or that another sweep began, goes on at the
next utterance. Utterances come in the corpus' shuffled order, in a few chunks with a look at the evidence after each;
within a chunk neighbours in length share a batch.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slamlab.data.batching import Prompt
from slamlab.data.features import FeatureStore
from slamlab.data.utterance import Utterance
from slamlab.model.decode import LOOP_REPEATS, LOOP_SPAN, LOOP_TOKENS
from slamlab.model.slam import SlamModel
from slamlab.model.transcribe import SPARE_TOKENS, answer, most_tokens
from slamlab.scoring.bootstrap import Statistics, score_interval
from slamlab.scoring.journal import Answer, Journal
from slamlab.scoring.records import Record, RecordSet, encode_records, make_records
from slamlab.scoring.score import Score, score_records
from slamlab.scoring.stopping import Reason, early_stop
from slamlab.sweep.cells import Cell
from slamlab.sweep.store import Store
from slamlab.training.base import Progress
from slamlab.zoo.profiles import Profile

NUM_LOOKS, LOOK_EVERY = 16, 64
"""Looks at a split at most, the last at all of it, and utterances between two of them at least: a chunk should fill
its batches. Not taken from the batch size, which is to change nothing."""


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """When a pruned model's scoring may stop, as :mod:`slamlab.scoring.stopping` says.

    Attributes:
        base: Records of the unpruned model on the whole split.
        tolerance: Relative degradation accepted.
        delta: Chance that a stop contradicts the whole split.
        every: Utterances between two looks, at least.
    """

    base: Sequence[Record]
    tolerance: float
    delta: float
    every: int


def decode_facts(profile: Profile, num_beams: int) -> dict[str, Any]:
    """Return what, beside the model and the audio, an answer depends on."""
    exact = profile.decode_precision == "fp32"
    return {
        "num_beams": num_beams,
        "precision": profile.decode_precision,
        "batch_size": "any" if exact else profile.eval_batch_size,  # of near-ties that rounding decides
        "tokens_per_s": profile.decode_tokens_per_s,
        "spare_tokens": SPARE_TOKENS,
        "loop": [LOOP_REPEATS, LOOP_TOKENS, LOOP_SPAN],
    }


class Evaluation:
    """Answers and score of one model on one split of one cell.

    Args:
        cell: The cell.
        utterances: What is scored, in random order.
        journal: Where answers are kept; may hold some already, of these utterances or of others.
        profile: How to decode.
        num_beams: 1 decodes greedily.
        stop: When scoring may stop early; None to score every utterance.
        by_speaker: Whether the score's interval is of speakers drawn, not of utterances.
    """

    def __init__(
        self,
        cell: Cell,
        utterances: Sequence[Utterance],
        journal: Journal,
        profile: Profile,
        *,
        num_beams: int = 1,
        stop: EarlyStop | None = None,
        by_speaker: bool = False,
    ) -> None:
        self.cell, self.utterances, self._journal, self._profile = cell, list(utterances), journal, profile
        self._num_beams, self._stop, self._by_speaker = num_beams, stop, by_speaker
        self._answers = journal.read()
        self._num_seen = 0  # utterances looked at, all of which are answered
        self._reason: Reason | None = None

    def finished(self) -> bool:
        """Say whether the journal holds all that the score needs, so that no model is needed."""
        return not self._pending()

    def run(self, model: SlamModel, features: FeatureStore, stage: str) -> Generator[Progress, None, None]:
        """Decode what is not answered yet, until everything is or scoring may stop."""
        if self.finished():
            return
        model = model.in_precision(self._profile.decode_precision)
        prompt = model.prompt(self.cell.task, self.cell.language)
        size = self._profile.eval_batch_size
        while pending := self._pending():
            pending.sort(key=lambda utterance: utterance.duration_s, reverse=True)  # what is too long fails at once
            for begin in range(0, len(pending), size):
                done = sum(utterance.id in self._answers for utterance in self.utterances)
                yield Progress(stage=stage, step=done, num_steps=len(self.utterances))
                answers = self._decode(model, features, pending[begin : begin + size], prompt)
                self._answers = self._journal.append(answers)  # another worker's, where it was first

    def score(self, store: Store) -> dict[str, Any]:
        """Return the score of a finished evaluation as records hold it; the texts go to the store."""
        store.share(self._journal.path)
        scored = self._records(self._num_seen)
        score = self._score(scored.records)
        return {
            "metric": score.metric,
            "value": score.value,
            "ci95": score_interval(score.statistics, score.metric),
            "num_utterances": score.num_utterances,
            "num_empty_references": scored.num_empty_references,
            "num_planned": len(self.utterances),
            "stopped_early": self._reason,
            "signature": score.signature,
            **score.counts,
            **({"also": dict(score.also)} if score.also else {}),
            "hypotheses": store.put_bytes("hypotheses", ".jsonl", encode_records(scored.records)),
        }

    def _pending(self) -> list[Utterance]:
        """Return what has to be answered before the next look, nothing where the score needs no more."""
        total = len(self.utterances)
        chunk = max(self._stop.every, -(-total // NUM_LOOKS)) if self._stop else total
        while self._num_seen < total and self._reason is None:
            end = min(self._num_seen + chunk, total)
            if missing := [one for one in self.utterances[self._num_seen : end] if one.id not in self._answers]:
                return missing
            self._num_seen = end
            self._reason = self._look(-(-total // chunk) - 1)
        return []

    def _look(self, num_looks: int) -> Reason | None:
        """Say whether scoring may stop with the utterances seen so far."""
        if self._stop is None or self._num_seen == len(self.utterances):
            return None
        seen = self._records(self._num_seen).records
        if not seen:  # empty references so far
            return None
        base, metric, longest = self._base
        return early_stop(
            base,
            self._score(seen).statistics,
            metric,
            tolerance=self._stop.tolerance,
            delta=self._stop.delta,
            num_looks=num_looks,
            longest=longest,
        )

    @cached_property
    def _base(self) -> tuple[Statistics, str, list[float] | None]:
        """Statistics of the unpruned model in the order of scoring, the metric, and the most edits of each answer."""
        assert self._stop is not None
        known = {record.id: record for record in self._stop.base}
        ordered = [one for one in self.utterances if one.id in known]  # the others have empty references
        score = self._score([known[one.id] for one in ordered])
        longest = None
        if score.metric == "wer" and not any(map(_has_marks, (record.reference for record in self._stop.base))):
            # A word takes a token or more ("gonna" is two, but no answer is made of these), so an answer has no more
            # words than its cap allows tokens, and no more edits than the longer of its two sides has words. Not so
            # where the normaliser puts spaces for combining marks, which cuts words into several.
            words = score.statistics.values[:, 1].tolist()
            longest = [float(max(self._cap(one), num)) for one, num in zip(ordered, words, strict=True)]
        return score.statistics, score.metric, longest

    def _records(self, num_seen: int) -> RecordSet:
        seen = self.utterances[:num_seen]
        answers = [self._answers[utterance.id] for utterance in seen]
        return make_records(
            [utterance.id for utterance in seen],
            [utterance.target(self.cell.task) for utterance in seen],
            [answer.hypothesis for answer in answers],
            self.cell.text_language,
            self.cell.task,
            speakers=[utterance.speaker for utterance in seen],
            stopped=[answer.stopped for answer in answers],
        )

    def _score(self, records: Sequence[Record]) -> Score:
        return score_records(records, self.cell.text_language, self.cell.task, by_speaker=self._by_speaker)

    def _cap(self, utterance: Utterance) -> int:
        """Return the most tokens that an answer may have."""
        return most_tokens(utterance.duration_s, self._profile.decode_tokens_per_s)

    def _decode(
        self, model: SlamModel, features: FeatureStore, batch: Sequence[Utterance], prompt: Prompt
    ) -> list[Answer]:
        """Return the answers to a batch of utterances."""
        caps = [self._cap(utterance) for utterance in batch]
        said = answer(model, features.get(batch), prompt, caps, num_beams=self._num_beams)
        return [
            Answer(id=utterance.id, hypothesis=text, stopped=stopped)
            for utterance, (text, stopped) in zip(batch, said, strict=True)
        ]


def _has_marks(text: str) -> bool:
    """Say whether a text has combining marks that no single letter can hold, as Indic vowel signs are."""
    return any(unicodedata.category(character).startswith("M") for character in unicodedata.normalize("NFKC", text))
