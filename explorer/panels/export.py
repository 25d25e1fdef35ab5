"""The Export tab: which format, what it would hold, where to."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from explorer.graphview.components import JobBar

POLL_S = 1.0

# The names of `engine.export.formats.FORMATS`, which is not imported before the page is drawn (a test compares them).
ABOUT = {
    "packed": "Packed (ours): codes of every method, loaded by one function",
    "dequantized": "Plain diffusers directory with dequantized weights",
    "sdnq": "SDNQ: packed, loads with the sdnq package",
    "torchao": "torchao: FqnToConfig per layer",
    "bitsandbytes": "bitsandbytes: 4 or 8 bits, the rest skipped",
    "recipe": "Recipe JSON alone",
}


@dataclass(frozen=True)
class ExportPanel:
    """Components of the Export tab."""

    tab: gr.Tab
    format: gr.Dropdown
    plan: gr.Markdown
    preview: gr.Button
    directory: gr.Textbox
    start: gr.Button
    cancel: gr.Button
    status: gr.Markdown
    measure: gr.Button
    bar: JobBar
    kernels: gr.Markdown
    timer: gr.Timer


def build() -> ExportPanel:
    """One column: choose, read the plan, preview if layers change, export."""
    with gr.Tab("Export", id="export") as tab:
        chosen = gr.Dropdown([(text, name) for name, text in ABOUT.items()], value="packed", label="Format",
                             elem_id="export-format")
        plan = gr.Markdown(elem_id="export-plan")
        preview = gr.Button("Show what the file would hold", size="sm", visible=False, elem_id="export-preview")
        directory = gr.Textbox(label="New directory, on the machine that runs Quantscape", elem_id="export-directory",
                               placeholder="/home/me/models/emoji-unet-4bit", max_lines=1)
        with gr.Row():
            start = gr.Button("Export, reload and compare", variant="primary", elem_id="export-start")
            cancel = gr.Button("Cancel", elem_id="export-cancel", scale=0, min_width=90)
        status = gr.Markdown(elem_id="export-status")
        with gr.Accordion("Packed kernels on this machine", open=True, elem_id="kernels"):
            gr.Markdown("Every Linear layer as nf4, fp4 and int8 on bitsandbytes' kernels, against full precision.",
                        elem_classes="qs-quiet")
            measure = gr.Button("Measure memory and time per step", size="sm", elem_id="kernels-start")
            bar = JobBar(elem_id="kernels-bar")
            kernels = gr.Markdown(elem_id="kernels-table", elem_classes="qs-quiet")
        timer = gr.Timer(POLL_S, active=False)
    return ExportPanel(tab, chosen, plan, preview, directory, start, cancel, status, measure, bar, kernels, timer)
