"""Recipes: exact names, one sentence per offence, round trips, hashes and sizes."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.activation import Activation
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
from engine.core.sizes import (
    bit_operations,
    bits_per_weight,
    file_bytes,
    full_bytes,
    recipe_bytes,
    sensible_options,
    stored_bytes,
)

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
    (b'{"options": {"a": "uaq-7"}, "version": 1, "model": {}}', "Unknown option"),
    (b'{"options": {"a": 4}, "version": 1, "model": {}}', "Unknown option"),
    (b'{"options": [], "version": 1, "model": 3}', "must be an object"),
    (b'{"options": {"a": NaN}, "version": 1}', "not valid JSON"),
    (b'{"options": {"a": "uaq-4", "a": "uaq-3"}, "version": 1}', "same key twice"),
    (b'{"options": {"a": "uaq-4"}, "version": 1}', "which model it was made for"),
    (b'{"options": {"a": "uaq-4"}, "version": 1, "model": null}', "which model it was made for"),
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


STATIC = Activation(6, "static", "0123456789ab", 20, scaled=True, shifted=True)


def test_activations_round_trip_and_change_the_hash() -> None:
    names = [layer.name for layer in S.choices]
    plain = uniform_bits(S, 4)
    recipe = plain.with_activations({names[0]: Activation(8), names[1]: STATIC})
    again = parse_recipe(json.dumps(recipe_to_json(recipe, S)))
    assert again.activations == recipe.activations and again.hash == recipe.hash != plain.hash
    assert recipe_to_json(recipe)["activations"][names[0]] == {"bits": 8, "scheme": "token"}
    assert recipe.with_activations({names[0]: None, names[1]: None}).hash == plain.hash
    check(S, recipe)
    with pytest.raises(RecipeError, match="does not have"):
        check(S, recipe.with_activations({"nowhere": Activation(8)}))


def test_a_layer_that_is_never_executed_has_no_inputs_to_quantize() -> None:
    name = S.choices[0].name
    recipe = uniform_bits(S, 4).with_activations({name: Activation(8)})
    blind = replace(S, nodes=())  # without an operation graph nothing is known of it
    assert S.unexecuted == blind.unexecuted == frozenset()
    check(S, recipe)
    check(blind, recipe)
    copies = {x.name for x in S.layers if x.choice == name}
    cut = replace(S, nodes=tuple(n for n in S.nodes if n.layer not in copies))
    assert cut.unexecuted == {name}
    check(cut, recipe.with_activations({name: None}))
    with pytest.raises(RecipeError, match=rf"bits to {name}, which no call of the denoiser executes"):
        check(cut, recipe)


@pytest.mark.parametrize(("value", "words"), [
    ({"bits": 3, "scheme": "token"}, "4 to 8 bits, not 3"),
    ({"bits": 16, "scheme": "token"}, "leave the layer out"),
    ({"bits": True, "scheme": "token"}, "whole numbers"),
    ({"bits": 8.0, "scheme": "token"}, "whole numbers"),
    ({"bits": 8, "scheme": "dynamic"}, "Unknown activation scheme 'dynamic'"),
    ({"bits": 8, "scheme": ["token"]}, "are texts"),
    ({"bits": 8}, "bits and scheme"),
    (8, "bits and scheme"),
    ({"bits": 8, "scheme": "token", "range": 1}, "no key 'range'"),
    ({"bits": 8, "scheme": "token", "groups": 4}, "uses no tables"),
    ({"bits": 8, "scheme": "static", "groups": 4}, "12 hex digits"),
    ({"bits": 8, "scheme": "static", "tables": "../etc/passw", "groups": 4}, "12 hex digits"),
    ({"bits": 8, "scheme": "static", "tables": "0" * 12}, "1 to 1000 timestep groups"),
    ({"bits": 8, "scheme": "static", "tables": "0" * 12, "groups": 4, "scaled": 1}, "true or false"),
])
def test_bad_activations_are_one_sentence_with_the_layer(value: object, words: str) -> None:
    data = recipe_to_json(uniform_bits(S, 4)) | {"activations": {"blocks.0.linear": value}}
    with pytest.raises(RecipeError, match=words) as caught:
        parse_recipe(json.dumps(data))
    assert "blocks.0.linear" in str(caught.value) and "\n" not in str(caught.value)


def test_tables_are_charged_and_online_schemes_are_free() -> None:
    name = S.choices[0].name
    recipe = uniform_bits(S, 4)
    bytes_of = [sizes(S, recipe.with_activations({name: a}))["bytes"] for a in (Activation(8), STATIC)]
    assert bytes_of[0] == sizes(S, recipe)["bytes"]
    # 20 groups x (step + zero at 16 bits), 64 scales of 16 bits, 20 x 64 shifts of 2 bits
    assert bytes_of[1] - bytes_of[0] == 20 * 2 * 16 // 8 + 64 * 16 // 8 + 20 * 64 * 2 // 8


def test_bit_operations_count_nominal_bits_and_full_precision_at_the_checkpoints() -> None:
    macs = {layer.name: 100 * (i + 1) for i, layer in enumerate(S.choices[:3])}
    options = {S.choices[0].name: Option("uaq", 4), S.choices[1].name: FP16}
    inputs = {S.choices[0].name: Activation(8), S.choices[2].name: Activation(6)}
    assert bit_operations(S, macs, options, inputs) == 100 * 4 * 8 + 200 * 16 * 16 + 300 * 16 * 6
