"""Export a model under a recipe: plan, write beside the target, reload, compare with the preview, then rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.core.errors import EngineError, RecipeError
from engine.core.graph import Structure
from engine.core.recipe import Recipe, save_recipe
from engine.export.components import component_bytes, copy_components, write_index
from engine.export.directory import staged
from engine.export.format import Format
from engine.export.formats import format_named
from engine.export.packages import require
from engine.export.plan import ExportPlan
from engine.export.recipe_format import FILE
from engine.export.verify import Difference
from engine.live.apply import applied
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model
from engine.models.memory import ran_out


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """One step done: `done` of `of` pieces of a stage ("components", "layers", "verify"), the last being `what`."""

    stage: str
    done: int
    of: int
    what: str


@dataclass(frozen=True, slots=True)
class Exported:
    """The last record: the export is complete and checked.

    Attributes:
        directory: where it is.
        plan: what it holds.
        difference: how far it is from the preview after reloading.
        denoiser_bytes: size of the denoiser's folder on disk.
        total_bytes: size of the whole directory.
    """

    directory: Path
    plan: ExportPlan
    difference: Difference
    denoiser_bytes: int
    total_bytes: int


def plan_export(structure: Structure, recipe: Recipe, name: str) -> ExportPlan:
    """What an export would hold; needs no weights and no optional package.

    Raises:
        InputError: there is no such format.
        RecipeError: the recipe does not fit the model, or the format can hold nothing of it.
    """
    return format_named(name).plan(structure, recipe)


def snippet(plan: ExportPlan, directory: str | os.PathLike[str]) -> str:
    """Python that loads or uses the export."""
    return format_named(plan.format).snippet(plan, os.fspath(directory))


def export(model: Model, recipe: Recipe, name: str, directory: str | os.PathLike[str], *,
           accept_requantized: bool = False, cancel: Cancel | None = None) -> Iterator[ExportProgress | Exported]:
    """Write, reload and compare; the last record is `Exported`. Nothing appears at `directory` before that.

    The model is under the plan's recipe while the export is compared, and afterwards as it was.

    Args:
        model: the live model.
        recipe: what to export.
        name: a key of `FORMATS`.
        directory: must not exist yet.
        accept_requantized: the caller has seen the preview of `plan.recipe`, which differs from `recipe`.
        cancel: asked between layers.

    Raises:
        EngineError: see `plan_export`; a package is missing; layers change and that was not accepted; the target
            exists; the disk is full; the reloaded export differs from the preview. Nothing half-written is left.
        Cancelled: the caller asked for it.
    """
    chosen = format_named(name)
    plan = chosen.plan(model.structure, recipe)
    require(plan.packages, f"The {name} export")
    if plan.changes and not accept_requantized:
        raise RecipeError(_unaccepted(plan))
    return _steps(model, chosen, plan, Path(directory), cancel)


def _steps(model: Model, chosen: Format, plan: ExportPlan, target: Path,
           cancel: Cancel | None) -> Iterator[ExportProgress | Exported]:
    needed = plan.file_bytes + component_bytes(model) if chosen.is_pipeline else 0
    try:
        with staged(target, needed) as directory:
            if chosen.is_pipeline:
                for step in copy_components(model, directory):
                    check_cancel(cancel)
                    yield ExportProgress("components", step.done, step.of, step.what)
            for step in chosen.write(model, plan, directory):
                check_cancel(cancel)
                yield ExportProgress("layers", step.done, step.of, step.what)
            if chosen.is_pipeline:
                save_recipe(directory / FILE, plan.recipe, model.structure)
                write_index(model, directory)
            yield ExportProgress("verify", 0, 1, "reload and compare")
            try:
                with applied(model, plan.recipe, cancel=cancel):
                    difference = chosen.verify(model, plan, directory)
            except (MemoryError, RuntimeError) as failure:
                if not ran_out(failure):
                    raise
                raise EngineError("There is not enough memory to reload the export beside the open model and compare "
                                  "them; close other programs, open the model in float16, or use a machine with more. "
                                  "Nothing was left behind.") from None
            sizes = {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}
    finally:
        model.store.flush()
    folder = directory / model.denoiser_name
    own = sum(size for path, size in sizes.items() if folder in path.parents)
    yield Exported(target.absolute(), plan, difference, own or sum(sizes.values()), sum(sizes.values()))


def _unaccepted(plan: ExportPlan) -> str:
    counts, first = plan.counts, plan.changes[0]
    return (f"The {plan.format} file cannot hold {len(plan.changes)} layers as previewed: {counts['requantized']} "
            f"would be requantized, {counts['left']} left at full precision (first {first.layer}, {first.wanted} -> "
            f"{first.held}: {first.reason}); look at what it would hold, then accept "
            f"it (on the command line with --accept-requantized).")
