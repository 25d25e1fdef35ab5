"""`export`: write a model under a recipe in one of several formats, reload it, compare it; or only show the plan."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engine.cli.opening import opened, placement_arguments
from engine.core.errors import InputError, RecipeError
from engine.core.graph import Structure
from engine.core.recipe import Recipe

FORMATS = ("packed", "recipe", "dequantized", "sdnq", "torchao", "bitsandbytes")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Model, recipe, format and where to."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--recipe", metavar="FILE", required=True, help="recipe JSON, or a preset such as uaq-4")
    parser.add_argument("--format", default="packed", choices=FORMATS)
    parser.add_argument("--out", metavar="DIR", help="new directory")
    parser.add_argument("--plan", action="store_true", help="only show what the file would hold; needs no weights")
    parser.add_argument("--accept-requantized", action="store_true",
                        help="write even if layers cannot be held as the recipe says (they are listed)")
    parser.add_argument("--transfer", action="store_true", help="take a recipe made for another model by layer name")
    placement_arguments(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Plan on stderr, then write, reload and compare."""
    from engine.export.directory import check_target
    from engine.export.exporting import Exported, export, plan_export, snippet

    if args.plan:
        from engine.models.structure import read_structure

        structure = read_structure(args.model)
        plan = plan_export(structure, recipe_named(structure, args.recipe, args.transfer), args.format)
        return _described(plan), "\n".join(plan.lines())
    if not args.out:
        raise InputError("Name a new directory with --out, or use --plan to only see what the file would hold.")
    check_target(Path(args.out))

    model = opened(args)
    try:
        recipe = recipe_named(model.structure, args.recipe, args.transfer)
        print("\n".join(plan_export(model.structure, recipe, args.format).lines()), file=sys.stderr)
        steps = export(model, recipe, args.format, args.out, accept_requantized=args.accept_requantized)
        done = next(step for step in _shown(steps, len(model.structure.layers)) if isinstance(step, Exported))
    finally:
        model.close()
    code = snippet(done.plan, args.out)
    result = {
        **_described(done.plan), "out": str(done.directory), "max_difference": done.difference.output,
        "output_scale": done.difference.output_scale, "weight_difference": done.difference.weight,
        "disk_bytes": done.denoiser_bytes, "total_bytes": done.total_bytes, "python": code,
    }
    return result, (f"{done.directory}: {done.denoiser_bytes / 1e6:,.2f} MB for the denoiser, "
                    f"{done.total_bytes / 1e6:,.2f} MB in all; reloaded, largest difference to the preview "
                    f"{done.difference.output:.3g} (outputs up to {done.difference.output_scale:.3g})\n\n{code}")


def recipe_named(structure: Structure, text: str, transfer: bool = False) -> Recipe:
    """A recipe file, or a preset by name; with `transfer`, one of another model as this one's.

    Raises:
        RecipeError: it is neither, or does not fit the model.
    """
    from engine.core.presets import preset, uniform_presets
    from engine.core.recipe import check, load_recipe, transferred

    if text in {p.name for p in uniform_presets()}:
        recipe = preset(structure, text)
    elif not Path(text).suffix and not Path(text).exists():
        raise RecipeError(f"There is no recipe file {text[:80]!r} and no preset of that name; name a file, or one of "
                          f"{', '.join(p.name for p in uniform_presets())}.")
    else:
        recipe = load_recipe(text)
    if transfer:
        return transferred(structure, recipe)
    check(structure, recipe)
    return recipe


def _described(plan: Any) -> dict[str, Any]:
    return {
        "format": plan.format, "layers": plan.counts, "bytes": plan.bytes, "file_bytes": plan.file_bytes,
        "packages": [str(package) for package in plan.packages],
        "changes": [{"layer": c.layer, "wanted": str(c.wanted), "held": str(c.held), "reason": c.reason}
                    for c in plan.changes],
    }


def _shown(steps: Any, layers: int) -> Any:
    from engine.cli.progress import shown

    return shown(steps, None, f"exporting {layers} layers", "step")
