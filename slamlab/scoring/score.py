"""From records to a score, and from the records of two models to a degradation: what a sweep calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np

from slamlab.scoring.bleu import corpus_bleu
from slamlab.scoring.bootstrap import NUM_RESAMPLES, Degradation, Statistics, paired_relative_degradation
from slamlab.scoring.normalise import normaliser
from slamlab.scoring.records import Record
from slamlab.scoring.wer import word_error_rate

Metric = Literal["wer", "bleu"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model's score on a set of utterances.

    Attributes:
        metric: `wer` (a fraction, lower is better) or `bleu` (0 to 100, higher is better).
        signature: Metric, normaliser and versions: scores with unequal signatures do not compare.
        counts: What the value is made of, e.g. `insertions`, `num_words`.
        statistics: What each utterance adds, for the bootstrap.
    """

    metric: Metric
    value: float
    num_utterances: int
    signature: str
    counts: Mapping[str, int]
    statistics: Statistics


def score_records(records: Sequence[Record], language: str, task: str) -> Score:
    """Score records: WER for `asr`, BLEU for `st`.

    Args:
        records: One utterance each, as :func:`~slamlab.scoring.records.make_records` leaves them.
        language: Code of the language of the transcripts, which names the normaliser in the signature.
        task: `asr` or `st`.

    Raises:
        DataError: No record, or one with an empty normalised reference.
        OptionError: An unknown task.
    """
    signature = normaliser(language, task).signature
    ids = tuple(record.id for record in records)
    references = [record.reference_normalized for record in records]
    hypotheses = [record.hypothesis_normalized for record in records]
    num_empty_hypotheses = sum(not hypothesis for hypothesis in hypotheses)
    if task == "asr":
        wer = word_error_rate(references, hypotheses)
        return Score(
            metric="wer",
            value=wer.value,
            num_utterances=wer.num_utterances,
            signature=f"jiwer:{version('jiwer')}|{signature}",
            counts={
                "insertions": wer.insertions,
                "deletions": wer.deletions,
                "substitutions": wer.substitutions,
                "num_words": wer.num_words,
                "num_empty_hypotheses": num_empty_hypotheses,
            },
            statistics=Statistics(ids=ids, values=np.stack([wer.edits, wer.words], axis=1)),
        )
    bleu = corpus_bleu(references, hypotheses)
    return Score(
        metric="bleu",
        value=bleu.value,
        num_utterances=len(bleu.segments),
        signature=f"{bleu.signature}|{signature}",
        counts={
            "hypothesis_length": bleu.hypothesis_length,
            "reference_length": bleu.reference_length,
            "num_empty_hypotheses": num_empty_hypotheses,
        },
        statistics=Statistics(ids=ids, values=bleu.segments),
    )


def degradation(
    base_records: Sequence[Record],
    pruned_records: Sequence[Record],
    language: str,
    task: str,
    *,
    tolerance: float,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Degradation:
    """Return how much worse a pruned model answers than its base, with a 95 % interval.

    Where both scores are at hand already, pass their statistics to
    :func:`~slamlab.scoring.bootstrap.paired_relative_degradation`, which says what arguments and edge cases mean.

    Raises:
        DataError: The records are not of the same utterances and references.
        OptionError: An unknown task, a negative tolerance, or no resample.
    """
    base, pruned = (score_records(records, language, task) for records in (base_records, pruned_records))
    return paired_relative_degradation(
        base.statistics,
        pruned.statistics,
        base.metric,
        tolerance=tolerance,
        num_resamples=num_resamples,
        seed=seed,
    )
