"""The explorer end to end, in a real browser: see, edit, compare, undo, share, refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
WAIT_MS = 60_000
COLD_MS = 240_000


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    page.wait_for_selector("#graph [data-kind='card']", timeout=WAIT_MS)
    # The server's first word on the recipe has arrived once the address carries it.
    page.wait_for_function("() => new URL(location).searchParams.get('r')", timeout=WAIT_MS)
    # The first page of a server waits for its weights: a minute and more where other tests keep both cores busy.
    page.wait_for_selector("#compare .qs-stage.has", timeout=COLD_MS)
    wait_for_pictures(page)
    return page


def cards(page: Any) -> Any:
    return page.locator("#graph [data-kind='card']")


def bits_text(page: Any) -> str:
    return page.locator("#graph .qs-totals").first.inner_text()


def wait_for_pictures(page: Any) -> None:
    page.wait_for_selector("#compare .qs-stage.has", timeout=WAIT_MS)
    page.wait_for_selector("#compare .qs-progress", state="hidden", timeout=WAIT_MS)


def set_first_card(page: Any, key: str) -> None:
    cards(page).first.focus()
    page.keyboard.press(key)


def test_the_graph_is_drawn_and_pictures_follow(page: Any, served: str) -> None:
    opened(page, served)
    assert cards(page).count() >= 8
    wait_for_pictures(page)
    assert "PSNR" in page.locator("#compare").inner_text()


def test_editing_changes_numbers_pictures_and_address(page: Any, served: str) -> None:
    opened(page, served)
    wait_for_pictures(page)
    before, image = bits_text(page), page.locator("#compare .qs-pane.b img").first.get_attribute("src")
    set_first_card(page, "2")
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText !== old", arg=before)
    page.wait_for_function("(old) => document.querySelector('#compare .qs-pane.b img').src !== old", arg=image,
                           timeout=WAIT_MS)
    assert not page.locator("#undo").is_disabled()
    after = bits_text(page)
    page.keyboard.press("Control+z")
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText === old", arg=before)
    page.keyboard.press("Control+Shift+z")
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText === old", arg=after)


@pytest.mark.slow
def test_dragging_a_card_is_one_version(page: Any, served: str) -> None:
    opened(page, served)
    wait_for_pictures(page)
    box = cards(page).nth(1).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20, steps=4)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 60, steps=6)
    page.mouse.up()
    page.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)
    page.click("#undo")
    page.wait_for_function("() => document.querySelector('#undo').disabled", timeout=WAIT_MS)


@pytest.mark.slow
def test_a_link_reopens_the_recipe(page: Any, served: str, browser: Any) -> None:
    opened(page, served)
    link = page.url
    set_first_card(page, "8")
    page.wait_for_function("(old) => location.href !== old", arg=link)
    figures = bits_text(page)
    page.locator("#sampler button").first.click()
    page.fill("#negative textarea, #negative input", "blurry, grey")
    page.locator("#scheduler input").click()
    page.get_by_role("option", name="EulerDiscreteScheduler", exact=True).click()
    page.locator("#count input[type=number]").fill("2")
    page.locator("#negative textarea, #negative input").first.press("Enter")
    page.wait_for_function("() => { const q = new URL(location).searchParams; return q.get('negative') === "
                           "'blurry, grey' && q.get('scheduler') === 'EulerDiscreteScheduler' && "
                           "q.get('count') === '2'; }", timeout=WAIT_MS)
    wait_for_pictures(page)
    other = browser.new_context().new_page()
    opened(other, page.url)
    other.wait_for_function("(f) => document.querySelector('#graph .qs-totals').innerText === f", arg=figures)
    other.locator("#sampler button").first.click()
    assert other.locator("#negative textarea, #negative input").first.input_value() == "blurry, grey"
    assert other.locator("#scheduler input").input_value() == "EulerDiscreteScheduler"
    assert other.locator("#count input[type=number]").input_value() == "2"
    sources = "() => [...document.querySelectorAll('#compare img')].map((i) => i.src)"
    assert len(page.evaluate(sources)) == 4, "two sides, two seeds"
    assert page.evaluate(sources) == other.evaluate(sources), "the same pictures, to the byte"
    other.context.close()


@pytest.mark.slow
def test_a_link_with_a_scheduler_the_model_lacks_is_one_sentence(page: Any, served: str) -> None:
    page.goto(served + "?scheduler=NoSuchScheduler")
    page.wait_for_selector("#compare:has-text('no scheduler called')", timeout=COLD_MS)
    page.locator("#sampler button").first.click()
    page.locator("#scheduler input").click()
    page.get_by_role("option", name="The model's own").click()
    wait_for_pictures(page)
    assert not page.locator("#compare .qs-error").is_visible()
    assert "scheduler" not in page.url


@pytest.mark.slow
def test_two_viewers_do_not_disturb_each_other(page: Any, served: str, browser: Any) -> None:
    opened(page, served)
    wait_for_pictures(page)
    before = bits_text(page)
    other = browser.new_context().new_page()
    opened(other, served)
    set_first_card(other, "2")
    other.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)
    wait_for_pictures(other)
    assert bits_text(page) == before and page.locator("#undo").is_disabled()
    other.context.close()


@pytest.mark.slow
def test_recipes_are_saved_loaded_and_refused(page: Any, served: str, tmp_path: Path) -> None:
    opened(page, served)
    set_first_card(page, "3")
    page.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)
    figures = bits_text(page)
    with page.expect_download() as download:
        page.click("#save")
    path = tmp_path / "mine.recipe.json"
    download.value.save_as(path)
    content = json.loads(path.read_text())
    assert content["version"] == 1 and content["sizes"]["bits_per_weight"] > 0
    page.click("#undo")
    page.set_input_files("input[type=file]", path)
    page.wait_for_function("(f) => document.querySelector('#graph .qs-totals').innerText === f", arg=figures)
    content["options"]["no.such.layer"] = "uaq-4"
    other = tmp_path / "other.recipe.json"
    other.write_text(json.dumps(content))
    page.set_input_files("input[type=file]", other)
    page.wait_for_selector("text=does not have", timeout=WAIT_MS)
    assert bits_text(page) == figures


def test_a_model_that_is_none_is_one_sentence(page: Any, served: str) -> None:
    opened(page, served)
    box = page.locator("#model input")
    box.fill("/no/such/place")
    box.press("Enter")
    page.wait_for_selector("text=There is no model", timeout=WAIT_MS)
    assert cards(page).count() >= 8


@pytest.mark.slow
def test_another_model_opens_with_its_own_recipe(page: Any, served: str) -> None:
    page.goto(served + "?model=emoji-unet")
    page.wait_for_selector("#graph [data-kind='card'][data-id='conv_out']", timeout=WAIT_MS)
    page.wait_for_function("() => document.querySelector('#graph .qs-totals').innerText.startsWith('4.10')",
                           timeout=WAIT_MS)
    box = page.locator("#model input")
    box.fill("sdxl")
    box.press("Enter")
    page.wait_for_function("() => document.querySelector('#graph .qs-totals').innerText.startsWith('4.0')",
                           timeout=WAIT_MS)
    page.wait_for_selector("#compare:has-text('not on this machine')", timeout=WAIT_MS)


@pytest.mark.slow
def test_prompts_of_every_kind_and_nonsense_seeds(page: Any, served: str) -> None:
    opened(page, served)
    wait_for_pictures(page)
    for prompt in ("", "🍎 ‏תפוח‎ مثال", "x" * 4000):
        page.fill("#prompt textarea", prompt)
        page.click("#generate")
        wait_for_pictures(page)
    page.fill("#prompt textarea", "x" * 10_000)
    page.click("#generate")
    page.wait_for_selector("text=10,000 characters", timeout=WAIT_MS)


@pytest.mark.slow
def test_names_from_files_are_text(page: Any, served: str) -> None:
    opened(page, served + "?prompt=%3Cimg%20src=x%20onerror=alert(1)%3E")
    wait_for_pictures(page)
    assert re.search("<img src=x", page.locator("#compare").inner_text())


def test_the_method_of_a_block_can_be_changed(page: Any, served: str) -> None:
    opened(page, served)
    cards(page).nth(2).click()
    page.get_by_role("tab", name="Block").click()
    method = page.locator("#layers .qs-method select")
    method.wait_for()
    before = bits_text(page)
    assert "Best of all" in method.inner_text()
    method.select_option("kmeans_a")
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText !== old", arg=before)
    page.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)


@pytest.mark.slow
def test_a_grid_shows_prompts_against_recipes_and_opens_in_compare(page: Any, served: str) -> None:
    opened(page, served)
    wait_for_pictures(page)
    page.get_by_role("tab", name="Grid").click()
    page.fill("#grid-prompts textarea", "red apple\nblue boat")
    page.click("#grid-make")
    page.wait_for_function("() => document.querySelectorAll('#grid td img').length >= 10", timeout=2 * WAIT_MS)
    page.locator("#grid td button.qs-cell").nth(2).click()
    page.wait_for_selector("#compare .qs-label:has-text('red apple')", timeout=WAIT_MS)


def test_of_changes_made_at_once_none_is_lost(page: Any, served: str) -> None:
    opened(page, served)
    page.get_by_role("tab", name="History").click()
    page.evaluate("() => { for (const id of ['#pin-a', '#pin-b']) document.querySelector(id).click(); }")
    page.wait_for_selector("text=Pinned: A, B.", timeout=WAIT_MS)


@pytest.mark.slow
def test_pins_are_compared_with_each_other(page: Any, served: str) -> None:
    opened(page, served)
    page.get_by_role("tab", name="History").click()
    page.click("#pin-a")
    set_first_card(page, "2")
    page.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)
    page.click("#pin-b")
    page.wait_for_selector("text=Pinned: A, B.", timeout=WAIT_MS)
    page.wait_for_selector("#difference:has-text('conv_in')", timeout=WAIT_MS)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Pin A | pin B").check()
    page.wait_for_selector("#compare .qs-caption:has-text('Pin A')", timeout=WAIT_MS)


@pytest.mark.slow
def test_presets_spare_what_is_protected(page: Any, served: str) -> None:
    opened(page, served)
    cards(page).first.focus()
    page.keyboard.press("p")
    page.wait_for_timeout(500)
    page.locator("#preset input").click()
    page.get_by_role("option", name="Uniform UAQ, 2 bits").click()
    page.wait_for_function("() => !document.querySelector('#undo').disabled", timeout=WAIT_MS)
    first, second = (cards(page).nth(i).get_attribute("aria-valuenow") for i in (0, 1))
    assert float(first or 0) == 4 and float(second or 0) == 2


@pytest.mark.slow
def test_the_table_twin_edits_too(page: Any, served: str) -> None:
    opened(page, served)
    page.keyboard.press("t")
    rows = page.locator("#graph table select")
    rows.first.wait_for()
    before = bits_text(page)
    rows.first.select_option("2")
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText !== old", arg=before)


@pytest.mark.slow
def test_a_recipe_is_exported_and_what_changes_is_shown_first(page: Any, served: str, tmp_path: Path) -> None:
    opened(page, served)
    page.get_by_role("tab", name="Export").click()
    page.wait_for_selector("#export-plan:has-text('layers exact')", timeout=WAIT_MS)
    page.fill("#export-directory textarea, #export-directory input", str(tmp_path / "out"))
    page.click("#export-start")
    page.wait_for_selector("#export-status:has-text('Reloaded and compared')", timeout=WAIT_MS)
    assert (tmp_path / "out" / "model_index.json").exists()
    page.locator("#export-format input").click()
    page.get_by_role("option", name="bitsandbytes").click()
    page.click("#export-preview", timeout=WAIT_MS)
    page.wait_for_selector("#export-plan:has-text('0 requantized, 0 left')", timeout=WAIT_MS)
    assert not page.locator("#undo").is_disabled()
