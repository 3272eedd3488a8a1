from __future__ import annotations

import pytest

from slamlab.data.grammar import LANGUAGE_CODES, _clock, _countries, _date, sentences, spoken_key
from slamlab.errors import DataError, OptionError


def test_fifty_thousand_sentences_differ_in_every_language() -> None:
    drawn = sentences(50_000, seed=1)
    for code in LANGUAGE_CODES:
        keys = [spoken_key(sentence[code]) for sentence in drawn]
        assert len(set(keys)) == 50_000
        assert 200 < len({word for key in keys for word in key.split()}) < 450
        assert all(5 <= len(sentence[code].split()) <= 14 for sentence in drawn)


def test_texts_are_spelled_out_and_punctuated() -> None:
    for sentence in sentences(3000, seed=2):
        assert set(sentence) == set(LANGUAGE_CODES)
        for text in sentence.values():
            assert not any(letter.isdigit() for letter in text)
            assert text.lstrip("¿")[0].isupper()
            assert text[-1] in ".?"
            assert "{" not in text
            assert "  " not in text
        assert " y i" not in sentence["es"]


def test_draw_depends_on_the_seed_only_and_grows_at_its_end() -> None:
    assert sentences(200, seed=3)[:50] == sentences(50, seed=3)
    assert sentences(50, seed=3) != sentences(50, seed=4)
    assert sentences(0, seed=3) == []
    with pytest.raises(OptionError, match="got -1"):
        sentences(-1, seed=0)


def test_grammar_says_when_it_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    template = (1, ("{vehicle} stops.", "{vehicle} hält.", "{vehicle} s'arrête.", "{vehicle} para."))
    monkeypatch.setattr("slamlab.data.grammar._TEMPLATES", (template,))
    assert len(sentences(2, seed=0)) == 2
    with pytest.raises(DataError, match="got 3"):
        sentences(3, seed=0)


@pytest.mark.parametrize(
    ("hour", "minute", "spoken"),
    [
        (1, 0, ("one o'clock", "ein Uhr", "une heure", "la una")),
        (7, 15, ("a quarter past seven", "Viertel nach sieben", "sept heures et quart", "las siete y cuarto")),
        (7, 30, ("half past seven", "halb acht", "sept heures et demie", "las siete y media")),
        (8, -15, ("a quarter to eight", "Viertel vor acht", "huit heures moins le quart", "las ocho menos cuarto")),
        (1, -10, ("ten to one", "zehn vor eins", "une heure moins dix", "la una menos diez")),
        (9, 20, ("twenty past nine", "zwanzig nach neun", "neuf heures vingt", "las nueve y veinte")),
    ],
)
def test_clock(hour: int, minute: int, spoken: tuple[str, ...]) -> None:
    assert tuple(_clock(hour, minute).values()) == spoken


def test_dates_and_countries() -> None:
    may = {"en": "May", "de": "Mai", "fr": "mai", "es": "mayo"}
    assert tuple(_date(1, may).values()) == ("the first of May", "ersten Mai", "premier mai", "uno de mayo")
    assert tuple(_date(21, may).values())[1:3] == ("einundzwanzigsten Mai", "vingt et un mai")
    forms = {country["en"]["in"]: country for country in _countries()}  # type: ignore[index]
    assert forms["in Japan"]["fr"] == {"in": "au Japon", "to": "au Japon"}
    assert forms["in Switzerland"]["de"] == {"in": "in der Schweiz", "to": "in die Schweiz"}
    assert forms["in the Netherlands"]["es"] == {"in": "en los Países Bajos", "to": "a los Países Bajos"}
    assert forms["in Germany"]["de"] == {"in": "in Deutschland", "to": "nach Deutschland"}
