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
        # A sentence belongs to one split in all languages: the four texts say the same.
        drawn = sentences(sum(sizes.of(split) for split in SPLITS), seed)
        by_split: dict[str, list[dict[str, str]]] = {}
        for split in reversed(SPLITS):  # the held-out splits first: they stay when `train` grows
            size = sizes.of(split)
            by_split[split], drawn = drawn[:size], drawn[size:]
        super().__init__("pocket", folder, by_split, seed, sizes)
