"""All components on one page, on models made in code: for development (`python -m tests.explorer.ui.story 7900 unet`)
and for the browser tests. Adds an event log that tests read from `/_events`."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from engine.core.graph import Structure
from engine.core.option import parse_option
from engine.core.recipe import uniform_bits
from engine.core.record import Trust
from explorer.graphview.card import graph_text, view_value
from explorer.graphview.components import ROUTE, BitMixer, BlockGraph, ComparePane, ImageGrid, ui_folder
from explorer.graphview.overlay import bits_overlay, make_overlay
from explorer.theme import build_theme, page_css
from tests.explorer.ui.models import STRUCTURES, damage_of, scores_of
from tests.explorer.ui.pictures import face

METRICS = [
    {"title": "PSNR", "value": "26.31 dB", "n": 16, "low": 25.9, "high": 26.8, "better": "higher"},
    {"title": "SSIM", "value": "0.912", "n": 16, "low": 0.90, "high": 0.93, "better": "higher"},
    {"title": "Feature distance (emoji-clip)", "value": "0.043", "n": 16, "low": 0.04, "high": 0.05, "better": "lower"},
    {"title": "CLIP score", "value": "0.287", "n": 16, "low": 0.27, "high": 0.30, "better": "higher"},
]
PROMPTS = ["grinning face with big eyes", "red apple", "green heart", "blue car seen from the side", "purple umbrella"]


def first_overlay(structure: Structure) -> dict[str, Any]:
    """Scores with a few hatched blocks and a trust line."""
    values = scores_of(structure)
    hatched = [b.id for b in structure.level("block")[3::7]]
    trust = Trust(images=16, rank_correlation=0.93, note="one block at a time around uniform 4 bits")
    return make_overlay("measured", "Measured damage", values, unit="image MSE at uaq-3", log=True, hatched=hatched,
                        trust=trust)


def comparison(progress: dict[str, Any] | None = None) -> dict[str, Any]:
    """A full compare pane."""
    return {
        "a": {"caption": "Full precision", "detail": "16 bits", "images": [face(i, 0) for i in range(5)]},
        "b": {"caption": "This recipe", "detail": "4.10 bits · 3.71 MB", "images": [face(i, 0.45) for i in range(5)]},
        "labels": [f"{p} · seed {7 + i}" for i, p in enumerate(PROMPTS)], "metrics": METRICS,
        "progress": progress, "error": None, "rev": 1,
    }  # fmt: skip


def grid() -> dict[str, Any]:
    """Five prompts by four recipes, one picture still missing."""
    harms = [0.0, 0.15, 0.45, 0.9]
    rows: list[dict[str, Any]] = [
        {"title": p, "detail": f"seed {7 + i}", "cells": [face(i, h) for h in harms]} for i, p in enumerate(PROMPTS)
    ]
    rows[-1]["cells"][-1] = None
    titles = {"Full precision": "16 bits", "Uniform 6": "6.10 bits", "Uniform 4": "4.10 bits", "Uniform 3": "3.10 bits"}
    return {"columns": [{"title": a, "detail": b} for a, b in titles.items()], "rows": rows, "rev": 1}


def build(name: str, log: list[dict[str, Any]]) -> gr.Blocks:
    """The page: editor left, pictures right, as the explorer lays them out."""
    structure = STRUCTURES[name]()
    start = dict(uniform_bits(structure, 4).options)
    for i, layer in enumerate(structure.choices):
        if i % 9 == 4:
            start[layer.name] = parse_option("uaq-8")
    value = view_value(start, first_overlay(structure))

    # As in the explorer: a value that is not newer than the last is not taken, so two answers never share a number.
    revisions = itertools.count(1)

    def answer(v: dict[str, Any]) -> dict[str, Any]:
        # The page sends an overlay without its numbers.
        return {**{k: field for k, field in v.items() if k != "overlay"}, "rev": next(revisions)}

    def heard(event: str, v: dict[str, Any]) -> dict[str, Any]:
        kept = ("options", "selected", "protected", "expanded", "edit", "overlay")
        log.append({"event": event, "value": {k: v.get(k) for k in kept}})
        return answer(v)

    def seen(event: str, v: dict[str, Any]) -> None:
        log.append({"event": event, "value": v})

    quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}

    def changed(button: gr.Button, change: dict[str, Any]) -> None:
        button.click(lambda v: {**answer(v), **change}, graph, graph, **quiet)

    async def present() -> AsyncIterator[None]:
        while True:  # with one event always pending the stream of answers never closes under another
            await asyncio.sleep(60)
            yield None

    with gr.Blocks(title="Quantscape components", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(equal_height=False):
            with gr.Column(scale=8, min_width=640, elem_classes="qs-panel"):
                graph = BlockGraph(value, graph=graph_text(structure, damage_of(structure)), elem_id="graph")
                BitMixer(elem_id="mixer")
            with gr.Column(scale=5, min_width=400, elem_classes="qs-panel"):
                pane = ComparePane(comparison(), elem_id="compare")
        with gr.Row():
            colour_bits = gr.Button("Colour by bits", elem_id="by-bits", size="sm")
            uniform = gr.Button("Uniform 3", elem_id="uniform", size="sm")
            step = gr.Button("Progress", elem_id="step", size="sm")
            fail = gr.Button("Error", elem_id="fail", size="sm")
        cells = ImageGrid(grid(), elem_id="grid")
        page.load(present, None, None, show_progress="hidden")
        for event in ("release", "select", "protect", "expand", "ramp"):
            getattr(graph, event)(lambda v, event=event: heard(event, v), graph, graph, **quiet)
        for event in ("cancel", "pick", "region"):
            getattr(pane, event)(lambda v, event=event: seen(event, v), pane, None, **quiet)
        cells.open(lambda v: seen("open", v), cells, None, **quiet)
        low = {k: str(o) for k, o in uniform_bits(structure, 3).options.items()}
        moving = {"progress": {"text": "Denoising, step", "step": 7, "of": 20, "left": "4 s left"}, "rev": 2}
        failed = {"progress": None, "error": "The prompt is empty; write what the picture should show.", "rev": 3}
        changed(colour_bits, {"overlay": bits_overlay()})
        changed(uniform, {"options": low})
        step.click(lambda: moving, None, pane, **quiet)
        fail.click(lambda: failed, None, pane, **quiet)
    return page


def application(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """The ASGI application and its event log."""
    log: list[dict[str, Any]] = []
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount(f"/{ROUTE}", StaticFiles(directory=ui_folder()))
    app = gr.mount_gradio_app(app, build(name, log), path="/", theme=build_theme(), css=page_css(), footer_links=[],
                              run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False)
    return app, log


class Server:
    """The story served in a thread."""

    def __init__(self, name: str, port: int = 0) -> None:
        app, self.log = application(name)
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        threading.Thread(target=self._server.run, daemon=True).start()
        while not self._server.started:
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def stop(self) -> None:
        """Ask it to end."""
        self._server.should_exit = True


if __name__ == "__main__":
    served = Server(sys.argv[2] if len(sys.argv) > 2 else "unet", int(sys.argv[1]) if len(sys.argv) > 1 else 7900)
    print(served.url, flush=True)
    threading.Event().wait()
