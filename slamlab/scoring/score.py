"""From records to a score, and from the records of two models to a degradation: what a sweep calls.

`language` is always that of the texts that are compared: of the transcripts, or of the translations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from slamlab.errors import DataError
from slamlab.scoring.bleu import corpus_bleu
from slamlab.scoring.bootstrap import NUM_RESAMPLES, Degradation, Statistics, paired_relative_degradation
from slamlab.scoring.chrf import corpus_chrf
from slamlab.scoring.guards import count_guards
from slamlab.scoring.metrics import Metric, metric_for
from slamlab.scoring.normalise import normaliser
from slamlab.scoring.records import Record
from slamlab.scoring.wer import error_rate
from slamlab.zoo.languages import find_language


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model's score on a set of utterances.

    Attributes:
        metric: `wer` or `cer` (a fraction, lower is better), `bleu` or `chrf` (0 to 100, higher is better).
        signature: Metric, normaliser and versions: scores with unequal signatures do not compare.
        counts: What the value is made of, e.g. `insertions`, `num_words`, and how many answers are degenerate
            (:mod:`slamlab.scoring.guards`).
        statistics: What each utterance adds, for the bootstrap.
        also: Value and signature of another metric, told beside a translation's BLEU: chrF.
    """

    metric: str
    value: float
    num_utterances: int
    signature: str
    counts: Mapping[str, int]
    statistics: Statistics
    also: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


def score_records(
    records: Sequence[Record],
    language: str,
    task: str,
    *,
    metric: str | None = None,
    by_speaker: bool = False,
    spell_numbers: bool = False,
) -> Score:
    """Score records.

    Args:
        records: One utterance each, as :func:`~slamlab.scoring.records.make_records` leaves them.
        language: Code of the language of the texts.
        task: `asr` or `st`.
        metric: A metric's name; None for the task's own (:func:`slamlab.scoring.metrics.metric_for`).
        by_speaker: Whether a bootstrap is to draw speakers, not utterances.
        spell_numbers: Whether the records were normalised so: the signature names it.

    Raises:
        DataError: No record, one with an empty normalised reference, or one without the speaker that is needed.
        OptionError: An unknown task or language, or a metric that does not suit them.
        AssetError: The tokeniser of BLEU needs something that is not installed.
    """
    chosen = metric_for(language, task, metric)
    rule = normaliser(language, task, spell_numbers=spell_numbers).signature
    references = [record.reference_normalized for record in records]
    hypotheses = [record.hypothesis_normalized for record in records]
    score = _rate if chosen.is_error_rate else _chrf if chosen.name == "chrf" else _bleu
    value, signature, counts, values, also = score(references, hypotheses, language, chosen)
    return Score(
        metric=chosen.name,
        value=value,
        num_utterances=len(records),
        signature=f"{signature}|{rule}",
        counts={**counts, **count_guards(records, find_language(language).unit)},
        statistics=Statistics(
            ids=tuple(record.id for record in records), values=values, blocks=_speakers(records) if by_speaker else ()
        ),
        also={name: {**found, "signature": f"{found['signature']}|{rule}"} for name, found in also.items()},
    )


_Parts = tuple[float, str, dict[str, int], np.ndarray, dict[str, dict[str, float | str]]]
"""Value, signature, counts, statistics [N, K], other metrics."""


def _rate(references: list[str], hypotheses: list[str], language: str, metric: Metric) -> _Parts:
    # Where letters are counted by nature they stand between spaces already, which makes them words.
    spaced = find_language(language).unit == "character" or metric.name == "wer"
    rate = error_rate(references, hypotheses, "word" if spaced else "character")
    counts = {name: getattr(rate, name) for name in ("insertions", "deletions", "substitutions")}
    counts[f"num_{metric.unit}s"] = int(rate.lengths.sum())
    signature = f"{metric.name}|jiwer:{version('jiwer')}"
    return rate.value, signature, counts, np.stack([rate.edits, rate.lengths], axis=1), {}


def _bleu(references: list[str], hypotheses: list[str], language: str, metric: Metric) -> _Parts:
    bleu = corpus_bleu(references, hypotheses, find_language(language).bleu_tokenizer)
    chrf = corpus_chrf(references, hypotheses)
    counts = {"hypothesis_length": bleu.hypothesis_length, "reference_length": bleu.reference_length}
    also: dict[str, dict[str, float | str]] = {"chrf": {"value": chrf.value, "signature": chrf.signature}}
    return bleu.value, bleu.signature, counts, bleu.segments, also


def _chrf(references: list[str], hypotheses: list[str], language: str, metric: Metric) -> _Parts:
    chrf = corpus_chrf(references, hypotheses)
    return chrf.value, chrf.signature, {}, chrf.segments, {}


def _speakers(records: Sequence[Record]) -> tuple[str, ...]:
    for record in records:
        if not record.speaker:
            raise DataError(
                "a bootstrap over speakers needs the speaker of every utterance",
                f"none for {record.id!r}",
                "name them, or resample utterances",
            )
    return tuple(record.speaker for record in records)


def degradation(
    base_records: Sequence[Record],
    pruned_records: Sequence[Record],
    language: str,
    task: str,
    *,
    tolerance: float,
    metric: str | None = None,
    by_speaker: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Degradation:
    """Return how much worse a pruned model answers than its base, with a 95 % interval.

    Where both scores are at hand already, pass their statistics to
    :func:`~slamlab.scoring.bootstrap.paired_relative_degradation`, which says what arguments and edge cases mean.

    Raises:
        DataError: The records are not of the same utterances and references.
        OptionError: An unknown task or metric, a negative tolerance, or no resample.
    """
    base, pruned = (
        score_records(records, language, task, metric=metric, by_speaker=by_speaker)
        for records in (base_records, pruned_records)
    )
    return paired_relative_degradation(
        base.statistics,
        pruned.statistics,
        base.metric,
        tolerance=tolerance,
        num_resamples=num_resamples,
        seed=seed,
    )
