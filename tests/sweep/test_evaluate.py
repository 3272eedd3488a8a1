"""The shipped model on real speech: the same answers in any batch, any order, and after any interruption."""

import multiprocessing
import time
from dataclasses import replace

import pytest
import torch

from slamlab.data.features import FeatureStore
from slamlab.model.slam import load
from slamlab.scoring.journal import Journal
from slamlab.scoring.records import make_records
from slamlab.sweep.bases import SHIPPED
from slamlab.sweep.cells import Cell
from slamlab.sweep.evaluate import EarlyStop, Evaluation
from slamlab.sweep.store import Store
from slamlab.zoo.corpora import open_corpus
from slamlab.zoo.profiles import PROFILES

CELL = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en")
TRANSLATION = replace(CELL, task="st", language="de")
POCKET = PROFILES["pocket"]
NUM_UTTERANCES = 18


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return the shipped model, utterances of both cells, their frames, and a store."""
    store = Store(tmp_path_factory.mktemp("runs")).open(min_free_bytes=0)
    corpus = open_corpus("pocket", store.cache, seed=0)
    features = FeatureStore("whisper-base", store.cache / "features", store.cache / "models")
    spoken = {cell: corpus.utterances(cell.language, "selection", NUM_UTTERANCES) for cell in (CELL, TRANSLATION)}
    return load(SHIPPED / "qwen-mini-whisper-base").float(), spoken, features, store


def _evaluate(world, path, cell=CELL, *, order=None, size=64, **how):
    """Evaluate to the end and return the evaluation."""
    model, spoken, features, _ = world
    utterances = spoken[cell] if order is None else [spoken[cell][i] for i in order]
    evaluation = Evaluation(cell, utterances, Journal(path), replace(POCKET, eval_batch_size=size), **how)
    for _ in evaluation.run(model, features, "decode"):
        pass
    return evaluation


def _said(path):
    return {id_: (answer.hypothesis, answer.stopped) for id_, answer in Journal(path).read().items()}


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("cell", [CELL, TRANSLATION], ids=["asr", "st"])
def test_answers_depend_neither_on_the_batch_nor_on_the_order(world, tmp_path, cell, num_beams):
    found = []
    for size in (1, 4, 16):
        _evaluate(world, tmp_path / f"{size}", cell, size=size, num_beams=num_beams)
        found.append(_said(tmp_path / f"{size}"))
    order = torch.randperm(NUM_UTTERANCES, generator=torch.Generator().manual_seed(0)).tolist()
    _evaluate(world, tmp_path / "shuffled", cell, order=order, size=5, num_beams=num_beams)
    found.append(_said(tmp_path / "shuffled"))
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == NUM_UTTERANCES
    assert sum(bool(text) for text, _ in found[0].values()) > NUM_UTTERANCES / 2, "a model that hears something"


def test_a_score_says_what_it_is_of(world, tmp_path):
    score = _evaluate(world, tmp_path / "answers").score(world[3])
    assert (score["metric"], score["num_utterances"], score["num_planned"]) == ("wer", NUM_UTTERANCES, NUM_UTTERANCES)
    assert 0 < score["value"] < 0.6
    assert score["stopped_early"] is None
    assert "whisper-english" in score["signature"]
    for guard in ("num_empty_hypotheses", "num_loops", "num_capped", "num_premature"):
        assert 0 <= score[guard] < NUM_UTTERANCES
    translated = _evaluate(world, tmp_path / "translated", TRANSLATION).score(world[3])
    assert translated["metric"] == "bleu"
    assert translated["also"]["chrf"]["value"] > translated["value"] > 5


def _work(world, path, size):
    """Evaluate without haste, so that there is time to be killed."""
    torch.set_num_threads(1)
    model, spoken, features, _ = world
    evaluation = Evaluation(CELL, spoken[CELL], Journal(path), replace(POCKET, eval_batch_size=size))
    for _ in evaluation.run(model, features, "decode"):
        time.sleep(0.1)


def test_workers_that_are_killed_and_workers_at_once_give_each_answer_once(world, tmp_path):
    """Two processes on one journal, one of them killed on its way; a third finishes. As if one had done it alone."""
    path = tmp_path / "shared"
    context = multiprocessing.get_context("spawn")
    doomed, other = (context.Process(target=_work, args=(world, path, size)) for size in (1, 2))
    doomed.start()
    while not path.exists() or len(Journal(path).read()) < 2:
        assert doomed.is_alive() or doomed.exitcode == 0
    doomed.kill()
    doomed.join()
    begun = len(Journal(path).read())
    assert begun < NUM_UTTERANCES, "it was too fast to be killed"
    other.start()
    _evaluate(world, path, size=3)
    other.join(120)
    lines = path.read_bytes().splitlines()
    assert len(lines) == NUM_UTTERANCES
    _evaluate(world, tmp_path / "alone")
    assert _said(path) == _said(tmp_path / "alone")


def test_what_is_answered_needs_no_model(world, tmp_path):
    done = _evaluate(world, tmp_path / "answers")
    _, spoken, _, store = world
    again = Evaluation(CELL, spoken[CELL], Journal(tmp_path / "answers"), POCKET)
    assert again.finished()
    assert list(again.run(None, None, "decode")) == []
    assert again.score(store) == done.score(store)
    fewer = Evaluation(CELL, spoken[CELL][:10], Journal(tmp_path / "answers"), POCKET)
    assert fewer.finished()
    assert fewer.score(store)["num_utterances"] == 10


def test_bf16_decodes_with_a_copy(world, tmp_path):
    model, spoken, features, store = world
    half = replace(POCKET, decode_precision="bf16")
    evaluation = Evaluation(CELL, spoken[CELL], Journal(tmp_path / "half"), half)
    list(evaluation.run(model, features, "decode"))
    whole = _evaluate(world, tmp_path / "whole").score(store)
    assert abs(evaluation.score(store)["value"] - whole["value"]) < 0.1
    assert model.dtype == torch.float32
    assert model.in_precision("fp32") is model
    other = model.in_precision("bf16")
    assert {parameter.dtype for parameter in other.parameters()} == {torch.bfloat16}
    rotary = [buffer for name, buffer in other.named_buffers() if "inv_freq" in name]
    assert rotary
    assert all(buffer.dtype == torch.float32 for buffer in rotary), "positions would turn by the wrong angle"


def _perfect(utterances):
    """Return records as of a base that says just what was said."""
    texts = [utterance.text for utterance in utterances]
    return make_records([utterance.id for utterance in utterances], texts, texts, "en", "asr").records


def test_scoring_stops_once_it_is_hopeless_whatever_the_journal_holds(world, tmp_path):
    stop = EarlyStop(base=_perfect(world[1][CELL]), tolerance=0.25, delta=0.05, every=2)
    stopped = _evaluate(world, tmp_path / "short", size=2, stop=stop)
    score = stopped.score(world[3])
    assert score["stopped_early"] == "hopeless"
    assert score["num_utterances"] == len(_said(tmp_path / "short")) < NUM_UTTERANCES
    # Another sweep has answered them all: the trial that stops early must not come to another score for it.
    _evaluate(world, tmp_path / "full", size=2)
    again = _evaluate(world, tmp_path / "full", size=2, stop=stop)
    assert again.score(world[3]) == score
    # And one that goes on finds what was answered.
    _evaluate(world, tmp_path / "short", size=2)
    assert _said(tmp_path / "short") == _said(tmp_path / "full")
