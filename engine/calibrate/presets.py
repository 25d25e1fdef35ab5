"""Calibrated presets of a model, such as W4A8: recipes kept where they are found again, without torch.

A calibration writes its weight set and its tables under their ids; the recipe that names them both is what makes them a
preset. It is offered only where everything it names is on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.places import IDENTITY_DIGITS, assets_dir, cache_dir, model_stem
from engine.core.recipe import SUFFIX, Recipe, check, load_recipe, save_recipe
from engine.live.tableheads import FOLDER as TABLES
from engine.live.tableheads import SUFFIX as TABLES_SUFFIX

FOLDER = "presets"
SETS, SETS_SUFFIX = "weights", ".weights.safetensors"
NAMES = ("W8A8", "W4A8", "W4A6")


def save_preset(structure: Structure, name: str, recipe: Recipe) -> Path:
    """Keep a calibrated recipe as the preset of that name in the user's cache; the last one counts."""
    stem = model_stem(structure.model, structure.identity)
    path = cache_dir() / FOLDER / f"{stem}.{name}{SUFFIX}"
    save_recipe(path, recipe, structure)
    return path


def find_presets(structure: Structure) -> dict[str, Recipe]:
    """name -> recipe of the calibrated presets that can be applied here, from the user's cache, else shipped ones."""
    digits, found = structure.identity[:IDENTITY_DIGITS], dict[str, Recipe]()
    for directory in (cache_dir() / FOLDER, assets_dir() / FOLDER):
        for path in sorted(directory.glob(f"*{digits}.*{SUFFIX}")) if digits and directory.is_dir() else ():
            try:
                recipe = load_recipe(path)
                check(structure, recipe)
            except EngineError:
                continue
            name = path.name.removesuffix(SUFFIX).rpartition(".")[2]
            if name not in found and all(map(_is_here, _files(recipe))):
                found[name] = recipe
    return found


def command(structure: Structure, name: str) -> str:
    """The command line that makes a preset."""
    return f"python -m engine calibrate {structure.model} --method dmq --preset {name} --out {name.lower()}{SUFFIX}"


def _files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(folder, end of the file's name) of everything a recipe names."""
    yield from {(SETS, f".{origin.set}{SETS_SUFFIX}") for origin in recipe.weights.values()}
    yield from {(TABLES, f".{a.tables}{TABLES_SUFFIX}") for a in recipe.activations.values() if a.tables}


def _is_here(file: tuple[str, str]) -> bool:
    folder, end = file
    return any(next((place / folder).glob(f"*{end}"), None) for place in (cache_dir(), assets_dir()))
