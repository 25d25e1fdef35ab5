"""How the page looks on two screens, light and dark: nothing is cut off, covered, squeezed or too pale to read."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
WAIT_MS = 240_000
NARROWEST = 380  # of graph and compare pane
CONTRAST = 4.5  # WCAG AA for text of this size
SCREENS = ((1280, 800), (1920, 1080))
MODELS = ("emoji-unet", "emoji-dit")
TABS = ["Compare", "Grid", "Block", "Decide", "Analyse", "Study", "History", "Export"]
EDGED = "#header button:visible, .wrap:has(> .wrap-inner):is(#header *, #seed-row *), #seed input, #dice"
SHOTS = os.environ.get("QUANTSCAPE_SHOTS")  # a folder for pictures of what was judged

# Text colour, and what lies behind it: the layers of background up to the first opaque one.
COLOURS = """(node) => {
  const rgba = (text) => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    c.fillStyle = text; c.fillRect(0, 0, 1, 1); const d = c.getImageData(0, 0, 1, 1).data;
    return [d[0], d[1], d[2], d[3] / 255]; };
  const behind = [];
  for (let at = node; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    behind.push(colour);
    if (colour[3] === 1) break;
  }
  return {text: rgba(getComputedStyle(node).color), behind};
}"""


def over(top: list[float], below: list[float]) -> list[float]:
    return [top[3] * t + (1 - top[3]) * b for t, b in zip(top[:3], below[:3], strict=True)] + [1.0]


def contrast(found: dict[str, Any]) -> float:
    """WCAG's ratio of a text's luminance to that of what lies behind it."""
    ground = [255.0, 255.0, 255.0, 1.0]
    for layer in reversed(found["behind"]):
        ground = over(layer, ground)

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(ground), luminance(over(found["text"], ground))))
    return (high + 0.05) / (low + 0.05)


def boxes(found: Any, name: str) -> dict[str, dict[str, float]]:
    """Where the elements stand, by their words."""
    made = {}
    for i in range(found.count()):
        box = found.nth(i).bounding_box()
        assert box, f"{name} {i} is not shown"
        made[found.nth(i).inner_text().strip() or f"{name} {i}"] = box
    return made


def overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    return all(a[at] + a[size] > b[at] + 0.5 and b[at] + b[size] > a[at] + 0.5
               for at, size in (("x", "width"), ("y", "height")))


def check_places(page: Any, width: int, height: int) -> None:
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    header = boxes(page.locator("#header button:visible, #header input:not([type=file]):visible"), "header")
    tabs = boxes(page.locator("#views > .tab-wrapper .tab-container[role=tablist] button"), "tab")
    assert list(tabs) == TABS, "every tab is in sight, none behind a menu"
    for group in (header, tabs):
        for name, box in group.items():
            assert box["x"] >= 0 and box["y"] >= 0, name
            assert box["x"] + box["width"] <= width and box["y"] + box["height"] <= height, f"{name} is cut off"
        for (one, a), (two, b) in combinations(group.items(), 2):
            assert not overlap(a, b), f"{one} and {two} overlap"
    for part in ("#graph", "#compare"):
        box = page.locator(part).bounding_box()
        assert box and box["width"] >= NARROWEST and box["x"] + box["width"] <= width, f"{part}: {box}"
    mixer = page.locator("#mixer").bounding_box()
    assert mixer and mixer["y"] + mixer["height"] <= height, "the mixer is on the first screen, names and all"


def check_edges(page: Any, theme: str) -> None:
    """Boxes and buttons of the page's top have an edge that is not the colour of what they lie on."""
    found = page.locator(EDGED)
    assert found.count() >= 11, "header and seed row"
    for i in range(found.count()):
        edge, ground = found.nth(i).evaluate(
            "(n) => { const c = getComputedStyle(n); let at = n.parentElement;"
            " const see = (m) => getComputedStyle(m).backgroundColor;"
            " while (see(at) === 'rgba(0, 0, 0, 0)') at = at.parentElement;"
            " return [c.borderTopWidth === '0px' ? '' : c.borderTopColor, see(at)]; }")
        assert edge and edge != ground, f"{found.nth(i).evaluate('(n) => n.outerHTML.slice(0, 200)')}, {theme}"


def check_contrast(page: Any, theme: str) -> None:
    tabs = page.locator("#views > .tab-wrapper .tab-container[role=tablist] button")
    for i in range(tabs.count()):
        ratio = contrast(tabs.nth(i).evaluate(COLOURS))
        assert ratio >= CONTRAST, f"{tabs.nth(i).inner_text()}, {theme}: {ratio:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_page_keeps_its_shape(page: Any, served: str, model: str) -> None:
    page.emulate_media(reduced_motion="reduce", color_scheme="light")
    page.goto(f"{served}?model={model}")
    page.wait_for_selector("#compare .qs-stage.has", timeout=WAIT_MS)
    page.wait_for_selector("#compare .qs-progress", state="hidden", timeout=WAIT_MS)
    for theme in ("light", "dark"):
        assert page.evaluate("() => document.body.classList.contains('dark')") == (theme == "dark")
        for width, height in SCREENS:
            page.set_viewport_size({"width": width, "height": height})
            page.mouse.move(width - 2, height - 2)
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            page.wait_for_function(  # Gradio moves tabs in and out of its menu a moment later
                "(n) => document.querySelectorAll('#views > .tab-wrapper .tab-container[role=tablist] button')"
                ".length === n", arg=len(TABS), timeout=10_000)
            if SHOTS:
                page.screenshot(path=Path(SHOTS) / f"{model}-{theme}-{width}.png")
            check_places(page, width, height)
            check_contrast(page, f"{theme}, {width} wide")
            check_edges(page, theme)
        page.evaluate("() => QS.toggleTheme()")
        page.wait_for_function("() => document.getAnimations().every((a) => a.playState !== 'running')")
