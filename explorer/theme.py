"""Look of the page: a Gradio theme on system fonts, and the page's own style sheet from assets/ui."""

from __future__ import annotations

from typing import Any

from engine.core.places import assets_dir

# System fonts only: nothing is fetched.
FONT = ("ui-sans-serif", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "Arial", "sans-serif")
FONT_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
PAGE_STYLES = ("tokens.css", "page.css", "layout.css")


def build_theme() -> Any:
    """The Gradio theme: quiet greys, one blue, small radii, compact type; light and dark."""
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue, secondary_hue=gr.themes.colors.slate, neutral_hue=gr.themes.colors.slate,
        font=list(FONT), font_mono=list(FONT_MONO), text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm, radius_size=gr.themes.sizes.radius_sm,
    )  # fmt: skip
    return theme.set(
        body_background_fill="#f6f7f9", body_background_fill_dark="#0e1116",
        body_text_color="#1b212b", body_text_color_dark="#e4e8ee",
        body_text_color_subdued="#5a6472", body_text_color_subdued_dark="#98a2b1",
        background_fill_primary="#ffffff", background_fill_primary_dark="#161a21",
        background_fill_secondary="#f6f7f9", background_fill_secondary_dark="#1b2028",
        border_color_primary="#dde1e8", border_color_primary_dark="#2b323d",
        block_background_fill="#ffffff", block_background_fill_dark="#161a21",
        block_border_color="#dde1e8", block_border_color_dark="#2b323d",
        block_border_width="1px", block_shadow="none", block_shadow_dark="none",
        block_label_text_weight="600", block_title_text_weight="600",
        button_primary_background_fill="#2457d6", button_primary_background_fill_hover="#1d49b8",
        button_primary_background_fill_dark="#3b6ef0", button_primary_background_fill_hover_dark="#5582f4",
        button_primary_text_color="#ffffff", button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff", button_secondary_background_fill_dark="#1f252e",
        button_secondary_background_fill_hover="#eef1f6", button_secondary_background_fill_hover_dark="#29303b",
        button_secondary_border_color="#d3d8e1", button_secondary_border_color_dark="#343c49",
        input_background_fill="#ffffff", input_background_fill_dark="#12161c",
        input_border_width="1px",  # buttons and tick boxes take it over; without it white boxes lie on white
        input_border_color="#d3d8e1", input_border_color_dark="#343c49",
        color_accent="#2457d6", slider_color="#2457d6", slider_color_dark="#5b8bff",
        shadow_drop="none", shadow_drop_lg="none",
    )  # fmt: skip


def page_css() -> str:
    """Tokens and page layout, inline in the page so that nothing jumps while it loads."""
    folder = assets_dir() / "ui"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in PAGE_STYLES)
