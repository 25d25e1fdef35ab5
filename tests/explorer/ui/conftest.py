"""The story's servers and pages that record errors and requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def story_servers() -> Iterator[Callable[[str], Any]]:
    from tests.explorer.ui.story import Server

    servers: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in servers:
            servers[name] = Server(name)
        return servers[name]

    yield of
    for server in servers.values():
        server.stop()


RESET = """() => {
    const store = QS.store('main'), host = document.querySelector('#graph .qs-root');
    const { overlay } = store;
    const first = (window.firstValue ||= JSON.stringify({ ...store.fields(), edit: undefined, overlay }));
    document.querySelector('dialog[open]')?.close();
    document.querySelectorAll('.qs-popover').forEach((panel) => { panel.hidden = true; });
    document.activeElement?.blur();
    store.abandon(); store.folded.clear();
    store.setValue({ ...JSON.parse(first), rev: 0 }); store.emit('layout');
    store.edit += 1; host.qs.sync();  // answers to the test before come too late from here on
    const search = document.querySelector('#graph .qs-search');
    search.value = ''; search.dispatchEvent(new Event('input'));
    const table = document.querySelector('#graph [aria-label^="Show as a table"]');
    if (table.getAttribute('aria-pressed') === 'true') table.click();
    host.qs.input.fit(); document.querySelector('#mixer .qs-board').scrollLeft = 0; window.scrollTo(0, 0);
}"""


@pytest.fixture(scope="session")
def story_pages(browser: Any, story_servers: Callable[[str], Any]) -> Iterator[Callable[..., Any]]:
    """Pages by what they show; one is opened once and reset for every test that asks for it."""
    pages: dict[tuple[Any, ...], Any] = {}

    def of(name: str, dark: bool, width: int, height: int) -> Any:
        key = (name, dark, width, height)
        if key not in pages:
            server = story_servers(name)
            page = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True).new_page()
            page.errors, page.requests, page.log = [], [], server.log
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
            page.on("request", lambda request: page.requests.append(request.url))
            page.goto(f"{server.url}?__theme={'dark' if dark else 'light'}")
            for part in ("graph", "mixer", "compare", "grid"):
                page.wait_for_selector(f"#{part} .qs-root[data-ready]", timeout=30_000)
            page.wait_for_selector("#compare .qs-root[data-shown]")
            pages[key] = page
        return pages[key]

    yield of
    for page in pages.values():
        page.context.close()


@pytest.fixture
def story(story_pages: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """`story("unet", dark=True)` -> a page in its first state; `.log` is what Python heard, `.errors`, `.requests`."""
    used = []

    def open_story(name: str = "unet", *, dark: bool = False, width: int = 1280, height: int = 800) -> Any:
        page = story_pages(name, dark, width, height)
        page.mouse.move(2, 2)
        heard = -1
        while heard != len(page.log):  # events of the test before may still be on their way to Python
            heard = len(page.log)
            page.wait_for_timeout(80)
        page.evaluate(RESET)
        page.wait_for_timeout(60)
        page.log.clear()
        page.start = page.evaluate("QS.store('main').edit")
        used.append(page)
        return page

    yield open_story
    for page in used:
        assert page.errors == []
