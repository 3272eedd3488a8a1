from __future__ import annotations

import copy
from typing import Any

import pytest

from slamlab.report.published import PUBLISHED, against_paper, published_for
from slamlab.report.writing import NBSP
from slamlab.zoo.decoders import find_decoder

LARGE = {"scale": "7b", "num_layers": 28, "max_depth": 9, "max_fraction": 9 / 28, "base": {"origin": "trained"}}


def _rows(cells: list[dict[str, Any]], corpus: str = "pocket") -> list[list[str]]:
    against = against_paper(cells, [f"cell-{i}" for i in range(len(cells))], corpus)
    assert against is not None
    assert {len(row.texts) for row in against.table.rows} == {len(against.table.columns)}
    return [[text.replace(NBSP, " ") for text in row.texts] for row in against.table.rows]


def test_the_papers_models_are_those_of_the_zoo() -> None:
    for one in PUBLISHED:
        assert find_decoder(one.family, one.scale).num_layers == one.num_layers
        assert 0 < one.depth < one.num_layers


def test_a_cell_stands_below_the_papers_row(sweep) -> None:
    cells = [{**sweep[0]["cells"][0], **LARGE}, sweep[0]["cells"][1]]
    rows = _rows(cells, "corpus of ours")
    model, depth = "Qwen2.5-7B, frozen decoder · WavLM-Large", "8 of 28 (28.6 %)"
    assert rows == [
        [model, "paper", "LibriSpeech test-clean", depth, "2.01 % WER", "2.36 %", "+17.4 %", "–"],
        [model, "paper", "LibriSpeech test-other", depth, "4.77 % WER", "4.83 %", "+1.3 %", "–"],
        [model, "paper", "Loquacious", depth, "12.21 % WER", "14.91 %", "+22.1 %", "–"],
        [
            "qwen 7b · whisper-base · English speech recognition",
            "this sweep",
            "corpus of ours, test split",
            "9 of 28 (32.1 %)",
            "5.31 % WER",
            "6.13 %",
            "+15.5 % [+2.1, +24.8]",
            "300",
        ],
    ]
    (note,) = against_paper(cells, ["a", "b"], "pocket").notes
    assert "not checked against its PDF" in note and "nothing is claimed" in note


def test_without_a_published_row_there_is_no_table(sweep) -> None:
    cells = sweep[0]["cells"]
    assert against_paper(cells, ["a"] * len(cells), "pocket") is None
    assert against_paper([{**cells[3], "scale": "8b"}], ["a"], "pocket") is None, "it has no answer"


@pytest.mark.parametrize(
    ("changes", "decoders"),
    [
        ({"base": {"origin": "trained"}}, ["frozen"]),
        ({"base": {"origin": "given"}}, ["frozen", "lora"]),
        ({}, ["frozen", "lora"]),
        ({"task": "st"}, []),
        ({"language": "de"}, []),
        ({"family": "gemma"}, []),
        ({"scale": "3b"}, [""]),
        ({"family": "llama", "scale": "8b"}, [""]),
        ({"family": "llama", "scale": "1b"}, [""]),
    ],
)
def test_rows_are_found_by_model_and_question(changes: dict[str, Any], decoders: list[str]) -> None:
    cell = {"family": "qwen", "scale": "7b", "encoder": "wavlm-large", "task": "asr", "language": "en", **changes}
    assert [one.decoder for one in published_for(cell)] == decoders


def test_a_model_without_published_scores_says_its_depth(sweep) -> None:
    cell = {**sweep[0]["cells"][0], "family": "llama", "scale": "1b"}
    assert _rows([cell])[0] == ["Llama-3.2-1B · WavLM-Large", "paper", "–", "1 of 16 (6.2 %)", "–", "–", "–", "–"]


def test_what_else_the_paper_tells_of_a_model_is_told_once(sweep) -> None:
    cell = {**sweep[0]["cells"][0], "family": "llama", "scale": "8b"}
    _, remark = against_paper([cell, {**cell, "encoder": "wavlm-large"}], ["a", "b"], "pocket").notes
    assert "about 35 % faster" in remark


def test_a_cell_is_shown_on_the_split_that_it_was_scored_on(sweep) -> None:
    cell = copy.deepcopy({**sweep[0]["cells"][0], **LARGE})
    searched = _rows([{**cell, "pruned": None}])[-1]
    assert searched[2:] == [
        "pocket, selection split",
        "9 of 28 (32.1 %)",
        "5.41 % WER",
        "5.98 %",
        "+10.5 % [−1.1, +22.3]",
        "200",
    ]
    none = {**cell, "verdict": "none", "max_depth": 0, "pruned": None, "selection": None}
    assert _rows([none])[-1][2:] == ["pocket, test split", "none found", "5.31 % WER", "–", "–", "300"]
