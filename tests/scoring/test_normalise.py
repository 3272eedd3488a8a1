import subprocess
import sys
from importlib.metadata import version

import pytest
import transformers

from slamlab.errors import OptionError
from slamlab.scoring.normalise import english_spellings, normaliser
from slamlab.zoo.languages import LANGUAGES


def test_english_follows_whisper():
    english = normaliser("en", "asr")
    assert english("Mr. Smith can't pay  $20 million, um, for twenty-one colours!") == (
        "mister smith can not pay $20000000 for 21 colors"
    )


def test_the_spelling_table_is_whispers_and_reaches_its_end():
    spellings = english_spellings()
    assert len(spellings) == 1739
    assert spellings["accessorise"] == "accessorize"
    assert spellings["yoghurts"] == "yogurts"
    assert english_spellings() is spellings
    english = normaliser("en", "asr")
    assert english("grey jewellery") == english("gray jewelry") == "gray jewelry"


def test_other_languages_keep_diacritics_and_words():
    german = normaliser("de", "asr")
    assert german(" Größe: zwanzig Öfen – „kaum“! ") == "größe zwanzig öfen kaum"


def test_translation_keeps_casing_and_punctuation():
    assert normaliser("de", "st")(" Hello,\tWorld!\n") == "Hello, World!"


@pytest.mark.parametrize("language", ["en", "de"])
def test_what_is_no_speech_ends_up_empty(language):
    assert normaliser(language, "asr")("[laughter] (noise) – ?!") == ""


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "It's 5,000.50 -- don't worry, Dr. No"),
        ("fr", "L'été, c'est à 5,5 % !"),
        ("es", "¿Qué?\u2028Sí\xa0…"),
    ],
)
def test_output_is_single_spaced_and_stripped(language, text):
    normalised = normaliser(language, "asr")(text)
    assert normalised == " ".join(normalised.split()) != ""


def test_letters_are_put_apart_where_words_are_not():
    chinese = normaliser("zh", "asr")
    assert chinese("我有20本书。") == "我 有 2 0 本 书"
    assert normaliser("ko", "asr")("나는 학생") == "나는 학생"


def test_signatures_name_everything():
    source = f"transformers:{transformers.__version__}"
    assert normaliser("en", "asr").signature == (
        "norm:whisper-english|spelling=whisper|diacritics=removed|letters=joined|marks=removed|dropped=none|"
        f"numbers=digits|{source}"
    )
    assert normaliser("de", "asr").signature == (
        "norm:whisper-basic|spelling=none|diacritics=kept|letters=joined|marks=spaced|dropped=none|"
        f"numbers=kept|{source}"
    )
    assert normaliser("ja", "asr", spell_numbers=True).signature == (
        "norm:whisper-basic|spelling=none|diacritics=kept|letters=split|marks=spaced|dropped=none|"
        f"numbers=spelled(ja)|num2words:{version('num2words')}|{source}"
    )
    assert "|dropped=U+0640,U+064B-U+065F,U+0670|" in normaliser("ar", "asr").signature
    assert normaliser("en", "st").signature == "norm:whitespace|language=en"


def test_what_normalises_differently_is_signed_differently():
    asked = [("en", "asr"), ("de", "asr"), ("zh", "asr"), ("ar", "asr"), ("he", "asr"), ("en", "st"), ("de", "st")]
    signatures = [normaliser(*question).signature for question in asked]
    signatures += [normaliser(code, "asr", spell_numbers=True).signature for code in ("de", "fr", "ja", "ar", "kk")]
    assert len(set(signatures)) == len(asked) + 5
    assert normaliser("de", "asr").signature == normaliser("fr", "asr").signature
    assert not [signature for signature in signatures if any(character.isspace() for character in signature)]


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_has_a_normaliser(code):
    assert normaliser(code, "asr")("(…) OK?!").replace(" ", "") == "ok"
    assert normaliser(code, "st")(" OK?! ") == "OK?!"


@pytest.mark.parametrize(
    ("language", "written", "spoken"),
    [
        ("de", "7 Männer", "sieben Männer"),
        ("de", "1.234.567,5 €", "eine Million zweihundertvierunddreißigtausendfünfhundertsiebenundsechzig Komma fünf"),
        ("de", "10\u00a0000 und 10'000", "zehntausend und zehntausend"),
        ("de", "10 000", "zehn null null null"),
        ("de", "2.5", "zwei fünf"),
        ("de", "1234.567", "eintausendzweihundertvierunddreißig fünfhundertsiebenundsechzig"),
        ("de", "1.2.2003", "eins zwei zweitausenddrei"),
        ("de", "1,2,3 oder 1,2, 3", "eins zwei drei oder eins Komma zwei drei"),
        ("de", "0171 12", "null eins sieben eins zwölf"),
        ("de", "1234567890", "eins zwei drei vier fünf sechs sieben acht neun null"),
        ("de", "0,1234567890123", "null eins zwei drei vier fünf sechs sieben acht neun null eins zwei drei"),
        ("de", "covid19er (20)", "covid neunzehn er"),
        ("fr", "1\u202f000,05", "mille virgule zéro cinq"),
        ("it", "3,14", "tre virgola uno quattro"),
        ("cy", "3.14", "tri pwynt un pedwar"),
        ("he", "1,234.5", "אלף מאתיים שלושים וארבע נקודה חמש"),
        ("hu", "3,14", "három egy négy"),
        ("vi", "0,05", "không không năm"),
        ("kk", "12,5", "он екі бүтін бес"),
        ("ar", "٣ كتب", "ثلاثة كتب"),
        ("ar", "١٬٩٩٩", "ألف و تسعمائة و تسعة و تسعون"),
        ("fa", "۱۲", "دوازده"),
        ("ja", "1,000円", "千円"),
        ("th", "๑๒ คน", "สิบสอง คน"),
    ],
)
def test_numbers_are_spelled_out_where_asked_for(language, written, spoken):
    spelled = normaliser(language, "asr", spell_numbers=True)
    assert spelled(written) == spelled(spoken) == normaliser(language, "asr")(spoken)
    assert spelled(written) != normaliser(language, "asr")(written)


@pytest.mark.parametrize("language", [row for row in LANGUAGES.values() if row.num2words], ids=lambda row: row.code)
def test_different_numbers_are_spelled_differently_and_without_digits(language):
    spelled = normaliser(language.code, "asr", spell_numbers=True)
    wholes = [*range(100), 100, 101, 110, 999, 1000, 1999, 2024, 10_000, 123_456, 999_999_999, 12_345_678_901]
    decimals = ["0.5", "0.05", "2.005", "3.14", "3.1416", "3.141593", "21.1", "99999.123456"]
    texts = [str(number) for number in wholes] + [text.replace(".", language.decimal_mark) for text in decimals]
    spoken = [spelled(text) for text in texts]
    # Where the rule loses marks, numbers that differ in them alone become one: a weakness of it that is known.
    assert (len(set(spoken)) == len(texts)) == (language.code not in ("bn", "kn"))
    assert all(text and not any(character.isdigit() for character in text) for text in spoken)


@pytest.mark.parametrize(
    ("language", "task"), [("en", "asr"), ("am", "asr"), ("hi", "asr"), ("de", "st"), ("en", "st")]
)
def test_numbers_that_cannot_be_spelled_out_are_refused(language, task):
    with pytest.raises(OptionError, match="numbers are spelled out for asr, in languages that num2words can count in"):
        normaliser(language, task, spell_numbers=True)


@pytest.mark.parametrize("task", ["asr", "st"])
def test_unknown_language_is_refused(task):
    with pytest.raises(OptionError, match="got german: write de for German"):
        normaliser("german", task)


def test_unknown_task_is_refused():
    with pytest.raises(OptionError, match="asr or st, got tts"):
        normaliser("en", "tts")


def test_scoring_and_search_import_neither_torch_nor_ray():
    code = (
        "import sys, slamlab.scoring.files, slamlab.scoring.verdict, slamlab.search.strategies, slamlab.search.joint;"
        "print([name for name in ('torch', 'ray', 'deepspeed') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
