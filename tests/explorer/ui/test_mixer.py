"""The mixer in a real browser: its sliders, the master and the graph move together, with one event per gesture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser


def centre(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def heard(page: Any, name: str) -> list[dict[str, Any]]:
    def here() -> list[dict[str, Any]]:
        return [e["value"] for e in page.log if e["event"] == name and e["value"]["edit"] > page.start]

    for _ in range(1000):
        if here():
            break
        page.wait_for_timeout(20)
    page.wait_for_timeout(150)
    return here()


def pull(page: Any, selector: str, rungs: float) -> None:
    """Drag the thumb up by so many rungs of the ladder (a track is 92 px with half a thumb at either end)."""
    page.locator(selector).first.scroll_into_view_if_needed()
    x, y = centre(page, selector)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - rungs * 13, steps=6)
    page.mouse.up()


def options(page: Any) -> dict[str, str]:
    return page.evaluate("() => ({...QS.store('main').options})")


def test_one_strip_per_block_in_the_order_of_the_flow(story: Callable[..., Any]) -> None:
    page = story("unet")
    ids = page.eval_on_selector_all("#mixer .qs-strip", "nodes => nodes.map((n) => n.dataset.id)")
    cards = page.evaluate("QS.store('main').graph.blocks.map((c) => c.id)")
    assert ids == cards
    assert page.locator("#mixer .qs-strip .qs-fader").first.get_attribute("role") == "slider"


def test_dragging_a_thumb_repaints_the_graph_and_the_figures_before_release(story: Callable[..., Any]) -> None:
    page = story("unet")
    before = page.locator("#graph [data-figure=stored] b").text_content()
    big = "mid_block.resnets.0"
    x, y = centre(page, f"#mixer .qs-strip[data-id='{big}'] .qs-thumb")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 26, steps=5)
    page.wait_for_function(f"() => document.querySelector(`#graph .node[data-id='{big}'] .bits`).textContent === '6'")
    assert page.log == []
    assert page.locator("#graph [data-figure=stored] b").text_content() != before
    assert page.locator("#graph [data-figure=stored] i").text_content().startswith("+")
    page.mouse.up()
    assert [v["options"][f"{big}.conv1"] for v in heard(page, "release")] == ["uaq-6"]


def test_pressing_the_track_sets_that_rung(story: Callable[..., Any]) -> None:
    page = story("unet")
    fader = page.locator("#mixer .qs-strip[data-id=conv_in] .qs-fader")
    fader.scroll_into_view_if_needed()
    box = fader.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 7)
    assert heard(page, "release")[-1]["options"]["conv_in"] == "fp16"
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 7)
    page.wait_for_timeout(400)
    assert options(page)["conv_in"] == "uaq-2"


def test_the_master_shifts_all_but_what_is_protected(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.evaluate("QS.store('main').protect(['conv_out'])")
    before = options(page)
    pull(page, "#mixer .qs-master .qs-thumb", -1)
    after = heard(page, "release")
    assert len(after) == 1
    ladder = {"uaq-4": "uaq-3", "uaq-8": "uaq-6"}
    assert after[0]["options"] == {n: o if n == "conv_out" else ladder[o] for n, o in before.items()}


def test_keys_move_a_focused_slider(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.locator("#mixer .qs-strip[data-id=conv_in] .qs-fader").focus()
    page.keyboard.press("ArrowUp")
    assert heard(page, "release")[-1]["options"]["conv_in"] == "uaq-5"
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert options(page)["conv_in"] == "uaq-2"
    assert page.locator("#mixer .qs-strip[data-id=conv_in] .qs-fader").get_attribute("aria-valuetext") == "2 bits"


def test_it_follows_the_graph_and_python(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.evaluate("(() => { const s = QS.store('main'); s.select(['conv_in']); s.set(['conv_in'], 8); s.commit(); })()")
    shown = "n => document.querySelector('#mixer .qs-strip[data-id=conv_in] output').textContent === n"
    page.wait_for_function(shown, arg="8")
    assert "selected" in page.locator("#mixer .qs-strip[data-id=conv_in]").get_attribute("class")
    page.locator("#uniform").click()
    page.wait_for_function(shown, arg="3")


def test_it_collapses(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.locator("#mixer .qs-twistbar").click()
    assert not page.locator("#mixer .qs-board").is_visible()
    page.locator("#mixer .qs-twistbar").click()
    assert page.locator("#mixer .qs-board").is_visible()
