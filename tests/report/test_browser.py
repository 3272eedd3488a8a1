"""What a reader sees and does in a real browser: pointing, zooming, sorting; on a phone, in the dark, offline.

The pages are those of the reports in this repository, rendered again by the code at hand.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slamlab.report.page import TEMPLATES, render
from slamlab.report.redundancy import render_redundancy
from slamlab.report.results import read_results
from slamlab.report.writing import NBSP, degradation

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: it is in the extra `test`")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

REPORTS = Path(__file__).parents[2] / "reports"
KINDS = ("max_prune-qwen", "backbone-qwen", "curves-qwen-asr-en", "redundancy-qwen")
QUIET = ("quic", "background-networking", "component-update", "sync", "gpu")
FORMATS = {
    "Share": (
        ["−26.5 %", "−3.1 % [−5.0, +1.0]", "+0.4 %", "7.12 % WER", "+15.5 % [+2.1, +29.8]", "unbounded (−∞, ∞)"],
        [],
    ),
    "Time": (["9 s", "41 s", "3.2 min", "11.0 min", "1.5 h"], ["–"]),
    "Size": (["980", "1.2 k", "3.19 M → 2.2 M", "135 M", "1.5 B"], ["–"]),
    "Layers": (["0", "2–9", "3–5", "4 of 12 (33.3 %)", "10–11"], ["–"]),
    "p": (["1e-05", "0.00012", "0.04", "0.5", "1"], ["failed"]),
    "Verdict": (["! failed", "● feasible", "✕ infeasible", "◇ undecided"], ["–", "–"]),
    "Name": (["m2", "M10", "öl", "zeta 9", "zeta 10"], [""]),
}
"""Cells as reports write them: in ascending order, and those that tell nothing, which always come last."""
TEXTS = ("Verdict", "Name")
"""Columns that hold no numbers."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the page of every kind of report; there is no store, as on a fresh checkout."""
    out = tmp_path_factory.mktemp("reports")
    for kind in KINDS[:-1]:
        (out / kind).mkdir()
        render(read_results(REPORTS / kind), out / "no-store", out / kind)
    (out / KINDS[-1]).mkdir()
    for name in ("redundancy.json", "maps.npz"):
        shutil.copy(REPORTS / KINDS[-1] / name, out / KINDS[-1])
    render_redundancy(out / KINDS[-1])
    return {kind: out / kind / "index.html" for kind in KINDS}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a browser that does not talk to anybody by itself."""
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@contextmanager
def opened(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    """Open a page, and fail where it complained or asked for anything outside."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page, wrong = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if re.match("file:|data:", request.url) else wrong.append(request.url))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert wrong == []


def box(svg: Any) -> list[float]:
    return [float(number) for number in svg.get_attribute("viewBox").split()]


def spot_in(page: Any, told: str) -> tuple[Any, tuple[float, float], str]:
    """Return the drawing that has something to tell, where on the screen, brought into view, and all that is told."""
    for svg in page.locator(".plot svg").all():
        for head, spots in json.loads(svg.get_attribute("data-spots")).items():
            for x, y, text in spots:
                if told in f"{head}\n{text}":
                    return svg, on_screen(svg, x, y), f"{head}\n{text}"
    raise AssertionError(f"no figure tells {told!r}")


def figure_of(svg: Any) -> Any:
    return svg.locator("xpath=ancestor::figure")


def on_screen(svg: Any, x: float, y: float) -> tuple[float, float]:
    """Return where a place of a drawing is on the screen, brought into view."""
    svg.evaluate("svg => svg.closest('.plot').scrollIntoView({block: 'center', behavior: 'instant'})")
    find = "(svg, [x, y]) => { const p = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()); return [p.x, p.y]; }"
    left, top = svg.evaluate(find, [x, y])
    return left, top


def what_is_told(kind: str) -> str:
    """Return, from the records, what a mark of the report has to tell."""
    if kind == KINDS[-1]:
        records = json.loads((REPORTS / kind / "redundancy.json").read_text())
        first = next(one for one in records["maps"] if one["status"] == "complete" and one["selection"] == "all")
        with np.load(REPORTS / kind / "maps.npz") as arrays:
            distance = arrays[f"{first['key']}.distance"]
        return f"layers 1–2 (2 of {len(distance) - 1}): {distance[1, 3]:.4f}"
    probes = read_results(REPORTS / kind)["probes"]
    one = next(probe for probe in probes if probe["status"] == "complete" and probe["depth"] > 1)
    told = f"{degradation(one)}\nn{NBSP}={NBSP}{one['num_utterances']}"
    # Curves tell the fraction too, other figures the verdict; the block stands first in both.
    return told if "curves" in kind else f"full heal: {one['verdict']}\n{told}"


@pytest.mark.parametrize("kind", KINDS)
def test_marks_tell_what_they_stand_for(browser: Any, pages: dict[str, Path], kind: str) -> None:
    with opened(browser, pages[kind]) as page:
        tip = page.locator(".tip")
        assert page.locator("h1").is_visible() and tip.is_hidden()
        svg, at, told = spot_in(page, what_is_told(kind))
        page.mouse.move(*at)
        assert told in tip.text_content() and re.search(r"layers? \d+", tip.text_content())
        mark, tip_at = svg.locator(".mark").bounding_box(), tip.bounding_box()
        assert mark["x"] < at[0] < mark["x"] + mark["width"] and mark["y"] < at[1] < mark["y"] + mark["height"]
        assert tip_at["x"] >= 0 and tip_at["x"] + tip_at["width"] <= 1280
        page.keyboard.press("Escape")
        assert tip.is_hidden() and svg.locator(".mark").count() == 0
        page.mouse.move(at[0] + 1, at[1])
        assert tip.is_visible()
        page.mouse.move(2, 2)
        assert tip.is_hidden()


def test_cells_of_an_angular_distance_map_tell_theirs(browser: Any, sweep: Any, tmp_path: Path) -> None:
    results, store = sweep
    render(results, store, tmp_path)
    cell = results["cells"][0]
    with np.load(store / cell["map"]) as arrays:
        distance = arrays["distance"]
    with opened(browser, tmp_path / "index.html") as page:
        _, at, _ = spot_in(page, f"layers 3–6 (4 of 12): {distance[3, 7]:.4f}")
        page.mouse.move(at[0] + 4, at[1] - 4)
        assert page.locator(".tip").text_content() == f"angular distance\nlayers 3–6 (4 of 12): {distance[3, 7]:.4f}"


@pytest.mark.parametrize("kind", KINDS)
def test_figures_zoom_and_come_back(browser: Any, pages: dict[str, Path], kind: str) -> None:
    with opened(browser, pages[kind]) as page:
        svg, at, told = spot_in(page, what_is_told(kind))
        figure, whole = figure_of(svg), svg.get_attribute("viewBox")
        assert figure.get_by_role("button").all_text_contents() == ["+", "−", "Reset"]
        zoom_in, zoom_out, reset = figure.get_by_role("button").all()
        zoom_in.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert box(svg)[2] < 0.5 * float(whole.split()[2])
        zoom_out.click()
        zoom_out.click()
        assert svg.get_attribute("viewBox") == whole

        at = spot_in(page, what_is_told(kind))[1]
        page.mouse.move(*at)
        scrolled = page.evaluate("scrollY")
        page.keyboard.down("Control")
        page.mouse.wheel(0, -40)
        page.wait_for_selector(".zoomed")
        page.keyboard.up("Control")
        x, y, width, height = box(svg)
        assert width < 0.7 * float(whole.split()[2]) and page.evaluate("scrollY") == scrolled
        assert told in page.locator(".tip").text_content(), "what was pointed at stays under the pointer"

        page.mouse.down()
        page.mouse.move(at[0] - 30, at[1] - 20)
        page.mouse.up()
        dragged = box(svg)
        bound = (float(whole.split()[2]) - width, float(whole.split()[3]) - height)
        assert dragged[0] > x or dragged[0] == pytest.approx(bound[0])
        assert dragged[1] > y or dragged[1] == pytest.approx(bound[1])
        assert dragged[2:] == [width, height]
        reset.click()
        assert svg.get_attribute("viewBox") == whole and not page.locator(".zoomed").count()

        page.mouse.move(*spot_in(page, what_is_told(kind))[1])
        scrolled = page.evaluate("scrollY")
        page.mouse.wheel(0, 60)
        page.wait_for_function("before => scrollY !== before", arg=scrolled)
        assert svg.get_attribute("viewBox") == whole, "a wheel alone scrolls the page"


def column(table: Any, at: int) -> list[str]:
    return [row.locator("th, td").nth(at).text_content().strip() for row in table.locator("tbody tr").all()]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_sort(browser: Any, pages: dict[str, Path], kind: str) -> None:
    with opened(browser, pages[kind]) as page:
        for table in page.locator("table").all():
            assert (table.locator("tbody tr").count() >= 3) == (table.locator("thead button").count() > 0)
        table = page.locator("table", has=page.locator("thead .number button")).last
        heads = table.locator("thead th").all()
        at = next(i for i, head in enumerate(heads) if "number" in (head.get_attribute("class") or ""))
        rows = sorted(table.locator("tbody tr").all_text_contents())
        table.evaluate("table => table.closest('details')?.setAttribute('open', '')")
        for direction, sign in (("ascending", 1), ("descending", -1), ("ascending", 1)):
            heads[at].get_by_role("button").click()
            assert heads[at].get_attribute("aria-sort") == direction
            told = [re.match(r"[+−]?[\d.]+", text) for text in column(table, at)]
            numbers = [float(found[0].replace("−", "-")) for found in told if found]
            assert numbers == sorted(numbers, key=lambda number: sign * number) and len(numbers) > 2
            assert all(told[: len(numbers)]), "what is missing comes last"
        assert sorted(table.locator("tbody tr").all_text_contents()) == rows
        first = heads[0].get_by_role("button")
        first.focus()
        page.keyboard.press("Enter")
        assert heads[0].get_attribute("aria-sort") == "ascending" and heads[at].get_attribute("aria-sort") is None


def test_every_way_of_writing_a_number_sorts(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(known + missing) for known, missing in FORMATS.values()]
    head = "".join(f'<th class="{"text" if name in TEXTS else "number"}">{name}</th>' for name in FORMATS)
    rows = ["".join(f"<td>{text}</td>" for text in row).replace(" ", NBSP) for row in zip(*shuffled, strict=True)]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    (tmp_path / "index.html").write_text(
        f"<meta charset=utf-8><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<script type=module>{(TEMPLATES / 'page.js').read_text()}</script>"
    )
    with opened(browser, tmp_path / "index.html") as page:
        table = page.locator("table")
        for i, (name, (known, missing)) in enumerate(FORMATS.items()):
            for expected in (known + missing, known[::-1] + missing):
                page.get_by_role("button", name=name).click()
                assert [text.replace(NBSP, " ") for text in column(table, i)] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_shows_the_page(browser: Any, pages: dict[str, Path], kind: str) -> None:
    phone = {"has_touch": True, "is_mobile": True, "color_scheme": "dark", "device_scale_factor": 2}
    with opened(browser, pages[kind], **phone) as page:
        page.set_viewport_size({"width": 360, "height": 740})
        fits = "document.documentElement.scrollWidth <= 360"
        assert page.evaluate(fits)
        svg, at, told = spot_in(page, what_is_told(kind))
        page.touchscreen.tap(*at)
        tip = page.locator(".tip")
        assert told in tip.text_content(), "a tap tells, and stays told"
        seen = tip.bounding_box()
        assert seen["x"] >= 0 and seen["x"] + seen["width"] <= 360 and page.evaluate(fits)
        page.touchscreen.tap(180, 2)
        assert tip.is_hidden()
        figure_of(svg).get_by_label("Zoom in").tap()
        assert svg.get_attribute("class") == "zoomed" and page.evaluate(fits)


def test_light_and_dark(browser: Any, pages: dict[str, Path]) -> None:
    colours = """() => ["body", ".tip", ".zoom button"].map(name => {
        const {color, backgroundColor} = getComputedStyle(document.querySelector(name));
        return [color, backgroundColor].map(text => text.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0));
    })"""
    for scheme, is_dark in (("light", False), ("dark", True)):
        with opened(browser, pages[KINDS[0]], color_scheme=scheme) as page:
            (ink, paper), *others = page.evaluate(colours)
            assert (ink > paper) == is_dark
            for one, other in ((ink, paper), *others):
                assert abs(one - other) > 200, "what is written can be read"


@pytest.mark.parametrize("kind", KINDS)
def test_without_scripts_everything_is_there(browser: Any, pages: dict[str, Path], kind: str) -> None:
    with opened(browser, pages[kind], java_script_enabled=False) as page:
        assert page.locator("h1").is_visible() and page.locator(".plot svg").first.is_visible()
        assert page.locator("button").count() == 0 and page.locator("table").first.is_visible()


EVIL = "</script></style></svg><img src=x onerror='owned=1'><svg onload=\"owned=1\">'\" [a](javascript:owned=1) $x$"


def spoilt(value: Any, name: str = "") -> Any:
    """Return records with something to run in every text that others may have written."""
    if isinstance(value, dict):
        return {key: spoilt(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [spoilt(one, name) for one in value]
    spoils = name in ("name", "encoder", "family", "reason", "command", "sampler", "signature", "commit", "hypotheses")
    return value + EVIL if spoils and isinstance(value, str) else value


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_others_run_nothing(browser: Any, tmp_path: Path, kind: str) -> None:
    if kind == KINDS[-1]:
        shutil.copy(REPORTS / kind / "maps.npz", tmp_path)
        records = spoilt(json.loads((REPORTS / kind / "redundancy.json").read_text()))
        (tmp_path / "redundancy.json").write_text(json.dumps(records))
        render_redundancy(tmp_path)
    else:
        render(spoilt(read_results(REPORTS / kind)), tmp_path / "no-store", tmp_path)
    with opened(browser, tmp_path / "index.html") as page:
        assert page.evaluate("typeof owned") == "undefined"
        assert page.locator("img, iframe, [onload], [onerror], a[href^=javascript]").count() == 0
        assert "onerror='owned=1'>" in page.locator("body").inner_text()  # as text it is there
        _, at, _ = spot_in(page, "")
        page.mouse.move(*at)
        assert page.locator(".tip").is_visible() and page.evaluate("typeof owned") == "undefined"
