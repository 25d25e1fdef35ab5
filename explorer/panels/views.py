"""The right-hand tabs: compare, grid, block details, history and pins."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from engine.core.option import FP16
from engine.core.presets import RULES, uniform_presets
from explorer.graphview.components import ComparePane, ImageGrid, LayerEditor
from explorer.panels import analyse, decide, export, insight, study
from explorer.panels.analyse import AnalysePanel
from explorer.panels.decide import DecidePanel
from explorer.panels.export import ExportPanel
from explorer.panels.insight import InsightPanel
from explorer.panels.study import StudyPanel

GRID_PRESETS = [(p.title, p.name) for p in (*uniform_presets(), *RULES) if p.name != str(FP16)]
GRID_DEFAULT = ("uaq-8", "uaq-3", "uaq-2")
PANE_HEIGHT = "clamp(300px, calc(100vh - 420px), 720px)"


@dataclass(frozen=True)
class ViewsPanel:
    """Components of the right-hand tabs."""

    tabs: gr.Tabs
    against: gr.Radio
    pane: ComparePane
    restore: gr.Dataframe
    grid: ImageGrid
    grid_columns: gr.Dropdown
    grid_prompts: gr.Textbox
    grid_make: gr.Button
    block_title: gr.Markdown
    options_chart: gr.Plot
    histogram: gr.Plot
    history: gr.Radio
    pin_a: gr.Button
    pin_b: gr.Button
    pins: gr.Markdown
    difference: gr.Dataframe
    analyse: AnalysePanel
    export: ExportPanel
    decide: DecidePanel
    study: StudyPanel
    insight: InsightPanel


def build() -> ViewsPanel:
    """Tabs in the order people need them."""
    with gr.Tabs(elem_id="views") as tabs:
        with gr.Tab("Compare", id="compare"):
            against = gr.Radio([("Full precision | this recipe", "full"), ("Pin A | pin B", "pins")], value="full",
                               show_label=False, container=False, elem_id="against")
            pane = ComparePane(height=PANE_HEIGHT, elem_id="compare")
            restore = gr.Dataframe(headers=["Restore this block", "repairs"], datatype=["str", "str"], visible=False,
                                   elem_id="restore", interactive=False, max_height=220)
        with gr.Tab("Grid", id="grid"):
            grid_prompts = gr.Textbox(label="Prompts, one per line (rows)", lines=3, elem_id="grid-prompts")
            grid_columns = gr.Dropdown(GRID_PRESETS, value=list(GRID_DEFAULT), multiselect=True, elem_id="grid-columns",
                                       label="Recipes (columns), between full precision and this recipe")
            grid_make = gr.Button("Make the grid", variant="primary", elem_id="grid-make")
            grid = ImageGrid(elem_id="grid")
        with gr.Tab("Block", id="block") as block:
            block_title = gr.Markdown("Select a block in the graph.", elem_id="block-title")
            LayerEditor(elem_id="layers")
            options_chart = gr.Plot(show_label=False, elem_id="options-chart", visible=False)
            histogram = gr.Plot(show_label=False, elem_id="histogram", visible=False)
            insights = insight.build(block)
        deciding = decide.build()
        analysing = analyse.build()
        studying = study.build()
        with gr.Tab("History", id="history-tab"):
            with gr.Row():
                pin_a = gr.Button("Pin this recipe as A", size="sm", elem_id="pin-a")
                pin_b = gr.Button("Pin this recipe as B", size="sm", elem_id="pin-b")
            pins = gr.Markdown("Nothing is pinned.", elem_id="pins")
            difference = gr.Dataframe(headers=["Layer", "A", "B"], visible=False, elem_id="difference",
                                      interactive=False, max_height=260)
            history = gr.Radio([], label="Versions, newest first", elem_id="history")
        shipping = export.build()
    return ViewsPanel(tabs, against, pane, restore, grid, grid_columns, grid_prompts, grid_make, block_title,
                      options_chart, histogram, history, pin_a, pin_b, pins, difference, analysing, shipping, deciding,
                      studying, insights)
