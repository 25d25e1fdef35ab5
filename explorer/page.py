"""The page: places the panels, binds the wiring, hands out the ASGI application."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.core.placement import PLAIN, Placement
from explorer.context import Context
from explorer.graphview.components import BitMixer, BlockGraph
from explorer.handlers import Handlers
from explorer.panels import header, prompt, views
from explorer.server import Binding, build_app
from explorer.theme import build_theme, page_css
from explorer.wiring import Parts, Wiring

# As high as the window leaves: the mixer and the legend stay on the first screen.
GRAPH_HEIGHT = "clamp(330px, calc(100vh - 446px), 720px)"


def build(model: str, bound: Binding, placement: Placement = PLAIN) -> Any:
    """The ASGI application with one model open; structure and scores are read now, weights behind the page.

    Raises:
        ModelError: the model cannot be opened.
    """
    context = Context(bound, placement)
    handlers = Handlers(context, model)
    opened = context.model(model)
    state, _ = handlers.opened(model, {})
    with gr.Blocks(title="Quantscape", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as page:
        top = header.build(model)
        with gr.Row(elem_id="body"):
            with gr.Column(scale=5, min_width=640, elem_id="left"):
                graph = BlockGraph(graph=opened.graph, height=GRAPH_HEIGHT, elem_id="graph")
                mixer = BitMixer(elem_id="mixer")
            with gr.Column(scale=3, min_width=420, elem_id="right"):
                form = prompt.build(state.settings)
                tabs = views.build()
        parts = Parts(gr.State(None), top, form, tabs, graph, mixer,
                      gr.Textbox(visible="hidden", elem_id="download"))
        Wiring(handlers, parts).connect(page)
    page.queue(default_concurrency_limit=16)
    return build_app(page, bound, theme=build_theme(), css=page_css())
