"""The top row: model, totals, undo and redo, presets, save and load, help."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from engine.core.presets import RULES, uniform_presets
from engine.models.catalog import MODELS


@dataclass(frozen=True)
class HeaderPanel:
    """Components of the top row."""

    model: gr.Dropdown
    undo: gr.Button
    redo: gr.Button
    preset: gr.Dropdown
    save: gr.Button
    load: gr.UploadButton
    help: gr.Button
    theme: gr.Button


def build(model: str) -> HeaderPanel:
    """One compact row that fits 1280 pixels."""
    choices = [(row.title, row.name) for row in MODELS.values()]
    presets = [("Apply a preset…", ""), ("Full precision", "fp16"), *((p.title, p.name) for p in RULES),
               *((p.title, p.name) for p in uniform_presets() if p.name != "fp16")]
    with gr.Row(elem_id="header", equal_height=True):
        gr.HTML("<h1>Quantscape</h1>", elem_id="title", apply_default_css=False)
        return HeaderPanel(
            model=gr.Dropdown(choices, value=model, allow_custom_value=True, show_label=False, container=False,
                              label="Model: choose, or type a directory, .safetensors file or hub id",
                              elem_id="model", scale=3, min_width=220),
            preset=gr.Dropdown(presets, value="", show_label=False, container=False, label="Preset recipes",
                               elem_id="preset", scale=3, min_width=200),
            undo=gr.Button("Undo", elem_id="undo", size="sm", scale=0, min_width=64, interactive=False),
            redo=gr.Button("Redo", elem_id="redo", size="sm", scale=0, min_width=64, interactive=False),
            save=gr.Button("Save recipe", elem_id="save", size="sm", scale=0, min_width=104),
            load=gr.UploadButton("Load recipe", elem_id="load", size="sm", scale=0, min_width=104,
                                 file_types=[".json", ".yaml", ".yml"]),
            theme=gr.Button("◐", elem_id="theme", size="sm", scale=0, min_width=36),
            help=gr.Button("?", elem_id="help", size="sm", scale=0, min_width=36),
        )
