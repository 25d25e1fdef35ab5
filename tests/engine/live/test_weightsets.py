"""Weight sets: saved, found by id, bit-exact, and refused where they do not belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.core.errors import RecipeError, StoreError
from engine.core.fromset import FromSet, from_set_from_json, from_set_to_json
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.places import cache_dir
from engine.live.weightsets import (
    FOLDER,
    WeightSet,
    find_weight_set,
    load_weight_set,
    save_weight_set,
    weight_set,
    weight_set_path,
)
from engine.quant.table import quantize_scaled, relative_error
from tests.engine.live.handmade import model_file

U4, U3 = Option("uaq", 4), Option("uaq", 3)


@pytest.fixture()
def made(tmp_path: Path) -> tuple[Structure, WeightSet]:
    structure, originals = model_file(tmp_path)
    weights, errors = {}, {}
    for i, layer in enumerate(structure.layers):
        original = originals.tensor(layer).float()
        tau = torch.linspace(0.5, 2, layer.shape[1]) if i % 2 else None
        weights[layer.name] = quantize_scaled(original, U4, tau)
        errors[layer.name] = relative_error(original, weights[layer.name])
    return structure, weight_set(structure, weights, errors, {"method": "test"})


def test_save_and_load_is_bit_exact(made: tuple[Structure, WeightSet], tmp_path: Path) -> None:
    structure, held = made
    path = tmp_path / "sub" / "a.weights.safetensors"
    save_weight_set(path, held)
    found = load_weight_set(path)
    assert found.id == held.id and found.entries == held.entries and found.about == {"method": "test"}
    for layer in structure.layers:
        a, b = held.load(layer.name, U4), found.load(layer.name, U4)
        assert torch.equal(a.dequantize(), b.dequantize()) and a.tensors.keys() == b.tensors.keys()
    names = [layer.name for layer in structure.layers]
    settings = held.settings(structure)
    assert settings[names[0]] == FromSet(held.id) and settings[names[1]] == FromSet(held.id, True)


def test_the_id_stands_for_every_byte(made: tuple[Structure, WeightSet]) -> None:
    structure, held = made
    name = structure.layers[0].name
    changed = {n: held.load(n, U4) for n in held.entries}
    codes = changed[name].tensors["codes"].clone()
    codes[0] ^= 1
    changed[name] = replace(changed[name], tensors={**changed[name].tensors, "codes": codes})
    other = weight_set(structure, changed, {n: e.error for n, e in held.entries.items()}, held.about)
    assert other.id != held.id


def test_what_it_does_not_hold(made: tuple[Structure, WeightSet]) -> None:
    structure, held = made
    name = structure.layers[0].name
    with pytest.raises(RecipeError, match="holds uaq-4 of"):
        held.load(name, U3)
    with pytest.raises(RecipeError, match="holds nothing for"):
        held.load("elsewhere", U4)


def test_finding_by_id(made: tuple[Structure, WeightSet]) -> None:
    structure, held = made
    with pytest.raises(RecipeError, match="not on this machine"):
        find_weight_set(structure, held.id)
    path = weight_set_path(structure, held.id)
    assert path.parent == cache_dir() / FOLDER
    save_weight_set(path, held)
    assert find_weight_set(structure, held.id).id == held.id
    with pytest.raises(StoreError, match="another model"):
        find_weight_set(replace(structure, identity="b" * 64), held.id)
    path.rename(path.with_name(path.name.replace(held.id, "0" * 12)))
    with pytest.raises(StoreError, match="was changed"):
        find_weight_set(structure, "0" * 12)


def test_damage_is_noticed(made: tuple[Structure, WeightSet], tmp_path: Path) -> None:
    _, held = made
    path = tmp_path / "b.weights.safetensors"
    save_weight_set(path, held)
    data = bytearray(path.read_bytes())
    data[-5] ^= 255
    path.write_bytes(bytes(data))
    found, last = load_weight_set(path), list(held.entries)[-1]
    damaged = [n for n in held.entries if _is_damaged(found, n)]
    assert len(damaged) == 1 and last in held.entries
    for junk in (b"", b"not a set", path.read_bytes()[:100]):
        path.write_bytes(junk)
        with pytest.raises(StoreError, match="weight set"):
            load_weight_set(path)


def _is_damaged(held: WeightSet, name: str) -> bool:
    try:
        held.load(name, U4)
    except StoreError as failure:
        return "damaged" in str(failure)
    return False


def test_references_in_recipes() -> None:
    for value in (FromSet("0123456789ab"), FromSet("0123456789ab", True)):
        assert from_set_from_json(from_set_to_json(value)) == value
    for bad in ({}, {"set": "x"}, {"set": "0123456789ab", "more": 1}, {"set": 5}, [], {"set": "0123456789ab",
                                                                                    "scaled": "yes"}):
        with pytest.raises(RecipeError):
            from_set_from_json(bad)
