import subprocess
import sys
import unicodedata

import num2words
import pytest
from babel import Locale
from babel.numbers import get_decimal_symbol
from sacrebleu.metrics import BLEU
from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER

from slamlab.data.grammar import LANGUAGE_CODES
from slamlab.errors import OptionError
from slamlab.zoo.languages import LANGUAGES, find_language

COUNTED = [language for language in LANGUAGES.values() if language.num2words]


def _refusal(code):
    with pytest.raises(OptionError) as caught:
        find_language(code)
    return caught.value


def test_the_languages_are_whispers():
    assert {code: language.name.lower() for code, language in LANGUAGES.items()} == WHISPER
    for code, language in LANGUAGES.items():
        assert find_language(code) is language
        assert language.code == code
        assert language.name == language.name.title()
    assert len({language.name for language in LANGUAGES.values()}) == len(LANGUAGES) == 100


def test_the_synthesised_ones_come_first_and_speak():
    voices = {"en": "en-us", "de": "de", "fr": "fr", "es": "es", "it": "it", "ru": "ru"}
    assert list(LANGUAGES)[:6] == list(voices)
    assert {code: row.espeak_voice for code, row in LANGUAGES.items() if row.espeak_voice} == voices
    assert set(LANGUAGE_CODES) <= voices.keys()


def test_characters_are_counted_where_words_are_not_written_apart():
    unspaced = {"zh", "yue", "ja", "th", "lo", "my", "km"}
    assert {code for code, language in LANGUAGES.items() if language.unit == "character"} == unspaced
    # To split what has no spaces, 13a is no use; Korean has spaces, and a segmenter of its own all the same.
    assert {code for code, language in LANGUAGES.items() if language.bleu_tokenizer != "13a"} == {*unspaced, "ko"}


def test_bleu_tokenisers_are_sacrebleus_defaults_or_flores():
    for language in LANGUAGES.values():
        assert language.bleu_tokenizer in BLEU.TOKENIZERS, language
        if language.bleu_tokenizer != "flores200" and language.code != "yue":  # sacreBLEU does not know `yue`
            default = BLEU._TOKENIZER_MAP.get(language.code, BLEU.TOKENIZER_DEFAULT)
            assert language.bleu_tokenizer == default, language


@pytest.mark.parametrize("language", COUNTED, ids=lambda language: language.code)
def test_num2words_knows_its_codes(language):
    numbers = [0, 7, 21, 100, 999, 1000, 1999, 20_024, 999_999, 123_456_789]
    words = [num2words.num2words(number, lang=language.num2words) for number in numbers]
    assert len(set(words)) == len(numbers)
    assert all(word and not any(character.isdigit() for character in word) for word in words)


def test_no_language_that_num2words_knows_is_forgotten():
    known = {code for code in WHISPER if code in num2words.CONVERTER_CLASSES}
    assert {language.code for language in COUNTED} == known - {"en", "am"} | {"kk"}
    with pytest.raises(TypeError):  # should this pass one day, Amharic can have its code
        num2words.num2words(1999, lang="am")


@pytest.mark.parametrize("language", COUNTED, ids=lambda language: language.code)
def test_decimal_marks_are_cldrs(language):
    mark = get_decimal_symbol(Locale(language.code), numbering_system="latn")
    assert language.decimal_mark == mark


def test_optional_marks_are_ranges_of_marks():
    for language in LANGUAGES.values():
        for span in language.optional_marks.split():
            first, *last = (int(point.removeprefix("U+"), 16) for point in span.split("-"))
            for code_point in range(first, (last or [first])[0] + 1):
                assert unicodedata.category(chr(code_point)) == ("Lm" if code_point == 0x640 else "Mn"), span
    assert {code for code, row in LANGUAGES.items() if row.optional_marks} == {"ar", "fa", "ps", "sd", "ur", "he"}


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("german", "de for German"),
        ("German", "de for German"),
        ("germn", "de for German"),
        ("de-DE", "de for German"),
        ("DE", "de for German"),
        ("pt_br", "pt for Portuguese"),
        ("nb_no", "no for Norwegian"),
        ("cmn_hans_cn", "zh for Chinese"),
        ("haitian", "ht for Haitian Creole"),
        ("Burmese", "my for Myanmar"),
    ],
)
def test_what_was_meant_is_suggested(code, meant):
    error = _refusal(code)
    assert error.received == code
    assert error.remedy == f"write {meant}"


@pytest.mark.parametrize("code", ["xx", "tlh", "12", "", " "])
def test_an_unknown_language_is_refused_in_one_short_sentence(code):
    error = _refusal(code)
    assert error.remedy == "look it up there, or add a row"
    assert str(error).startswith("a language is named by its code in slamlab/zoo/languages.py, such as en or yue, got ")
    assert len(str(error)) < 150


def test_the_table_loads_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import slamlab.zoo.languages;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['slamlab']"
