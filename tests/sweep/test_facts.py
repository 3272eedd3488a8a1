"""What trials are known by: were a fingerprint to change unasked, no store would be found again."""

from types import SimpleNamespace

import pytest

import slamlab.sweep.facts
from slamlab.sweep.bases import Base
from slamlab.sweep.cells import Cell, joint_cell
from slamlab.sweep.facts import TrialFacts
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store, fingerprint

CELL = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en")
GERMAN = Cell(family="qwen", scale="mini", encoder="whisper-base", task="st", language="de")
BASE = Base(name=("qwen", "mini", "whisper-base"), model=None, fingerprint="b" * 64, origin="given")

GOLDEN = {
    "base": "b7278c2d573a1f2a",
    "probe": "82e328658e4dabc6",
    "its model": "bdaab611148e95bc",
    "unhealed": "f5c0480e58ffb53b",
    "joint final": "6ccafe205b2b744a",
}


@pytest.fixture
def facts(tmp_path, monkeypatch):
    """Return the facts of a sweep whose data, encoder and normaliser, which have versions of their own, are names."""
    settings = Settings(
        name="facts",
        profile="pocket",
        cells=(CELL, GERMAN),
        corpus="pocket",
        corpus_fingerprint="c" * 64,
        heal={"num_steps": 7},
        num_selection=20,
        num_test=10,
        store=Store(tmp_path / "runs").open(min_free_bytes=0).root,
    )
    monkeypatch.setattr(slamlab.sweep.facts, "normaliser", lambda language, task: SimpleNamespace(signature="none"))
    told = TrialFacts(settings)
    told.corpus = SimpleNamespace(fingerprint="c" * 64, utterances=lambda language, split, number: list(range(number)))
    told._features = {"whisper-base": SimpleNamespace(fingerprint="f" * 64)}
    return told


def test_fingerprints_are_those_of_earlier_versions(facts):
    """Taken from revision 3 as it was on 2026-11-25: a change here needs a new revision, and gives old stores up."""
    probe, unhealed = (Request(kind="probe", cell=CELL, start=4, depth=3, rung=rung) for rung in ("full", "unhealed"))
    joint = Request(kind="joint_final", cell=joint_cell(CELL), start=4, depth=3)
    found = {
        "base": facts._base_facts(CELL, BASE),
        "probe": facts._pruned_facts(probe, BASE),
        "its model": facts._model_facts(probe, BASE),
        "unhealed": facts._pruned_facts(unhealed, BASE),
        "joint final": facts._final_facts(joint, BASE),
    }
    assert {name: fingerprint(one)[:16] for name, one in found.items()} == GOLDEN
