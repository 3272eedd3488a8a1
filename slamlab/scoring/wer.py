"""Word and character error rates with their counts, per utterance and in total, by `jiwer`.

The unit is a word, what stands between spaces, or a character. In languages written without spaces between words the
normaliser has already put every letter between spaces (:mod:`slamlab.scoring.normalise`), so their character error
rate is counted in "words"; in the others characters include the single spaces between words, as `jiwer.cer` does.

Shapes: N utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np

from slamlab.errors import DataError

Unit = Literal["word", "character"]


@dataclass(frozen=True, kw_only=True)
class EditCounts:
    """One utterance's minimal edits from reference to hypothesis, in words or characters."""

    insertions: int
    deletions: int
    substitutions: int
    hits: int

    @property
    def length(self) -> int:
        """Units of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_edits(self) -> int:
        """Insertions, deletions and substitutions together."""
        return self.insertions + self.deletions + self.substitutions


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """A corpus error rate and what it is made of.

    Attributes:
        value: Edits per unit of the references, a fraction that may exceed 1.
        edits: Edits of each utterance, int64 [N].
        lengths: Units of each utterance's reference, int64 [N].
    """

    value: float
    insertions: int
    deletions: int
    substitutions: int
    edits: np.ndarray
    lengths: np.ndarray


def count_edits(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> list[EditCounts]:
    """Align each hypothesis with its reference and count.

    Args:
        references: N normalised texts, none of them empty.
        hypotheses: N normalised texts; an empty one deletes every unit of its reference.
        unit: What is aligned.

    Raises:
        DataError: No utterance, unequal numbers, or an empty reference.
    """
    check_texts(references, hypotheses)
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    # The types `jiwer` names its alignment chunks by, each with the field in which its length is counted.
    fields = {"equal": "hits", "substitute": "substitutions", "delete": "deletions", "insert": "insertions"}
    counts = []
    for chunks in process(list(references), list(hypotheses)).alignments:
        sums = dict.fromkeys(fields.values(), 0)
        for chunk in chunks:
            sums[fields[chunk.type]] += max(
                chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
            )
        counts.append(EditCounts(**sums))
    return counts


def error_rate(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> ErrorRate:
    """Return the corpus error rate of normalised texts, equal to `jiwer.wer` or `jiwer.cer` of the same lists.

    Arguments and errors are those of :func:`count_edits`.
    """
    counts = count_edits(references, hypotheses, unit)
    edits = np.array([count.num_edits for count in counts], dtype=np.int64)
    lengths = np.array([count.length for count in counts], dtype=np.int64)
    return ErrorRate(
        value=float(edits.sum() / lengths.sum()),
        insertions=sum(count.insertions for count in counts),
        deletions=sum(count.deletions for count in counts),
        substitutions=sum(count.substitutions for count in counts),
        edits=edits,
        lengths=lengths,
    )


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRate:
    """Return the corpus WER, as :func:`error_rate` says."""
    return error_rate(references, hypotheses, "word")


def check_texts(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Raise DataError unless there is a hypothesis to every reference, one at least, and no reference is empty."""
    if len(references) != len(hypotheses) or not references:
        raise DataError(
            "scoring takes one hypothesis to a reference, and one utterance at least",
            f"{len(references)} references and {len(hypotheses)} hypotheses",
            "check that the split has utterances left after empty references were dropped",
        )
    for index, reference in enumerate(references):
        if not reference.strip():
            raise DataError(
                "a reference has a word at least after normalisation",
                f"an empty one at index {index}",
                "drop such utterances first, as make_records does",
            )
