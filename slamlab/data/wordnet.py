"""Open-vocabulary English: the example sentences of WordNet (Fellbaum 1998), spoken on the spot.

WordNet's glosses quote about 33,000 phrases of 4 to 14 plain words that show a word in use: natural English about
everything, unlike the pocket grammar. Debian packages them (`apt-get install wordnet-base`; the licence allows any use
with its notice). Voices come from :mod:`slamlab.data.synthesis`: the words are open, the speech is synthetic.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from slamlab.data.grammar import spoken_key
from slamlab.data.synthesis import SplitSizes, SpokenCorpus
from slamlab.errors import DataError

DEBIAN_FOLDER = Path("/usr/share/wordnet")
PARTS = ("noun", "verb", "adj", "adv")
MIN_WORDS, MAX_WORDS = 4, 14


class WordnetCorpus(SpokenCorpus):
    """WordNet's examples as spoken English, each in one split.

    Args:
        folder: Where audio is kept.
        seed: Seed of the split, the order and the voices.
        sizes: Utterances in each split.
        wordnet: Holds `data.noun` and its like.

    Raises:
        DataError: If WordNet or the extra `pocket` is not installed, or has fewer examples than asked for.
    """

    def __init__(
        self, folder: Path, seed: int = 0, sizes: SplitSizes | None = None, wordnet: Path = DEBIAN_FOLDER
    ) -> None:
        drawn = sorted(examples(wordnet), key=lambda text: hashlib.sha256(f"{seed}/{text}".encode()).digest())
        texts = [{"en": text} for text in drawn]
        super().__init__("wordnet", folder, texts, seed, sizes or SplitSizes(train=8000))


def examples(wordnet: Path) -> list[str]:
    """Return the quoted examples of 4 to 14 words that have letters and plain punctuation only.

    Of examples with the same words the first is kept, so that no two splits say the same.

    Raises:
        DataError: A file of WordNet is missing.
    """
    found: dict[str, str] = {}
    for part in PARTS:
        path = wordnet / f"data.{part}"
        if not path.is_file():
            raise DataError(
                "the corpus wordnet needs WordNet's data files", f"no {path}", "run `apt-get install wordnet-base`"
            )
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                for text in re.findall(r'"([^"]+)"', line.partition("|")[2]):
                    text = text.strip()
                    if (
                        re.fullmatch(r"[A-Za-z' ,;?!.-]+", text)
                        and "..." not in text
                        and MIN_WORDS <= len(text.split()) <= MAX_WORDS
                    ):
                        found.setdefault(spoken_key(text), text)
    return list(found.values())
