"""The report in a real browser: what a reader does with it, in the window and by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import output_folders
from axolotl_ual.columns import STAGE, STAGES, UNCERTAINTY
from axolotl_ual.preprocess.cli import main
from browser import Browser, chromium

pytestmark = pytest.mark.slow

ROWS = 101
SCRIPT = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\">"
RARE = "Zeppelin"
WORST = 100
"""The row of greatest uncertainty."""
UNKNOWN = 60
"""The row without one."""


def report(folder: Path, *options: str) -> Path:
    result = CliRunner().invoke(main, ["report", str(folder), *options])
    assert result.exit_code == 0, result.output
    return folder / "report.html"


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def browser(driven: Browser) -> Iterator[Browser]:
    """The one browser of the module; a test fails where its console or network was not silent."""
    yield driven
    assert driven.problems() == []
    assert driven.requests() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uncertainty i / 100 in row i, none in one; one text is hostile, three hold a rare word."""
    table = output_folders.alpaca(ROWS).to_pydict()
    table["output"][7] = f"{SCRIPT} said <b>nothing</b>"
    for row in (3, 40, 90):
        table["output"][row] = f"A {RARE} flies. {table['output'][row]}"
    uncertainty = np.arange(ROWS) / 100
    uncertainty[UNKNOWN] = np.nan
    path = tmp_path_factory.mktemp("annotated") / "out"
    return output_folders.write_annotated(
        path, {"train": pa.table(table)}, {"train": uncertainty}, failures={"refused": 1}
    )


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return report(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return output_folders.paired(tmp_path_factory.mktemp("paired") / "out", prompts=40)


def status(browser: Browser, text: str) -> None:
    browser.until(f"document.getElementById('status').textContent === {json.dumps(text)}")


def addresses(browser: Browser) -> list[str]:
    found: list[str] = browser.run(
        "[...document.querySelectorAll('tr.row')].map((row) => row.dataset.address)"
    )
    return found


def first_is(browser: Browser, address: str) -> None:
    browser.until(f"document.querySelector('tr.row').dataset.address === {json.dumps(address)}")


def test_search(browser: Browser, page: Path) -> None:
    browser.open(page)
    status(browser, "101 rows")
    # The key that the page names brings one to the field.
    browser.press("/")
    browser.press(RARE.lower())
    status(browser, "3 of 101 rows match")
    browser.until("document.querySelectorAll('tr.row').length === 3")
    assert addresses(browser) == ["train:3", "train:40", "train:90"]
    assert browser.texts("tr.row mark") == [RARE] * 3
    # All words have to be there, in any order; a phrase as it stands.
    browser.press(" (40)")
    status(browser, "1 of 101 rows match")
    browser.one("#search").clear()
    browser.one("#search").send_keys(f'"flies a {RARE}"')
    status(browser, "0 of 101 rows match")


def test_sort(browser: Browser, page: Path) -> None:
    browser.open(page)
    first_is(browser, "train:0")
    head = "#table thead th:nth-child(2)"
    assert "uncertainty" in browser.texts(head)[0]
    browser.one(f"{head} button").click()
    first_is(browser, f"train:{WORST}")
    assert browser.one(head).get_attribute("aria-sort") == "descending"
    browser.one(f"{head} button").click()
    first_is(browser, "train:0")
    # The same by the fields above the table: the longest answer first.
    browser.one("#sort option[value=length]").click()
    browser.one("#order option[value=down]").click()
    lengths = [
        len(text) for text in pq.read_table(page.parent / "train.parquet")["output"].to_pylist()
    ]
    first_is(browser, f"train:{int(np.argmax(lengths))}")


def test_filters(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.one("#stage option:nth-child(2)").click()
    stages = pq.read_table(page.parent / "train.parquet")[STAGE].to_pylist()
    certain = stages.count(STAGES[0])
    assert stages[:certain] == [STAGES[0]] * certain
    status(browser, f"{certain} of 101 rows match")
    assert browser.texts(".chip") == [f"stage {STAGES[0]}\n×"]
    browser.one(".more summary").click()
    browser.one("#range-from").send_keys("0.2")
    browser.one("#range button").click()
    # i / 100 >= 0.2 from row 20 on.
    status(browser, f"{certain - 20} of 101 rows match")
    browser.one(".chip button").click()
    status(browser, "80 of 101 rows match")
    # Rows without a value are those of an outcome.
    browser.one(".chip button").click()
    browser.click_middle("#without-an-uncertainty summary")
    browser.click_middle("#without-an-uncertainty tbody button")
    status(browser, "1 of 101 rows match")
    assert addresses(browser) == [f"train:{UNKNOWN}"]


def test_pages(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.one("#next").click()
    first_is(browser, "train:25")
    assert browser.texts("#page") == ["page 2 of 5"]
    # A row without a value is the last one, in either order.
    for _ in range(2):
        browser.one("#table thead th:nth-child(2) button").click()
        browser.until("document.getElementById('page').textContent === 'page 1 of 5'")
        for number in range(2, 6):
            browser.one("#next").click()
            browser.until(f"document.getElementById('page').textContent === 'page {number} of 5'")
        assert addresses(browser)[-1] == f"train:{UNKNOWN}"


def test_a_click_on_a_bar(browser: Browser, page: Path) -> None:
    browser.open(page)
    name = f"histogram-{UNCERTAINTY}".replace("_", "-")
    bars = f"#{name} .bars .point path"
    browser.run(f"document.getElementById('{name}').scrollIntoView()")
    browser.until(f"document.querySelectorAll('{bars}').length > 40")
    browser.click_middle(bars)
    # The first of 50 bins is [0, 0.02): row 2 is in the second.
    status(browser, "2 of 101 rows match")
    assert browser.texts("#filterbar-text") == ["uncertainty 0 to 0.02: 2 rows"]
    browser.one("#filterbar a").click()
    browser.until("document.getElementById('filterbar').hidden")
    assert addresses(browser) == ["train:0", "train:1"]
    # The same without a pointer: the bar's line in its table of numbers, which takes it back.
    browser.click_middle(f"#{name} summary")
    browser.click_middle(f"#{name} tbody button")
    status(browser, "101 rows")


def test_the_address_of_a_row(browser: Browser, page: Path) -> None:
    browser.open(page, "#row=train:77")
    browser.until("document.querySelector('tr.panel-row')")
    top = browser.run("document.querySelector('tr.row.open').getBoundingClientRect().top")
    assert 0 <= top < 200
    assert browser.run("document.querySelector('tr.row.open').dataset.address") == "train:77"
    asked, answer = (
        pq.read_table(page.parent / "train.parquet")[name][77].as_py()
        for name in ("instruction", "output")
    )
    shown = browser.texts(".panel .said")
    assert any(asked in text for text in shown)
    assert any(answer[:200] in text for text in shown)
    assert "0.7700" in browser.texts(".panel .measures")[0]
    link = browser.run("document.querySelector('.panel .address').getAttribute('href')")
    assert link == "#row=train%3A77"
    browser.open(page, "#row=train:999")
    status(browser, "Row train:999 is not among the 101 rows in this file.")


def test_extremes_lead_to_their_rows(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.until("document.querySelectorAll('[data-extreme=most_uncertain] li').length === 5")
    browser.one("[data-extreme=most_uncertain] a").click()
    browser.until("document.querySelector('tr.row.open')")
    assert browser.run("document.querySelector('tr.row.open').dataset.address") == f"train:{WORST}"


def test_markup_in_a_row_is_text(browser: Browser, page: Path) -> None:
    browser.open(page, "#row=train:7")
    browser.until("document.querySelector('tr.panel-row')")
    assert any(f"{SCRIPT} said <b>nothing</b>" in text for text in browser.texts(".panel .said"))
    assert (
        browser.run("document.querySelectorAll('#table img, #table b, #table script').length") == 0
    )
    assert browser.run("document.title") == "out: report"


def test_a_sample_is_stated(browser: Browser, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    report(folder, "--rows", "100", "--output", str(output))
    browser.open(output)
    status(browser, "100 rows (of 101 in the data)")
    assert "100 of 101 rows: every extreme" in browser.texts("#rows .intro")[0]


def test_pairs(browser: Browser, pairs: Path) -> None:
    browser.open(report(pairs))
    row = pq.read_table(pairs / "train.parquet").to_pylist()[0]
    responses = pq.read_table(pairs / "responses.parquet").to_pylist()
    browser.one("tr.row button").click()
    browser.until("document.querySelector('.sides')")
    for side in ("chosen", "rejected"):
        (text,) = browser.texts(f".side.{side} .said")
        assert text == row[side]["content"]
        (of,) = [r for r in responses if r["prompt_id"] == 0 and r["used_as"] == side]
        shown = browser.texts(f".side.{side}")[0]
        assert f"cluster {of['cluster']}: " in shown
        for name in ("uncertainty", "semantic", "factual", "value", "style"):
            assert f"{name}{of[f'ual_{name}']:.3f}\n" in shown
    left, right = (
        browser.run(f"document.querySelector('.side.{side}').getBoundingClientRect().x")
        for side in ("chosen", "rejected")
    )
    assert left + 100 < right
    browser.one(".others summary").click()
    browser.until("document.querySelectorAll('.others .turn').length === 6")


def brightness(colour: str) -> float:
    red, green, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_light_and_dark(browser: Browser, page: Path) -> None:
    seen = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        browser.until("document.querySelector('.plot[data-drawn] .xtick text')")
        paper = brightness(browser.run("getComputedStyle(document.body).backgroundColor"))
        ink = brightness(browser.run("getComputedStyle(document.body).color"))
        ticks = brightness(
            browser.run("getComputedStyle(document.querySelector('.xtick text')).fill")
        )
        seen[dark] = (paper, ink, ticks)
    assert seen[False][0] > 230 and seen[False][1] < 60 and seen[False][2] < 130
    assert seen[True][0] < 40 and seen[True][1] > 210 and seen[True][2] > 140
    # A reader's own choice goes before the system's, for charts as well.
    browser.one("[data-set-theme=light]").click()
    browser.until("getComputedStyle(document.body).backgroundColor === 'rgb(247, 247, 245)'")
    browser.until(
        "getComputedStyle(document.querySelector('.xtick text')).fill === 'rgb(90, 99, 108)'"
    )
    browser.run("localStorage.removeItem('ual-theme')")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["annotated", "pairs"])
def test_nothing_is_wider_than_the_window(
    browser: Browser, page: Path, pairs: Path, kind: str, width: int
) -> None:
    browser.open(page if kind == "annotated" else report(pairs), width=width)
    browser.one("tr.row button").click()
    browser.until("document.querySelector('tr.panel-row')")
    assert browser.run("document.documentElement.scrollWidth") <= width
