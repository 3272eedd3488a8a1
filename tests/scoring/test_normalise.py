import subprocess
import sys

import pytest
import transformers

from slamlab.errors import OptionError
from slamlab.scoring.normalise import normaliser


def test_english_follows_whisper():
    english = normaliser("en", "asr")
    assert english("Mr. Smith can't pay  $20 million, um, for twenty-one colours!") == (
        "mister smith can not pay $20000000 for 21 colours"
    )


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


def test_signature_names_rule_and_version():
    signature = normaliser("en", "asr").signature
    assert "whisper-english(spelling=none)" in signature
    assert transformers.__version__ in signature
    assert len({signature, normaliser("de", "asr").signature, normaliser("en", "st").signature}) == 3


def test_unknown_task_is_refused():
    with pytest.raises(OptionError, match="asr or st, got tts"):
        normaliser("en", "tts")


def test_scoring_and_search_import_neither_torch_nor_ray():
    code = (
        "import sys, slamlab.scoring.score, slamlab.scoring.verdict, slamlab.search.strategies, slamlab.search.joint;"
        "print([name for name in ('torch', 'ray', 'deepspeed') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
