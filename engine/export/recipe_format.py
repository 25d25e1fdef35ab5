"""`recipe`: the recipe alone, as JSON; the canonical file, from which every other export can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.recipe import SUFFIX, Recipe, check, load_recipe, save_recipe
from engine.export.format import Format, Written
from engine.export.plan import ExportPlan, everything_kept, make_plan
from engine.export.verify import Difference
from engine.live.model import Model

FILE = f"quantscape{SUFFIX}"


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """Every layer is exact; the sizes are those of the packed file it stands for."""
    return make_plan(structure, recipe, "recipe", everything_kept(structure.precision_bits), ())


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """One JSON file."""
    save_recipe(directory / FILE, plan.recipe, model.structure)
    yield Written(1, 1, FILE)


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Read back, it says the same and still fits the model."""
    found = load_recipe(directory / FILE)
    check(model.structure, found)
    if found.hash != plan.recipe.hash or found.model != plan.recipe.model:
        raise EngineError("The recipe read back differs from the one written; nothing was left behind.")
    return Difference(0.0, 0.0, 0.0, 0)


def snippet(plan: ExportPlan, directory: str) -> str:
    """Python that applies the recipe."""
    return f"""from engine.core.recipe import load_recipe
from engine.live.apply import applied
from engine.live.model import open_model

model = open_model({plan.recipe.model.id!r})
with applied(model, load_recipe({str(Path(directory) / FILE)!r})):
    ...  # model.pipeline is quantized here
"""


FORMAT = Format("recipe", "Recipe (JSON)", "The choices alone, a few kilobytes; every other file can be made from it.",
                False, plan, write, verify, snippet)
