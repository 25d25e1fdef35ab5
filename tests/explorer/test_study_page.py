"""The Study tab in a browser: a study runs beside the page, which stays alive, and its trials load."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WAIT_MS = 300_000


def hover(page: Any) -> None:
    """Until the chart says what the dot is: it may be drawn anew, at other places, while the pointer is on its way."""
    from playwright.sync_api import TimeoutError as Late

    for _ in range(30):
        dot = page.locator("#study-chart .scatterlayer path.point").first.bounding_box()
        page.mouse.move(dot["x"] + 60, dot["y"] - 40)
        page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2, steps=3)
        with contextlib.suppress(Late):
            page.wait_for_selector("#study-chart .hoverlayer .hovertext", timeout=4000)
            return
    raise AssertionError("the chart never said what the dot under the pointer is")


def test_a_study_is_begun_watched_and_its_trials_load(page: Any, served: str, tmp_path: Path) -> None:
    page.goto(served)
    page.wait_for_function("() => new URL(location).searchParams.get('r')", timeout=WAIT_MS)
    page.get_by_role("tab", name="Study").click()
    page.wait_for_selector("#study-about:has-text('Nothing is measured yet')", timeout=WAIT_MS)
    box = page.locator("#study-file input")
    box.fill(str(tmp_path / "mine.sqlite"))
    box.press("Enter")
    page.wait_for_selector("#study-about:has-text('mine.sqlite')", timeout=WAIT_MS)
    page.fill("#study-trials input", "3")
    page.fill("#study-images input", "2")
    page.click("#study-start")
    page.wait_for_selector("#study-bar .qs-progress", timeout=WAIT_MS)
    page.click("#fit-start")
    page.wait_for_selector("text=There is no study file", timeout=WAIT_MS)
    page.locator("#graph [data-kind='card']").first.focus()
    page.keyboard.press("3")  # the page goes on while the study runs
    page.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)
    page.wait_for_selector("#study-about:has-text('3 trials')", timeout=WAIT_MS)
    page.wait_for_selector("#study-chart .js-plotly-plot", timeout=WAIT_MS)
    before = page.inner_text("#graph .qs-totals")
    page.locator("#study-chart").scroll_into_view_if_needed()
    hover(page)
    page.wait_for_function("() => document.querySelector('#study-chart .js-plotly-plot').qsListens", timeout=WAIT_MS)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText !== old", arg=before,
                           timeout=WAIT_MS)
