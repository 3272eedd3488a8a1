"""How often a model's answers are degenerate: what a corpus score alone does not tell.

A pruned decoder fails in ways of its own: it says nothing, repeats itself, runs into the cap that its audio's duration
sets, or ends long before the speech does. Each is counted on the normalised texts, so that anybody's files can be
looked at; why decoding ended is taken from the records where they say so.

Units are words, or letters in languages that are written without spaces between words. What ends a loop while decoding
is a rule of its own, on tokens (:mod:`slamlab.model.decode`): this one is for texts, whoever made them.
"""

from __future__ import annotations

from collections.abc import Sequence

from slamlab.scoring.records import Record
from slamlab.scoring.wer import Unit

PHRASE, TIMES, SPAN = 8, 4, 12
"""A text loops where a phrase of 1 ... PHRASE units comes TIMES times in a row or more, over SPAN units at least:
`no no no no` is speech, a dozen are not."""
PREMATURE_SHARE, PREMATURE_MIN = 0.5, 4
"""An answer ends prematurely where it ended by itself with less than this share of a reference of 4 units or more."""


def count_guards(records: Sequence[Record], unit: Unit = "word") -> dict[str, int]:
    """Count the degenerate answers among records.

    Args:
        records: The records.
        unit: What the texts are made of, as :class:`slamlab.zoo.languages.Language` says.

    Returns:
        `num_empty_hypotheses` (nothing is left after normalisation), `num_loops` (decoding was stopped in a loop, or
        the text holds one that its reference does not), `num_capped` (decoding ran into its cap), `num_premature`.
        An answer may count under several.
    """
    counts = dict.fromkeys(("num_empty_hypotheses", "num_loops", "num_capped", "num_premature"), 0)
    for record in records:
        reference, hypothesis = record.reference_normalized.split(), record.hypothesis_normalized.split()
        if unit == "character":
            reference, hypothesis = list("".join(reference)), list("".join(hypothesis))
        counts["num_empty_hypotheses"] += not hypothesis
        counts["num_loops"] += record.stopped == "loop" or (has_loop(hypothesis) and not has_loop(reference))
        counts["num_capped"] += record.stopped == "length"
        counts["num_premature"] += (
            record.stopped in ("eos", "")
            and len(reference) >= PREMATURE_MIN
            and 0 < len(hypothesis) < PREMATURE_SHARE * len(reference)
        )
    return counts


def has_loop(units: Sequence[str]) -> bool:
    """Say whether units repeat themselves somewhere, as :data:`SPAN` says."""
    for period in range(1, PHRASE + 1):
        needed = max(TIMES * period, SPAN) - period
        run = 0  # units in a row that equal the one a period before
        for unit, earlier in zip(units[period:], units, strict=False):
            run = run + 1 if unit == earlier else 0
            if run >= needed:
                return True
    return False
