"""`import`: another tool's mixed-precision file as a recipe, with an account of what could not be taken over."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from engine.core.errors import InputError

KINDS = ("apple", "mixdq", "sdnq")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The file, whose it is, the model it is for."""
    parser.add_argument("file", metavar="FILE", help="Apple's palettization JSON, MixDQ's YAML or SDNQ's config.json")
    parser.add_argument("--kind", choices=KINDS, help="which tool wrote it (default: told by what is in it)")
    parser.add_argument("--model", metavar="MODEL", required=True, help="model the recipe is for; needs no weights")
    parser.add_argument("--name", default="", help="which recipe, where the file holds several")
    parser.add_argument("--out", metavar="RECIPE", required=True, help="recipe JSON to write")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Read, write the recipe, and list every difference on stderr."""
    from engine.core.recipe import bits_per_weight, load_recipe, save_recipe
    from engine.export.anyfile import OWN, kind_of
    from engine.export.imported import import_recipe, read_bytes
    from engine.models.structure import read_structure

    structure = read_structure(args.model)
    kind = args.kind or kind_of(read_bytes(args.file))
    if kind == OWN:
        load_recipe(args.file)  # says what is wrong with a damaged one
        raise InputError(f"{args.file} is a recipe already; use it with --recipe.")
    found = import_recipe(structure, args.file, kind, args.name)
    save_recipe(args.out, found.recipe, structure)
    first, *rest = found.lines()
    print("\n".join(rest), file=sys.stderr)
    bits = bits_per_weight(structure, found.recipe.options, found.recipe.activations)
    result = {"out": args.out, "kind": kind, "layers": len(found.mapped), "nearly": dict(found.caveats),
              "unknown": list(found.unknown), "untouched": list(found.unmentioned), "bits_per_weight": bits}
    return result, f"{args.out}: {first}; {bits:.3f} stored bits per weight"
