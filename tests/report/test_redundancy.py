from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seen_page import Page, marks_of

from slamlab.errors import DataError, StoreError
from slamlab.report import redundancy_words as words
from slamlab.report.agreement import AXES, compare_all, pooled_tau
from slamlab.report.redundancy import render_redundancy
from slamlab.report.redundancy_figures import Line, draw_depths, draw_matrix, draw_panels
from slamlab.report.redundancy_records import check_redundancy, read_redundancy

LAYERS, RESAMPLES = 12, 60
BAND = np.array([np.arange(4.0), np.arange(4) + 1])
VIEWS = (("text", "all"), ("speech", "all"), ("speech", "audio"))
Records = dict[str, Any]


def distances(seed: int, weakest: float, num_layers: int = LAYERS) -> np.ndarray:
    """Return a map whose layers turn the stream least around one of them."""
    rng = np.random.default_rng(seed)
    rates = 0.03 + 0.02 * np.abs(np.arange(num_layers) - weakest) / num_layers * (1 + 0.1 * rng.random(num_layers))
    rates += 0.05 * (np.arange(num_layers) < 2)
    turned = np.concatenate([[0.0], np.cumsum(rates)])
    return np.abs(np.subtract.outer(turned, turned)) ** 0.8


def add_map(
    records: Records, arrays: dict[str, np.ndarray], weakest: float, *, noise: float = 0.0005, **what: Any
) -> dict[str, Any]:
    """Append a map to the records; `what` replaces its axes and counts."""
    i = len(records["maps"]) + 1
    one: dict[str, Any] = dict(
        zip(AXES, ("qwen", "mini", "whisper-base", "asr", "en", "base", "text", "all"), strict=True)
    )
    score = {"metric": "wer", "value": 0.0531, "num_utterances": 120, "ci95": [0.0413, 0.0672], "signature": "wer|x"}
    one |= {"key": f"m{i:02d}", "num_layers": LAYERS, "num_utterances": 64, "num_positions": 1234 + i, "score": score}
    one |= {"status": "complete", **what}
    records["maps"].append(one)
    if one["status"] == "complete":
        distance = distances(i if noise else 0, weakest, one["num_layers"])
        jitter = np.random.default_rng(100 + i).normal(size=(RESAMPLES, *distance.shape)) * noise
        jitter = (jitter + jitter.transpose(0, 2, 1)) * (distance > 0)
        arrays[f"{one['key']}.distance"] = distance
        arrays[f"{one['key']}.resampled"] = (distance + jitter).astype(np.float32)
    return one


def not_run(reason: str | None) -> dict[str, Any]:
    lacking = dict.fromkeys(("num_layers", "num_utterances", "num_positions", "score"))
    return {**lacking, "status": "not run", "reason": reason}


def empty() -> Records:
    return {
        "schema_version": 1,
        "kind": "redundancy",
        "sweep": {
            "name": "redundancy-qwen",
            "profile": "pocket",
            "seed": 3,
            "num_resamples": RESAMPLES,
            "num_utterances": 64,
            "corpus": {"name": "pocket", "fingerprint": "9f2c61d0a4b7", "problems": ["de-0007: no audio"]},
            "command": "python sweeps/redundancy.py --family qwen --profile pocket",
            "commit": "f29fd9e",
            "versions": {"torch": "2.9.1", "numpy": "2.3.1"},
            "convention": "entry [l, l + n] is the distance across the n layers from l on, counted from 0",
        },
        "maps": [],
        "agreement": [],
    }


Made = tuple[Records, dict[str, np.ndarray]]


def write(made: Made, folder: Path) -> Path:
    records, arrays = made
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "maps.npz", **arrays)  # type: ignore[arg-type]
    (folder / "redundancy.json").write_text(json.dumps(records, allow_nan=False), encoding="utf-8")
    return folder


@pytest.fixture
def made() -> Made:
    """Return two cells: English with all maps, German without LoRA, whose text says other blocks than its speech."""
    records, arrays = empty(), {}
    for decoder, weakest in (("base", 8.0), ("lora", 7.6)):
        for view, selection in VIEWS:
            add_map(records, arrays, weakest, decoder=decoder, view=view, selection=selection)
    for view, selection in VIEWS:
        weakest = 3.0 if view == "text" else 8.3
        add_map(records, arrays, weakest, language="de", view=view, selection=selection, num_utterances=48)
    for view, selection in VIEWS:
        lacking = not_run("the loss became NaN at step 12.")
        add_map(records, arrays, 0, language="de", decoder="lora", view=view, selection=selection, **lacking)
    records["agreement"] = compare_all(records["maps"], arrays, num_permutations=199, seed=3)
    return records, arrays


def rendered(made: Made, folder: Path) -> tuple[Page, str]:
    render_redundancy(write(made, folder))
    return Page((folder / "index.html").read_text(encoding="utf-8")), (folder / "report.md").read_text(encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_pair(value: float | None, low: float, high: float, **changes: Any) -> dict[str, Any]:
    pair = {"a": "m01", "b": "m02", "axis": "view", "values": ["text", "speech"], "status": "complete"}
    pair |= {"within": {"value": value, "ci95": [low, high]}, "overall": 0.97, "p": 0.01, "is_identical": False}
    pair |= {"overlap": {"value": 0.81, "ci95": [0.7, 0.9]}, "chance": 0.42, "num_utterances": 64, "num_depths": 10}
    return pair | {"num_permutations": 199, "seed": 0} | changes


def test_same_records_same_bytes(made: Made, tmp_path: Path) -> None:
    render_redundancy(write(made, tmp_path / "a"))
    (tmp_path / "b" / "figures").mkdir(parents=True)
    (tmp_path / "b" / "figures" / "99-of-earlier-records.png").write_bytes(b"")
    render_redundancy(write(json.loads(json.dumps(made[0])) and made, tmp_path / "b"))
    first, again = files(tmp_path / "a"), files(tmp_path / "b")
    del first["maps.npz"], again["maps.npz"]  # a zip file holds times
    assert first == again
    figures = [name for name in first if name.startswith("figures/")]
    assert sorted(figures) == sorted(
        f"figures/{stem}.{kind}"
        for stem in ("01-maps", "01-depths", "02-maps", "02-depths", "agreement")
        for kind in ("png", "svg")
    )


def test_the_answer_comes_first(made: Made, tmp_path: Path) -> None:
    page, markdown = rendered(made, tmp_path)
    answer = (
        "Text and speech agree on which blocks change the residual stream least in 2 of 3 comparisons and differ in 1."
    )
    best = "In qwen mini (12 layers) the least distant block of 3 layers (25.0\u00a0%) is layers 7–9 in 5 of 6"
    for text in (page.text, markdown):
        assert text.index(answer) < text.index(best) < text.index("What agrees with what") < text.index("Method")
        assert "Text against speech: of 3 pairs 2 agree, 1 differs; tau from +0.02 " in text
        assert "layers 2–4 in map 7: angular distance 0.150 to 0.151" in text
        assert "n = 48 to 64" in text
        assert "199 random profiles (seed 3)" in text


def test_failed_maps_say_so_and_why(made: Made, tmp_path: Path) -> None:
    for record in made[0]["maps"][9:]:
        record["status"] = "failed"
    page, markdown = rendered(made, tmp_path)
    for text in (page.text, markdown):
        assert "Failed: speech, LoRA decoder: the loss became NaN at step 12." in text
        assert "; failed: speech, LoRA decoder." in text and "ot run" not in text
        assert text.count("failed: the loss became NaN at step 12") == 3  # in the table of maps
    shown = svg_text((tmp_path / "figures" / "02-maps.svg").read_bytes())
    assert "failed" in shown and "not run" not in shown


def test_missing_maps_say_not_run_and_why(made: Made, tmp_path: Path) -> None:
    page, markdown = rendered(made, tmp_path)
    for text in (page.text, markdown):
        assert "Not run: speech, LoRA decoder: the loss became NaN at step 12." in text
        assert "not run: speech, LoRA decoder" in text
        assert text.count("not run: the loss became NaN at step 12") == 3  # in the table of maps
    svg = (tmp_path / "figures" / "02-maps.svg").read_bytes()
    assert "not run" in svg_text(svg)
    assert "not run" not in svg_text((tmp_path / "figures" / "01-maps.svg").read_bytes())


def test_a_cell_without_maps_has_no_figure(made: Made, tmp_path: Path) -> None:
    records, arrays = made
    add_map(records, arrays, 0, task="st", **not_run(None))
    page, markdown = rendered(made, tmp_path)
    assert "There is no map over all positions." in page.text and "no reason was recorded" in markdown
    assert not (tmp_path / "figures" / "03-maps.png").exists()


def test_every_number_comes_from_the_records(made: Made, tmp_path: Path) -> None:
    before, _ = rendered(made, tmp_path / "a")
    records = made[0]
    records["maps"][0]["score"] |= {"value": 0.77123, "num_utterances": 7391, "ci95": [0.7011, None]}
    records["maps"][1]["num_positions"] = 8642
    view = next(pair for pair in records["agreement"] if pair["axis"] == "view")
    view |= {"within": {"value": 0.8123, "ci95": [0.7321, 0.9345]}, "overall": -0.4876, "p": 0.0371, "chance": 0.1111}
    view |= {"overlap": {"value": 0.6543, "ci95": [0.6111, 0.6999]}, "num_permutations": 4321, "seed": 99}
    records["sweep"] |= {"seed": 5555, "hardware": "8 x H999"}
    after, markdown = rendered(made, tmp_path / "b")
    numbers = (
        "77.12\u00a0%\u00a0WER [70.11\u00a0%, –]",
        "7391",
        "8642",
        "+0.81 [+0.73, +0.93]",
        "−0.49",
        "0.037",
        "0.11",
    )
    for number in (*numbers, "0.65 [0.61, 0.70]", "4321 random profiles (seed 99)", "5555", "8 x H999", "de-0007"):
        assert number == "de-0007" or number not in before.text
        assert number in after.text and number.replace("[", "\\[").replace("]", "\\]") in markdown


def test_the_csv_has_every_block_with_its_interval(made: Made, tmp_path: Path) -> None:
    render_redundancy(write(made, tmp_path))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "maps.csv").read_text())))
    assert list(rows[0]) == ["key", "start", "depth", "distance", "lo", "hi"]
    assert len(rows) == 9 * LAYERS * (LAYERS + 1) // 2
    row = next(row for row in rows if (row["key"], row["start"], row["depth"]) == ("m02", "5", "4"))
    assert float(row["distance"]) == pytest.approx(made[1]["m02.distance"][5, 9], abs=1e-6)
    ends = np.quantile(made[1]["m02.resampled"][:, 5, 9].astype(float), [0.025, 0.975])
    assert [float(row["lo"]), float(row["hi"])] == pytest.approx(list(ends), abs=1e-6)
    assert {row["key"] for row in rows} == {f"m{i:02d}" for i in range(1, 10)}


def test_without_resamples_there_are_no_intervals(made: Made, tmp_path: Path) -> None:
    records, arrays = made
    for name in [name for name in arrays if name.endswith("resampled")]:
        arrays[name] = arrays[name][:5]
    records["agreement"] = compare_all(records["maps"], arrays, num_permutations=19)
    page, markdown = rendered(made, tmp_path)
    assert "cannot be told, in all 3 comparisons" in page.text
    assert "because there are fewer than 40 paired resamples" in markdown
    assert "without bands, as there are fewer than 40 resamples" in page.text
    assert (tmp_path / "maps.csv").read_text().splitlines()[1].endswith(",,")


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (a_pair(0.7, 0.5, 0.8), "agree"),
        (a_pair(0.7, 0.499, 0.8), "unclear"),
        (a_pair(0.7, 0.5, 0.8, p=0.051), "unclear"),
        (a_pair(0.3, 0.1, 0.499, p=0.7), "differ"),
        (a_pair(0.3, 0.1, 0.5, p=0.7), "unclear"),
        (a_pair(0.9, 0.8, 1, num_utterances=19), "unclear"),
        (a_pair(0.3, 0.1, 0.2, num_utterances=19), "unclear"),
        (a_pair(0.9, 0.8, 1, num_utterances=20), "agree"),
        (a_pair(1, 1, 1, is_identical=True), "same"),
        (a_pair(0.9, 0, 0, within={"value": 0.9, "ci95": None}), "unclear"),
        (a_pair(None, 0, 0, within={"value": None, "ci95": None}, p=None), "unclear"),
    ],
)
def test_the_verdict_goes_by_interval_p_and_n(pair: dict[str, Any], expected: str) -> None:
    assert words.verdict(pair) == expected


def test_the_headline_counts_verdicts() -> None:
    agree, differ, unclear = a_pair(0.7, 0.6, 0.8), a_pair(0.2, 0.1, 0.3), a_pair(0.5, 0.4, 0.6)
    same = a_pair(1, 1, 1, is_identical=True)
    other = {**agree, "axis": "task"}
    least = "on which blocks change the residual stream least"
    for pairs, expected in (
        ([agree, same, other], f"Text and speech agree {least}, in the one comparison made."),
        ([differ, differ], f"Text and speech differ {least}, in all 2 comparisons."),
        ([unclear], f"Whether text and speech agree {least} cannot be told, in the one comparison made."),
        ([agree, unclear], f"Text and speech agree {least} in 1 of 2 comparisons; in 1 it cannot be told."),
        ([differ, unclear], f"Text and speech differ {least} in 1 of 2; in 1 it cannot be told."),
        ([same, other], "No map of text was compared with one of speech."),
        ([{**agree, "status": "left out"}], "No map of text was compared with one of speech."),
    ):
        assert words.headline(pairs) == expected


def test_a_sentence_says_why_it_cannot_be_told() -> None:
    numbers = {"m01": 1, "m02": 2}
    for pair, reason in (
        (a_pair(0.5, 0.4, 0.6), "the interval holds 0.5, so that n is too small to tell"),
        (a_pair(0.9, 0.8, 1, num_utterances=8), "n is below 20"),
        (a_pair(0.9, 0.8, 1, p=0.3), "could agree as well by chance"),
    ):
        told = words.axis_sentence([pair], "view", numbers)
        assert told.startswith("Text against speech: cannot tell. Between maps 1 and 2 tau is +0.") and reason in told
    both = words.axis_sentence([a_pair(0.5, 0.4, 0.6), a_pair(0.9, 0.8, 1, p=0.3)], "view", numbers)
    assert "1 as the interval holds" in both and "1 as layers that" in both
    same = a_pair(1, 1, 1, is_identical=True)
    assert "In 1 more the maps are one and the same" in words.axis_sentence(
        [same, a_pair(0.9, 0.8, 1)], "view", numbers
    )
    assert "say nothing" in words.axis_sentence([same], "view", numbers)
    assert words.axis_sentence([same], "task", numbers) == ""


def test_maps_that_are_one_count_once(tmp_path: Path) -> None:
    records, arrays = empty(), {}
    for task in ("asr", "st"):
        add_map(records, arrays, 8.0, noise=0, task=task)
    records["agreement"] = compare_all(records["maps"], arrays, num_permutations=19)
    page, _ = rendered((records, arrays), tmp_path)
    assert "different maps" not in page.text and "n = 64." in page.text
    assert "Task against task: all 1 pairs are one map twice" in page.text
    assert "=" in svg_text((tmp_path / "figures" / "agreement.svg").read_bytes())
    assert "count neither for nor against agreement" in page.text


def test_maps_of_other_depths_are_left_out_and_said_to_be(made: Made, tmp_path: Path) -> None:
    records, arrays = made
    add_map(records, arrays, 4.0, scale="1b", num_layers=9)
    records["agreement"] = compare_all(records["maps"], arrays, num_permutations=19)
    page, markdown = rendered(made, tmp_path)
    for text in (page.text, markdown):
        assert "1 pair was not compared, maps 1 and 13: 12 and 9 layers" in text
        assert "A dash: maps of another number of layers each." in text
        assert "In qwen 1b (9 layers) the least distant block of 2 layers" in text


def test_the_matrix_is_of_all_maps_while_they_fit(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, _ = rendered(made, tmp_path / "a")
    assert "Kendall's tau within depths between all maps" in page.text
    _, drawn = read_redundancy(tmp_path / "a")
    first, second = drawn[0].map, drawn[6].map
    assert first is not None and second is not None
    tau = f"{float(pooled_tau(first.signs[0], second.signs[0])):.2f}".replace("-", "−")
    assert svg_text((tmp_path / "a" / "figures" / "agreement.svg").read_bytes()).split().count(tau) >= 2
    monkeypatch.setattr("slamlab.report.redundancy.MATRIX_MAX", 8)
    page, _ = rendered(made, tmp_path / "b")
    assert "between the 6 maps over all positions" in page.text


def test_many_pairs_are_folded(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slamlab.report.redundancy.FOLDED_FROM", 2)
    page, markdown = rendered(made, tmp_path)
    assert "details" in page.tags and "All 3 pairs" in page.text
    assert "All 3 pairs" not in markdown and "| 7 and 8 |" in markdown


def test_the_page_needs_no_network_and_has_one_script_inside(made: Made, tmp_path: Path) -> None:
    page, markdown = rendered(made, tmp_path)
    assert not {"link", "iframe", "img"} & set(page.tags) and page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    own = {f"#{name}" for name in page.ids}
    for link in page.links:
        assert link in own or link.startswith("data:image/png;base64,") or (tmp_path / link).is_file(), link
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown):
        assert (tmp_path / path).is_file()


def test_hostile_text_stays_text(made: Made, tmp_path: Path) -> None:
    evil = "</h1><script>alert(1)</script> | $x$ <b>"
    records, arrays = made
    for one in records["maps"]:
        one |= {"family": evil, "encoder": "../../$evil$/<b>"}
    for one in records["maps"][9:]:
        one["reason"] = "<img src=x onerror=alert(1)> | [a](javascript:b)"
    records["sweep"] |= {"name": evil, "convention": evil, "command": f"`{evil}`"}
    records["sweep"]["corpus"]["problems"] = [evil]
    add_map(records, arrays, 8.1, family=evil, encoder="<i>", num_layers=12)
    records["agreement"] = compare_all(records["maps"], arrays, num_permutations=19)
    page, markdown = rendered(made, tmp_path)
    assert any(pair["axis"] == "encoder" for pair in records["agreement"])
    assert not {"img", "b", "i"} & set(page.tags) and page.tags.count("script") == 1
    assert page.text.count("<script>alert(1)</script>") > 5
    assert not re.search(r"<(script|img|b|i)\b", markdown.replace(f"`{evil}`", ""))
    assert "\\[a\\](javascript:b)" in markdown
    assert {path.parent.name for path in tmp_path.rglob("*.png")} == {"figures"}
    table = [row for row in markdown.splitlines() if re.match(r"\| \d+ \| m\d\d ", row)]
    assert len(table) == 13 and {row.count("|") - row.count("\\|") for row in table} == {12}


def test_empty_records_have_a_report(tmp_path: Path) -> None:
    page, markdown = rendered((empty(), {}), tmp_path)
    for text in (page.text, markdown):
        assert "This sweep has no maps." in text and "No pair of maps was compared." in text
        assert "No two maps differ in one thing only." in text


def _set(path: str, value: Any) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
        inside: Any = records
        for part in parents:
            inside = inside[part]
        if value is ...:
            del inside[last]
        else:
            inside[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema_version", 2), "redundancy.json has schema version 1"),
        (_set("kind", "max_prune"), "in redundancy.json, kind is one of redundancy, got max_prune"),
        (_set("sweep.versions", ...), "in redundancy.json, sweep.versions is given, got nothing"),
        (_set("sweep.corpus.name", 3), "sweep.corpus.name is a text, got 3"),
        (_set("maps[1].key", "m01"), r"maps\[1\] is a map of its own, with a key of its own, got m01 again"),
        (_set("maps[1].view", "text"), r"maps\[1\] is a map of its own"),
        (_set("maps[0].key", "../m"), r"maps\[0\].key is letters, digits, dots, dashes"),
        (_set("maps[2].selection", "some"), r"maps\[2\].selection is one of all, audio"),
        (_set("maps[0].num_utterances", 0), r"maps\[0\].num_utterances is 1 or more, got 0"),
        (_set("maps[0].num_layers", None), r"maps\[0\].num_layers is a number, got None"),
        (_set("maps[0].score.metric", "accuracy"), r"maps\[0\].score.metric is one of wer"),
        (_set("maps[0].score.ci95", [1]), r"maps\[0\].score.ci95 is \[low, high\]"),
        (_set("agreement[0].a", "m99"), r"agreement\[0\].a is the key of a complete map, got m99"),
        (_set("agreement[0].b", "m12"), r"agreement\[0\].b is the key of a complete map, got m12"),
        (_set("agreement[0].axis", "size"), r"agreement\[0\].axis is one of family"),
        (_set("agreement[0].values", ["x", "y"]), r"agreement\[0\].values is what its maps are on this axis"),
        (_set("agreement[0].within.value", 1.2), r"agreement\[0\].within is from -1 to 1, got 1.2"),
        (_set("agreement[0].overlap.ci95", [-0.1, 0.2]), r"agreement\[0\].overlap is from 0 to 1, got -0.1"),
        (_set("agreement[0].p", 0), r"agreement\[0\].p is above 0 and at most 1"),
        (_set("agreement[0].is_identical", "no"), r"agreement\[0\].is_identical is true or false"),
        (_set("agreement[0].chance", float("nan")), r"agreement\[0\].chance is a finite number"),
    ],
)
def test_broken_records_are_refused_by_path(made: Made, change: Callable[[Records], None], message: str) -> None:
    records = copy.deepcopy(made[0])
    check_redundancy(records, "here")
    change(records)
    with pytest.raises(DataError, match=message):
        check_redundancy(records, "here")


def test_broken_arrays_are_refused(made: Made, tmp_path: Path) -> None:
    records, arrays = made
    whole = dict(arrays)
    skew = whole["m02.distance"].copy()
    skew[0, 3] += 0.1
    for name, array, message in (
        ("m02.distance", distances(0, 3, 9), "a map is"),
        ("m02.distance", skew, "in maps.npz, m02.distance is symmetric"),
        ("m02.resampled", np.zeros((RESAMPLES + 1, LAYERS + 1, LAYERS + 1)), "at most 60 resamples, got 61"),
        ("m02.distance", np.full((LAYERS + 1,) * 2, np.nan), "finite"),
    ):
        with pytest.raises(DataError, match=message):
            render_redundancy(write((records, {**whole, name: array}), tmp_path / "a"))
    records["maps"][1]["num_layers"] = 9
    with pytest.raises(DataError, match=r"m02\.distance is of 9 layers, L\+1 by L\+1, got 13x13"):
        render_redundancy(write((records, whole), tmp_path / "a"))
    records["maps"][1]["num_layers"] = LAYERS
    del whole["m02.resampled"]
    with pytest.raises(DataError, match=r"no m02\.resampled"):
        render_redundancy(write((records, whole), tmp_path / "a"))


def test_missing_and_damaged_files_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"made from redundancy\.json and maps\.npz"):
        render_redundancy(tmp_path)
    folder = write(made, tmp_path / "a")
    for content in (b"PK damaged", b"", b"\x93NUMPY"):
        (folder / "maps.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"maps\.npz"):
            render_redundancy(folder)
    (folder / "maps.npz").unlink()
    with pytest.raises(DataError, match="No such file"):
        render_redundancy(folder)
    (folder / "redundancy.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        render_redundancy(folder)
    folder = write(made, tmp_path / "b")
    (folder / "figures").write_text("")
    with pytest.raises(StoreError, match="can be written"):
        render_redundancy(folder)


def svg_text(svg: bytes) -> str:
    return " ".join(element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def test_figures_name_what_they_show() -> None:
    texts = svg_text(draw_panels([("text alone", distances(0, 8)), ("speech", "failed")]).svg)
    for name in ("text alone", "speech", "failed", "least distance of each depth", "angular distance"):
        assert name in texts
    line = Line(label="text alone", look=0, starts=[1, 1, 1, 0], distance=np.arange(4.0), band=BAND)
    assert "text alone" in svg_text(draw_depths([line]).svg)
    assert draw_depths([line]).svg != draw_depths([replace(line, band=None)]).svg
    tau = np.array([[1, -0.31, np.nan], [-0.31, 1, np.nan], [np.nan, np.nan, 1]])
    texts = svg_text(draw_matrix(tau, np.eye(3, dtype=bool), [4, 5, 17], ["a", "b", "c"]).svg)
    assert texts.split().count("−0.31") == 2 and texts.split().count("–") == 4 and "17" in texts
    assert texts.split().count("=") == 3


def test_a_map_without_distance_can_be_drawn() -> None:
    assert svg_text(draw_panels([("text alone", np.zeros((4, 4)))]).svg)


def test_figures_tell_what_their_marks_stand_for() -> None:
    one = distances(0, 8)
    spots = draw_panels([("text alone", one), ("speech", "not run"), ("LoRA", one[:5, :5])]).spots
    assert list(spots) == ["text alone\nangular distance", "LoRA\nangular distance"]
    whole, part = ([text for *_, text in own] for own in spots.values())
    assert len(whole) == LAYERS * (LAYERS + 1) // 2 and len(part) == 10
    assert whole[0] == f"layer 0 (1 of 12): {one[0, 1]:.4f}" and f"layers 3–7 (5 of 12): {one[3, 8]:.4f}" in whole
    line = Line(label="text alone", look=0, starts=[1, 1, 1, 0], distance=np.arange(4.0), band=BAND)
    (told,) = draw_depths([line]).spots.values()
    assert told[2][2] == "layers 1–3 (3 of 4): 2.0000 [2.0000, 3.0000]"
    assert draw_depths([replace(line, band=None)]).spots["text alone\nangular distance"][3][2].endswith("4): 3.0000")
    tau = np.array([[1, -0.31, np.nan], [-0.31, 1, np.nan], [np.nan, np.nan, 1]])
    spots = draw_matrix(tau, np.eye(3, dtype=bool), [4, 5, 17], ["a", "b", "<c>"]).spots
    assert [text for *_, text in spots["map 4: a"]] == [
        "one and the same map",
        "map 5: b\ntau within depths: −0.31",
        "map 17: <c>\nnot comparable: other numbers of layers",
    ]


def test_marks_are_where_their_spots_are() -> None:
    line = Line(label="text alone", look=0, starts=[1, 1, 1, 0], distance=np.arange(4.0), band=BAND)
    for image, num_marks in ((draw_depths([line]), 4), (draw_panels([("text alone", distances(0, 8))]), LAYERS)):
        spots = [(x, y) for own in image.spots.values() for x, y, _ in own]
        marks = marks_of(image.svg)
        found = sum(any(math.dist(mark, spot) < 0.1 for mark in marks) for spot in spots)
        assert found == num_marks
