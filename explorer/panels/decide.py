"""The Decide tab: the budget with its allocator and scores, what was decided, and the Pareto chart."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from explorer.graphview.components import BudgetPane

PANE = "decide"
CHART = "pareto"  # also in assets/ui/decide.js
CHOSEN = "chosen"


@dataclass(frozen=True)
class DecidePanel:
    """Components of the Decide tab."""

    tab: gr.Tab
    pane: BudgetPane
    said: gr.Markdown
    chart: gr.Plot
    about: gr.Markdown
    chosen: gr.Plot


def build() -> DecidePanel:
    """One column: budget, answer, chart, and what the recipe gives each kind of operation."""
    with gr.Tab("Decide", id="decide") as tab:
        pane = BudgetPane(elem_id=PANE)
        said = gr.Markdown(elem_id="decide-said")
        chart = gr.Plot(show_label=False, elem_id=CHART, visible=False)
        about = gr.Markdown(elem_id="pareto-about", elem_classes="qs-quiet")
        chosen = gr.Plot(show_label=False, elem_id=CHOSEN, visible=False)
    return DecidePanel(tab, pane, said, chart, about, chosen)
