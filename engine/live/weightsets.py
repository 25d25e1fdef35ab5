"""Calibrated weights of a model's layers: one safetensors file with its JSON inside, found by id, refused elsewhere.

A weight set holds what a recipe's options alone do not determine: codes whose rounding was learned, and factors tau of
scaled layers. Constraints: only the layers asked for are read; a layer that is damaged is noticed when it is read; the
id stands for every byte, so a recipe means the same wherever the set is found.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.core.errors import OptionError, RecipeError, StoreError
from engine.core.files import parse_json
from engine.core.fromset import FromSet
from engine.core.graph import Structure
from engine.core.option import Option, parse_option
from engine.core.places import assets_dir, cache_dir, model_stem
from engine.core.recipe import Recipe
from engine.quant.qweight import TAU, QuantizedWeight

VERSION = 1
KIND = "weight set"
SUFFIX = ".weights.safetensors"
FOLDER = "weights"


@dataclass(frozen=True, slots=True)
class SetEntry:
    """One layer of a set.

    Attributes:
        option: how it is stored.
        shape: [O, in, *kernel].
        error: relative squared weight error.
        scaled: whether it has a tau.
        checksum: CRC-32 of its tensors, 8 hex digits.
    """

    option: Option
    shape: tuple[int, ...]
    error: float
    scaled: bool
    checksum: str


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Weights of some layers of a model.

    Attributes:
        model: identity of the model.
        entries: layer name (halves and tied copies each their own) -> what is held.
        about: everything else that identifies the run, and its figures.
        tensors: layer name -> tensors, for a set in memory.
        path: its file, for one on disk.
    """

    model: str
    entries: Mapping[str, SetEntry]
    about: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    path: Path | None = None

    @functools.cached_property
    def id(self) -> str:
        """12 hex digits over everything in it."""
        return hashlib.sha256(json.dumps(_head(self), sort_keys=True).encode()).hexdigest()[:12]

    def settings(self, structure: Structure) -> dict[str, FromSet]:
        """What a recipe says of the layers that take their weights from here: choice name -> reference.

        A choice whose tied copies are not all held is left out.
        """
        known: dict[str, list[SetEntry | None]] = {}
        for layer in structure.layers:
            known.setdefault(layer.choice, []).append(self.entries.get(layer.name))
        identity = self.id
        return {choice: FromSet(identity, any(e.scaled for e in held if e)) for choice, held in known.items()
                if all(held)}

    def entry(self, layer: str, option: Option) -> SetEntry:
        """What is held of a layer.

        Raises:
            RecipeError: nothing, or under another option.
        """
        held = self.entries.get(layer)
        if held is None or held.option != option:
            has = f"{held.option} of" if held else "nothing for"
            raise RecipeError(f"The weight set {self.id} holds {has} {layer}, the recipe asks for {option}; calibrate "
                              f"for this recipe, or leave the set out there.")
        return held

    def load(self, layer: str, option: Option) -> QuantizedWeight:
        """A layer's weight.

        Raises:
            RecipeError: as `entry`.
            StoreError: the file is gone or damaged.
        """
        held = self.entry(layer, option)
        tensors = dict(self.tensors[layer]) if layer in self.tensors else self._read(layer)
        if checksum(tensors) != held.checksum:
            raise StoreError(f"The weights of {layer} in the weight set {self.id} are damaged; calibrate again.")
        weight = QuantizedWeight(option, held.shape, tensors)
        if not weight.is_whole:  # the checksum comes from the same file
            raise StoreError(f"The weights of {layer} in the weight set {self.id} are not those of {option} for "
                             f"{list(held.shape)}; calibrate again.")
        return weight

    def _read(self, layer: str) -> dict[str, Tensor]:
        index = list(self.entries).index(layer)
        try:
            with safe_open(str(self.path), framework="pt", device="cpu") as file:
                names = [n for n in file.keys() if n.startswith(f"{index}.")]
                return {n.partition(".")[2]: file.get_tensor(n) for n in names}
        except (OSError, SafetensorError) as failure:
            raise StoreError(f"The weight set at {self.path} cannot be read ({str(failure)[:100]}); calibrate "
                             f"again.") from None


def weight_set(structure: Structure, weights: Mapping[str, QuantizedWeight], errors: Mapping[str, float],
               about: Mapping[str, str] | None = None) -> WeightSet:
    """A set in memory. weights, errors: by layer name."""
    entries = {name: SetEntry(w.option, tuple(w.shape), float(errors[name]), TAU in w.tensors, checksum(w.tensors))
               for name, w in weights.items()}
    return WeightSet(structure.identity, entries, dict(about or {}), {n: dict(w.tensors) for n, w in weights.items()})


def save_weight_set(path: str | Path, held: WeightSet) -> None:
    """Write a set, whole or not at all.

    Raises:
        StoreError: the place is not writable or full.
    """
    path = Path(path)
    tensors = {f"{i}.{part}": tensor.contiguous() for i, (name, entry) in enumerate(held.entries.items())
               for part, tensor in held.load(name, entry.option).tensors.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        ordinary = temporary.stat().st_mode
        save_file(tensors, temporary, {"head": json.dumps(_head(held))})
        temporary.chmod(ordinary)  # the library makes private files
        temporary.replace(path)
    except (OSError, SafetensorError) as failure:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"Cannot write the weight set to {path.parent} ({str(failure)[:150]}); free space, or name "
                         f"another place.") from None


def load_weight_set(path: str | Path) -> WeightSet:
    """Open a set; its layers are read when they are asked for.

    Raises:
        StoreError: missing, damaged, of another kind or version; one sentence.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            head = parse_json((file.metadata() or {}).get("head", "null"), path.name, StoreError)
    except (OSError, SafetensorError) as failure:
        raise StoreError(f"{path} cannot be read as a weight set ({str(failure)[:100]}); calibrate again.") from None
    if not isinstance(head, dict) or head.get("kind") != KIND or head.get("version") != VERSION:
        raise StoreError(f"{path.name} holds no {KIND} of version {VERSION}; calibrate again.")
    try:
        entries = {str(name): SetEntry(parse_option(option), tuple(map(int, shape)), float(error), bool(scaled),
                                       str(crc)) for name, option, shape, error, scaled, crc in head["layers"]}
        about = {str(k): str(v) for k, v in head["about"].items()}
        return WeightSet(str(head["model"]), entries, about, {}, path)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OptionError) as failure:
        raise StoreError(f"{path.name} holds a broken weight set ({str(failure)[:100]}); calibrate again.") from None


def weight_set_path(structure: Structure, id: str, directory: Path | None = None) -> Path:
    """Where the set of a model belongs: `<name>-<identity>.<id>.weights.safetensors` in the user's cache."""
    return (directory or cache_dir() / FOLDER) / f"{model_stem(structure.model, structure.identity)}.{id}{SUFFIX}"


def find_weight_set(structure: Structure, id: str) -> WeightSet:
    """A set of this model by id, from the user's cache or from those shipped.

    Raises:
        RecipeError: there is none.
        StoreError: the file is damaged or of another model.
    """
    for directory in (cache_dir() / FOLDER, assets_dir() / FOLDER):
        for path in sorted(directory.glob(f"*.{id}{SUFFIX}")) if directory.is_dir() else ():
            found = load_weight_set(path)
            check_weight_set(found, structure)
            if found.id == id:
                return found
            raise StoreError(f"{path.name} was changed after it was written; calibrate again.")
    raise RecipeError(f"The recipe takes weights from the set {id}, which is not on this machine; put the file "
                      f"*.{id}{SUFFIX} into {cache_dir() / FOLDER}, or calibrate again.")


def needed_sets(recipe: Recipe, structure: Structure, find: Callable[[str], WeightSet]) -> dict[str, WeightSet]:
    """id -> set for every layer of a recipe that takes its weight from one, each checked against it.

    Raises:
        RecipeError: a set that is missing, holds nothing for a layer or another option, or is not what the recipe says.
        StoreError: a set that is damaged or of another model.
    """
    found: dict[str, WeightSet] = {}
    scaled: dict[str, bool] = {}
    for layer in structure.layers:
        origin = recipe.weights.get(layer.choice)
        if origin is None:
            continue
        if origin.set not in found:
            found[origin.set] = find(origin.set)
        entry = found[origin.set].entry(layer.name, recipe.option(layer.choice))
        scaled[layer.choice] = scaled.get(layer.choice, False) or entry.scaled
    wrong = next((name for name, value in scaled.items() if value != recipe.weights[name].scaled), None)
    if wrong is not None:
        raise RecipeError(f"The recipe says of the scaling of {wrong} what its weight set does not; take the reference "
                          f"from the set.")
    return found


def check_weight_set(held: WeightSet, structure: Structure) -> None:
    """Refuse the set of another model.

    Raises:
        StoreError: identity, layers or shapes differ.
    """
    if held.model != structure.identity:
        raise StoreError(f"This weight set is of another model (identity {held.model[:12]}); {structure.model} is "
                         f"{structure.identity[:12]}. Calibrate this one.")
    shapes = {layer.name: layer.shape for layer in structure.layers}
    wrong = [name for name, entry in held.entries.items() if shapes.get(name) != entry.shape]
    if wrong:
        raise StoreError(f"The weight set names layers that {structure.model} does not have (first: "
                         f"{wrong[0][:80]!r}); calibrate again.")


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over the tensors in order of their names."""
    crc = 0
    for name in sorted(tensors):
        data = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        crc = zlib.crc32(data.numpy(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _head(held: WeightSet) -> dict[str, Any]:
    return {"kind": KIND, "version": VERSION, "model": held.model,
            "layers": [[n, str(e.option), list(e.shape), e.error, e.scaled, e.checksum]
                       for n, e in held.entries.items()], "about": dict(held.about)}
