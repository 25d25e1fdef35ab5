"""What is generated: prompt with suggestions, seed, and the sampler's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.core.seeds import MAX_SEED
from explorer.backend import Facts
from explorer.state import MAX_COUNT, Settings


@dataclass(frozen=True)
class PromptPanel:
    """Components that make up `Settings`."""

    prompt: gr.Textbox
    label: gr.Number
    suggestion: gr.Dropdown
    seed: gr.Number
    dice: gr.Button
    generate: gr.Button
    negative: gr.Textbox
    steps: gr.Slider
    guidance: gr.Slider
    scheduler: gr.Dropdown
    count: gr.Slider

    @property
    def inputs(self) -> list[gr.components.Component]:
        """In the order of `settings_from`."""
        return [self.prompt, self.negative, self.label, self.seed, self.steps, self.guidance, self.scheduler,
                self.count]

    def shown(self, settings: Settings) -> dict[Any, Any]:
        """Updates that make the form say these settings, whatever the model offers of them."""
        s = settings
        return {self.prompt: s.prompt, self.negative: s.negative, self.label: s.label, self.seed: s.seed,
                self.steps: s.steps, self.guidance: s.guidance, self.scheduler: schedulers((), s.scheduler),
                self.count: s.count}

    def offered(self, facts: Facts, scheduler: str) -> dict[Any, Any]:
        """Controls that depend on what the loaded model takes."""
        text = facts.conditioning == "text"
        return {
            self.prompt: gr.update(visible=text), self.negative: gr.update(visible=text),
            self.label: gr.update(visible=facts.conditioning == "class", maximum=max(0, facts.labels - 1)),
            self.suggestion: gr.update(choices=[("Suggestions…", ""), *((t, t) for t in facts.suggestions)], value="",
                                       visible=bool(text and facts.suggestions)),
            self.scheduler: schedulers(facts.schedulers, scheduler),
        }

    @property
    def depending(self) -> list[gr.components.Component]:
        """What `offered` repaints."""
        return [self.prompt, self.negative, self.label, self.suggestion, self.scheduler]


def schedulers(names: tuple[str, ...], chosen: str) -> Any:
    """The scheduler box. A name out of the address is among its choices even where the model has none such.

    Gradio refuses a form whose value is none of the choices before anyone could say what is wrong with it.
    """
    listed = (*names, *([chosen] if chosen and chosen not in names else []))
    return gr.update(choices=[("The model's own", ""), *((n, n) for n in listed)], value=chosen)


def settings_from(prompt: str, negative: str, label: float | None, seed: float | None, steps: float,
                  guidance: float, scheduler: str | None, count: float) -> Settings:
    """Form values as settings; whole numbers arrive as floats."""
    return Settings(prompt or "", negative or "", int(label or 0), int(seed or 0), int(steps), float(guidance),
                    scheduler or "", int(count))


def build(settings: Settings) -> PromptPanel:
    """The prompt row and a folded row of sampler settings."""
    with gr.Group(elem_id="prompt-panel"):
        with gr.Row(equal_height=True, elem_id="prompt-row"):
            prompt = gr.Textbox(settings.prompt, label="Prompt", show_label=False, container=False, lines=1,
                                max_lines=4, placeholder="Prompt, one per line", elem_id="prompt", scale=6,
                                min_width=160)
            label = gr.Number(settings.label, label="Class", precision=0, minimum=0, visible=False,
                              elem_id="class-label", scale=2, min_width=90)
            generate = gr.Button("Generate", variant="primary", size="md", elem_id="generate", scale=0, min_width=104)
        with gr.Row(equal_height=True, elem_id="seed-row"):
            suggestion = gr.Dropdown([("Suggestions…", "")], value="", label="Suggestions", show_label=False,
                                     container=False, elem_id="suggestion", scale=4, min_width=150)
            seed = gr.Number(settings.seed, label="Seed", show_label=False, container=False, precision=0, minimum=0,
                             maximum=MAX_SEED, elem_id="seed", scale=2, min_width=90)
            dice = gr.Button("New seed", elem_id="dice", size="sm", scale=0, min_width=88)
        with gr.Accordion("Sampler", open=False, elem_id="sampler"):
            negative = gr.Textbox(settings.negative, label="Negative prompt", lines=1, elem_id="negative")
            with gr.Row():
                steps = gr.Slider(1, 100, settings.steps, step=1, label="Steps", elem_id="steps", min_width=120)
                guidance = gr.Slider(0, 15, settings.guidance, step=0.1, label="Guidance", elem_id="guidance",
                                     min_width=120)
            with gr.Row():
                scheduler = gr.Dropdown([("The model's own", "")], value="", label="Scheduler", elem_id="scheduler",
                                        min_width=140)
                count = gr.Slider(1, MAX_COUNT, settings.count, step=1, label="Seeds per prompt", elem_id="count",
                                  min_width=120)
    return PromptPanel(prompt, label, suggestion, seed, dice, generate, negative, steps, guidance, scheduler, count)
