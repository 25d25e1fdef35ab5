"""Other tools' mixed-precision files as recipes, with an account of what was taken over and what was not.

Names are matched exactly; a module that is split here gives its bits to both halves. Nothing is dropped in silence:
names the model does not have, layers the file does not mention, and options that are only close are all listed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.core.errors import RecipeError
from engine.core.graph import Structure
from engine.core.option import FP16, METHODS, Option, parse_option
from engine.core.recipe import Recipe, model_ref
from engine.export.plan import modules

MAX_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What a file asks for a module: the option closest to it, and why it is not the same (or "")."""

    option: Option
    caveat: str = ""


@dataclass(frozen=True)
class Imported:
    """A recipe read from another tool's file.

    Attributes:
        recipe: for the structure it was read for.
        mapped: choice names that got an option from the file.
        caveats: choice name -> how its option differs from what the file meant.
        unknown: names in the file that the model does not have.
        unmentioned: choice names the file says nothing about; they stay untouched.
        notes: what else the user should know, one sentence each.
    """

    recipe: Recipe
    mapped: tuple[str, ...]
    caveats: Mapping[str, str]
    unknown: tuple[str, ...]
    unmentioned: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The account in words."""
        found = [f"{len(self.mapped)} layers taken over ({len(self.caveats)} of them only nearly), "
                 f"{len(self.unmentioned)} not mentioned and left untouched, {len(self.unknown)} names unknown to "
                 f"{self.recipe.model.id}", *self.notes]
        found += [f"  nearly: {name}: {why}" for name, why in self.caveats.items()]
        found += [f"  unknown: {name}" for name in self.unknown]
        return found + [f"  untouched: {name}" for name in self.unmentioned]


def imported(structure: Structure, wishes: Mapping[str, Wish], source: str, notes: tuple[str, ...] = ()) -> Imported:
    """Match wishes by module path with the layers of a model.

    Raises:
        RecipeError: no name fits.
    """
    own = modules(structure)
    options: dict[str, Option] = {}
    caveats: dict[str, str] = {}
    for path, layers in own.items():
        wish = wishes.get(path)
        for layer in layers if wish else ():
            if layer.tie or wish is None:
                continue
            kinds = METHODS[wish.option.method].kinds
            fits = layer.kind in kinds
            options[layer.name] = wish.option if fits else FP16
            caveat = wish.caveat if fits else f"{wish.option} cannot be applied to a {layer.kind} layer"
            if caveat:
                caveats[layer.name] = caveat
    if not options:
        raise RecipeError(f"None of the {len(wishes)} names in the {source} file is a layer of {structure.model} "
                          f"(first: {next(iter(wishes), '')[:80]!r}); open the model the file was made for.")
    rest = tuple(layer.name for layer in structure.choices if layer.name not in options)
    recipe = Recipe(model_ref(structure), options, provenance={"imported_from": source})
    unknown = tuple(name for name in wishes if name not in own)
    return Imported(recipe, tuple(options), caveats, unknown, rest, notes)


def nearest_bits(bits: int, method: str) -> Wish:
    """The option of a method for a number of bits that it may not offer: the next larger one, or untouched."""
    if bits >= FP16.bits:
        return Wish(FP16)
    larger = [b for b in METHODS[method].bits if b >= bits]
    if not larger:
        return Wish(FP16, f"{bits} bits are not offered, left untouched")
    option = parse_option(f"{method}-{larger[0]}")
    return Wish(option, "" if larger[0] == bits else f"{bits} bits are not offered, {option} is the next")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A stranger's file, of bounded size.

    Raises:
        RecipeError: it is missing or too large.
    """
    place = Path(path)
    try:
        if place.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{place.name} is larger than {MAX_BYTES / 1e6:.0f} MB; this is no mixed-precision file.")
        return place.read_bytes()
    except OSError as failure:
        raise RecipeError(f"Cannot read {place}: {failure.strerror or failure}.") from None


Reader = Callable[[Structure, bytes, str], Imported]


def import_recipe(structure: Structure, path: str | os.PathLike[str], kind: str, name: str = "") -> Imported:
    """Read another tool's file.

    Args:
        structure: the model it is for.
        path: the file.
        kind: a key of `IMPORTERS`.
        name: which of several recipes in the file; "" where there is one.

    Raises:
        RecipeError: it is no such file, or fits no layer of the model.
    """
    from engine.export.importers import IMPORTERS

    if kind not in IMPORTERS:
        raise RecipeError(f"There is no importer {kind[:40]!r}; choose one of {', '.join(IMPORTERS)}.")
    return IMPORTERS[kind](structure, read_bytes(path), name)
