import json

import pytest

from slamlab.data.pocket import PocketCorpus
from slamlab.model.slam import load
from slamlab.sweep.bases import CARD_FILE, SHIPPED, shipped_folder
from slamlab.sweep.cells import Cell
from slamlab.zoo.profiles import PROFILES, as_json

FOLDERS = sorted(folder for folder in SHIPPED.iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return PocketCorpus(tmp_path_factory.mktemp("pocket"))


def _cell(card):
    return Cell(family=card["family"], scale=card["scale"], encoder=card["encoder"], task="asr", language="en")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_base_is_what_its_card_says(folder, corpus):
    card = json.loads((folder / CARD_FILE).read_text())
    # A change of the grammar, or of babel's names, makes other splits: then the bases are to be trained again.
    assert card["corpora"]["pocket"] == corpus.fingerprint
    assert shipped_folder(_cell(card), corpus.fingerprint) == folder
    recipe = json.loads(json.dumps(as_json(PROFILES["pocket"].base_recipe(card["scale"]))))
    assert card["recipe"] == recipe, "the recipe has changed since: train the base again"
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 10_000_000
    if card["scale"] == "mini":
        assert load(folder).num_parameters() == card["num_parameters"]
        pocket = card["scores"]["pocket"]
        scores = {name.split(maxsplit=2)[2]: splits["test"]["value"] for name, splits in pocket.items()}
        assert scores["asr en"] <= 0.25
        assert scores["st de-en"] >= 25


def test_a_base_trained_on_other_sentences_is_not_taken():
    cell = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en")
    assert shipped_folder(cell, "0" * 64) is None


def test_a_base_does_not_ship_for_a_language_it_has_not_learned(corpus):
    cell = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="it")
    assert shipped_folder(cell, corpus.fingerprint) is None


def test_there_is_a_base_for_the_default_cells():
    assert {"qwen-mini-whisper-base", "llama-mini-whisper-base"} <= {folder.name for folder in FOLDERS}
