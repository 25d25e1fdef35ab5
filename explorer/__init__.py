"""The explorer: a Gradio page that turns clicks into engine calls and records into pictures; it decides nothing."""
