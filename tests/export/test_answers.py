"""Which models a report names: of cells and joint answers, by words, and what is said of reports that name none."""

import shutil

import pytest

from slamlab.errors import DataError, OptionError, StoreError
from slamlab.export.answers import read_answers


def test_every_winner_of_a_report(make_report):
    report, store, results = make_report()
    answers = read_answers(report, store)
    assert [answer.name for answer in answers] == [
        "qwen-mini-whisper-base-asr-en",
        "qwen-mini-whisper-base-asr-de",
        "qwen-mini-whisper-base-st-de",
    ]
    for answer, cell in zip(answers, results["cells"], strict=True):
        assert answer.checkpoint == store / cell["pruned"]["checkpoint"]
        assert answer.found == cell
        (scores,) = answer.scores
        assert list(scores) == ["selection", "test", "test-voices"]
        assert scores["test"]["pruned"]["value"] == cell["pruned"]["value"]
        assert scores["test-voices"]["baseline"] == cell["test_voices"]["baseline"]


def test_one_cell_by_enough_words(make_report):
    report, store, _ = make_report()
    (answer,) = read_answers(report, store, "asr de")
    assert answer.name == "qwen-mini-whisper-base-asr-de"
    assert read_answers(report, store, "st")[0].name == "qwen-mini-whisper-base-st-de"
    for words in ("de", "asr fr"):
        with pytest.raises(OptionError, match=f"--cell names one of 'qwen mini.*got '{words}'"):
            read_answers(report, store, words)


def test_a_joint_answer_has_the_scores_of_its_members(make_report):
    report, store, results = make_report("backbone-qwen")
    (answer,) = read_answers(report, store)
    (joint,) = results["joints"]
    assert answer.name == "qwen-mini-whisper-base-joint-all"
    assert [(one["task"], one["language"]) for one in answer.questions] == [("asr", "en"), ("asr", "de"), ("st", "de")]
    assert answer.scores[1]["test"]["pruned"] == joint["tests"][1]["test"]
    assert answer.scores[1]["test"]["baseline"] == results["cells"][1]["baseline"]
    assert answer.found["base"] == results["cells"][0]["base"]
    with pytest.raises(OptionError, match=r"none for 'qwen mini whisper-base asr en' \(not scored"):
        read_answers(report, store, "asr en")


def test_a_checkpoint_alone(checkpoints, tmp_path):
    (answer,) = read_answers(checkpoints["qwen"], tmp_path)
    assert (answer.name, answer.checkpoint, answer.questions) == ("qwen", checkpoints["qwen"], ())
    with pytest.raises(OptionError, match="chooses from a report"):
        read_answers(checkpoints["qwen"], tmp_path, "asr en")


def test_a_folder_that_is_neither(tmp_path):
    with pytest.raises(DataError, match="a report's folder"):
        read_answers(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results.pop("cells"),
        lambda results: results["cells"][0].pop("task"),
        lambda results: results.update(cells=3),
        lambda results: results["cells"][0].update(pruned="x"),
    ],
)
def test_results_that_are_damaged(make_report, change):
    report, store, _ = make_report(change=change)
    with pytest.raises(DataError, match="results are those of a sweep"):
        read_answers(report, store)


def test_a_report_without_any_model_says_why(make_report):
    def change(results):
        for cell in results["cells"]:
            cell.update(pruned=None, reason="the heal diverged")

    report, store, _ = make_report(change=change)
    with pytest.raises(DataError, match="asr en: the heal diverged"):
        read_answers(report, store)


def test_a_checkpoint_that_the_store_lacks(make_report):
    report, store, results = make_report()
    shutil.rmtree(store / results["cells"][0]["pruned"]["checkpoint"])
    with pytest.raises(StoreError, match="asr en' lies in the store"):
        read_answers(report, store)


def test_a_checkpoint_outside_of_the_store_is_not_read(make_report, checkpoints, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(checkpoints["qwen"], outside)
    report, store, _ = make_report(change=lambda r: r["cells"][0]["pruned"].update(checkpoint="../outside"))
    with pytest.raises(StoreError, match="lies in the store"):
        read_answers(report, store)
