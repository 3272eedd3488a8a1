"""What the models said: a few utterances a cell, chosen by rule, never by hand.

Utterances are ordered by how many more word edits against the reference the pruned model needs than the unpruned one,
and taken at even spacing from the most improved to the most harmed, ends included. In languages written without spaces
between words the pieces are characters: normalised texts have a space after each, what was said has none.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

NUM_SAMPLES = 5
_TEXTS = ("reference", "hypothesis", "reference_normalized", "hypothesis_normalized")
Pieces = tuple[tuple[str, bool], ...]
"""Words or characters of a hypothesis, each with whether it differs from the reference."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One utterance as three texts.

    Attributes:
        pruned: None where no pruned model was scored.
        change: Edits that pruning added; those of the unpruned model where nothing was pruned.
        piece: What is edited: `word` or `character`.
    """

    id: str
    reference: str
    baseline: Pieces
    pruned: Pieces | None
    change: int
    piece: str

    @property
    def glue(self) -> str:
        """Return what stands between pieces: characters carry what follows them with them."""
        return " " if self.piece == "word" else ""

    @property
    def change_in_words(self) -> str:
        """Say what pruning did to the utterance, or how wrong the unpruned model is where nothing was pruned."""
        number = abs(self.change)
        edits = f"{self.piece} edit" if number == 1 else f"{self.piece} edits"
        if self.pruned is None:
            return f"{number} {edits}"
        if number == 0:
            return f"as many {self.piece} edits after pruning"
        return f"{number} {'more' if self.change > 0 else 'fewer'} {edits} after pruning"


def read_hypotheses(store: Path, relative: str) -> dict[str, dict[str, str]] | None:
    """Read hypotheses by utterance id; None where the store lacks them or they are damaged.

    Args:
        store: The store's folder.
        relative: Path below it, as records hold it. Paths that lead out of the store are not followed.
    """
    try:
        content = artefact(store, relative).read_text(encoding="utf-8")
        # Lines end at \n only: a transcript may hold other characters that Unicode calls line ends.
        records = [json.loads(line) for line in content.split("\n") if line.strip()]
        return {record["id"]: {name: str(record[name]) for name in _TEXTS} for record in records}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def artefact(store: Path, relative: str) -> Path:
    """Return the file that a record names.

    Raises:
        FileNotFoundError: The store does not hold it.
    """
    path = (store / relative).resolve()
    if not (path.is_relative_to(store.resolve()) and path.is_file()):
        raise FileNotFoundError(relative)
    return path


def choose(
    baseline: Mapping[str, Mapping[str, str]],
    pruned: Mapping[str, Mapping[str, str]] | None,
    num_samples: int = NUM_SAMPLES,
    piece: str = "word",
) -> list[Sample]:
    """Choose the samples of a cell.

    Args:
        baseline: Records of the unpruned model by utterance id.
        pruned: Records of the pruned model, None to order by the unpruned model's own edits.
        num_samples: How many, at most.
        piece: What stands between spaces in the normalised texts: a `word` or a `character`.
    """
    samples = []
    for name, record in baseline.items():
        if pruned is not None and name not in pruned:
            continue
        other = pruned[name] if pruned is not None else None
        change = _edits(record) if other is None else _edits(other) - _edits(record)
        samples.append((change, name, record, other))
    samples.sort(key=lambda item: item[:2])
    picked = sorted(set(np.linspace(0, len(samples) - 1, num_samples).round().astype(int).tolist())) if samples else []
    return [
        Sample(
            id=name,
            reference=record["reference"],
            baseline=_compared(record, piece),
            pruned=None if other is None else _compared(other, piece),
            change=change,
            piece=piece,
        )
        for change, name, record, other in (samples[i] for i in picked)
    ]


def _edits(record: Mapping[str, str]) -> int:
    """Return the edits between the normalised reference and hypothesis, of what stands between spaces in them."""
    return _distance(record["reference_normalized"].split(), record["hypothesis_normalized"].split())


def _distance(source: Sequence[str], target: Sequence[str]) -> int:
    """Return the Levenshtein distance between two lists of pieces, one row of its table at a time."""
    row = list(range(len(target) + 1))
    for i, word in enumerate(source, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(target, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def _compared(record: Mapping[str, str], piece: str) -> Pieces:
    """Return the pieces of a hypothesis, marked where they differ from the reference, whatever case or punctuation."""
    split, bare = (str.split, _bare_word) if piece == "word" else (_characters, _bare_character)
    pieces = split(record["hypothesis"])
    reference, hypothesis = ([bare(one) for one in some] for some in (split(record["reference"]), pieces))
    matcher = SequenceMatcher(None, reference, hypothesis, autojunk=False)
    same = {j for match in matcher.get_matching_blocks() for j in range(match.b, match.b + match.size)}
    return tuple((one, j not in same) for j, one in enumerate(pieces))


def _characters(text: str) -> list[str]:
    """Return the letters and digits of a text, each with the marks, punctuation and spaces that follow it."""
    return re.findall(r"[^\W_][\W_]*|^[\W_]+", text)


def _bare_word(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'()¿¡«»„“”…")


def _bare_character(character: str) -> str:
    """Return a character with its marks, without punctuation and spaces."""
    return "".join(one for one in character.casefold() if unicodedata.category(one)[0] in "LMN")
