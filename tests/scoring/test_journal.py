import multiprocessing
import os
import signal
import time

import pytest

from slamlab.scoring.journal import Answer, Journal


def _answers(start, stop):
    return [Answer(id=f"u{i}", hypothesis=f"größer\u2028 {i}\n", stopped="eos") for i in range(start, stop)]


def test_what_was_appended_is_read_in_order(tmp_path):
    journal = Journal(tmp_path / "deep" / "answers.jsonl")
    assert journal.read() == {}
    assert list(journal.append(_answers(0, 3)).values()) == _answers(0, 3)
    assert list(journal.append(_answers(3, 5)).values()) == _answers(0, 5)
    assert list(journal.read().values()) == _answers(0, 5)


def test_an_utterance_is_answered_once(tmp_path):
    journal = Journal(tmp_path / "answers.jsonl")
    journal.append(_answers(0, 3))
    again = [Answer(id="u1", hypothesis="something else"), *_answers(3, 4), *_answers(3, 4)]
    assert list(journal.append(again).values()) == _answers(0, 4), "the first answer counts"
    assert list(journal.read().values()) == _answers(0, 4)


@pytest.mark.parametrize("torn", [b'{"id": "u3", "hypo', b'{"id": "u3", "hypothesis": "a", "stopped": ""}', b"\xff"])
def test_a_torn_line_does_not_count_and_is_cut_off(tmp_path, torn):
    journal = Journal(tmp_path / "answers.jsonl")
    journal.append(_answers(0, 3))
    with journal.path.open("ab") as file:
        file.write(torn)
    assert list(journal.read().values()) == _answers(0, 3)
    journal.append(_answers(3, 4))
    assert list(journal.read().values()) == _answers(0, 4)


FOREIGN = [b"not a journal", b'{"id": "u"}', b'{"id": "u", "hypothesis": null}', b"[]", b"\xff", b""]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_damaged_line_is_told_and_does_not_count(tmp_path, line):
    said = []
    journal = Journal(tmp_path / "answers.jsonl", said.append)
    journal.append(_answers(0, 3))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(line + b"\n" + whole)
    assert list(journal.read().values()) == _answers(0, 3)
    assert said == [f"1 of the answers in {journal.path} are damaged: asked again where they are wanted"]
    journal.append(_answers(2, 4))
    assert list(Journal(journal.path, pytest.fail).read().values()) == _answers(0, 4), "and it is gone"


def test_no_flipped_bit_goes_unseen(tmp_path):
    journal = Journal(tmp_path / "answers.jsonl")
    journal.append(_answers(0, 2))
    content = journal.path.read_bytes()
    for place in range(len(content)):
        journal.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        answers = list(journal.read().values())
        assert set(answers) <= set(_answers(0, 2)), f"byte {place}"
        assert list(journal.append(_answers(0, 2)).values()) in (_answers(0, 2), _answers(0, 2)[::-1])


def test_answers_of_before_there_were_checksums_serve(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": "u", "hypothesis": "a", "stopped": "eos"}\n')
    assert Journal(tmp_path / "answers.jsonl").read() == {"u": Answer(id="u", hypothesis="a", stopped="eos")}


def _work(path, seed):
    """Answer all utterances, a few at a time, in an order of its own; the text says who did."""
    journal = Journal(path)
    while missing := [i for i in range(200) if f"u{i}" not in journal.read()]:
        picked = missing[seed % len(missing) :][:3] or missing[:3]
        journal.append([Answer(id=f"u{i}", hypothesis=f"{i} by {seed}") for i in picked])


def test_several_workers_lose_and_repeat_nothing_even_when_some_are_killed(tmp_path):
    path = tmp_path / "answers.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(path, 7 * i)) for i in range(4)]
    for worker in workers:
        worker.start()
    while not path.exists() or path.stat().st_size < 500:
        time.sleep(0.001)
    for worker in workers[:2]:
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.join(60)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 200
    answers = Journal(path).read()
    assert answers.keys() == {f"u{i}" for i in range(200)}
    assert all(answer.hypothesis.startswith(f"{id_[1:]} by ") for id_, answer in answers.items())
