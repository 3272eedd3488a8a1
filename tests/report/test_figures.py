from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np

from slamlab.report.figures import draw_degradation, draw_map


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
