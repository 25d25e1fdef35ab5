"""`recipe`: the recipe alone, as JSON; the canonical file, from which every other export can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.recipe import SUFFIX, Recipe, check, load_recipe, save_recipe
from engine.export.format import Format, Written
from engine.export.plan import ExportPlan, Holds, everything_kept, make_plan
from engine.export.verify import Difference
from engine.live.model import Model
from engine.live.tables import save_tables, tables_path
from engine.live.weightsets import save_weight_set, weight_set_path

FILE = f"quantscape{SUFFIX}"


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """Every layer is exact; the sizes are those of the packed file it stands for."""
    return make_plan(structure, recipe, "recipe", everything_kept(structure.precision_bits, recipe), (),
                     _notes(recipe), holds=Holds.EVERYTHING)


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """One JSON file, and copies of the weight sets and activation tables it names."""
    recipe, structure = plan.recipe, model.structure
    save_recipe(directory / FILE, recipe, structure)
    sets = {origin.set for origin in recipe.weights.values()}
    tables = {a.tables for a in recipe.activations.values() if a.tables}
    for id in sorted(sets):
        save_weight_set(weight_set_path(structure, id, directory), model.find_weight_set(id))
    for id in sorted(tables):
        save_tables(tables_path(structure, id, directory), model.find_tables(id))
    yield Written(1, 1, FILE)


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Read back, it says the same and still fits the model."""
    found = load_recipe(directory / FILE)
    check(model.structure, found)
    if found.hash != plan.recipe.hash or found.model != plan.recipe.model:
        raise EngineError("The recipe read back differs from the one written; nothing was left behind.")
    return Difference(0.0, 0.0, 0.0, 0)


def _notes(recipe: Recipe) -> tuple[str, ...]:
    if not recipe.weights and not any(a.tables for a in recipe.activations.values()):
        return ()
    return ("The weight sets and activation tables that the recipe names are copied beside it; on another machine they "
            "belong into the folders weights and activations of the cache.",)


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
