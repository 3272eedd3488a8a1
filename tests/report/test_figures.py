from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
from seen_page import Page, marks_of

from slamlab.report.drawing import Image
from slamlab.report.figures import draw_degradation, draw_map
from slamlab.report.writing import degradation


def _texts(svg: bytes) -> str:
    return " ".join(element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def test_every_verdict_and_the_tolerance_are_named(sweep) -> None:
    english = [probe for probe in sweep[0]["probes"] if probe["cell"]["language"] == "en"]
    chosen = {**sweep[0]["cells"][0]["pruned"], "depth": 4}
    texts = _texts(draw_degradation(english, 12, 0.25, chosen).svg)
    for name in ("feasible", "undecided", "infeasible", "failed", "unpruned", "chosen, on test", "tolerance 25 %"):
        assert name in texts
    assert "undecided" not in _texts(draw_degradation(english[:1], 12, 0.25, None).svg)


def test_what_is_off_the_scale_keeps_its_number(sweep) -> None:
    probes = sweep[0]["probes"][-1:]
    assert "+1021 %" in _texts(draw_degradation(probes, 12, 0.25, None).svg)
    unbounded = [{**probes[0], "relative_degradation": None, "ci95": [None, None]}]
    assert "unbounded" in _texts(draw_degradation(unbounded, 12, 0.25, None).svg)


def test_cheap_looks_are_named_and_do_not_stretch_the_axis(searched) -> None:
    english = [probe for probe in searched[0]["probes"] if probe["cell"]["language"] == "en"]
    full = [probe for probe in english if probe["rung"] == "full"]
    texts, without = (_texts(draw_degradation(some, 12, 0.25, None).svg) for some in (english, full))
    assert "unhealed look" in texts and "short heal" in texts
    assert "unhealed look" not in without and "short heal" not in without
    ticks = [set(re.findall(r"−?\d+ %", text)) for text in (texts, without)]
    assert ticks[0] == ticks[1]
    assert "↑" not in texts  # what a cheap look says is not worth a number in the figure
    alone = [probe for probe in english if probe["rung"] != "full"]
    alone[0] = {**alone[0], "relative_degradation": None, "ci95": [None, None]}
    assert "unhealed look" in _texts(draw_degradation(alone, 12, 0.25, None).svg)


def test_degenerate_sweeps_can_be_drawn(sweep) -> None:
    failed = [probe for probe in sweep[0]["probes"] if probe["status"] == "failed"]
    assert "failed" in _texts(draw_degradation(failed, 12, 0.0, None).svg)
    assert _texts(draw_map(np.zeros((2, 2)), None, 0).svg)


def test_the_map_marks_the_chosen_block_only_when_there_is_one() -> None:
    distance = np.abs(np.subtract.outer(np.arange(13.0), np.arange(13.0))) / 13
    assert "chosen block" in _texts(draw_map(distance, 6, 4).svg)
    assert "chosen block" not in _texts(draw_map(distance, None, 0).svg)


def test_same_records_same_bytes_whatever_matplotlib_is_set_to(sweep) -> None:
    probes = sweep[0]["probes"][:4]
    first = draw_degradation(probes, 12, 0.25, None)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": True}):
        again = draw_degradation(probes, 12, 0.25, None)
    assert (first.svg, first.png) == (again.svg, again.png)
    assert b"<dc:date>" not in first.svg


def test_inline_drawings_do_not_share_ids() -> None:
    image = draw_map(np.zeros((4, 4)), 1, 1)
    ids = [set(re.findall(r'\bid="([^"]+)"', image.inline(prefix))) for prefix in ("a", "b")]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', image.inline("a")))
    assert used and used <= ids[0]


def test_every_probe_is_told_where_its_mark_is(searched) -> None:
    english = [probe for probe in searched[0]["probes"] if probe["cell"]["language"] == "en"]
    english[0] = {**english[0], "repeat": 1}
    chosen = {**searched[0]["cells"][0]["pruned"], "depth": 4}
    image = draw_degradation(english, 12, 0.25, chosen)
    told = [(x, y, f"{head}\n{text}") for head, own in image.spots.items() for x, y, text in own]
    assert len(told) == len(english) + 1
    marks = marks_of(image.svg)
    assert all(any(math.dist(mark, (x, y)) < 0.1 for mark in marks) for x, y, _ in told)
    texts = " | ".join(text.replace("\n", ", ").replace("\u00a0", " ") for *_, text in told)
    for probe in english:
        assert f"{probe['start']}–{probe['start'] + probe['depth'] - 1} ({probe['depth']} of 12)" in texts
        if probe["status"] == "complete":
            assert degradation(probe).replace("\u00a0", " ") in texts
    for part in (", heal 2, ", "full heal: feasible, ", "unhealed look, ", "short heal, ", "chosen, on test, ", "n = "):
        assert part in texts


def test_failed_and_unbounded_probes_are_told(sweep) -> None:
    probes = [{**probe, "start": 1, "depth": 1} for probe in sweep[0]["probes"]]
    failed = next(probe for probe in probes if probe["status"] == "failed")
    unbounded = {**probes[-1], "relative_degradation": None, "ci95": [None, None]}
    spots = draw_degradation([failed, unbounded], 12, 0.25, None).spots["layer 1 (1 of 12)"]
    texts = sorted(text.replace("\u00a0", " ") for *_, text in spots)
    assert texts[0] == "full heal: failed" and texts[1].startswith("full heal: infeasible\nunbounded (−∞, ∞)")


def test_every_cell_of_a_map_is_told() -> None:
    distance = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0))) / 6
    distance[0, 5] = np.nan
    image = draw_map(distance, 1, 2)
    (own,) = image.spots.values()
    assert len(own) == 14 and [text for *_, text in own if "layers 1–3 (3 of 5): 0.5000" in text]
    found = [mark for mark in marks_of(image.svg) if any(math.dist(mark, (x, y)) < 0.1 for x, y, _ in own)]
    assert len(found) == 4, "the least distant block of each depth that has one"


def test_what_marks_stand_for_goes_along_as_data_whatever_it_says() -> None:
    evil = """</svg><script>alert('"1"')</script> &amp; id="x" url(#y) \u2028"""
    image = Image(svg=b'<?xml?><svg width="1"><g id="a"/></svg>', png=b"", spots={evil: [(1.5, 2.0, evil)]})
    page = Page(image.inline("p"))
    assert page.tags == ["svg", "g"] and page.ids == ["p-a"]
    assert [json.loads(spots) for spots in page.spots] == [{evil: [[1.5, 2.0, evil]]}]
