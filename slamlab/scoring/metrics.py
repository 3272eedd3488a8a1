"""The metrics by name: how a corpus score follows from sums over utterances, and which way is better.

Shapes: K statistics an utterance; column 1 is the length of its reference, whatever the metric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slamlab.errors import OptionError
from slamlab.scoring.bleu import bleu_of_sums
from slamlab.scoring.chrf import chrf_of_sums
from slamlab.scoring.wer import Unit
from slamlab.zoo.languages import find_language

REFERENCE_LENGTH = 1


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: As options and records name it.
        of_sums: Turns summed statistics [..., K] into scores [...].
        unit: Of an error rate (a fraction of the references' units, lower is better): what is counted. None for a
            score from 0 to 100, higher is better.
    """

    name: str
    of_sums: Callable[[np.ndarray], np.ndarray]
    unit: Unit | None = None

    @property
    def is_error_rate(self) -> bool:
        """Whether it counts edits: then lower is better, and statistics are (edits, units of the reference)."""
        return self.unit is not None


def _rate_of_sums(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., REFERENCE_LENGTH]


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="wer", of_sums=_rate_of_sums, unit="word"),
        Metric(name="cer", of_sums=_rate_of_sums, unit="character"),
        Metric(name="bleu", of_sums=bleu_of_sums),
        Metric(name="chrf", of_sums=chrf_of_sums),
    )
}


def find_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        OptionError: There is none of this name.
    """
    if name not in METRICS:
        raise OptionError(f"a metric is one of {', '.join(METRICS)}", repr(name), "choose one of them")
    return METRICS[name]


def metric_for(language: str, task: str, name: str | None = None) -> Metric:
    """Return the metric of a task, or the named one where it makes sense for it.

    Args:
        language: Code of the language of the texts.
        task: `asr` or `st`.
        name: A metric; None for WER of recognition (CER in languages written without spaces) and BLEU of translation.

    Raises:
        OptionError: An unknown metric, language or task, or a metric of the other task.
    """
    unit = find_language(language).unit
    if task == "asr":
        metric = find_metric(name or ("cer" if unit == "character" else "wer"))
        if metric.name == "wer" and unit == "character":
            rule = f"{find_language(language).name} is written without spaces between words, so its letters are counted"
            raise OptionError(rule, "the metric wer", "take cer")
        allowed = metric.is_error_rate
    elif task == "st":
        metric = find_metric(name or "bleu")
        allowed = not metric.is_error_rate
    else:
        raise OptionError("a task is asr or st", task, "choose one of them")
    if not allowed:
        choices = [one.name for one in METRICS.values() if one.is_error_rate == (task == "asr")]
        raise OptionError(f"the metrics of {task} are {', '.join(choices)}", metric.name, "choose one of them")
    return metric
