"""Word error rate with its counts, per utterance and in total, by `jiwer`.

Shapes: N utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from slamlab.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EditCounts:
    """One utterance's minimal edits from reference to hypothesis, in words."""

    insertions: int
    deletions: int
    substitutions: int
    hits: int

    @property
    def num_words(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_edits(self) -> int:
        """Insertions, deletions and substitutions together."""
        return self.insertions + self.deletions + self.substitutions


@dataclass(frozen=True, kw_only=True)
class Wer:
    """A corpus word error rate and what it is made of.

    Attributes:
        value: Edits per reference word, a fraction that may exceed 1.
        edits: Edits of each utterance, int64 [N].
        words: Reference words of each utterance, int64 [N].
    """

    value: float
    insertions: int
    deletions: int
    substitutions: int
    num_words: int
    num_utterances: int
    edits: np.ndarray
    words: np.ndarray


def count_edits(references: Sequence[str], hypotheses: Sequence[str]) -> list[EditCounts]:
    """Align each hypothesis with its reference and count.

    Args:
        references: N normalised texts, none of them empty.
        hypotheses: N normalised texts; an empty one deletes every word of its reference.

    Raises:
        DataError: No utterance, unequal numbers, or an empty reference.
    """
    check_texts(references, hypotheses)
    # The types `jiwer` names its alignment chunks by, each with the field in which its length is counted.
    fields = {"equal": "hits", "substitute": "substitutions", "delete": "deletions", "insert": "insertions"}
    counts = []
    for chunks in jiwer.process_words(list(references), list(hypotheses)).alignments:
        sums = dict.fromkeys(fields.values(), 0)
        for chunk in chunks:
            sums[fields[chunk.type]] += max(
                chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
            )
        counts.append(EditCounts(**sums))
    return counts


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> Wer:
    """Return the corpus WER of normalised texts, equal to `jiwer.wer` of the same lists.

    Arguments and errors are those of :func:`count_edits`.
    """
    counts = count_edits(references, hypotheses)
    edits = np.array([count.num_edits for count in counts], dtype=np.int64)
    words = np.array([count.num_words for count in counts], dtype=np.int64)
    return Wer(
        value=float(edits.sum() / words.sum()),
        insertions=sum(count.insertions for count in counts),
        deletions=sum(count.deletions for count in counts),
        substitutions=sum(count.substitutions for count in counts),
        num_words=int(words.sum()),
        num_utterances=len(counts),
        edits=edits,
        words=words,
    )


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
