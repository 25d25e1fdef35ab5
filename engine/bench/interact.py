"""A drag on the block graph in a real browser: from the pointer's move to the repainted numbers and colours.

Two figures per model: `drag` (everything repaints in the page while one drags) and `release` (dropped, the
server's answer is painted). `ratio` = a server round trip per move / our repaint in the page: what the page's own
tables save. Needs Debian's chromium and the package playwright.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from engine.bench.machine import median, percentile
from engine.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
START = "import sys; from explorer.launch import main; sys.exit(main())"  # an installed copy has no app.py
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
START_S = 180

# One drag: down on a card, a move of several bits, then two frames, so that the paint is over, not only asked for.
DRAG = """async ([index, rounds]) => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const cards = [...document.querySelectorAll("#graph [data-kind='card']")];
  const card = cards[index % cards.length].querySelector(".bg"), box = card.getBoundingClientRect();
  // Made-up pointers cannot be captured; a real one is, and then hears its own moves.
  const svg = document.querySelector("#graph svg.qs-graph");
  svg.setPointerCapture = () => {};
  svg.hasPointerCapture = () => true;
  const x = box.left + box.width / 2, y = box.top + box.height / 2;
  const send = (type, dy, target) => target.dispatchEvent(new PointerEvent(type, { bubbles: true, cancelable: true,
    pointerId: 7, isPrimary: true, button: 0, buttons: type === "pointerup" ? 0 : 1, clientX: x, clientY: y + dy }));
  const figures = () => document.querySelector("#graph .qs-totals").innerText;
  send("pointerdown", 0, card);
  send("pointermove", -8, card);
  const moves = [];
  for (let i = 0; i < rounds; i++) {
    const before = performance.now(), old = figures();
    send("pointermove", i % 2 ? 40 : -40, card);
    await frame();
    moves.push([performance.now() - before, figures() !== old]);
  }
  const root = document.querySelector("#graph [data-rev]"), rev = root.dataset.rev, dropped = performance.now();
  send("pointerup", rounds % 2 ? -40 : 40, card);
  while (root.dataset.rev === rev && performance.now() - dropped < 20000) await new Promise((d) => setTimeout(d, 2));
  return { moves, release: performance.now() - dropped, cards: cards.length };
}"""


def run(model: str = "emoji-unet", rounds: int = 15) -> dict[str, Any]:
    """Serve the model, drag many cards, read the page's clock.

    Raises:
        InputError: chromium or playwright is missing, or the explorer did not start.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("bench interact needs playwright: pip install -r requirements-dev.txt") from None
    if not chromium:
        raise InputError("bench interact needs a browser: apt-get install chromium")
    process, url = _serve(model)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            began = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("#graph [data-kind='card']", timeout=START_S * 1000)
            drawn = time.perf_counter() - began
            # Pictures of the first recipe would share the cores with the drag; they are let finish first.
            page.wait_for_timeout(3000)
            page.evaluate(DRAG, [0, 4])
            found = [page.evaluate(DRAG, [i + 1, 8]) for i in range(rounds)]
            browser.close()
    finally:
        process.terminate()
        process.wait(20)
    moves = [m for f in found for m, changed in f["moves"] if changed]
    releases = [f["release"] for f in found]
    if not moves:
        raise InputError("The drags changed nothing: every card is at an end of its range or protected.")
    return {
        "model": model, "cards": found[0]["cards"], "n": len(moves), "peer": "a server round trip on release",
        "ratio": median(releases) / median(moves), "drag_ms": median(moves), "drag_p95_ms": percentile(moves, 0.95),
        "release_ms": median(releases), "release_p95_ms": percentile(releases, 0.95), "page_to_graph_s": drawn,
    }


def _serve(model: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-c", START, model, "--no-browser", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return process, url
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    process.kill()
    raise InputError(f"The explorer did not start on {model}; run: python app.py {model} --no-browser")
