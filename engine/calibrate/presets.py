"""Calibrated presets of a model, such as W4A8: recipes kept where they are found again, without torch.

A calibration writes its weight set and its tables under their ids; the recipe that names them both is what makes them a
preset. It is offered only where everything it names is on this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.core.errors import EngineError, InputError
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


def ship_preset(structure: Structure, name: str, assets: Path | None = None) -> list[Path]:
    """Copy a preset of the cache, with everything it names, to the assets, and remove what only the one it replaces
    named; the files written.

    Raises:
        InputError: the cache has no such preset.
    """
    place, stem = assets or assets_dir(), model_stem(structure.model, structure.identity)
    source = cache_dir() / FOLDER / f"{stem}.{name}{SUFFIX}"
    if not source.is_file():
        raise InputError(f"There is no calibrated {name} of {structure.model} in {source.parent}; make it with "
                         f"{command(structure, name)}.")
    recipes = {p: load_recipe(p) for p in (place / FOLDER).glob(f"{stem}.*{SUFFIX}")}
    old = recipes.pop(place / FOLDER / source.name, None)
    recipe = load_recipe(source)
    kept = {file for one in (*recipes.values(), recipe) for file in _files(one)}
    for folder, end in set(_files(old)) - kept if old else ():
        for path in (place / folder).glob(_pattern(stem, folder, end)):
            path.unlink()
    named = [p for folder, end in _files(recipe) for p in (cache_dir() / folder).glob(_pattern(stem, folder, end))]
    return [_copied(path, place / path.parent.name / path.name) for path in (source, *named)]


def _pattern(stem: str, folder: str, end: str) -> str:
    """Of a file, and of the report on channels beside it if it holds tables."""
    return f"{stem}{end.removesuffix(TABLES_SUFFIX)}.*" if folder == TABLES else f"{stem}{end}"


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


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
