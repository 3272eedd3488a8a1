from __future__ import annotations

from slamlab.report import tables
from slamlab.report.scores import scores_table
from slamlab.report.writing import NBSP


def test_a_cell_is_named_in_words() -> None:
    cell = {"family": "qwen", "scale": "7b", "encoder": "wavlm-large", "task": "st", "language": "de"}
    assert tables.cell_name(cell) == "qwen 7b · wavlm-large · German to English speech translation"
    assert tables.question_name({**cell, "task": "asr", "language": "tlh"}) == "tlh speech recognition"


def test_every_row_has_a_text_for_every_column(sweep) -> None:
    cells = sweep[0]["cells"]
    made = [tables.cells_table(cells, ["a"] * len(cells)), *(scores_table(cell) for cell in cells[:3])]
    made.append(tables.facts_table(sweep[0]["sweep"]))
    for table in made:
        assert {len(row.texts) for row in table.rows} == {len(table.columns)}


def test_cheap_looks_have_no_verdict(searched) -> None:
    results, _ = searched
    table = tables.probes_table(results["probes"], results["cells"])
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}
    at = {column: i for i, column in enumerate(table.columns)}
    cheap = [row.texts for row in table.rows if row.texts[at["Rung"]] != "full heal"]
    assert [row[at["Rung"]] for row in cheap] == ["unhealed look", "short heal"] * 2
    assert {row[at["Verdict"]] for row in cheap} == {row[at["P(all evidence)"]] for row in cheap} == {"–"}
    assert [row[at["Heal"]] for row in cheap] == ["–", "1"] * 2
    assert [row[at["n"]] for row in cheap] == ["60", "120"] * 2
    again = [row.texts for row in table.rows if row.texts[at["Heal"]] == "2"]
    assert [row[at["P(heal alone)"]] for row in again] == ["0.889"]
    assert [row[at["P(all evidence)"]] for row in again] == ["0.612"]


def test_what_no_probe_has_gets_no_column(sweep) -> None:
    table = tables.probes_table(sweep[0]["probes"], sweep[0]["cells"])
    assert not {"P(all evidence)", "Heal", "n"} & set(table.columns)
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}


def test_probes_say_how_their_scoring_ended(scored) -> None:
    results, _ = scored
    table = tables.probes_table(results["probes"], results["cells"])
    assert {len(row.texts) for row in table.rows} == {len(table.columns)}
    at = {column: i for i, column in enumerate(table.columns)}
    shown = [(row.texts[at["n"]], row.texts[at["Scoring"]]) for row in table.rows]
    assert shown[:6] == [
        ("238", "whole"),
        ("190", "stopped: safe after 192 of 240"),
        ("238", "whole"),
        ("238", "whole"),
        ("63", "stopped: hopeless after 64 of 240"),
        ("–", "–"),
    ]
    assert shown[-1] == ("120", "–")


def test_n_is_shown_where_a_full_heal_was_stopped(scored) -> None:
    results, _ = scored
    full = [probe for probe in results["probes"] if probe["rung"] == "full"]
    assert {"n", "Scoring"} <= set(tables.probes_table(full, results["cells"]).columns)
    whole = [probe for probe in full if not probe.get("stopped_early")]
    assert not {"n", "Scoring"} & set(tables.probes_table(whole, results["cells"]).columns)


def test_probes_of_characters_are_in_percent(scored) -> None:
    results, _ = scored
    chinese = {name: results["cells"][-1][name] for name in ("family", "scale", "encoder", "task", "language")}
    table = tables.probes_table([{**results["probes"][0], "cell": chinese}], results["cells"])
    assert table.rows[0].texts[table.columns.index("Score")].replace(NBSP, " ") == "5.61 %"
    row = tables.cells_table(results["cells"][-1:], ["a"]).rows[0]
    assert row.texts[3].replace(NBSP, " ") == "7.12 % CER"


def test_cells_can_be_shown_on_the_selection_split(joint) -> None:
    cells = joint[0]["cells"]
    rows = tables.cells_table(cells, ["a"] * 3, split="selection").rows
    assert [row.texts[3].replace(NBSP, " ") for row in rows] == ["5.41 % WER", "30.9 BLEU", "8.31 % WER"]
    del cells[0]["selection"]
    assert {len(row.texts) for row in tables.cells_table(cells, ["a"] * 3, split="selection").rows} == {8}


def test_rank_agreement_is_written(searched) -> None:
    rows = [row.texts for row in tables.rungs_table(searched[0]["rungs"]).rows]
    assert rows == [
        ("qwen mini", "unhealed look", "−1.00", "[−1.00, +0.50]", "2", "1", "2"),
        ("qwen mini", "short heal", "–", "–", "1", "0", "2"),
    ]


def test_nested_settings_become_dotted_names() -> None:
    rows = tables.facts_table({"train": {"steps": 5}, "modules": ["up", "down"], "a": None}).rows
    assert [row.texts for row in rows] == [("a", "–"), ("modules", "up, down"), ("train.steps", "5")]
