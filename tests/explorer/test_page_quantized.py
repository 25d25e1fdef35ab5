"""Activation bits and the steps view in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.core.recipe import recipe_from_json, sizes
from engine.models.structure import read_structure
from tests.explorer.test_page import WAIT_MS, cards, opened, wait_for_pictures

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_activation_bits_are_set_counted_saved_linked_and_undone(page: Any, served: str, browser: Any,
                                                                 tiny_directory: Path, tmp_path: Path) -> None:
    opened(page, served)
    slider = page.locator("#mixer .qs-master .qs-fader.inputs")
    assert not slider.is_visible(), "off by default"
    page.click(".qs-inputswitch")
    slider.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => new URL(location).searchParams.get('a')", timeout=WAIT_MS)
    assert cards(page).first.locator(".bits").text_content() == "W4 A8"
    wait_for_pictures(page)
    page.wait_for_selector("#compare .qs-caption:has-text('A8')", timeout=WAIT_MS)
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "mine.json")
    content = json.loads((tmp_path / "mine.json").read_text())
    structure = read_structure(str(tiny_directory))
    assert set(content["activations"]) == {x.name for x in structure.choices}
    shown = page.evaluate("() => QS.store('main').totals().bytes")
    assert shown == sizes(structure, recipe_from_json(content))["bytes"]
    link = page.url
    page.click("#undo")
    page.wait_for_function("() => !new URL(location).searchParams.get('a')", timeout=WAIT_MS)
    assert cards(page).first.locator(".bits").text_content() == "4"
    other = browser.new_context().new_page()
    other.goto(link)
    other.wait_for_function("() => document.querySelector('#graph .card .bits')?.textContent === 'W4 A8'",
                            timeout=WAIT_MS)
    other.context.close()


def test_errors_per_step_are_measured_and_a_click_shows_the_step(page: Any, served: str) -> None:
    opened(page, served + "?steps=3")
    page.get_by_role("tab", name="Analyse").click()
    page.get_by_role("tab", name="Steps", exact=True).click()
    page.click("#steps-measure")
    page.wait_for_selector("#steps-pane .qs-stage.has", timeout=2 * WAIT_MS)
    box = page.locator("#steps-map .qs-heat-stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 6, box["y"] + box["height"] / 2)
    page.wait_for_selector("#steps-pane .qs-label:has-text('1/')", timeout=WAIT_MS)
