"""What is read off curves, against brute force, and what the page says of them."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from seen_page import marks_of

from slamlab.errors import DataError
from slamlab.report import method
from slamlab.report.curve_points import Point, largest, median_interval, read_curves, sign_test
from slamlab.report.curve_tables import TOLERANCES, fractions_table, points_table
from slamlab.report.curves import view_curves
from slamlab.report.page import render
from slamlab.report.results import check_results
from slamlab.report.writing import NBSP

LAYERS, DEPTHS = 12, (1, 3, 6, 9)
STARTS = {"paper": (4, 4, 3, 3), "deepest": (10, 8, 5, 2), "random": (6, 5, 3, 1)}
HEALED = {"paper": (-0.1, 0.04, 0.2, 1.5), "deepest": (0.02, 0.3, 0.1, 3.0), "random": (0.01, 0.08, 0.2, None)}
CUT = {"paper": (0.1, 0.6, 4.0, 8.0), "deepest": (0.05, 1.1, 3.5, None), "random": (0.3, 0.7, 4.0, 9.0)}
HALF = 0.12


@pytest.fixture
def curved(sweep) -> tuple[dict[str, Any], Path]:
    """Return the records of curves over three cells, one of which has none, and their store.

    At a depth of 6 the least distance and the random start are one block.
    """
    results, store = sweep
    english, translated, _, broken = results["cells"]
    cells = [english, translated, broken]
    for cell in cells[:2]:
        cell |= {"verdict": "none", "max_depth": 0, "max_fraction": 0.0, "start": None, "pruned": None}
    results["cells"] = cells
    results["sweep"] |= {
        "sampler": "curve",
        "search": {"rungs": ["unhealed", "full"], "methods": list(STARTS), "depths": []},
        "scoring": {"num_beams": 1, "resample": "utterance", "early_stop": 0.0},
    }
    results["curves"] = [{**_identity(cell), "methods": _blocks() if cell is not broken else {}} for cell in cells]
    results["probes"] = [probe for cell in cells[:2] for probe in _probes(cell)]
    return results, store


def _identity(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: cell[name] for name in ("family", "scale", "encoder", "task", "language")}


def _blocks() -> dict[str, list[dict[str, int]]]:
    return {
        name: [{"start": start, "depth": depth} for start, depth in zip(starts, DEPTHS, strict=True)]
        for name, starts in STARTS.items()
    }


def _probes(cell: dict[str, Any]) -> list[dict[str, Any]]:
    probes = {}
    for name, (rung, values) in itertools.product(STARTS, (("full", HEALED), ("unhealed", CUT))):
        for start, depth, value in zip(STARTS[name], DEPTHS, values[name], strict=True):
            probe: dict[str, Any] = {
                "cell": _identity(cell),
                "start": start,
                "depth": depth,
                "rung": rung,
                "repeat": 0,
                "status": "complete",
                "value": 0.1,
                "relative_degradation": value,
                "ci95": [None, None] if value is None else [value - HALF, value + HALF],
                "num_utterances": 240 if rung == "full" else 60,
            }
            if rung == "full":
                probe |= {"verdict": "undecided", "p_within": 0.5, "p_feasible": 0.5}
            probes[start, depth, rung] = probe
    return list(probes.values())


def _plain(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.replace(NBSP, " ") for text in texts)


def _lead(results: dict[str, Any]) -> list[str]:
    return list(_plain(view_curves(results, {}).cells[0].lead))


# What is read off


def _point(depth: int, value: float, half: float = HALF) -> Point:
    return Point(depth=depth, start=0, degradation=value, low=value - half, high=value + half, num_utterances=240)


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_fraction_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [_point(depth, float(value)) for depth, value in enumerate(rng.exponential(0.3, size=9), 1)]
    for tolerance in (0.0, *TOLERANCES, 1.0):
        for by_bound in (False, True):
            best = 0
            for one in points:
                if one.degradation + (HALF if by_bound else 0) <= tolerance and one.depth > best:
                    best = one.depth
            assert largest(points, tolerance, by_bound=by_bound) == best
    assert largest(points, 0.25, by_bound=True) <= largest(points, 0.25)


def test_the_largest_fraction_stands_beyond_a_gap_and_on_the_edge() -> None:
    assert largest([_point(1, 0.1), _point(2, 0.5), _point(4, 0.25)], 0.25) == 4
    assert largest([], 0.25) == 0
    assert largest([_point(3, math.inf)], 5.0) == 0


@pytest.mark.parametrize("num_up", range(8))
def test_the_sign_test_is_scipys(num_up: int) -> None:
    for num_down, ties in ((0, 0), (1, 2), (5, 0), (7, 3)):
        differences = [0.1 * (i + 1) for i in range(num_up)] + [-0.2] * num_down + [0.0] * ties
        n = num_up + num_down
        assert sign_test(differences) == pytest.approx(binomtest(num_up, n).pvalue if n else 1.0)


def test_the_interval_of_the_median_is_as_wide_as_it_must_be_and_no_wider() -> None:
    assert all(median_interval(range(n)) is None for n in range(6))
    for n in range(6, 40):
        low, high = median_interval(list(range(n))[::-1])
        assert low == n - 1 - high, "as many are left out at either end"

        def coverage(left_out: int, n: int = n) -> float:
            return 1 - 2 * sum(math.comb(n, i) for i in range(left_out + 1)) / 2**n

        assert coverage(int(low)) >= 0.95 > coverage(int(low) + 1)


def test_the_interval_excludes_nothing_where_the_sign_test_sees_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        differences = list(rng.normal(0.6, 1.0, size=int(rng.integers(6, 14))))
        low, high = median_interval(differences)
        assert (low > 0 or high < 0) == (sign_test(differences) <= 0.05)


# Tables


def test_fractions_are_told_for_every_curve_by_estimate_and_by_bound(curved) -> None:
    table = fractions_table(read_curves(curved[0])[0], 0.25)
    assert _plain(table.columns) == (
        "Method", "Scored", "Depths", "n", "within 5 %", "within 10 %", "within 25 %", "within 50 %",
    )  # fmt: skip
    rows = {(row.texts[0], row.texts[1]): _plain(row.texts)[2:] for row in table.rows}
    assert rows["least distance", "healed"] == (
        "4 of 4", "240", "25.0 % / 8.3 %", "25.0 % / 8.3 %", "50.0 % / 25.0 %", "50.0 % / 50.0 %",
    )  # fmt: skip
    assert rows["deepest but the last", "healed"][2:] == (
        "8.3 % / 0", "50.0 % / 0", "50.0 % / 50.0 %", "50.0 % / 50.0 %",
    )  # fmt: skip
    assert rows["deepest but the last", "as cut"] == ("4 of 4", "60", "8.3 % / 0", "8.3 % / 0", *["8.3 % / 8.3 %"] * 2)
    assert len(rows) == 6
    columns = fractions_table(read_curves(curved[0])[0], 0.15).columns
    assert "within 15 %" in _plain(columns), "the sweep's own tolerance is among them"


def test_every_point_is_told_by_depth_and_method(curved) -> None:
    curves = read_curves(curved[0])[0]
    rows = [_plain(row.texts) for row in points_table(curves).rows]
    assert [row[0] for row in rows] == [str(depth) for depth in DEPTHS for _ in STARTS]
    assert rows[0] == ("1", "8.3 %", "least distance", "4", "−10.0 % [−22.0, +2.0]", "+10.0 % [−2.0, +22.0]")
    assert rows[-1][3:] == ("1–9", "unbounded (−∞, ∞)", "+900.0 % [+888.0, +912.0]")


# Sentences


def test_the_first_sentence_says_what_can_go(curved) -> None:
    results, _ = curved
    assert view_curves(results, {}).headline.replace(NBSP, " ") == (
        "Removed where the angular distance is least and healed, 50.0 % of the layers of the qwen mini decoder can go "
        "within a relative degradation of 25.0 % for 2 cells; as cut, 8.3 % (point estimates on the selection split, "
        "of the depths tried)."
    )
    results["curves"] = results["curves"][:1]
    told = view_curves(results, {}).headline.replace(NBSP, " ")
    assert "and healed, 50.0 % (6 of 12) of the layers of the qwen mini decoder can go" in told
    assert "for English speech recognition; as cut, 8.3 % (1 of 12) (point" in told
    results["probes"] = []
    assert view_curves(results, {}).headline == "No curve was measured."


def test_sentences_count_depths_and_say_how_sure_that_is(curved) -> None:
    lead = _lead(curved[0])
    assert lead[0] == "Unpruned, the model scores WER 5.41 % on the selection split (n = 200)."
    assert lead[1] == (
        "Of the blocks removed where the angular distance is least, healed, the deepest within 25.0 % has 6 of 12 "
        "layers by point estimate, 3 by the upper end of the 95 % interval (n = 240; the deepest tried has 9)."
    )
    assert "as cut, the deepest within 25.0 % has 1 of 12 layers by point estimate, 1 by" in lead[2]
    # Of one block the healed model is unbounded, of another the one that was only cut.
    assert lead[3].startswith("Healing lowers the degradation of 10 of 11 blocks that were scored both ways (sign test")
    assert lead[3].endswith("healed on 240 utterances, as cut on 60.")
    assert lead[4] == (
        "Healed and at equal depth, the least distance degrades less than the deepest but the last at 3 and more at 1 "
        "of 4 depths where they name different blocks (sign test p = 0.62; median difference −19.0 points, too few for "
        "an interval). That does not tell them apart."
    )
    assert "less than the random start at 3 and more at 0 of 3 depths where they name different" in lead[5]


def test_enough_depths_name_the_better_method(curved) -> None:
    results, _ = curved
    blocks = {"paper": [(0, n) for n in range(1, 8)], "random": [(1, n) for n in range(1, 8)]}
    results["curves"][0]["methods"] = {
        name: [{"start": start, "depth": depth} for start, depth in own] for name, own in blocks.items()
    }
    like = next(probe for probe in results["probes"] if probe["rung"] == "full")
    results["probes"] = [
        {**like, "start": start, "depth": depth, "relative_degradation": 0.1 * depth + 0.2 * start, "ci95": [0.0, 1.0]}
        for own in blocks.values()
        for start, depth in own
    ]
    results["sweep"]["search"]["rungs"] = ["full"]
    (told,) = [sentence for sentence in _lead(results) if "equal depth" in sentence]
    assert "at 7 and more at 0 of 7 depths" in told
    assert told.endswith("(sign test p = 0.016; median difference −20.0 points, [−20.0, −20.0]). The least distance is "
                         "the better.")  # fmt: skip
    for probe in results["probes"]:
        probe["relative_degradation"] *= -1
    assert _lead(results)[-1].endswith("The random start is the better.")


def test_methods_that_agree_everywhere_are_not_compared(curved) -> None:
    results, _ = curved
    results["curves"][0]["methods"]["random"] = results["curves"][0]["methods"]["paper"]
    assert _lead(results)[-1] == (
        "No depth was measured at which the least distance and the random start name different blocks."
    )


def test_curves_that_were_only_cut_are_told_so(curved) -> None:
    results, _ = curved
    results["sweep"]["search"]["rungs"] = ["unhealed"]
    results["probes"] = [probe for probe in results["probes"] if probe["rung"] == "unhealed"]
    part = view_curves(results, {})
    assert "is least and scored as they are cut, 8.3" in part.headline
    assert not any("Healing" in sentence for sentence in part.cells[0].lead)
    assert len(part.cells[0].fractions.rows) == 3
    assert method.how_healed(results["probes"], 0).startswith("No model was trained again")
    assert "and again after a full heal" not in method.how_chosen(results["sweep"])


def test_what_is_lacking_is_said(curved) -> None:
    results, _ = curved
    results["probes"][0] = {
        **{name: results["probes"][0][name] for name in ("cell", "start", "depth", "rung")},
        "status": "failed",
        "reason": "the loss became NaN",
    }
    del results["probes"][5:7]
    english, _, broken = view_curves(results, {}).cells
    assert english.notes == ("Of 22 looks at blocks, 1 failed and 2 not run: lines pass over them.",)
    assert broken.notes == ("There is no curve: the base's loss became NaN at step 812.",)
    assert broken.figure is None
    texts = [row.texts[4] for row in english.points.rows]
    assert texts.count("failed") == 1


def test_of_repeated_looks_the_first_is_shown(curved) -> None:
    results, _ = curved
    results["probes"].insert(0, {**results["probes"][0], "repeat": 1, "relative_degradation": 9.0})
    assert read_curves(results)[0].points[(4, 1), "full"].degradation == -0.1


# The page


def test_the_page_of_curves(curved, tmp_path: Path) -> None:
    results, store = curved
    render(results, store, tmp_path / "a")
    render(json.loads(json.dumps(results, sort_keys=True)), store, tmp_path / "b")
    files = [
        {path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("a", "b")
    ]
    assert files[0] == files[1], "the order of methods in a file is no part of what it says"
    assert {name for name in files[0] if name.endswith(".png")} == {
        "figures/00-curves.png",
        "figures/01-qwen-mini-whisper-base-asr-en-curves.png",
        "figures/02-qwen-mini-whisper-base-st-de-curves.png",
    }
    markdown, page = files[0]["report.md"].decode(), files[0]["index.html"].decode()
    assert markdown.startswith("# Removed where the angular distance is least and healed, ")
    for text in (markdown, page):
        assert "Largest fraction of layers within a degradation" in text
        assert "curves explore" in text
        assert "Every cell" not in text
        assert "no block found" not in text
    assert page.count("<svg") == 3
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_one_cell_is_not_drawn_twice(curved) -> None:
    results, _ = curved
    results["curves"] = results["curves"][:1]
    images: dict[str, Any] = {}
    assert view_curves(results, images).grid is None
    assert list(images) == ["figures/01-qwen-mini-whisper-base-asr-en-curves"]


def test_every_point_is_told_where_its_mark_is(curved) -> None:
    results, _ = curved
    results["probes"][-1] |= {"status": "failed", "reason": "the loss became NaN"}
    images: dict[str, Any] = {}
    view_curves(results, images)
    one = images["figures/01-qwen-mini-whisper-base-asr-en-curves"]
    assert len(one.spots) == 6 and sum(map(len, one.spots.values())) == 24
    told = [text.replace(NBSP, " ") for *_, text in one.spots["least distance, healed"]]
    assert told[0] == "layer 4 (1 of 12), 8.3 %\n−10.0 % [−22.0, +2.0]\nn = 240"
    assert one.spots["deepest but the last, as cut"][3][2].replace(NBSP, " ").endswith("unbounded (−∞, ∞)\nn = 60")
    marks = marks_of(one.svg)
    assert all(any(math.dist(mark, spot[:2]) < 0.1 for mark in marks) for own in one.spots.values() for spot in own)
    grid = images["figures/00-curves"].spots
    assert "qwen mini, German to English speech translation\nrandom start" in grid
    assert [text for own in grid.values() for *_, text in own if text == "9 of 12 layers: failed"]


def test_names_in_figures_are_never_read_as_mathematics(curved) -> None:
    results, _ = curved
    for record in (results["cells"][0], results["curves"][0]):
        record["encoder"] = r"$\frac{</script>$"
    for probe in results["probes"]:
        if probe["cell"]["task"] == "asr":
            probe["cell"]["encoder"] = r"$\frac{</script>$"
    images: dict[str, Any] = {}
    view_curves(results, images)
    svg = images["figures/00-curves"].svg.decode()
    assert r"$\frac{&lt;/script" in svg


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda curves: curves[0].pop("methods"), "curves[0].methods"),
        (lambda curves: curves[0]["methods"].update(paper={}), "curves[0].methods.paper"),
        (lambda curves: curves[0]["methods"]["paper"][1].pop("start"), "curves[0].methods.paper[1].start"),
        (lambda curves: curves[0]["methods"]["paper"][1].update(start=11), "curves[0].methods.paper[1]"),
        (lambda curves: curves[1].pop("family"), "curves[1].family"),
    ],
)
def test_records_that_lack_a_part_are_refused(curved, spoil, where: str) -> None:
    results, _ = curved
    check_results(results, "here")
    spoil(results["curves"])
    with pytest.raises(DataError, match=where.replace("[", r"\[").replace(".", r"\.")):
        check_results(results, "here")


def test_what_was_done_is_told(curved) -> None:
    sweep = curved[0]["sweep"]
    told = method.how_chosen(sweep)
    assert "every depth up to 3/4 of the layers" in told and "2403.17887" in told
    assert told.count("; one ") == 3 and "one drawn" not in told
    sweep["search"] = {"methods": ["deepest"], "depths": ["2", "0.5"], "rungs": ["unhealed", "full"]}
    told = method.how_chosen(sweep)
    assert "depths asked for (2, 0.5)" in told and "random" not in told
    judged = " ".join(method.how_judged(sweep, curved[0]["probes"], 0, ["wer"]))
    assert "test split" not in judged and "answer of a cell" not in judged
    (decoded,) = method.how_decoded(sweep)
    assert decoded.endswith("No pruned model has seen the test split.")
    assert "random start" not in " ".join(method.caveats(sweep, curved[0]["probes"], 0))
