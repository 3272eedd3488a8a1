"""The pocket corpus: speech made on the spot, in four languages that translate each other.

Sentences come from :mod:`slamlab.data.grammar`, voices from :mod:`slamlab.data.synthesis`: synthetic speech of few
words.
"""

from __future__ import annotations

from pathlib import Path

from slamlab.data.grammar import sentences
from slamlab.data.synthesis import SplitSizes, SpokenCorpus
from slamlab.data.utterance import SPLITS


class PocketCorpus(SpokenCorpus):
    """Spoken sentences of the grammar, the same in four languages.

    Args:
        folder: Where audio is kept.
        seed: Seed of sentences and voices.
        sizes: Utterances a language in each split.

    Raises:
        DataError: If the extra `pocket` is not installed, or the grammar has fewer sentences than asked for.
    """

    def __init__(self, folder: Path, seed: int = 0, sizes: SplitSizes | None = None) -> None:
        sizes = sizes or SplitSizes()
        super().__init__("pocket", folder, sentences(sum(map(sizes.of, SPLITS)), seed), seed, sizes)
