import pytest

from slamlab.data.pocket import PocketCorpus
from slamlab.data.synthesis import SplitSizes
from slamlab.errors import OptionError
from slamlab.sweep.bases import base_name
from slamlab.sweep.cells import TASKS, Cell, joint_cell, make_cells
from slamlab.zoo.decoders import DECODERS
from slamlab.zoo.encoders import ENCODERS
from slamlab.zoo.profiles import PROFILES

POCKET, PAPER = PROFILES["pocket"], PROFILES["paper"]


class English:
    """A corpus of somebody's English recordings, without translations."""

    name, languages = "recordings", ("en",)

    def has(self, task, language):
        return (task, language) == ("asr", "en")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return PocketCorpus(tmp_path_factory.mktemp("pocket"), sizes=SplitSizes(train=4, selection=2, test=2))


def _questions(cells):
    return [(cell.task, cell.language) for cell in cells]


def _refusal(profile, corpus, **options):
    with pytest.raises(OptionError) as caught:
        make_cells(profile, corpus, **({"families": ["qwen"]} | options))
    return caught.value


def test_without_options_a_family_gets_the_cells_of_the_profile(corpus):
    cells = make_cells(POCKET, corpus, families=["qwen"])
    assert cells == [
        Cell(family="qwen", scale="mini", encoder="whisper-base", task=task, language=language)
        for task, language in (("asr", "en"), ("asr", "de"), ("st", "de"))
    ]
    (paper,) = make_cells(PAPER, corpus, families=["llama"])
    assert paper == Cell(family="llama", scale="8b", encoder="wavlm-large", task="asr", language="en")


def test_without_a_family_there_are_all(corpus):
    assert {cell.family for cell in make_cells(POCKET, corpus, families=[])} == {"qwen", "llama"}


def test_all_is_whatever_exists(corpus):
    options = {name: ["all"] for name in ("families", "scales", "encoders", "tasks", "languages")}
    cells = make_cells(POCKET, corpus, **options)
    assert {(cell.family, cell.scale) for cell in cells} == set(DECODERS)
    assert {cell.encoder for cell in cells} == set(ENCODERS)
    # Four languages to recognise, three to translate: English into English is no question.
    assert len(cells) == len(DECODERS) * len(ENCODERS) * (4 + 3)
    assert ("st", "en") not in _questions(cells)
    assert len(set(cells)) == len(cells)


def test_all_families_are_the_profiles_unless_scales_are_named(corpus):
    assert [cell.family for cell in make_cells(PAPER, corpus, families=["all"])] == ["qwen", "llama"]
    every = make_cells(PAPER, corpus, families=["all"], scales=["3b", "8b"])
    assert [(cell.family, cell.scale) for cell in every] == [
        ("qwen", "3b"),
        ("llama", "3b"),
        ("llama", "8b"),
        ("qwen3", "8b"),
        ("smollm", "3b"),
    ]


def test_a_decoder_by_hub_id_or_folder_has_one_scale(corpus, tmp_path):
    cells = make_cells(
        POCKET, corpus, families=["qwen", "someone/theirs", str(tmp_path)], tasks=["asr"], languages=["en"]
    )
    assert [(cell.family, cell.scale) for cell in cells] == [
        ("qwen", "mini"),
        ("someone/theirs", "given"),
        (str(tmp_path), "given"),
    ]


def test_several_values_are_crossed_in_their_order_and_without_repeats(corpus):
    cells = make_cells(
        POCKET,
        corpus,
        families=["llama", "qwen", "llama"],
        encoders=["whisper-tiny.en", "whisper-base"],
        tasks=["st", "asr"],
        languages=["fr", "de", "fr"],
    )
    assert [cell.family for cell in cells] == ["llama"] * 8 + ["qwen"] * 8
    assert [cell.encoder for cell in cells[:8]] == ["whisper-tiny.en"] * 4 + ["whisper-base"] * 4
    assert _questions(cells[:4]) == [("st", "fr"), ("st", "de"), ("asr", "fr"), ("asr", "de")]


def test_one_option_leaves_the_other_open(corpus):
    assert _questions(make_cells(POCKET, corpus, families=["qwen"], languages=["fr"])) == [("asr", "fr"), ("st", "fr")]
    assert _questions(make_cells(POCKET, corpus, families=["qwen"], languages=["en"])) == [("asr", "en")]
    translated = make_cells(POCKET, corpus, families=["qwen"], tasks=["st"])
    assert _questions(translated) == [("st", "de"), ("st", "fr"), ("st", "es")]


def test_a_pair_without_data_among_others_that_have_it_is_left_out(corpus):
    cells = make_cells(POCKET, corpus, families=["qwen"], tasks=["asr", "st"], languages=["en", "de"])
    assert _questions(cells) == [("asr", "en"), ("asr", "de"), ("st", "de")]


def test_a_corpus_without_the_profiles_cells_is_asked_what_it_has():
    assert _questions(make_cells(POCKET, English(), families=["qwen"])) == [("asr", "en")]


def test_a_scale_that_one_family_has_picks_that_family(corpus):
    cells = make_cells(POCKET, corpus, families=["all"], scales=["135m"], tasks=["asr"], languages=["en"])
    assert [(cell.family, cell.scale) for cell in cells] == [("llama", "135m")]
    cells = make_cells(POCKET, corpus, families=["qwen", "llama"], scales=["mini", "7b"], languages=["en"])
    assert [(cell.family, cell.scale) for cell in cells] == [("qwen", "mini"), ("qwen", "7b"), ("llama", "mini")]


def test_an_encoder_may_be_a_hub_id_or_a_folder(corpus, tmp_path):
    cells = make_cells(POCKET, corpus, families=["qwen"], encoders=["owner/name", str(tmp_path)], languages=["en"])
    assert [cell.encoder for cell in cells] == ["owner/name", str(tmp_path)]


@pytest.mark.parametrize(
    ("options", "rule", "received"),
    [
        ({"families": ["gpt"]}, "a family is one of qwen, llama, qwen3, gemma, smollm, or all", "gpt"),
        ({"families": ["qwen", "Qwen"]}, "a family is one of qwen, llama, qwen3, gemma, smollm, or all", "Qwen"),
        ({"scales": ["70b"]}, "a scale is one that the family has (qwen: mini, 1.5b, 3b, 7b), or all", "70b"),
        ({"scales": ["135m"]}, "a scale is one that the family has (qwen: mini, 1.5b, 3b, 7b), or all", "135m"),
        ({"encoders": ["wisper"]}, "an encoder is one of whisper-base", "wisper"),
        ({"tasks": ["tts"]}, "a task is one of asr, st, or all", "tts"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(corpus, options, rule, received):
    error = _refusal(POCKET, corpus, **options)
    assert error.rule.startswith(rule)
    assert error.received == received
    assert error.remedy.startswith("choose")
    assert str(error) == f"{error.rule}, got {received}: {error.remedy}."


@pytest.mark.parametrize(
    ("languages", "remedy"),
    [
        (["xx"], "look it up there, or add a row"),
        (["de", "xx"], "look it up there, or add a row"),
        (["german"], "write de for German"),
    ],
)
def test_an_unknown_language_is_refused_with_the_one_that_was_meant(corpus, languages, remedy):
    error = _refusal(POCKET, corpus, languages=languages)
    assert (error.received, error.remedy) == (languages[-1], remedy)


def test_a_known_language_that_the_corpus_lacks_is_another_mistake(corpus):
    error = _refusal(POCKET, corpus, languages=["yue"])
    assert error.received == "--task asr or st with --language yue"


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"tasks": ["st"], "languages": ["en"]}, "--task st with --language en"),
        ({"tasks": ["asr"], "languages": ["it"]}, "--task asr with --language it"),
        ({"languages": ["it"]}, "--task asr or st with --language it"),
        ({"languages": ["de", "it"]}, "--task asr or st with --language it"),
        ({"tasks": ["all"], "languages": ["ru"]}, "--task asr or st with --language ru"),
    ],
)
def test_named_values_without_data_are_refused_with_what_there_is(corpus, options, received):
    error = _refusal(POCKET, corpus, **options)
    assert error.rule == ("the corpus pocket has data for asr en, asr de, asr fr, asr es, st de, st fr, st es")
    assert error.received == received
    assert error.remedy == "choose a pair that it has, or bring another corpus with --data"


def test_a_task_that_the_corpus_lacks_is_refused_even_beside_one_that_it_has():
    error = _refusal(POCKET, English(), tasks=["asr", "st"])
    assert error.rule == "the corpus recordings has data for asr en"
    assert error.received == "--task st with --language en"


def test_names_are_unique_and_say_where_translation_goes(corpus):
    cells = make_cells(POCKET, corpus, families=["all"], tasks=["all"], languages=["all"])
    assert len({cell.name for cell in cells}) == len(cells)
    assert cells[0].name == "qwen-mini whisper-base asr en"
    french = Cell(family="qwen", scale="7b", encoder="a/b", task="st", language="fr")
    assert french.name == "qwen-7b a/b st fr-en"
    own = Cell(family="/models/mine", scale="given", encoder="/models/mine", task="asr", language="en")
    assert own.name == "mine asr en"
    assert Cell(**{**own.as_dict(), "family": "a/b", "encoder": "/models/ears"}).name == "a/b ears asr en"
    assert joint_cell(french).name == "qwen-7b a/b joint all"
    assert base_name(joint_cell(french)) == base_name(french)
    assert Cell(**cells[0].as_dict()) == cells[0]
    assert set(TASKS) == {"asr", "st"}
