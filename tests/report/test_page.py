from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seen_page import Page

from slamlab.errors import DataError, StoreError
from slamlab.report.page import TEMPLATES, code_markdown, escape_markdown, render
from slamlab.report.results import write_results

ROOT = Path(__file__).parents[2]
Sweep = tuple[dict[str, Any], Path]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _rendered(sweep: Sweep, out: Path) -> tuple[Page, str]:
    render(*sweep, out)
    return Page((out / "index.html").read_text(encoding="utf-8")), (out / "report.md").read_text(encoding="utf-8")


def test_same_records_same_bytes(sweep: Sweep, tmp_path: Path) -> None:
    render(*sweep, tmp_path / "a")
    shutil.move(sweep[1], tmp_path / "moved")
    (tmp_path / "b" / "figures").mkdir(parents=True)
    (tmp_path / "b" / "figures" / "99-of-earlier-records.png").write_bytes(b"")
    render(json.loads(json.dumps(sweep[0])), tmp_path / "moved", tmp_path / "b")
    first = _files(tmp_path / "a")
    assert first == _files(tmp_path / "b")
    assert sorted(first)[-3:] == ["index.html", "probes.csv", "report.md"]
    assert len(first) == 3 + 2 * 2 * 3  # both formats of both figures of the three cells that have an answer


def test_the_first_screen_has_the_answer(sweep: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(sweep, tmp_path / "out")
    answer = "The qwen mini decoder can lose 4 of 12 layers (33.3\u00a0%) for English speech recognition"
    assert answer in page.text and answer in markdown
    assert page.text.index(answer) < page.text.index("Every cell") < page.text.index("Evidence")
    for verdict in ("●\u00a0feasible", "◇\u00a0undecided", "✕\u00a0no block found", "!\u00a0failed"):
        assert verdict in page.text and verdict in markdown


def test_the_papers_row_stands_beside_a_cell_that_it_measured(sweep: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(sweep, tmp_path / "without")
    assert "Against the paper" not in page.text + markdown
    results = json.loads(json.dumps(sweep[0]).replace('"scale": "mini"', '"scale": "7b"'))
    for cell in results["cells"]:
        cell["num_layers"] = 28
    page, markdown = _rendered((results, sweep[1]), tmp_path / "with")
    for text in (page.text, markdown):
        assert "Against the paper" in text and "2.36\u00a0%" in text and "LibriSpeech test-clean" in text


def test_every_probe_is_a_row_for_other_programs(searched: Sweep, tmp_path: Path) -> None:
    render(*searched, tmp_path)
    with (tmp_path / "probes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    probes = searched[0]["probes"]
    assert len(rows) == len(probes) > 3
    for row, probe in zip(rows, probes, strict=True):
        assert [row[name] for name in ("family", "task", "language")] == [
            probe["cell"][name] for name in ("family", "task", "language")
        ]
        assert (int(row["start"]), int(row["depth"]), row["status"]) == (
            probe["start"],
            probe["depth"],
            probe["status"],
        )
        if probe["status"] == "complete":
            assert float(row["value"]) == probe["value"]
            low, high = probe["ci95"]
            assert [row["ci95_low"], row["ci95_high"]] == ["" if end is None else str(end) for end in (low, high)]
        else:
            assert row["value"] == row["ci95_low"] == ""


@pytest.mark.parametrize("records", ["searched", "scored", "joint"])
def test_same_new_records_same_bytes(records: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    results, store = request.getfixturevalue(records)
    render(results, store, tmp_path / "a")
    render(json.loads(json.dumps(results)), store, tmp_path / "b")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_older_records_show_none_of_the_new_parts(sweep: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(sweep, tmp_path / "out")
    for text in (page.text, markdown):
        assert "Every cell" in text and "The sampler “bisect” bisected over the depth" in text
        for part in ("All cells together", "Do cheap looks rank", "P(all evidence)", "joint", "None"):
            assert part not in text
        for part in (
            "Degenerate",
            "What the WER alone",
            "stopped",
            "martingale",
            "chrF",
            "decoded",
            "Spared",
            "speakers",
        ):
            assert part not in text


def test_how_answers_were_scored_is_shown(scored: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(scored, tmp_path / "out")
    for text in (page.text, markdown):
        assert text.count("Degenerate answers") == 3  # German has none recorded
        assert text.count("What the WER alone does not tell: of the 300 answers of the pruned model") == 1
        assert "11 (3.7\u00a0%) loop (unpruned: 0 of 300)" in text
        assert "61.2 → 58.9" in text and "stopped: hopeless after 64 of 240" in text
        assert "224 of 1200 utterances (18.7\u00a0%)" in text and "416 of 1680 utterances (24.8\u00a0%)" in text
        assert "betting martingale" in text and "Answers were decoded greedily." in text
        assert "+9.1\u00a0% CER" in text and "7.12\u00a0%\u00a0CER" in text and "CER: relative degradation" in text
        assert "8 more character edits after pruning" in text and "今天天气好我们去公园" in text
        assert "reference of 4 characters or more" in text and "reference of 4 words or more" in text
    assert "Characters that differ from the reference are underlined." in page.text
    assert "underlined" not in markdown
    for signature in (
        "chrf|nrefs:1|case:mixed|nc:6|nw:0|version:2.6.0",
        "cer|jiwer:4.0.0|norm:whisper-basic(letters=split)",
    ):
        assert page.text.count(signature) == markdown.count(signature) == 2  # where the scores are, and under Method


def test_the_joint_model_has_its_guards_in_each_cell(joint: Sweep, tmp_path: Path) -> None:
    guards = dict.fromkeys(("num_empty_hypotheses", "num_loops", "num_capped", "num_premature"), 0)
    joint[0]["cells"][0]["baseline"] |= guards
    joint[0]["joints"][0]["tests"][0]["test"] |= {**guards, "num_loops": 30}
    page, markdown = _rendered(joint, tmp_path / "out")
    for text in (page.text, markdown):
        assert text.count("of the 300 answers of the jointly pruned model on the test split, 30 (10.0") == 1


def test_every_number_about_scoring_comes_from_the_records(scored: Sweep, tmp_path: Path) -> None:
    before, _ = _rendered(scored, tmp_path / "a")
    english, translated, *_ = scored[0]["cells"]
    english["baseline"]["num_empty_references"], english["baseline"]["num_planned"] = 8642, 8942
    english["pruned"]["num_loops"] = 97
    translated["baseline"]["also"]["chrf"] = {"value": 77.41, "signature": "chrf|another"}
    scored[0]["probes"][4] |= {"num_planned": 7777}
    scored[0]["sweep"]["scoring"] |= {"early_stop": 0.0123, "num_beams": 5}
    after, markdown = _rendered(scored, tmp_path / "b")
    numbers = ("8642", "97 (32.3\u00a0%)", "77.4 → 58.9", "chrf|another", "64 of 7777", "delta = 0.0123", "5 beams")
    for number in numbers:
        assert number not in before.text
        assert number in after.text and number in markdown


def test_hostile_signatures_stay_text(scored: Sweep, tmp_path: Path) -> None:
    evil = "`<script>alert(1)</script>` | <b>"
    scored[0]["cells"][1]["baseline"]["also"]["chrf"]["signature"] = evil
    scored[0]["cells"][0]["baseline"]["signature"] = evil
    page, markdown = _rendered(scored, tmp_path / "out")
    assert "b" not in page.tags and page.tags.count("script") == 1
    assert page.text.count(evil) >= 2 and markdown.count(f"`` {evil} ``") >= 2


def test_cheap_looks_are_evidence_without_a_verdict(searched: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(searched, tmp_path / "out")
    for text in (page.text, markdown):
        assert "Do cheap looks rank blocks as full heals do?" in text and "−1.00" in text
        assert "unhealed look" in text and "Hollow grey marks" in text and "All cells together" not in text
        assert "can lose no block of layers for German speech recognition" in text and "2 blocks were tried" in text
    searched[0]["rungs"] = []
    page, markdown = _rendered(searched, tmp_path / "b")
    assert "Do cheap looks" not in page.text + markdown


def test_blocks_that_were_only_looked_at_cheaply_were_not_tried(searched: Sweep, tmp_path: Path) -> None:
    german = searched[0]["probes"][9]
    assert german["cell"]["language"] == "de"
    searched[0]["probes"].append({**german, "start": 9, "rung": "short", "verdict": None, "p_feasible": None})
    page, _ = _rendered(searched, tmp_path / "out")
    assert "2 blocks were tried" in page.text


def test_the_joint_answer_comes_first(joint: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(joint, tmp_path / "out")
    answer = "All 3 cells of qwen mini on whisper-base can together lose 3 of 12 layers (25.0\u00a0%)"
    for text in (page.text, markdown):
        assert text.index(answer) < text.index("All cells together") < text.index("Each cell by itself")
        assert text.index("Each cell by itself") < text.index("Evidence")
        assert "on whisper-base, all cells together, layers 7–10: the loss became NaN at step 31" in text
        assert "the deepest block that is more likely than not to be harmless to all of them is layers 6–9" in text
        assert "By itself, the qwen mini decoder can lose 4 of 12 layers" in text
        assert "not scored on the test split" not in text and "undecided whether" not in text
        assert text.count("The pruned model is the joint one.") == 3
    assert "1 base" in page.text
    assert {f"#cell-{i:02d}" for i in (1, 2, 3)} <= set(page.links)


def test_a_joint_sweep_cut_short_has_a_report(joint: Sweep, tmp_path: Path) -> None:
    one = joint[0]["joints"][0]
    one |= {"verdict": "undecided", "reason": "not scored on the test split: not run", "tests": None}
    one |= {"checkpoint": None, "binding": None, "prediction": None}
    del one["num_parameters"]
    page, markdown = _rendered(joint, tmp_path / "a")
    assert "not run." in page.text and "No joint model was scored on the test split." in markdown
    identity = {name: one[name] for name in ("family", "scale", "encoder", "task", "language", "members")}
    joint[0]["joints"] = [{**identity, "heals": [], "verdict": "failed", "reason": "a base was <b>not</b> scored"}]
    page, markdown = _rendered(joint, tmp_path / "b")
    assert "There is no joint answer for qwen mini on whisper-base: a base was <b>not</b> scored." in page.text
    assert "No joint heal was made." in markdown and "<b>" not in markdown


def test_every_joint_number_comes_from_the_records(joint: Sweep, tmp_path: Path) -> None:
    before, _ = _rendered(joint, tmp_path / "a")
    one = joint[0]["joints"][0]
    one["tests"][0]["test"] |= {"value": 0.66123, "num_utterances": 7391}
    one["tests"][2]["test"]["ci95"] = [0.0123, 0.2477]
    one["heals"][0] |= {"p_feasible": 0.8642, "wall_seconds": 7777}
    one["heals"][1]["members"][1]["relative_degradation"] = 0.7531
    one["binding"]["p_within"] = 0.1357
    joint[0]["rungs"][0]["tau"] = 0.4321
    joint[0]["sweep"]["search"]["price"] = 0.3579
    after, markdown = _rendered(joint, tmp_path / "b")
    for number in ("66.12\u00a0%", "7391", "+24.8]", "0.864", "2.2\u00a0h", "+75.3", "0.136", "+0.43", "0.3579 layers"):
        assert number not in before.text
        assert number in after.text and number.replace("]", "\\]") in markdown


def test_missing_files_of_a_joint_model_are_said_to_be_missing(joint: Sweep, tmp_path: Path) -> None:
    (joint[1] / joint[0]["joints"][0]["tests"][0]["test"]["hypotheses"]).unlink()
    page, _ = _rendered(joint, tmp_path / "out")
    assert "Joint model: hypotheses not in this store" in page.text


def test_hostile_names_of_a_joint_sweep_stay_text(joint: Sweep, tmp_path: Path) -> None:
    results, evil = joint[0], "</h1><script>alert(1)</script> | $x$ <b>"
    one = results["joints"][0]
    for record in (*results["cells"], *one["members"], one, one["binding"]["member"], *results["rungs"]):
        record["family"] = evil
    for heal in one["heals"][:2]:
        for member in heal["members"]:
            member["cell"]["family"] = evil
    for probe in results["probes"]:
        probe["cell"]["family"] = evil
    results["rungs"][1]["rung"] = "<i>rung"
    results["probes"][-1]["rung"] = "<i>rung"
    one["heals"][2]["reason"] = "<img src=x onerror=alert(1)>"
    one["checkpoint"] = "<u>path"
    results["sweep"]["sampler"] = "<script>alert(2)</script>"
    results["sweep"]["search"]["rungs"] = ["<b>"]
    page, markdown = _rendered(joint, tmp_path / "out")
    assert not {"img", "b", "i"} & set(page.tags) and page.tags.count("script") == 1
    assert page.text.count("<script>alert(1)</script>") > 5 and "chosen by the sampler “<script>" in page.text
    assert not re.search(r"<(script|img|b|i|u)\b", markdown)
    rows = [row for row in markdown.splitlines() if row.startswith("| English speech")]
    assert rows and {path.parent.name for path in (tmp_path / "out").rglob("*.png")} == {"figures"}


def test_hostile_text_stays_text(sweep: Sweep, tmp_path: Path) -> None:
    sweep[0]["sweep"]["name"] = "</title><script>alert('name')</script>"
    sweep[0]["cells"][3]["reason"] = "<img src=x onerror=alert(1)> | [a](javascript:b)"
    sweep[0]["cells"][3]["encoder"] = "../../$evil$/<b>"
    page, markdown = _rendered(sweep, tmp_path / "out")
    assert not {"img", "b"} & set(page.tags) and page.tags.count("script") == 1
    assert "<script>alert('said')</script>" in page.text  # as text: the sample of the worst utterance or the best
    assert not re.search(r"<(script|img|b)\b", markdown)
    assert "\\[a\\](javascript:b)" in markdown
    columns = [row.count("|") - row.count("\\|") for row in markdown.splitlines() if row.startswith("| 0000-voice")]
    assert columns and set(columns) == {6}
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.png")} == {"figures"}


def test_the_page_needs_no_network_and_has_one_script_inside(sweep: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(sweep, tmp_path / "out")
    assert not {"link", "iframe", "img"} & set(page.tags) and page.tags.count("script") == 1
    html, script = (tmp_path / "out" / "index.html").read_text(), (TEMPLATES / "page.js").read_text()
    assert f'<script type="module">\n{script}</script>' in html
    own = {f"#{name}" for name in page.ids}
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link in own or link == "results.json" or (tmp_path / "out" / link).is_file()
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown):
        assert (tmp_path / "out" / path.replace("\\", "")).is_file()


def test_every_number_comes_from_the_records(sweep: Sweep, tmp_path: Path) -> None:
    before, _ = _rendered(sweep, tmp_path / "a")
    results = sweep[0]
    results["cells"][0]["baseline"]["value"] = 0.77123
    results["cells"][0]["pruned"]["ci95"] = [0.0111, 0.9222]
    results["cells"][1]["test_voices"] = {"baseline": {**results["cells"][1]["baseline"], "num_utterances": 7654}}
    results["probes"][0]["p_within"] = 0.8761
    results["sweep"] |= {"num_failed": 4321, "seed": 9876, "tolerance": 0.444, "hardware": "8 x H999"}
    after, markdown = _rendered(sweep, tmp_path / "b")
    for number in ("77.12\u00a0%", "+92.2", "7654", "0.876", "4321", "9876", "44.4\u00a0%", "8 x H999"):
        assert number not in before.text
        assert number in after.text and number in markdown
    for cell in results["cells"][:3]:
        assert cell["baseline"]["signature"] in after.text and cell["baseline"]["signature"] in markdown


def test_missing_files_are_said_to_be_missing(sweep: Sweep, tmp_path: Path) -> None:
    results, store = sweep
    (store / results["cells"][0]["pruned"]["hypotheses"]).unlink()
    (store / results["cells"][1]["baseline"]["hypotheses"]).write_text("{")
    (store / results["cells"][0]["map"]).write_bytes(b"PK damaged")
    np.savez(store / results["cells"][1]["map"], distance=np.zeros((3, 3)))
    del results["cells"][2]["map"]
    page, _ = _rendered(sweep, tmp_path / "out")
    assert "Pruned model: hypotheses not in this store" in page.text
    assert "Unpruned model: hypotheses not in this store" in page.text
    assert page.text.count("The angular-distance map is not in this store") == 2
    assert "The records name no angular-distance map." in page.text
    _, markdown = _rendered((results, tmp_path / "no-store"), tmp_path / "bare")
    assert markdown.count("Unpruned model: hypotheses not in this store") == 3
    assert "33.3\u00a0%" in markdown


def test_an_empty_sweep_has_a_report(sweep: Sweep, tmp_path: Path) -> None:
    page, markdown = _rendered(({**sweep[0], "cells": [], "probes": []}, sweep[1]), tmp_path)
    assert "This sweep has no cells." in page.text and "No probe was tried." in markdown


def test_a_sweep_cut_short_has_a_report(sweep: Sweep, tmp_path: Path) -> None:
    sweep[0]["cells"][3] |= {"verdict": "none", "reason": "not run"}
    sweep[0]["cells"][0] |= {"pruned": None, "verdict": "undecided", "reason": "not scored on the test split: not run"}
    page, markdown = _rendered(sweep, tmp_path)
    assert "English speech recognition: not run." in page.text and "English speech recognition: not run." in markdown
    assert page.text.count("not scored on the test split: not run.") >= 1


def test_a_probe_of_an_unknown_cell_is_listed(sweep: Sweep, tmp_path: Path) -> None:
    page, _ = _rendered(({**sweep[0], "cells": []}, sweep[1]), tmp_path)
    assert page.text.count("qwen mini · whisper-base") >= len(sweep[0]["probes"])


def test_broken_records_and_folders_are_refused(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        render({"schema_version": 1}, sweep[1], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        render(*sweep, tmp_path / "file")


def test_markdown_escapes() -> None:
    assert escape_markdown("a|b\r\n*c* <i> & `d`\\") == "a\\|b \\*c\\* &lt;i&gt; &amp; \\`d\\`\\\\"
    assert code_markdown("a ``b") == "``` a ``b ```"
    assert code_markdown("run --x *") == "`run --x *`"


def _script(*arguments: str | Path, block: bool = False) -> subprocess.CompletedProcess[str]:
    start = "import sys, runpy\n"
    if block:
        start += "sys.modules.update(dict.fromkeys(['torch', 'ray', 'deepspeed', 'transformers', 'optuna']))\n"
    start += f"sys.argv[0] = 'report.py'; runpy.run_path({str(ROOT / 'sweeps' / 'report.py')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"},
    )


def test_the_script_renders_without_torch_and_ray(sweep: Sweep, tmp_path: Path) -> None:
    render(*sweep, tmp_path / "expected")
    write_results(sweep[0], tmp_path / "report")
    done = _script(tmp_path / "report", "--store", sweep[1], block=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "report" / "index.html") in done.stdout
    made = _files(tmp_path / "report")
    del made["results.json"]
    assert made == _files(tmp_path / "expected")


def test_the_script_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    done = _script(tmp_path, block=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_script_explains_itself() -> None:
    done = _script("--help")
    assert done.returncode == 0
    assert "--store" in done.stdout and "results.json" in done.stdout and "Example" in done.stdout
