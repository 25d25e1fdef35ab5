"""The Decide tab in a browser: the page finds the engine's own recipes while one slides, and Python settles it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core.sizes import bits_per_weight, full_bytes
from engine.models.structure import read_structure
from engine.providers.files import find_scores
from explorer.decide import LIVE, Decider

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WAIT_MS = 60_000
MODEL = "emoji-unet"


def test_sliding_shows_the_engines_recipes_and_release_makes_one_version(page: Any, served: str) -> None:
    structure = read_structure(MODEL)
    decider = Decider(structure, find_scores(structure))
    provider = decider.provider()
    page.goto(f"{served}?model={MODEL}")
    page.wait_for_function("() => new URL(location).searchParams.get('r')", timeout=WAIT_MS)
    page.get_by_role("tab", name="Decide").click()
    page.wait_for_selector(f"#decide .qs-root[data-plan='{provider}']", timeout=WAIT_MS)
    for bits in (2.2, 3.0, 3.37, 4.5, 7.9):
        budget = int(bits / structure.precision_bits * full_bytes(structure))
        found = page.evaluate("(b) => document.querySelector('#decide .qs-root').qs.current().at(b)", budget)
        wanted = decider.path(provider, {}).at(budget)
        assert found["bytes"] == wanted.bytes and found["damage"] == pytest.approx(wanted.cost, rel=1e-9)
        assert found["options"] == {n: str(o) for n, o in wanted.recipe.options.items()}
    page.locator("#decide [data-choose='allocator']").select_option(LIVE)
    before = page.inner_text("#graph .qs-totals")
    box = page.locator("#decide .qs-budget").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2, steps=4)
    page.wait_for_function("(old) => document.querySelector('#graph .qs-totals').innerText !== old", arg=before)
    assert page.locator("#undo").is_disabled(), "nothing is decided before the slider is let go"
    page.mouse.up()
    page.wait_for_selector("#decide-said:has-text('bits per weight')", timeout=WAIT_MS)
    budget = int(float(page.locator("#decide .qs-budget").input_value()) / 16 * full_bytes(structure))
    options = decider.solve(provider, LIVE, budget, {}).allocation.recipe.options
    assert page.locator("#graph .qs-totals b").first.inner_text() == f"{bits_per_weight(structure, options):.2f}"
    page.fill("#decide .qs-typed", "0.5 bits")
    page.keyboard.press("Enter")
    page.wait_for_selector("#decide-said:has-text('too small')", timeout=WAIT_MS)
    page.click("#undo")
    page.wait_for_function("() => document.querySelector('#undo').disabled", timeout=WAIT_MS)
    page.evaluate("document.querySelector('#decide .qs-root').qs.point('u:uaq-3')")
    page.wait_for_function("() => document.querySelector('#graph .qs-totals').innerText.startsWith('3.10')",
                           timeout=WAIT_MS)
