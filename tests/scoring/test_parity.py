"""Ours against Whisper's rules as `transformers` has them, called directly, and against `jiwer` on what they return."""

import json
import random
import unicodedata
from pathlib import Path

import jiwer
import pytest
import regex
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

import slamlab.zoo
from slamlab.scoring.normalise import normaliser
from slamlab.scoring.wer import count_edits, word_error_rate

PAIRS_A_LANGUAGE = 40
SPELLINGS = json.loads((Path(slamlab.zoo.__file__).parent / "english_spelling.json").read_text())

# Words and phrases in which the rules could go apart. Those of `ar` and `he` carry no optional mark: see below.
PHRASES = {
    "en": [
        *[
            "won't",
            "can't stop",
            "I'ma go",
            "y'all",
            "ma'am",
            "she'd been",
            "it's gone",
            "they've",
            "let's",
            "rock 'n' roll",
        ],
        *["Mr. Jones", "Mrs. O'Neil", "Dr. No", "St. John", "Prof. X", "Lt. Col. Hart", "Jr.", "Gov. Moon"],
        *["$20 million", "£5.50", "two dollars and seven cents", "€1,234.56", "ten per cent", "5 percent", "¢7"],
        *["twenty-one", "one oh one", "nineteen sixty four", "three and a half", "double seven", "minus five", "21st"],
        *["one hundred and five thousand", "two point five", "the nineties", "1990s", "one", "ones", "second", "3.14"],
        *["hmm", "uh", "um,", "mm", "mhm", "[laughter]", "(coughs)", "<noise>", "[open", "naïve café", "Ærø", "Straße"],
        *["colour", "grey", "centres", "organised", "travelling", "programme", "Mum's jewellery", "honours", "tyres"],
    ],
    "de": [
        "Größe",
        "STRASSE",
        "Straße",
        "„kaum“",
        "zwanzig Öfen",
        "20 Öfen",
        "3,5 %",
        "(lacht)",
        "A\u0308pfel",
        "z. B.",
    ],
    "fr": ["L'été", "aujourd’hui", "c'est à 5,5 %", "« oui »", "cœur", "ÉCOLE", "e\u0301cole", "[rires]", "1\u202f000"],
    "es": ["¿Qué?", "¡Sí…!", "niño", "EL AÑO", "pingüino", "10.000", "(risas)", "n\u0303u"],
    "ru": ["Ёлка", "ещё", "её", "ЙОД", "и\u0306од", "«да»", "20 лет", "[смех]", "что-то"],
    "tr": ["İstanbul", "ISPARTA", "ığdır", "şöyle", "5'te"],
    "vi": ["Tiếng Việt", "Tie\u0302\u0301ng", "ĐƯỜNG", "100.000 đồng"],
    "el": ["ΟΔΟΣ", "Άνθρωπος", "τι;", "Ελλάδα·"],
    "ko": ["한국어", "\u1112\u1161\u11ab국", "나는 20살", "‘네’", "(웃음)"],
    "hi": ["हिन्दी", "नमस्ते।", "क़लम", "१२३", "में"],
    "ml": ["മലയാളം", "കേരളം!", "ന്‍റെ"],
    "ar": ["السلام عليكم", "مرحبا،", "أهلا", "ا\u0654هلا", "٣ كتب", "لماذا؟", "(ضحك)", "لا"],
    "fa": ["می\u200cخواهم", "سلام،", "۱۲ کتاب", "خانه"],
    "he": ["שלום", "בית־ספר", "צה״ל", "5 ילדים", "[צחוק]"],
    "zh": ["你好", "，", "我有20本书。", "「是」", "（笑）", "OK了", "ＡＢＣ", "㊗"],
    "yue": ["係咁", "唔該！", "嘅 嘢", "3個"],
    "ja": ["こんにちは", "カ\u3099ラス", "ﾃﾞｽ", "。", "20円", "（笑）", "東京タワー", "㈱"],
    "th": ["สวัสดี", "น้ำ", "๑๒ คน", "ครับ", "ที่นี่"],
    "lo": ["ສະບາຍດີ", "ນ້ຳ", "ຂອບໃຈ"],
    "my": ["မြန်မာ", "ကျေးဇူး", "၁၂"],
    "km": ["ខ្មែរ", "អរគុណ", "សួស្តី"],
}
SPACES = [" ", "  ", "\u00a0", "\u2003", "\u3000", "\t", "\n", " – ", ", ", "... ", "/", "; "]
SPLIT = ["zh", "yue", "ja", "th", "lo", "my", "km"]


def _rule(language):
    if language == "en":
        return EnglishTextNormalizer(SPELLINGS)
    return BasicTextNormalizer(remove_diacritics=False, split_letters=language in SPLIT)


def _joined(rng, phrases):
    text = "".join(phrase + rng.choice(SPACES) for phrase in phrases)
    return rng.choice([text, text.upper(), text.title(), f"  {text}!"])


def _pairs(language):
    """Draw references and answers to them: some perfect but for their looks, some wrong, some empty."""
    rng = random.Random(f"parity/{language}")
    pairs = []
    for _ in range(PAIRS_A_LANGUAGE):
        said = rng.choices(PHRASES[language], k=rng.randint(1, 6))
        heard = [word for word in said if rng.random() > 0.15]
        heard = [rng.choice(PHRASES[language]) if rng.random() < 0.2 else word for word in heard]
        pairs.append((_joined(rng, said), "" if rng.random() < 0.05 else _joined(rng, heard)))
    return pairs


def _scorable(language, rule):
    """Return a language's pairs whose reference says something, by a rule; all, but for a few."""
    pairs = [pair for pair in _pairs(language) if rule(pair[0]).strip()]
    assert len(pairs) > PAIRS_A_LANGUAGE / 2
    return pairs


def test_there_are_enough_pairs_and_they_vary():
    drawn = {(language, *pair) for language in PHRASES for pair in _pairs(language)}
    assert len(drawn) >= 500
    assert sum(not hypothesis for _, _, hypothesis in drawn) >= 10
    # Of the English texts few are left alone by the rule, so that agreement on them says something.
    assert sum(EnglishTextNormalizer({})(text) != _rule("en")(text) for pair in _pairs("en") for text in pair) >= 10


@pytest.mark.parametrize("language", PHRASES)
def test_texts_are_normalised_as_whisper_does(language):
    ours, theirs = normaliser(language, "asr"), _rule(language)
    for text in (text for pair in _pairs(language) for text in pair):
        assert ours(text) == theirs(text).strip(), text


@pytest.mark.parametrize("language", PHRASES)
def test_error_rates_are_those_of_jiwer_on_whispers_texts(language):
    ours, theirs = normaliser(language, "asr"), _rule(language)
    pairs = _scorable(language, theirs)
    references, hypotheses = ([ours(text) for text in side] for side in zip(*pairs, strict=True))
    whispers = [[theirs(text) for text in side] for side in zip(*pairs, strict=True)]
    rate = word_error_rate(references, hypotheses)
    assert rate.value == pytest.approx(jiwer.wer(*whispers), abs=1e-12)
    assert 0 < rate.value < 1
    singly = [
        count.num_edits / (count.hits + count.substitutions + count.deletions)
        for count in count_edits(references, hypotheses)
    ]
    assert singly == pytest.approx([jiwer.wer(*pair) for pair in zip(*whispers, strict=True)], abs=1e-12)
    assert rate.edits.sum() == sum(count.num_edits for count in count_edits(references, hypotheses))


@pytest.mark.parametrize("language", SPLIT)
def test_letters_put_apart_give_the_character_error_rate(language):
    ours, whole = normaliser(language, "asr"), BasicTextNormalizer(remove_diacritics=False)
    references, hypotheses, whispers = [], [], []
    for pair in _scorable(language, whole):
        # jiwer counts code points: the same as letters where each letter is one, and spaces are left out.
        unsplit = ["".join(whole(text).split()) for text in pair]
        if all(len(letter) == 1 for text in unsplit for letter in regex.findall(r"\X", text)):
            references.append(ours(pair[0]))
            hypotheses.append(ours(pair[1]))
            whispers.append(unsplit)
    assert len(references) > PAIRS_A_LANGUAGE / 2
    rate = word_error_rate(references, hypotheses)
    assert rate.value == pytest.approx(jiwer.cer(*map(list, zip(*whispers, strict=True))), abs=1e-12)
    singly = [jiwer.cer(*pair) * len(pair[0]) for pair in whispers]
    assert rate.edits.tolist() == pytest.approx(singly, abs=1e-9)


@pytest.mark.parametrize(
    ("language", "marks"),
    [
        ("ar", "\u0640\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670"),
        ("fa", "\u0640\u064b\u064e\u064f\u0650\u0651\u0652\u0670"),
        ("ur", "\u0640\u064b\u064e\u064f\u0650\u0651\u0652\u0670"),
        ("ps", "\u064e\u064f\u0650\u0652"),
        ("sd", "\u064e\u064f\u0650\u0651"),
        ("he", "\u05b0\u05b4\u05b7\u05b8\u05bc\u05c1\u05c2\u0591"),
    ],
)
def test_optional_marks_change_nothing_but_would_tear_words(language, marks):
    rng = random.Random(language)
    ours, theirs = normaliser(language, "asr"), BasicTextNormalizer(remove_diacritics=False)
    torn = 0
    for plain, _ in _pairs("he" if language == "he" else "ar"):
        plain = unicodedata.normalize("NFC", plain)  # no mark is to come between a letter and its hamza
        marked = "".join(c + rng.choice(marks) if c.isalpha() and rng.random() < 0.5 else c for c in plain)
        assert ours(marked) == ours(plain) == theirs(plain).strip(), marked
        torn += len(theirs(marked).split()) > len(theirs(plain).split())
    assert torn > PAIRS_A_LANGUAGE / 2


def test_vocalised_arabic_is_unvocalised_arabic():
    arabic = normaliser("ar", "asr")
    assert (
        arabic("اَلسَّلامُ عَلَيْكُمْ، أَهْلًا وَسَهْلًا مـــرحبا")
        == arabic("السلام عليكم أهلا وسهلا مرحبا")
        == ("السلام عليكم أهلا وسهلا مرحبا")
    )
    # A hamza or madda that belongs to its letter is no optional mark, however it is typed.
    assert arabic("ا\u0654 ا\u0653 و\u0654 ي\u0654") == arabic("أ آ ؤ ئ") == "أ آ ؤ ئ" != arabic("ا ا و ي")


def test_pointed_hebrew_is_unpointed_hebrew():
    hebrew = normaliser("he", "asr")
    assert hebrew("שָׁלוֹם, בֵּית־סֵפֶר") == hebrew("שלום בית־ספר") == "שלום בית ספר"
    assert hebrew("\ufb2aלום") == "שלום"  # shin and its dot in one code point


def test_yiddish_points_tell_letters_apart_and_stay_whispers():
    assert normaliser("yi", "asr")("ייִדיש") == BasicTextNormalizer()("ייִדיש").strip()
