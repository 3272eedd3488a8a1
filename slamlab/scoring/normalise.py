"""Text normalisation before scoring, the same for reference and hypothesis.

Speech recognition follows Whisper (Radford et al. 2022, arXiv:2212.04356, appendix C) through the copy that ships in
`transformers`: English has its own rule with the table of British and American spellings of OpenAI's `whisper`
(`slamlab/zoo/english_spelling.json`, copyright (c) 2022 OpenAI, MIT licence), every other language the basic one with
its diacritics kept, and languages that are scored by characters have their letters (grapheme clusters) put apart.

Deviation: marks that may be left out in writing (Arabic vowel signs and tatweel, Hebrew points) are removed first,
after canonical composition, so that a hamza typed as a mark is part of its letter. The basic rule would make them
spaces, and tear each vocalised word into pieces.

Known weakness, kept for comparability: other combining marks that compose with no letter do become spaces, so Indic
words are torn apart and lose their vowel signs, as do Thai, Lao, Khmer and Burmese letters. Error rates of these
languages compare with others by this rule, and flatter (Manohar, Pillai and Sherly 2024, arXiv:2409.02449).

Translation keeps casing and punctuation, which BLEU counts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib.metadata import version
from importlib.resources import files
from types import MappingProxyType

from transformers import __version__ as transformers_version
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from slamlab.errors import OptionError
from slamlab.zoo.languages import Language, find_language

_DECIMALS_APART = frozenset({"ar", "bn", "fa", "hu", "tr", "vi"})
"""Languages in which `num2words` 0.5.14 rounds decimals, confuses 0.5 with 0.05, or fails: their decimals are read
digit by digit."""
_MAX_WHOLE_DIGITS = 9
"""Longer ones are taken for telephone numbers and the like, read digit by digit."""
_MAX_DECIMAL_DIGITS = 12
"""Digits of a decimal, before and after its mark, up to which a float tells it exactly enough for `num2words`."""


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


def normaliser(language: str, task: str, *, spell_numbers: bool = False) -> Normaliser:
    """Return the normaliser of a language and task.

    Args:
        language: Code of the language of the texts: of the transcripts, or of the translations.
        task: `asr` or `st`.
        spell_numbers: Whether digits become words before the rest, by `num2words`, so that "7" and "sieben" are one.
            Whisper does not do it. Numbers are cardinal: ordinals, years and times have no reading of their own, and
            a sign or a zero at the end of decimals is not said.

    Raises:
        OptionError: An unknown language or task, or numbers that cannot be spelled out: in a language that `num2words`
            lacks, in English, whose rule writes numbers as digits already, and in translations.
    """
    known = find_language(language)
    if task not in ("asr", "st"):
        raise OptionError("a task is asr or st", task, "choose one of them")
    if spell_numbers and (task == "st" or not known.num2words):
        raise OptionError(
            "numbers are spelled out for asr, in languages that num2words can count in, but not in English, "
            "whose normaliser writes them as digits",
            f"{task} in {known.name}",
            "leave them as they are",
        )
    if task == "st":
        return Normaliser(signature=f"norm:whitespace|language={known.code}", clean=str)
    source = f"transformers:{transformers_version}"
    if known.code == "en":
        return Normaliser(
            signature="norm:whisper-english|spelling=whisper|diacritics=removed|letters=joined|marks=removed|"
            f"dropped=none|numbers=digits|{source}",
            clean=EnglishTextNormalizer(english_spellings()),
        )
    steps: list[Callable[[str], str]] = []
    numbers = "kept"
    if spell_numbers:
        steps.append(_number_speller(known))
        numbers = f"spelled({known.num2words})|num2words:{version('num2words')}"
    if known.optional_marks:
        steps.append(_mark_remover(known.optional_marks))
    split = known.unit == "character"
    steps.append(BasicTextNormalizer(remove_diacritics=False, split_letters=split))
    return Normaliser(
        signature=f"norm:whisper-basic|spelling=none|diacritics=kept|letters={'split' if split else 'joined'}|"
        f"marks=spaced|dropped={known.optional_marks.replace(' ', ',') or 'none'}|numbers={numbers}|{source}",
        clean=lambda text: reduce(lambda done, step: step(done), steps, text),
    )


@cache
def english_spellings() -> Mapping[str, str]:
    """Return the American spelling of each British word that Whisper knows."""
    table = files("slamlab.zoo").joinpath("english_spelling.json").read_text(encoding="utf-8")
    return MappingProxyType(json.loads(table))


def _mark_remover(ranges: str) -> Callable[[str], str]:
    """Return what removes code points, given as `U+0640 U+064B-U+065F`, from the composed text."""
    marks = re.compile("[" + re.sub(r"U\+([0-9A-F]{4})", r"\\u\1", ranges).replace(" ", "") + "]")
    return lambda text: marks.sub("", unicodedata.normalize("NFC", text))


def _number_speller(language: Language) -> Callable[[str], str]:
    """Return what replaces each number of a text by its words.

    The language's other mark, an apostrophe or a no-break or thin space may group digits by three; the Arabic marks
    are known everywhere. A number with a leading zero, or a long one, is read digit by digit.
    """
    from num2words import num2words

    comma, point = r",\u066b", r".\u066c'’\u00a0\u2009\u202f"
    mark, group = (comma, point) if language.decimal_mark == "," else (comma.replace(",", "."), "," + point[1:])
    whole = rf"\d{{1,3}}(?:[{group}]\d{{3}})+(?!\d)|\d+"
    # Of several marks in a row, as in 1.2.2003, none is a decimal's.
    decimal = rf"(?<!\d[{mark}])(?P<whole>{whole})[{mark}](?P<decimals>\d++)(?![{mark}]\d)"
    numbers = re.compile(rf"{decimal}|{whole}")

    def say(number: int | float) -> str:
        return num2words(number, lang=language.num2words)

    def spell(match: re.Match[str]) -> str:
        whole, decimals = (_plain_digits(text or "") for text in (match["whole"] or match[0], match["decimals"]))
        if decimals and language.code not in _DECIMALS_APART and len(whole + decimals) <= _MAX_DECIMAL_DIGITS:
            return f" {say(float(f'{whole}.{decimals}'))} "
        in_one = len(whole) <= _MAX_WHOLE_DIGITS and not (whole.startswith("0") and len(whole) > 1)
        words = [say(int(whole))] if in_one else [say(int(digit)) for digit in whole]
        return f" {' '.join([*words, *(say(int(digit)) for digit in decimals)])} "

    return lambda text: numbers.sub(spell, text)


def _plain_digits(text: str) -> str:
    """Return the digits of a text, of whatever script, as 0 to 9."""
    return "".join(str(int(character)) for character in text if character.isdecimal())
