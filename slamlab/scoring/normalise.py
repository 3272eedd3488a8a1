"""Text normalisation before scoring, the same for reference and hypothesis.

Speech recognition follows Whisper (Radford et al. 2022, arXiv:2212.04356, appendix C) through the copy that ships in
`transformers`. Its English spelling table is not part of `transformers`, so British and American spellings stay
apart here, and the signature says so. Translation keeps casing and punctuation, which BLEU counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import __version__ as transformers_version
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from slamlab.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """Make texts comparable.

    Attributes:
        signature: What is done, and by which version of what.
        clean: The text rule; white space is settled afterwards, for every rule alike.
    """

    signature: str
    clean: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """Return the normalised text: words separated by single spaces, "" where nothing is left."""
        return " ".join(self.clean(text).split())


def normaliser(language: str, task: str) -> Normaliser:
    """Return the normaliser of a task.

    Args:
        language: Code of the language of the transcripts; without effect for `st`.
        task: `asr` or `st`.

    Raises:
        OptionError: An unknown task.
    """
    if task == "st":
        return Normaliser(signature="norm:whitespace", clean=str)
    if task != "asr":
        raise OptionError("a task is asr or st", task, "choose one of them")
    source = f"transformers:{transformers_version}"
    if language == "en":
        return Normaliser(signature=f"norm:whisper-english(spelling=none)|{source}", clean=EnglishTextNormalizer({}))
    return Normaliser(
        signature=f"norm:whisper-basic(diacritics=kept)|{source}", clean=BasicTextNormalizer(remove_diacritics=False)
    )
