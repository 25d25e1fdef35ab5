"""The block graph in a real browser: click, drag, box, keys, folds, zoom; one event per gesture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser
CARD = "#graph .node[data-kind=card][data-id='{}']"


def middle(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(f"{selector} .bg").first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Any, selector: str, dy: float, steps: int = 6, dx: float = 0) -> None:
    x, y = middle(page, selector)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=steps)
    page.mouse.up()


def events(page: Any, name: str, count: int = 1, wait: float = 20.0) -> list[dict[str, Any]]:
    """Events of that name that Python heard, waiting for `count` of them and then a little for surplus ones."""
    def here() -> list[dict[str, Any]]:
        return [e["value"] for e in page.log if e["event"] == name and e["value"]["edit"] > page.start]

    end = time.time() + wait
    while time.time() < end and len(here()) < count:
        page.wait_for_timeout(20)
    page.wait_for_timeout(150)
    return here()


def until(page: Any, fact: Callable[[], bool], wait: float = 20.0) -> None:
    end = time.time() + wait
    while not fact() and time.time() < end:
        page.wait_for_timeout(25)
    assert fact()


def options(page: Any) -> dict[str, str]:
    return page.evaluate("() => ({...QS.store('main').options})")


def state(page: Any, expression: str) -> Any:
    return page.evaluate(f"() => {{ const s = QS.store('main'); return {expression}; }}")


def bits_of(page: Any, block: str) -> set[str]:
    return set(page.evaluate("id => ((s) => s.choicesOf(id).map((c) => s.options[c]))(QS.store('main'))", block))


def choices(page: Any, block: str) -> list[str]:
    return page.evaluate("id => QS.store('main').choicesOf(id)", block)


def test_every_block_is_a_named_card(story: Callable[..., Any]) -> None:
    page = story("unet")
    cards = page.locator("#graph .node[data-kind=card]")
    assert cards.count() == 20
    first = page.locator(CARD.format("conv_in"))
    assert first.get_attribute("role") == "slider"
    assert first.get_attribute("aria-label") == "Conv in, card"
    assert "4 bits" in first.get_attribute("aria-valuetext")
    assert page.locator("#graph .node[tabindex='0']").count() == 1


def test_hatching_follows_the_options_of_the_recipe(story: Callable[..., Any]) -> None:
    page = story("unet")
    layer = choices(page, "conv_in")[0]
    hatch = page.locator(f"{CARD.format('conv_in')} .hatched").first

    def at(option: str) -> None:
        page.evaluate("""([layer, option]) => {
            const s = QS.store('main');
            s.setValue({ overlay: { ...s.overlay, name: 'measured', hatched: [], unsupported: { [layer]: ['uaq-3'] } },
                         options: { ...s.options, [layer]: option } });
        }""", [layer, option])

    for option, shown in (("uaq-3", True), ("uaq-4", False), ("uaq-3", True)):
        at(option)
        until(page, lambda shown=shown: hatch.evaluate("e => e.style.display !== 'none'") == shown)
        assert state(page, "s.doubtOf()") == state(page, "s.doubtOf('conv_in')") == ("extrapolated" if shown else "")


def test_a_click_selects_and_modifiers_add(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.mouse.click(*middle(page, CARD.format("conv_in")))
    assert events(page, "select")[-1]["selected"] == ["conv_in"]
    page.keyboard.down("Shift")
    page.mouse.click(*middle(page, CARD.format("conv_out")))
    page.keyboard.up("Shift")
    assert set(events(page, "select", 2)[-1]["selected"]) == {"conv_in", "conv_out"}
    page.keyboard.press("Escape")
    assert events(page, "select", 3)[-1]["selected"] == []
    assert events(page, "release", 0) == []


def test_a_drag_changes_bits_with_one_event(story: Callable[..., Any]) -> None:
    page = story("unet")
    drag(page, CARD.format("conv_in"), -26)
    released = events(page, "release")
    assert len(released) == 1
    assert released[0]["options"]["conv_in"] == "uaq-6"
    assert page.locator(CARD.format("conv_in") + " .bits").text_content() == "6"
    until(page, lambda: page.locator("#graph .qs-root").get_attribute("data-rev") != "0")


def test_dragging_a_selected_card_moves_the_whole_selection(story: Callable[..., Any]) -> None:
    page = story("unet")
    state(page, "s.select(['conv_in', 'conv_out'])")
    drag(page, CARD.format("conv_out"), 13)
    released = events(page, "release")
    assert len(released) == 1
    assert {released[0]["options"][n] for n in ("conv_in", "conv_out")} == {"uaq-3"}


def test_keys_held_together_end_what_they_began(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.locator("#graph [data-kind='card'], [data-kind='card']").first.focus()
    for key in ("+", "-"):
        page.keyboard.down(key)
    for key in ("+", "-"):
        page.keyboard.up(key)
    assert page.evaluate("() => [...QS.stores.values()].every((s) => s.base === null)")


def test_answers_that_come_during_a_gesture_are_all_taken(story: Callable[..., Any]) -> None:
    page = story("unet")
    option, forecast = page.evaluate("""() => {
      const s = [...QS.stores.values()].find((one) => one.graph), rev = s.rev;
      const name = Object.keys(s.options)[0];
      s.begin();
      s.setValue({ options: { ...s.options, [name]: "uaq-2" }, rev: rev + 1 });
      s.setValue({ forecast: { value: 1 }, rev: rev + 2 });
      s.commit();
      return [s.options[name], s.forecast];
    }""")
    assert option == "uaq-2" and forecast == {"value": 1}


def test_a_mixed_block_keeps_its_differences_and_a_return_changes_nothing(story: Callable[..., Any]) -> None:
    page = story("unet")
    block = "down_blocks.0.attentions.0"
    before = options(page)
    assert bits_of(page, block) == {"uaq-4", "uaq-8"}
    x, y = middle(page, CARD.format(block))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 13, steps=4)
    page.wait_for_function("() => Object.values(QS.store('main').options).includes('fp16')")
    assert bits_of(page, block) == {"uaq-5", "fp16"}
    page.mouse.move(x, y, steps=4)
    page.mouse.up()
    assert options(page) == before
    assert events(page, "release", 0) == []


def test_a_box_selects(story: Callable[..., Any]) -> None:
    page = story("unet")
    a, b = middle(page, CARD.format("mid_block.resnets.0")), middle(page, CARD.format("mid_block.resnets.1"))
    page.keyboard.down("Shift")
    page.mouse.move(a[0] - 60, a[1] + 62)
    page.mouse.down()
    page.mouse.move(b[0] + 10, b[1] - 10, steps=5)
    assert page.locator("#graph .in-box").count() == 3
    page.mouse.up()
    page.keyboard.up("Shift")
    chosen = events(page, "select")
    assert len(chosen) == 1
    assert set(chosen[0]["selected"]) == {"mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"}


def test_keys_walk_set_and_protect(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.mouse.click(*middle(page, CARD.format("conv_in")))
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.id") == "down_blocks.0.resnets.0"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.id") == "down_blocks.1.attentions.0"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.id") == "down_blocks.1.resnets.0"
    page.keyboard.press("3")
    assert bits_of(page, "down_blocks.1.resnets.0") == {"uaq-3"}
    page.keyboard.press("0")
    assert bits_of(page, "down_blocks.1.resnets.0") == {"fp16"}
    page.keyboard.press("-")
    assert bits_of(page, "down_blocks.1.resnets.0") == {"uaq-8"}
    inside = choices(page, "down_blocks.1.resnets.0")
    until(page, lambda: {page.log[-1]["value"]["options"][c] for c in inside} == {"uaq-8"})
    heard = len(page.log)
    page.keyboard.press("p")
    assert events(page, "protect")[-1]["protected"] == ["down_blocks.1.resnets.0"]
    page.keyboard.press("2")
    assert bits_of(page, "down_blocks.1.resnets.0") == {"uaq-8"}
    assert "Protected" in page.locator("#graph .qs-notice").text_content()
    until(page, lambda: [e["event"] for e in page.log[heard:]] == ["protect"])


def test_a_protected_block_stays_out_of_a_drag_of_the_selection(story: Callable[..., Any]) -> None:
    page = story("unet")
    state(page, "(s.select(['conv_in', 'conv_out']), s.protect(['conv_out']))")
    drag(page, CARD.format("conv_in"), -13)
    after = events(page, "release")[0]["options"]
    assert (after["conv_in"], after["conv_out"]) == ("uaq-5", "uaq-4")


def test_opening_a_block_shows_units_and_layers_that_can_be_dragged(story: Callable[..., Any]) -> None:
    page = story("unet")
    block = "mid_block.attentions.0"
    page.mouse.dblclick(*middle(page, CARD.format(block)))
    layer = f"{block}.transformer_blocks.0.attn1.to_q"
    cell = f"#graph .node[data-kind=layer][data-id='{layer}']"
    page.wait_for_selector(cell)
    assert events(page, "expand")[-1]["expanded"] == [block]
    assert page.locator("#graph .node[data-kind=unit]").count() == 1
    drag(page, cell, -13)
    after = events(page, "release")[-1]["options"]
    assert after[layer] in ("uaq-5", "fp16")
    assert page.locator(CARD.format(block)).get_attribute("class").count("mixed") == 1
    page.locator(CARD.format(block)).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(cell, state="detached")


@pytest.mark.slow
def test_a_large_block_opens_its_units_first(story: Callable[..., Any]) -> None:
    page = story("sdxl")
    block = "mid_block.attentions.0"
    state(page, f"s.expand('{block}')")
    assert page.locator("#graph .node[data-kind=unit]").count() == 10
    assert page.locator("#graph .node[data-kind=layer]").count() == 2
    state(page, f"s.expand('{block}.transformer_blocks.3')")
    assert page.locator("#graph .node[data-kind=layer]").count() == 12


def test_a_stage_folds_into_one_card_that_edits_all_of_it(story: Callable[..., Any]) -> None:
    page = story("unet")
    title = page.locator("#graph .stage-title[data-stage='up_blocks.0']")
    title.dblclick()
    page.wait_for_selector(CARD.format("up_blocks.0"))
    assert page.locator(CARD.format("up_blocks.0.resnets.0")).count() == 0
    assert page.locator("#graph .edge[data-a='up_blocks.0']").count() >= 1
    drag(page, CARD.format("up_blocks.0"), 13)
    assert "uaq-3" in bits_of(page, "up_blocks.0.resnets.0")
    page.mouse.dblclick(*middle(page, CARD.format("up_blocks.0")))
    page.wait_for_selector(CARD.format("up_blocks.0.resnets.0"))


def test_wheel_zooms_at_the_pointer_background_pans_and_f_fits(story: Callable[..., Any]) -> None:
    page = story("unet")
    before = page.locator(CARD.format("conv_in") + " .bg").bounding_box()
    x, y = middle(page, CARD.format("conv_in"))
    page.mouse.move(x, y)
    page.mouse.wheel(0, -240)
    page.wait_for_timeout(60)
    zoomed = page.locator(CARD.format("conv_in") + " .bg").bounding_box()
    assert zoomed["width"] > before["width"] * 1.1
    assert abs(zoomed["x"] + zoomed["width"] / 2 - x) < 3
    frame = page.locator("#graph .qs-frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] - 60, frame["y"] + frame["height"] - 90)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] - 20, frame["y"] + frame["height"] - 70, steps=4)
    page.mouse.up()
    panned = page.locator(CARD.format("conv_in") + " .bg").bounding_box()
    assert abs(panned["x"] - zoomed["x"] - 40) < 2
    page.keyboard.press("f")
    after = page.locator(CARD.format("conv_in") + " .bg").bounding_box()
    assert after == before
    assert page.log == []


def test_two_fingers_zoom_and_take_back_what_one_had_begun(story: Callable[..., Any]) -> None:
    page = story("unet")
    before = options(page)
    zoom = page.evaluate("""() => {
        const { view } = document.querySelector('#graph .qs-root').qs.input, k = view.k;
        const svg = document.querySelector('#graph svg.qs-graph'), box = svg.getBoundingClientRect();
        const card = document.querySelector("#graph .node[data-id='conv_in'] .bg").getBoundingClientRect();
        const send = (type, id, x, y) => document.elementFromPoint(x, y).dispatchEvent(new PointerEvent(type,
            { bubbles: true, pointerId: id, pointerType: 'touch', clientX: x, clientY: y }));
        svg.setPointerCapture = () => {};
        const x = card.x + 20, y = card.y + 20;
        send('pointerdown', 21, x, y); send('pointermove', 21, x, y - 30);
        send('pointerdown', 22, x + 100, y - 30); send('pointermove', 22, x + 200, y - 30);
        send('pointerup', 22, x + 200, y - 30); send('pointerup', 21, x, y - 30);
        delete svg.setPointerCapture;
        return view.k / k;
    }""")
    assert 1.9 < zoom < 2.1
    assert options(page) == before and events(page, "release", 0) == []


def test_search_dims_the_rest_and_selects_matches(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.keyboard.press("/")
    page.keyboard.type("nothing-like-it")
    assert page.locator("#graph .qs-matches").text_content() == "No match"
    page.locator("#graph .qs-search").fill("up.*attention")
    assert page.locator("#graph .node.found").count() == 4
    assert page.locator("#graph .node.dimmed").count() == 16
    page.keyboard.press("Enter")
    assert len(events(page, "select")[0]["selected"]) == 4
    page.locator("#graph .qs-search").fill(r"attn2\.to_v$")
    assert page.locator("#graph .qs-matches").text_content() == "Select 7 layers"
    page.locator("#graph .qs-matches").click()
    assert all(name.endswith("attn2.to_v") for name in events(page, "select", 2)[-1]["selected"])
    page.locator("#graph .qs-search").fill("((")
    assert page.locator("#graph .qs-matches").text_content() == "No match"


def test_chips_select_by_stage_type_and_role(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.get_by_title("Select by stage, type or role").click()
    page.locator("[data-chip=sampler]").click()
    assert set(events(page, "select")[0]["selected"]) == {"down_blocks.0.downsamplers.0", "up_blocks.0.upsamplers.0"}
    page.locator("[data-chip='attention q']").click()
    assert len(events(page, "select", 2)[-1]["selected"]) == 2 + 14
    page.keyboard.press("Escape")


def test_escape_takes_a_drag_back(story: Callable[..., Any]) -> None:
    page = story("unet")
    before = options(page)
    x, y = middle(page, CARD.format("conv_in"))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 40, steps=4)
    page.wait_for_function("() => QS.store('main').options['conv_in'] !== 'uaq-4'")
    assert page.locator("#graph .qs-ladder").is_visible()
    page.keyboard.press("Escape")
    page.mouse.up()
    assert options(page) == before
    assert events(page, "release", 0) == []


def test_a_late_answer_cannot_take_back_a_newer_drag(story: Callable[..., Any]) -> None:
    page = story("unet")
    drag(page, CARD.format("conv_in"), -13)
    old = events(page, "release")[0]
    drag(page, CARD.format("conv_in"), -13)
    events(page, "release", 2)
    page.evaluate("v => QS.store('main').setValue(v)", old)
    assert options(page)["conv_in"] == "uaq-6"
    page.evaluate("v => QS.store('main').setValue({...v, edit: undefined})", old)
    assert options(page)["conv_in"] == "uaq-5"


def test_totals_equal_the_engine_exactly(story: Callable[..., Any]) -> None:
    from engine.core.option import parse_option
    from engine.core.sizes import bits_per_weight, file_bytes, full_bytes, recipe_bytes
    from tests.explorer.ui.models import small_unet

    page, structure = story("unet"), small_unet()
    for bits in (2, 3, 5, 8, 16):
        state(page, f"(s.set(Object.keys(s.graph.layers).filter((_, i) => i % 3), {bits}), s.commit())")
        recipe = {name: parse_option(text) for name, text in options(page).items()}
        totals = state(page, "QS.totals(s.graph, s.options)")
        assert totals["bytes"] == recipe_bytes(structure, recipe)
        assert totals["file_bytes"] == file_bytes(structure, recipe)
        assert totals["bits_per_weight"] == bits_per_weight(structure, recipe)
        assert totals["percent"] == 100 * recipe_bytes(structure, recipe) / full_bytes(structure)


def test_greyed_options_are_never_set_and_methods_stay(story: Callable[..., Any]) -> None:
    page = story("unet")
    layer = "down_blocks.0.resnets.0.conv1"
    state(page, f"s.setOption(['{layer}'], 'kmeans_c-4')")
    state(page, f"(s.set(['{layer}'], 3), s.commit())")
    assert options(page)[layer] == "kmeans_c-3"
    sensible = set(state(page, f"s.graph.layers['{layer}'].sensible"))
    for bits in (2, 3, 4, 5, 6, 8, 16):
        state(page, f"(s.set(Object.keys(s.graph.layers), {bits}), s.commit())")
        assert options(page)[layer] in sensible
        assert all(state(page, "Object.entries(s.options).map(([c, o]) => s.graph.sensible.get(c).has(o))"))
    assert options(page)[layer] == "fp16"
    assert "kmeans_c-8" not in state(page, "s.graph.layers.conv_in.sensible")
    state(page, "s.setOption(['conv_in'], 'kmeans_c-8')")
    assert options(page)["conv_in"] == "fp16"


def test_overlay_colours_ramps_and_legend(story: Callable[..., Any]) -> None:
    from explorer.graphview.overlay import colour, normalise
    from tests.explorer.ui.models import scores_of, small_unet

    page, values = story("unet"), scores_of(small_unet())
    low, high = min(values.values()), max(values.values())
    fill = page.locator(CARD.format("conv_in") + " .fill").evaluate("e => e.style.fill")
    wanted = colour(normalise(values["conv_in"], low, high, log=True), "ember")
    assert fill == "rgb({}, {}, {})".format(*(int(wanted[i : i + 2], 16) for i in (1, 3, 5)))
    legend = page.locator("#graph .qs-legend")
    assert "Measured damage" in legend.text_content()
    assert "held-out rank correlation 0.93" in legend.text_content()
    assert "scaled or extrapolated" in legend.text_content()
    page.get_by_label("Colour ramp").select_option("cividis")
    assert events(page, "ramp")[-1]["overlay"]["ramp"] == "cividis"
    assert page.locator(CARD.format("conv_in") + " .fill").evaluate("e => e.style.fill") != fill
    page.locator("#by-bits").click()
    page.wait_for_selector("#graph .qs-ramp.steps")


def test_the_table_edits_too(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.keyboard.press("t")
    row = page.locator(".qs-table tr[data-row='conv_in'].block")
    row.locator("select").select_option("6")
    assert events(page, "release")[-1]["options"]["conv_in"] == "uaq-6"
    page.get_by_label("Layers of Down 0 · ResNet 1").click()
    layer = page.locator(".qs-table tr.layer[data-row='down_blocks.0.resnets.0.conv1']")
    layer.locator("select").select_option("kmeans_a-3")
    assert events(page, "release", 2)[-1]["options"]["down_blocks.0.resnets.0.conv1"] == "kmeans_a-3"
    page.get_by_label("Layers of Conv in").click()
    greyed = page.locator(".qs-table tr.layer[data-row='conv_in'] option:disabled").all_text_contents()
    assert any(text.startswith("8 bits (") for text in greyed)
    assert page.locator(".qs-table tbody tr.block").count() == 20


def test_help_names_every_key(story: Callable[..., Any]) -> None:
    page = story("unet")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys and gestures")
    assert dialog.is_visible()
    for text in ("Drag a card up or down", "Shift drag", "protect from edits", "search by regular expression"):
        assert text in dialog.text_content()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_names_from_files_are_text_only(story: Callable[..., Any]) -> None:
    page = story("unet")
    evil = "<img src=x onerror=alert(1)>${alert(2)}{{value}}"
    page.evaluate("""(evil) => {
        const s = QS.store('main'), plain = (k, v) => (v instanceof Map || v instanceof Set ? undefined : v);
        window.kept = JSON.stringify(s.graph, plain);
        const graph = JSON.parse(window.kept);
        graph.model = 'other'; graph.cards.forEach((c) => { c.label = evil; c.short = evil; });
        s.setGraph(graph); s.select([graph.cards[5].id]);
    }""", evil)
    page.wait_for_timeout(100)
    assert page.locator("#graph img, #mixer img").count() == 0
    assert page.locator("#mixer .qs-strip .qs-strip-name").first.text_content() == evil
    page.evaluate("QS.store('main').setGraph(window.kept)")


def test_nothing_outside_is_asked_for(story: Callable[..., Any]) -> None:
    page = story("dit", dark=True)
    drag(page, CARD.format("transformer_blocks.3"), -13)
    page.wait_for_timeout(300)
    outside = [u for u in page.requests if not u.startswith(("http://127.0.0.1", "data:", "blob:"))]
    assert outside == []
    assert page.evaluate("document.body.classList.contains('dark')")


LAYOUTS = """([text, width, height, open]) => {
    const graph = QS.prepare(JSON.parse(text)), expanded = new Set();
    if (open) graph.blocks.forEach((card, i) => { if (i % 5 === 2) expanded.add(card.id); });
    const made = QS.layout(graph, { expanded, folded: new Set(), width, height });
    const boxes = [...made.boxes.values()].map((b) => [b.x, b.y, b.x + b.w, b.y + b.h + 17]);
    return { boxes, cells: made.cells.map((c) => [c.x, c.y, c.x + c.w, c.y + c.h]),
             drawers: made.drawers.map((d) => [d.x, d.y, d.x + d.w, d.y + d.h]),
             scale: Math.min(width / made.plain.width, height / made.plain.height),
             width: made.width, height: made.height };
}"""


def _apart(boxes: list[list[float]]) -> bool:
    return all(a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
               for i, a in enumerate(boxes) for b in boxes[i + 1 :])


@pytest.mark.parametrize("name", ["unet", "dit", "sdxl", "sd", "dit28", "flux", "hunyuan", "hundred"])
def test_nothing_overlaps_and_text_stays_readable(story: Callable[..., Any], name: str) -> None:
    """At the widths a graph has on pages of 1280 and 1920 pixels, folded and with blocks open."""
    from explorer.graphview.card import graph_text
    from tests.explorer.ui.models import STRUCTURES

    page, text = story("unet"), graph_text(STRUCTURES[name]())
    for width, height in ((740, 420), (740, 330), (1180, 640)):
        for opened in (False, True):
            made = page.evaluate(LAYOUTS, [text, width, height, opened])
            assert _apart(made["boxes"] + made["drawers"])
            if len(made["cells"]) < 400:
                assert _apart(made["cells"])
            for box in [*made["boxes"], *made["drawers"], *made["cells"]]:
                assert box[0] >= 0 and box[1] >= 0 and box[2] <= made["width"] and box[3] <= made["height"]
        if height > 400 and name != "hundred":
            assert made["scale"] >= 0.72, "text would be too small to read"


def test_the_graph_is_fitted_into_its_frame(story: Callable[..., Any]) -> None:
    page = story("unet")
    frame = page.locator("#graph .qs-frame").bounding_box()
    cards = "[...document.querySelectorAll('#graph .node')].map((n) => n.getBoundingClientRect().toJSON())"
    for box in page.evaluate(cards):
        assert frame["x"] <= box["left"] and box["right"] <= frame["x"] + frame["width"]
        assert frame["y"] <= box["top"] and box["bottom"] <= frame["y"] + frame["height"]


@pytest.mark.parametrize("name", ["sdxl", pytest.param("hundred", marks=pytest.mark.slow)])
def test_drag_repaint_latency_is_printed(story: Callable[..., Any], name: str, record_property: Any) -> None:
    """From a pointer move that changes bits to the painted frame, whole graph selected, printed, not judged."""
    page = story(name)
    times = page.evaluate("""async () => {
        const host = document.querySelector('#graph .qs-root'), { store } = host.qs;
        store.select(store.graph.blocks.map((c) => c.id));
        const card = document.querySelector('#graph .node[data-kind=card] .bg'), box = card.getBoundingClientRect();
        const svg = document.querySelector('#graph svg.qs-graph');
        const send = (type, dy) => card.dispatchEvent(new PointerEvent(type, { bubbles: true, pointerId: 1,
            clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 + dy, button: 0, buttons: 1 }));
        const frame = () => new Promise((done) => requestAnimationFrame(done));
        svg.setPointerCapture = () => {}; svg.hasPointerCapture = () => true;
        send('pointerdown', 0); const out = [];
        for (let i = 0; i < 60; i++) {
            const before = performance.now(); send('pointermove', i % 2 ? -14 : -28);
            await frame(); await frame();
            out.push(performance.now() - before);
        }
        send('pointerup', 0); return out;
    }""")
    times.sort()
    middle_ms, high_ms = (round(times[int(part * len(times))], 1) for part in (0.5, 0.95))
    figures = {"model": name, "n": len(times), "median_ms": middle_ms, "p95_ms": high_ms}
    print("\ndrag to repaint:", json.dumps(figures))
    record_property("drag_repaint", json.dumps(figures))
    assert len(times) == 60
