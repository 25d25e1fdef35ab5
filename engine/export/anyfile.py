"""A recipe from whatever file a user has: our own JSON, or another tool's, told by what is in it."""

from __future__ import annotations

import json
import os
from typing import Any

from engine.core.graph import Structure
from engine.core.recipe import Recipe, check, load_recipe
from engine.export.imported import import_recipe, read_bytes

OWN = "recipe"


def kind_of(data: bytes) -> str:
    """`recipe` for our own files, else a key of `IMPORTERS`: an SDNQ configuration says what it is, other JSON is
    Apple's, and what does not look like JSON is taken for MixDQ's YAML."""
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError):
        return OWN if data.lstrip()[:1] == b"{" else "mixdq"  # damaged JSON is said to be that
    if not isinstance(content, dict):
        return "apple"
    if {"model", "options"} <= content.keys():
        return OWN
    config = content.get("quantization_config", content)
    return "sdnq" if isinstance(config, dict) and "quant_method" in config else "apple"


def read_any(structure: Structure, path: str | os.PathLike[str], name: str = "",
             transfer: bool = False) -> tuple[Recipe, list[str]]:
    """A recipe for a model, and an account of what was taken over (empty for our own files).

    Args:
        structure: of the model.
        path: the file.
        name: which of several recipes in it.
        transfer: take one of ours that was made for another model, on purpose.

    Raises:
        RecipeError: it is no such file, or made for another model.
    """
    kind = kind_of(read_bytes(path))
    if kind == OWN:
        recipe = load_recipe(path)
        check(structure, recipe, transfer=transfer)
        return recipe, []
    found = import_recipe(structure, path, kind, name)
    return found.recipe, found.lines()
