"""Corpus chrF with its signature, and what each segment adds to it (Popović 2015), as `sacrebleu` computes it.

chrF compares character n-grams, so it needs no tokeniser in any language. Order 6, beta 2, white space ignored: the
defaults of `sacrebleu`. As for BLEU, the corpus score is a function of sums over segments.

Shapes: N segments; statistics are [N, 18] integers: for each order 1 to 6 the n-grams of the hypothesis, of the
reference, and those that match. Column 1 is thus the length of the reference, as in every metric's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from slamlab.scoring.wer import check_texts

ORDER, BETA = CHRF.CHAR_ORDER, CHRF.BETA


@dataclass(frozen=True, kw_only=True)
class Chrf:
    """A corpus chrF and what it is made of.

    Attributes:
        value: 0 to 100.
        signature: As `sacrebleu` prints it.
        segments: Sufficient statistics, int64 [N, 18], as :func:`chrf_of_sums` takes their sums.
    """

    value: float
    signature: str
    segments: np.ndarray


def corpus_chrf(references: Sequence[str], hypotheses: Sequence[str]) -> Chrf:
    """Return corpus chrF, equal to `sacrebleu.corpus_chrf(hypotheses, [references])`.

    Args:
        references: N texts, none of them empty.
        hypotheses: N texts, which may be empty.

    Raises:
        DataError: No segment, unequal numbers, or an empty reference.
    """
    check_texts(references, hypotheses)
    metric = CHRF()
    value = metric.corpus_score(list(hypotheses), [list(references)]).score
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        pairs = zip(
            extract_all_char_ngrams(hypothesis, ORDER, False),
            extract_all_char_ngrams(reference, ORDER, False),
            strict=True,
        )
        # Of an order that the reference is too short for, `sacrebleu` does not count the hypothesis's n-grams either.
        rows.append([n for h, r in pairs for n in (h.total() if r else 0, r.total(), (h & r).total())])
    return Chrf(value=value, signature=f"chrf|{metric.get_signature()}", segments=np.array(rows, dtype=np.int64))


def chrf_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return the chrF [...] of summed statistics [..., 18], for each order: hypothesis, reference, matches.

    Precision and recall are averaged over the orders that hypothesis and reference both have.
    """
    hypothesis, reference, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]  # each [..., 6]
    defined = (hypothesis > 0) & (reference > 0)
    num_orders = np.maximum(defined.sum(axis=-1), 1)
    precision = np.where(defined, matches / np.maximum(hypothesis, 1), 0).sum(axis=-1) / num_orders
    recall = np.where(defined, matches / np.maximum(reference, 1), 0).sum(axis=-1) / num_orders
    weighted = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)
