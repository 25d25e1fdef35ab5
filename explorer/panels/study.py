"""The Study tab: choose a study file, measure more of it, look at its trials, and fit the predictor to it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from explorer.graphview.components import JobBar

CHART = "study-chart"
POLL_S = 1.5
PRESETS = [("paper-6 (3 or 4 bits)", "paper-6"), ("wide (2 to 8 bits)", "wide"), ("both in turn", "paper-6,wide")]
KINDS = [("Additive (1 min)", "additive"), ("Networks (10 min)", "all")]
DEFAULT_TRIALS, DEFAULT_IMAGES = 100, 64


@dataclass(frozen=True)
class StudyPanel:
    """Components of the Study tab."""

    tab: gr.Tab
    file: gr.Dropdown
    about: gr.Markdown
    preset: gr.Dropdown
    trials: gr.Number
    images: gr.Number
    retry: gr.Checkbox
    mixed: gr.Checkbox
    start: gr.Button
    bar: JobBar
    metric: gr.Dropdown
    chart: gr.Plot
    best: gr.Dataframe
    formula: gr.Textbox
    kinds: gr.Dropdown
    fit: gr.Button
    fitted: gr.Markdown
    timer: gr.Timer


def build() -> StudyPanel:
    """One column: the file, what to measure, where it stands, what it holds, and the fit."""
    with gr.Tab("Study", id="study") as tab:
        file = gr.Dropdown([], label="Study file (or type a path)", allow_custom_value=True,
                           elem_id="study-file")
        about = gr.Markdown(elem_id="study-about", elem_classes="qs-quiet")
        bar = JobBar(chart=CHART, elem_id="study-bar")
        with gr.Group(elem_id="study-form"):
            with gr.Row(equal_height=True):
                preset = gr.Dropdown(PRESETS, value=PRESETS[0][1], label="Random recipes", elem_id="study-preset",
                                     min_width=180, scale=3)
                trials = gr.Number(DEFAULT_TRIALS, label="Trials each", precision=0, minimum=1, maximum=100_000,
                                   elem_id="study-trials", min_width=86, scale=1)
                images = gr.Number(DEFAULT_IMAGES, label="Images", precision=0, minimum=1, maximum=4096,
                                   elem_id="study-images", min_width=86, scale=1)
            with gr.Row(equal_height=True):
                retry = gr.Checkbox(False, label="Retry failed trials", elem_id="study-retry", min_width=110,
                                    container=False)
                mixed = gr.Checkbox(False, label="Mix machines", elem_id="study-mixed", min_width=110, container=False)
                start = gr.Button("Start", variant="primary", elem_id="study-start", scale=0, min_width=104)
        metric = gr.Dropdown([], label="Metric of the trials", elem_id="study-metric", visible=False)
        chart = gr.Plot(show_label=False, elem_id=CHART, visible=False)
        best = gr.Dataframe(headers=["Bits", "Metric", "Recipes", "Trial"], datatype=["str", "str", "str", "str"],
                            visible=False, interactive=False, max_height=220, elem_id="study-best",
                            label="Trials that none beats in both size and metric")
        with gr.Group(elem_id="fit-form"), gr.Row(equal_height=True):
            formula = gr.Textbox("psnr", label="Target", max_lines=1, elem_id="fit-formula",
                                 min_width=120, scale=2)
            kinds = gr.Dropdown(KINDS, value=KINDS[0][1], label="Predictor", elem_id="fit-kinds", min_width=150,
                                scale=3)
            fit = gr.Button("Fit", elem_id="fit-start", scale=0, min_width=80)
        fitted = gr.Markdown(elem_id="fit-said", elem_classes="qs-quiet")
        timer = gr.Timer(POLL_S, active=False)
    return StudyPanel(tab, file, about, preset, trials, images, retry, mixed, start, bar, metric, chart, best,
                      formula, kinds, fit, fitted, timer)
