"""The page: places the panels, binds the wiring, hands out the ASGI application."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.state_holder import SessionState

from engine.core.placement import PLAIN, Placement
from explorer.context import Context
from explorer.graphview.components import BitMixer, BlockGraph
from explorer.handlers import Handlers
from explorer.panels import header, prompt, views
from explorer.server import Binding, build_app
from explorer.theme import build_theme, page_css
from explorer.wiring import Parts, Wiring

# A page holds one place of Gradio's queue for as long as it is open (`Wiring.present`), and who waits for the device
# waits in a thread: Gradio's 40 of both would be all the viewers a server can have.
PLACES = 1000
SESSIONS = 300  # megabytes each; the one that was away longest goes first
# Gradio takes a page whose connection broke once for closed, and drops its state an hour after the last change.
KEPT_S = 7 * 24 * 3600
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
    page.max_threads = PLACES
    page.queue(default_concurrency_limit=16)
    page.state_session_capacity = SESSIONS
    SessionState.STATE_TTL_WHEN_CLOSED = KEPT_S
    return build_app(page, bound, theme=build_theme(), css=page_css())
