"""Whether pictures are drawn along the schedule that the inputs were calibrated on."""

from __future__ import annotations

from engine.core.recipe import Recipe
from engine.live.model import Model
from engine.live.request import Request


def other_scheduler(model: Model, recipe: Recipe, request: Request) -> str:
    """One sentence where static activations were calibrated with another scheduler than the one that draws, else "".

    Raises:
        RecipeError, StoreError: as `engine.live.tables.find_tables`.
    """
    drawn = request.scheduler or type(model.pipeline.scheduler).__name__
    tables = {a.tables for a in recipe.activations.values() if a.tables}
    made = {model.find_tables(name).about.get("scheduler", "") for name in tables}
    others = sorted(made - {"", drawn})
    if not others:
        return ""
    return (f"The activation ranges were calibrated with {' and '.join(others)}, and {drawn} draws: inputs may lie "
            f"outside of these ranges; draw with the same scheduler, or calibrate with this one.")
