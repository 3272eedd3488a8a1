import dataclasses
import json

import pytest

from slamlab.errors import AssetError, OptionError
from slamlab.sweep.cells import Cell, joint_cell
from slamlab.sweep.settings import Request
from slamlab.zoo.profiles import PROFILES

CELL = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tolerance": -0.1}, "the tolerance is 0 or more, got -0.1: pass for example --tolerance 0.25."),
        ({"tolerance": float("nan")}, "the tolerance is 0 or more, got nan: "),
        ({"tolerance": float("inf")}, "the tolerance is 0 or more, got inf: "),
        ({"alpha": 0.0}, "alpha lies between 0 and 0.5, got 0.0: pass for example --alpha 0.05."),
        ({"alpha": 0.5}, "alpha lies between 0 and 0.5, got 0.5: "),
        ({"alpha": float("nan")}, "alpha lies between 0 and 0.5, got nan: "),
        ({"seed": -1}, "the seed is 0 or more, got -1: "),
        ({"workers": 0}, "at least 1 trial runs at a time, got 0: pass --workers 1 or more."),
        ({"max_device_hours": -1.0}, "--max-device-hours is 0 or more, got -1.0: "),
        ({"max_device_hours": float("nan")}, "--max-device-hours is 0 or more, got nan: "),
        ({"gpu_price": -2.5}, "--gpu-price is 0 or more, got -2.5: "),
        (
            {"max_price": 10.0},
            "a budget as a price needs the price of a device-hour, above 0, got --max-price 10 alone: ",
        ),
        (
            {"max_price": 10.0, "gpu_price": 0.0},
            "got --max-price 10 at a price of 0: pass for example --gpu-price 2.50",
        ),
        ({"num_selection": 1}, "at least 2 utterances are scored, got 1: "),
        ({"num_test": 0}, "at least 2 utterances are scored, got 0: "),
        ({"name": "a/b"}, "a name has letters, digits, dots and dashes, got 'a/b': pass another --name."),
        ({"name": ""}, "got '': "),
        ({"name": "../up"}, "got '../up': "),
        ({"name": "-rf"}, "got '-rf': "),
        ({"heal": {"num_steps": -1}}, "the number of steps is 0 or more, got -1: "),
        ({"heal": {"peak_lr": 0.0}}, "the peak learning rate is above 0, got 0.0: "),
        ({"heal": {"batch_size": 0}}, "got 0: "),
        ({"heal": {"r": -4}}, "the LoRA rank is 0 or more, got -4: "),
        ({"heal": {"dropout": 1.0}}, "dropout is a share in [0, 1), got 1.0: "),
        ({"heal": {"zero_stage": 4}}, "the ZeRO stage is 0, 1, 2 or 3, got 4: "),
        ({"heal": {"precision": "fp8"}}, "precision is fp32 or bf16, got fp8: "),
        ({"heal": {"precision": "bf16"}}, "bf16 needs a ZeRO stage of 1 or more, got 0: "),
    ],
)
def test_a_value_out_of_range_is_refused(make_settings, changed, message):
    with pytest.raises(OptionError) as caught:
        make_settings(**changed)
    assert message in str(caught.value)


def test_a_base_is_a_word_or_a_folder(make_settings, tmp_path):
    assert make_settings(base=str(tmp_path)).base == str(tmp_path)
    with pytest.raises(AssetError, match=r"--base is auto, train, or a folder, got nowhere/at/all: "):
        make_settings(base="nowhere/at/all")


def test_edges_of_ranges_are_accepted(make_settings):
    settings = make_settings(tolerance=0.0, alpha=0.49, num_selection=2, num_test=2, heal={"num_steps": 0})
    assert settings.tolerance == 0


def test_healing_is_the_profiles_but_for_what_was_changed(make_settings):
    usual = PROFILES["pocket"].heal_recipe("mini")
    changed = make_settings(heal={"num_steps": 7, "r": 8}).heal_recipe(CELL)
    assert changed == dataclasses.replace(usual, r=8, train=dataclasses.replace(usual.train, num_steps=7))
    assert make_settings(heal={}).heal_recipe(CELL) == usual
    larger = dataclasses.replace(CELL, family="llama", scale="135m")
    own = PROFILES["pocket"].heal["135m"].train
    assert make_settings(heal={"num_steps": 7}).heal_recipe(larger).train.peak_lr == own.peak_lr != usual.train.peak_lr


@pytest.mark.parametrize(
    "changed",
    [
        {"tolerance": 0.3},
        {"alpha": 0.1},
        {"seed": 1},
        {"heal": {"num_steps": 3}},
        {"heal": {"num_steps": 2, "r": 8}},
        {"num_selection": 30},
        {"num_test": 30},
        {"corpus_fingerprint": "1" * 64},
        {"base": "train"},
        {"profile": "paper"},
        {"base_identities": {"qwen mini whisper-base": "1" * 64}},
    ],
    ids=str,
)
def test_another_question_is_another_study(make_settings, changed):
    assert make_settings(**changed).question(CELL) != make_settings().question(CELL)


def test_every_cell_is_a_question_of_its_own(make_settings):
    others = [
        dataclasses.replace(CELL, **{name: value})
        for name, value in (("language", "de"), ("task", "st"), ("family", "llama"), ("encoder", "whisper-tiny.en"))
    ]
    settings = make_settings()
    assert len({settings.question(cell) for cell in (CELL, *others)}) == 5


def test_who_asks_and_with_how_many_hands_is_no_part_of_the_question(make_settings, tmp_path):
    usual = make_settings().question(CELL)
    other_cells = (CELL, dataclasses.replace(CELL, language="de"))
    for changed in ({"name": "other"}, {"workers": 8}, {"store": tmp_path / "elsewhere"}, {"cells": other_cells}):
        assert make_settings(**changed).question(CELL) == usual
    # The manifest may lie elsewhere, and the recipe be spelled out: what they say is the same.
    assert make_settings(corpus="copy/of/manifest.csv").question(CELL) == usual
    spelled = {"num_steps": 2, "r": PROFILES["pocket"].heal_recipe("mini").r}
    assert make_settings(heal=spelled).question(CELL) == usual


def test_a_folder_is_the_same_base_from_wherever_it_is_named(make_settings, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    by_name = make_settings(base="base").question(CELL)
    assert make_settings(base=str(tmp_path / "base")).question(CELL) == by_name


@pytest.mark.parametrize(
    "request_",
    [
        Request(kind="base", cell=CELL),
        Request(kind="probe", cell=CELL, start=4, depth=3, attempt=2),
        Request(kind="probe", cell=CELL, start=4, depth=3, rung="short", repeat=1),
        Request(kind="joint_final", cell=joint_cell(CELL), start=4, depth=3, repeat=2),
    ],
    ids=lambda request: request.kind,
)
def test_a_request_survives_as_plain_data(request_):
    again = Request.from_dict(json.loads(json.dumps(request_.as_dict())))
    assert again == request_
    assert len({again, request_}) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rung": "half"}, "a rung is one of unhealed, short, full, got half: choose one of them."),
        ({"kind": "final", "rung": "short"}, "only a probe looks less than fully, got a final short: ask for a probe."),
        ({"repeat": -1}, "repeats count from 0, got -1: "),
    ],
)
def test_a_request_out_of_range_is_refused(changed, message):
    with pytest.raises(OptionError) as caught:
        Request(**{"kind": "probe", "cell": CELL, "start": 4, "depth": 3, **changed})
    assert message in str(caught.value)
