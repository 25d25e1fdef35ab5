"""Compare pane and image grid in a real browser: modes, zoom, difference, regions, progress, keys, events."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser
STAGE = "#compare .qs-stage"


def heard(page: Any, name: str) -> list[dict[str, Any]]:
    for _ in range(1000):
        if any(e["event"] == name for e in page.log):
            break
        page.wait_for_timeout(20)
    page.wait_for_timeout(100)
    return [e["value"] for e in page.log if e["event"] == name]


def mode(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).click()


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def point(page: Any, x: float, y: float) -> tuple[float, float]:
    """Screen place of a picture's pixel, in the pane that is shown."""
    name = "d" if page.locator(STAGE).get_attribute("data-showing") == "difference" else "a"
    box = page.locator(f"#compare .qs-pane.{name} .qs-picture").bounding_box()
    return box["x"] + (x + 0.5) * box["width"] / 64, box["y"] + (y + 0.5) * box["height"] / 64


@pytest.fixture
def pane(story: Callable[..., Any]) -> Any:
    page = story("unet")
    page.evaluate("""() => {
        const { view, setMode, pick, state } = document.querySelector('#compare .qs-root').qs;
        setMode('slider'); view.fit(); view.view.split = 0.5; view.region(null); state.index = 0;
        QS.paneShow('compare', { progress: null, error: null, region: null, index: 0 });
    }""")
    page.wait_for_timeout(150)
    page.log.clear()
    return page


def test_slider_divides_where_the_pointer_is(pane: Any) -> None:
    box = pane.locator(STAGE).bounding_box()
    pane.mouse.move(box["x"] + box["width"] / 2, box["y"] + 200)
    pane.mouse.down()
    pane.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 200, steps=4)
    pane.mouse.up()
    clip = pane.locator("#compare .qs-pane.b").evaluate("e => e.style.clipPath")
    assert abs(float(re.findall(r"([\d.]+)px\)", clip)[0]) - box["width"] * 0.25) < 3
    pane.locator("#compare .qs-handle").focus()
    pane.keyboard.press("End")
    assert pane.locator("#compare .qs-handle").get_attribute("aria-valuenow") == "100"


def test_pictures_are_shown_at_whole_multiples_and_crisp(pane: Any) -> None:
    box = pane.locator("#compare .qs-pane.a .qs-picture").bounding_box()
    assert box["width"] % 64 == 0 and box["width"] / 64 >= 3
    rendering = pane.locator("#compare .qs-pane.a img").evaluate("e => getComputedStyle(e).imageRendering")
    assert rendering == "pixelated"


def test_zoom_and_pan_are_the_same_for_both(pane: Any) -> None:
    mode(pane, "Side by side")
    box = pane.locator(STAGE).bounding_box()
    pane.mouse.move(box["x"] + 80, box["y"] + 120)
    pane.mouse.wheel(0, -300)
    pane.mouse.down()
    pane.mouse.move(box["x"] + 120, box["y"] + 140, steps=4)
    pane.mouse.up()
    a, b = (pane.locator(f"#compare .qs-pane.{n} .qs-picture").evaluate("e => e.style.cssText") for n in "ab")
    assert a == b and pane.locator("#compare .qs-pane.a .qs-picture").bounding_box()["width"] > 250
    pane.get_by_label("Fit (double click)").click()
    assert pane.evaluate("document.querySelector('#compare .qs-root').qs.view.view.k") == 1


def test_difference_is_exact_on_a_fixed_printed_scale(pane: Any) -> None:
    from tests.explorer.ui.pictures import face

    wanted = np.abs(pixels(face(0, 0)) - pixels(face(0, 0.45))).max(axis=2)
    got = pane.evaluate("""() => { const d = document.querySelector('#compare .qs-root').qs.view.difference();
        return { levels: [...d.levels], mean: d.mean, most: d.most }; }""")
    assert np.array_equal(np.array(got["levels"]).reshape(64, 64), wanted)
    mode(pane, "Difference")
    scale = pane.locator("#compare .qs-heatscale")
    assert scale.text_content() == "0≥ 64of 255 levels, gain ×4"
    for gain, top in (("×1", "255"), ("×16", "≥ 16")):
        mode(pane, gain)
        assert top in scale.text_content()
    assert f"largest {wanted.max()} of 255" in pane.locator("#compare .qs-readout").text_content()
    pane.mouse.move(*point(pane, 20, 30))
    assert f"difference {wanted[30, 20]}" in pane.locator("#compare .qs-readout").text_content()
    mode(pane, "×4")


def test_a_click_or_a_box_on_the_difference_names_a_region(pane: Any) -> None:
    mode(pane, "Difference")
    pane.mouse.click(*point(pane, 20, 30))
    assert heard(pane, "region")[-1]["region"] == {"index": 0, "x": 16, "y": 26, "w": 8, "h": 8}
    pane.log.clear()
    pane.mouse.move(*point(pane, 10, 10))
    pane.mouse.down()
    pane.mouse.move(*point(pane, 29, 19), steps=4)
    pane.mouse.up()
    assert heard(pane, "region")[-1]["region"] == {"index": 0, "x": 10, "y": 10, "w": 20, "h": 10}
    assert "images" not in str(heard(pane, "region")[-1])
    pane.log.clear()
    pane.keyboard.press("Escape")
    assert heard(pane, "region")[-1]["region"] is None


def test_blink_alternates_and_b_shows_the_other(pane: Any) -> None:
    mode(pane, "Blink")
    for shown in ("a", "b", "a"):
        pane.wait_for_function("s => document.querySelector('#compare .qs-stage').dataset.showing === s", arg=shown)
    pane.get_by_label("Pause or play (space)").click()
    mode(pane, "Slider")
    pane.mouse.move(2, 2)
    pane.keyboard.down("b")
    assert pane.locator(STAGE).get_attribute("data-showing") == "a"
    assert pane.locator("#compare .qs-pane.b").evaluate("e => e.style.visibility") == "hidden"
    pane.keyboard.up("b")
    assert pane.locator(STAGE).get_attribute("data-showing") == "both"
    pane.get_by_label("Pause or play (space)").evaluate("e => e.click()")


def test_thumbnails_and_brackets_change_the_picture(pane: Any) -> None:
    pane.locator("#compare .qs-thumbs button").nth(2).click()
    assert heard(pane, "pick")[-1]["index"] == 2
    assert pane.locator("#compare .qs-label").text_content().startswith("3/5")
    pane.keyboard.press("[")
    pane.wait_for_function("() => document.querySelector('#compare .qs-label').textContent.startsWith('2/5')")


def test_progress_cancel_and_error_keep_the_pictures(pane: Any) -> None:
    pane.locator("#step").click()
    bar = pane.locator("#compare .qs-progress")
    bar.wait_for(state="visible")
    assert "7/20" in bar.text_content() and "4 s left" in bar.text_content()
    assert pane.locator("#compare .qs-progress-track").get_attribute("aria-valuenow") == "7"
    assert pane.locator("#compare .qs-pane.a img").is_visible()
    bar.get_by_text("Cancel").click()
    assert len(heard(pane, "cancel")) == 1
    pane.locator("#fail").click()
    pane.get_by_role("alert").wait_for(state="visible")
    assert "The prompt is empty" in pane.locator("#compare .qs-error").text_content()
    assert not bar.is_visible()
    assert pane.locator("#compare .qs-pane.a img").is_visible()


def test_metrics_name_direction_and_n(pane: Any) -> None:
    strip = pane.locator("#compare .qs-metric")
    assert strip.count() == 4
    assert strip.first.text_content() == "PSNR26.31 dB↑ bettern = 16"
    assert "95 %: 25.9 to 26.8" in strip.first.get_attribute("title")
    assert "↓ better" in strip.nth(2).text_content()


def test_an_empty_pane_says_what_to_do(pane: Any) -> None:
    pane.evaluate("window.full = { ...document.querySelector('#compare .qs-root').qs.state.value }")
    pane.evaluate("QS.paneShow('compare', { a: null, b: null, labels: [], metrics: [] })")
    assert "No pictures yet" in pane.locator("#compare .qs-empty").text_content()
    assert not pane.locator("#compare .qs-pane.a").is_visible()
    pane.evaluate("QS.paneShow('compare', window.full)")


def test_the_grid_opens_and_saves_single_pictures(pane: Any) -> None:
    assert pane.locator("#grid tbody tr").count() == 5
    assert pane.locator("#grid td.waiting").count() == 1
    cell = pane.locator("#grid [data-cell='1,2']")
    cell.scroll_into_view_if_needed()
    cell.click()
    assert heard(pane, "open")[-1]["open"] == {"row": 1, "column": 2}
    link = pane.locator("#grid a.qs-download").first
    assert link.get_attribute("download") == "full-precision-grinning-face-with-big-eyes-seed-7.png"
    with pane.expect_download() as download:
        link.click(force=True)
    assert Image.open(download.value.path()).size == (64, 64)


def test_one_picture_alone_is_shown_whole_and_two_fingers_zoom(pane: Any) -> None:
    pane.evaluate("""() => {
        const { state } = document.querySelector('#compare .qs-root').qs;
        window.full = { ...state.value };
        QS.paneShow('compare', { b: null });
    }""")
    pane.wait_for_selector("#compare .qs-stage.only-one")
    assert not pane.locator("#compare .qs-handle").is_visible()
    assert pane.locator("#compare .qs-pane.a img").is_visible()
    pane.evaluate("""() => {
        const stage = document.querySelector('#compare .qs-stage'), box = stage.getBoundingClientRect();
        stage.setPointerCapture = () => {};
        const send = (type, id, x) => stage.dispatchEvent(new PointerEvent(type,
            { bubbles: true, pointerId: id, pointerType: 'touch', clientX: box.x + x, clientY: box.y + 200 }));
        send('pointerdown', 11, 180); send('pointerdown', 12, 240);
        send('pointermove', 12, 300); send('pointerup', 12, 300); send('pointerup', 11, 180);
    }""")
    assert 1.9 < pane.evaluate("document.querySelector('#compare .qs-root').qs.view.view.k") < 2.1
    pane.evaluate("QS.paneShow('compare', window.full)")
