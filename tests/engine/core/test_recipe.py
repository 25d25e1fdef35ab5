"""Recipes: exact names, one sentence per offence, round trips, hashes and sizes."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.errors import OptionError, RecipeError
from engine.core.files import write_atomic
from engine.core.graph import Structure
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import ALL_OPTIONS, FP16, Option, parse_option
from engine.core.recipe import (
    Recipe,
    check,
    difference,
    load_recipe,
    parse_recipe,
    recipe_to_json,
    save_recipe,
    sizes,
    uniform,
    uniform_bits,
)
from engine.core.sizes import bits_per_weight, file_bytes, full_bytes, recipe_bytes, sensible_options, stored_bytes

_spec = importlib.util.spec_from_file_location("records", Path(__file__).with_name("records.py"))
assert _spec and _spec.loader
records = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(records)
S: Structure = records.structure()


def test_options_round_trip_as_text() -> None:
    assert [parse_option(str(o)) for o in ALL_OPTIONS] == list(ALL_OPTIONS)
    for bad in ("uaq-7", "uaq", "fp16-16", "", "kmeans-4", "uaq-4 "):
        with pytest.raises(OptionError, match="Unknown option"):
            parse_option(bad)


def test_sizes_by_hand() -> None:
    layer = S.layers[0]  # 64 x 64 = 4096 weights
    assert stored_bytes(layer, FP16, 16) == 8192
    assert stored_bytes(layer, Option("uaq", 4), 16) == 2048 + 2 * 16 * 64 // 8
    assert stored_bytes(layer, Option("kmeans_c", 3), 32) == 1536 + 8 * 32 * 64 // 8
    assert stored_bytes(layer, Option("kmeans_a", 4), 16) == 2048 + 16 * 16 // 8
    assert stored_bytes(layer, Option("rtn_g64", 4), 16) == 2048 + 64 * 8
    assert stored_bytes(layer, Option("rtn_g64", 8), 16) == 4096 + 64 * 4
    assert full_bytes(S) == 4 * 8192
    assert bits_per_weight(S, {}) == 16
    assert file_bytes(S, {}) == 4 * 8192 + 2 * 64 * 4


def test_dominated_options_are_not_sensible() -> None:
    sensible = sensible_options(S.layers[0], 16)
    assert Option("uaq", 8) in sensible and FP16 in sensible
    assert Option("kmeans_c", 8) not in sensible  # 256 centroids for 64 inputs: larger than fp16
    assert Option("kmeans_c", 6) not in sensible


def test_recipe_round_trips(tmp_path: Path) -> None:
    recipe = uniform(S, "kmeans_a-3").with_options({"blocks.1.linear": FP16})
    path = tmp_path / "a.recipe.json"
    save_recipe(path, recipe, S)
    again = load_recipe(path)
    assert again.options == recipe.options and again.model == recipe.model and again.hash == recipe.hash
    assert json.loads(path.read_text())["sizes"]["bytes"] == recipe_bytes(S, recipe.options)


def test_hash_ignores_how_untouched_is_written() -> None:
    a = uniform_bits(S, 4)
    assert a.with_options({"blocks.0.linear": FP16}).hash == Recipe(
        a.model, {k: v for k, v in a.options.items() if k != "blocks.0.linear"}).hash
    assert a.hash != uniform_bits(S, 3).hash


def test_difference_counts_silent_layers_as_untouched() -> None:
    a, b = uniform_bits(S, 4), Recipe(S and uniform_bits(S, 4).model, {})
    assert set(difference(a, b)) == {layer.name for layer in S.layers}
    assert difference(a, a) == {}


@pytest.mark.parametrize(("data", "sentence"), [
    (b"[1, 2]", "no recipe"), (b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON"),
    (b'{"options": {}, "version": 99}', "version 99"), (b'{"options": {}, "version": 1, "evil": 1}', "unknown key"),
    (b'{"options": {"a": "uaq-7"}, "version": 1}', "Unknown option"),
    (b'{"options": {"a": 4}, "version": 1}', "Unknown option"),
    (b'{"options": [], "version": 1, "model": 3}', "must be an object"),
    (b'{"options": {"a": NaN}, "version": 1}', "not valid JSON"),
    (b'{"options": {"a": "uaq-4", "a": "uaq-3"}, "version": 1}', "same key twice"),
    (b"[" * 100_000, "not valid JSON"),
])
def test_bad_files_are_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence) as caught:
        parse_recipe(data, "x.json")
    assert "\n" not in str(caught.value)


def test_huge_files_are_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "big.recipe.json"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(RecipeError, match=r"50\.0 MB"):
        load_recipe(path)


def test_check_names_the_offence() -> None:
    good = uniform_bits(S, 4)
    check(S, good)
    with pytest.raises(RecipeError, match="does not have"):
        check(S, good.with_options({"nowhere": FP16}))
    other = replace(good, model=replace(good.model, identity="1" * 64))
    with pytest.raises(RecipeError, match="another model"):
        check(S, other)
    check(S, other, transfer=True)


def test_structures_round_trip_as_json() -> None:
    assert from_json(Structure, json.loads(json.dumps(to_json(S)))) == S
    broken = to_json(S)
    broken["layers"][0]["shape"] = "64"
    with pytest.raises(ValueError, match="expected list"):
        from_json(Structure, broken)


def test_failed_writes_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    write_atomic(path, "old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_sizes_in_files_match_the_arithmetic() -> None:
    recipe = uniform_bits(S, 3)
    assert sizes(S, recipe)["bits_per_weight"] == pytest.approx(8 * recipe_bytes(S, recipe.options) / (4 * 4096))
    assert recipe_to_json(recipe)["sizes"] == {}
