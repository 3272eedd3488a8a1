"""Languages: one row each of what scoring, prompts and synthesis have to know about it.

The rows are the languages of Whisper (Radford et al. 2022, arXiv:2212.04356) with its codes and names, which prompts
say. The first six have an espeak-ng voice here; the others follow by code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from slamlab.errors import OptionError

_TASHKEEL = "U+0640 U+064B-U+065F U+0670"
"""Of the Arabic script: tatweel, which stretches a word, and the signs for short vowels, doubling and their absence."""

_NIQQUD = "U+0591-U+05BD U+05BF U+05C1-U+05C2 U+05C4-U+05C5 U+05C7"
"""Of Hebrew: points and accents, without the punctuation among them (maqaf, paseq, sof pasuq)."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language SLAMLab knows by name.

    Attributes:
        code: As Whisper has it: ISO 639-1 where there is one, but `jw` for Javanese.
        name: In English.
        espeak_voice: Of espeak-ng; empty where nothing is synthesised.
        unit: What an error rate counts. Characters where words are not written apart.
        bleu_tokenizer: Of sacreBLEU, for texts in this language: its own default for Chinese, Japanese, Korean and
            `13a`; the sentence pieces of FLORES-200 where there are neither spaces nor a segmenter.
        optional_marks: Combining marks and fillers that may be left out in writing, as ranges of code points.
        num2words: Its code in `num2words`, by which numbers can be spelled out. Empty where that lacks it, for English,
            whose normaliser writes numbers as digits, and for Amharic, where `num2words` 0.5.14 fails above 999.
        decimal_mark: Between whole number and decimals (CLDR), told where `num2words` is.
    """

    code: str
    name: str
    espeak_voice: str = ""
    unit: Literal["word", "character"] = "word"
    bleu_tokenizer: str = "13a"
    optional_marks: str = ""
    num2words: str = ""
    decimal_mark: Literal[".", ","] = "."


LANGUAGES = {
    language.code: language
    for language in (
        Language(code="en", name="English", espeak_voice="en-us"),
        Language(code="de", name="German", espeak_voice="de", num2words="de", decimal_mark=","),
        Language(code="fr", name="French", espeak_voice="fr", num2words="fr", decimal_mark=","),
        Language(code="es", name="Spanish", espeak_voice="es", num2words="es", decimal_mark=","),
        Language(code="it", name="Italian", espeak_voice="it", num2words="it", decimal_mark=","),
        Language(code="ru", name="Russian", espeak_voice="ru", num2words="ru", decimal_mark=","),
        Language(code="af", name="Afrikaans"),
        Language(code="am", name="Amharic"),
        Language(code="ar", name="Arabic", optional_marks=_TASHKEEL, num2words="ar"),
        Language(code="as", name="Assamese"),
        Language(code="az", name="Azerbaijani", num2words="az", decimal_mark=","),
        Language(code="ba", name="Bashkir"),
        Language(code="be", name="Belarusian", num2words="be", decimal_mark=","),
        Language(code="bg", name="Bulgarian"),
        Language(code="bn", name="Bengali", num2words="bn"),
        Language(code="bo", name="Tibetan"),
        Language(code="br", name="Breton"),
        Language(code="bs", name="Bosnian"),
        Language(code="ca", name="Catalan", num2words="ca", decimal_mark=","),
        Language(code="cs", name="Czech", num2words="cs", decimal_mark=","),
        Language(code="cy", name="Welsh", num2words="cy"),
        Language(code="da", name="Danish", num2words="da", decimal_mark=","),
        Language(code="el", name="Greek"),
        Language(code="et", name="Estonian"),
        Language(code="eu", name="Basque"),
        Language(code="fa", name="Persian", optional_marks=_TASHKEEL, num2words="fa"),
        Language(code="fi", name="Finnish", num2words="fi", decimal_mark=","),
        Language(code="fo", name="Faroese"),
        Language(code="gl", name="Galician"),
        Language(code="gu", name="Gujarati"),
        Language(code="ha", name="Hausa"),
        Language(code="haw", name="Hawaiian"),
        Language(code="he", name="Hebrew", optional_marks=_NIQQUD, num2words="he"),
        Language(code="hi", name="Hindi"),
        Language(code="hr", name="Croatian"),
        Language(code="ht", name="Haitian Creole"),
        Language(code="hu", name="Hungarian", num2words="hu", decimal_mark=","),
        Language(code="hy", name="Armenian"),
        Language(code="id", name="Indonesian", num2words="id", decimal_mark=","),
        Language(code="is", name="Icelandic", num2words="is", decimal_mark=","),
        Language(code="ja", name="Japanese", unit="character", bleu_tokenizer="ja-mecab", num2words="ja"),
        Language(code="jw", name="Javanese"),
        Language(code="ka", name="Georgian"),
        Language(code="kk", name="Kazakh", num2words="kz", decimal_mark=","),
        Language(code="km", name="Khmer", unit="character", bleu_tokenizer="flores200"),
        Language(code="kn", name="Kannada", num2words="kn"),
        Language(code="ko", name="Korean", bleu_tokenizer="ko-mecab", num2words="ko"),
        Language(code="la", name="Latin"),
        Language(code="lb", name="Luxembourgish"),
        Language(code="ln", name="Lingala"),
        Language(code="lo", name="Lao", unit="character", bleu_tokenizer="flores200"),
        Language(code="lt", name="Lithuanian", num2words="lt", decimal_mark=","),
        Language(code="lv", name="Latvian", num2words="lv", decimal_mark=","),
        Language(code="mg", name="Malagasy"),
        Language(code="mi", name="Maori"),
        Language(code="mk", name="Macedonian"),
        Language(code="ml", name="Malayalam"),
        Language(code="mn", name="Mongolian"),
        Language(code="mr", name="Marathi"),
        Language(code="ms", name="Malay"),
        Language(code="mt", name="Maltese"),
        Language(code="my", name="Myanmar", unit="character", bleu_tokenizer="flores200"),
        Language(code="ne", name="Nepali"),
        Language(code="nl", name="Dutch", num2words="nl", decimal_mark=","),
        Language(code="nn", name="Nynorsk"),
        Language(code="no", name="Norwegian", num2words="no", decimal_mark=","),
        Language(code="oc", name="Occitan"),
        Language(code="pa", name="Punjabi"),
        Language(code="pl", name="Polish", num2words="pl", decimal_mark=","),
        Language(code="ps", name="Pashto", optional_marks=_TASHKEEL),
        Language(code="pt", name="Portuguese", num2words="pt", decimal_mark=","),
        Language(code="ro", name="Romanian", num2words="ro", decimal_mark=","),
        Language(code="sa", name="Sanskrit"),
        Language(code="sd", name="Sindhi", optional_marks=_TASHKEEL),
        Language(code="si", name="Sinhala"),
        Language(code="sk", name="Slovak", num2words="sk", decimal_mark=","),
        Language(code="sl", name="Slovenian", num2words="sl", decimal_mark=","),
        Language(code="sn", name="Shona"),
        Language(code="so", name="Somali"),
        Language(code="sq", name="Albanian"),
        Language(code="sr", name="Serbian", num2words="sr", decimal_mark=","),
        Language(code="su", name="Sundanese"),
        Language(code="sv", name="Swedish", num2words="sv", decimal_mark=","),
        Language(code="sw", name="Swahili"),
        Language(code="ta", name="Tamil"),
        Language(code="te", name="Telugu", num2words="te"),
        Language(code="tg", name="Tajik", num2words="tg", decimal_mark=","),
        Language(code="th", name="Thai", unit="character", bleu_tokenizer="flores200", num2words="th"),
        Language(code="tk", name="Turkmen"),
        Language(code="tl", name="Tagalog"),
        Language(code="tr", name="Turkish", num2words="tr", decimal_mark=","),
        Language(code="tt", name="Tatar"),
        Language(code="uk", name="Ukrainian", num2words="uk", decimal_mark=","),
        Language(code="ur", name="Urdu", optional_marks=_TASHKEEL),
        Language(code="uz", name="Uzbek"),
        Language(code="vi", name="Vietnamese", num2words="vi", decimal_mark=","),
        Language(code="yi", name="Yiddish"),
        Language(code="yo", name="Yoruba"),
        Language(code="yue", name="Cantonese", unit="character", bleu_tokenizer="zh"),
        Language(code="zh", name="Chinese", unit="character", bleu_tokenizer="zh"),
    )
}

_ALSO_CALLED = {
    **{"cmn": "zh", "fil": "tl", "iw": "he", "jv": "jw", "nb": "no"},
    **{"burmese": "my", "filipino": "tl", "flemish": "nl", "mandarin": "zh"},
}
"""Codes and names under which data sets have languages that are above by another."""


def find_language(code: str) -> Language:
    """Return a language by its code.

    Raises:
        OptionError: There is none of this code; what was probably meant is named where a tag (`de-DE`), a name
            (`german`) or a misspelled name gives it away.
    """
    if code in LANGUAGES:
        return LANGUAGES[code]
    meant = _probably_meant(code)
    raise OptionError(
        "a language is named by its code in slamlab/zoo/languages.py, such as en or yue",
        code or "nothing",
        f"write {meant.code} for {meant.name}" if meant else "look it up there, or add a row",
    )


def _probably_meant(text: str) -> Language | None:
    text = text.strip().lower()
    tag = re.split("[-_]", text)[0]
    if known := LANGUAGES.get(_ALSO_CALLED.get(tag, tag)):
        return known
    by_name = {language.name.lower(): language for language in LANGUAGES.values()}
    begun = [name for name in by_name if len(text) > 2 and name.startswith(text)]
    close = begun if len(begun) == 1 else get_close_matches(text, by_name, n=1)
    return by_name[close[0]] if close else None
