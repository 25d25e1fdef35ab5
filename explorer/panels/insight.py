"""The insight charts of the Block tab: where sensitivity lies, by kind of operation and by block."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

SEEN = "block-title"  # always there while the tab is


@dataclass(frozen=True)
class InsightPanel:
    """Components below the block's own charts; `tab` is the Block tab."""

    tab: gr.Tab
    option: gr.Dropdown
    title: gr.Markdown
    roles: gr.Plot
    blocks: gr.Plot


def build(tab: gr.Tab) -> InsightPanel:
    """Two charts of the whole model; the selected blocks are marked in the second."""
    option = gr.Dropdown([], label="Every layer at", elem_id="insight-option", visible=False)
    title = gr.Markdown("", elem_id="insight-title", elem_classes="qs-quiet")
    roles = gr.Plot(show_label=False, elem_id="by-role", visible=False)
    blocks = gr.Plot(show_label=False, elem_id="by-block", visible=False)
    return InsightPanel(tab, option, title, roles, blocks)
