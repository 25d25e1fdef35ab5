"""Inputs and weight sets beside the options: what edits keep and drop, texts that round-trip, addresses, history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.core.activation import STATIC, Activation
from engine.core.errors import OptionError, RecipeError
from engine.core.fromset import FromSet
from engine.core.option import FP16, parse_option
from engine.core.recipe import recipe_from_json, recipe_to_json
from explorer.choices import (
    Choices,
    activation_of,
    activation_text,
    changed_layers,
    choices_of,
    describe_change,
    inputs_from_browser,
    inputs_note,
    layer_text,
    of_recipe,
    recipe_of,
    replaced,
)
from explorer.inputs import inputs_data, inputs_value
from explorer.state import Settings, edited, fresh, pinned, travelled
from explorer.url import pack_options, pack_rest, unpack_options, with_rest
from tests.explorer.ui.models import STRUCTURES

U4, U3 = parse_option("uaq-4"), parse_option("uaq-3")
A8 = Activation(8)
TABLES = Activation(6, STATIC, "0123456789ab", 20, True, True)
SET = FromSet("ba9876543210", True)
ORDER = ["x", "y", "z"]
NOW = Choices({"x": U4, "y": U4, "z": FP16}, {"x": A8, "y": TABLES}, {"x": SET, "y": SET})


def test_choices_are_a_mapping_of_options_that_differs_by_inputs_too() -> None:
    assert dict(NOW) == {"x": U4, "y": U4, "z": FP16} and NOW["x"] == U4 and len(NOW) == 3
    assert NOW != dict(NOW) and choices_of(dict(NOW)) == dict(NOW)
    assert Choices(dict(NOW), NOW.activations, NOW.weights) == NOW


def test_a_plain_edit_keeps_inputs_and_drops_calibrated_weights_of_changed_layers() -> None:
    found = replaced(NOW, {"x": U3, "y": U4, "z": FP16})
    assert found.activations == NOW.activations and dict(found.weights) == {"y": SET}
    assert replaced(NOW, Choices({"x": U3})) == {"x": U3}


def test_restoring_takes_the_inputs_along() -> None:
    found = NOW.untouched(["x"])
    assert found["x"] == FP16 and set(found.activations) == set(found.weights) == {"y"}


@pytest.mark.parametrize("setting", [None, A8, Activation(4), TABLES, Activation(5, STATIC, "0123456789ab", 1)])
def test_settings_round_trip_as_text(setting: Activation | None) -> None:
    assert activation_of(activation_text(setting)) == setting


@pytest.mark.parametrize("text", ["token", "token-9", "token-88", "8", "abc-8", "0123456789ab.20-8",
                                  "0123456789ab.0.00-8", "token-²"])
def test_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(OptionError):
        activation_of(text)


def test_the_address_carries_inputs_and_sets() -> None:
    query, packed = pack_rest(NOW, ORDER), pack_options(NOW, ORDER)
    assert with_rest(unpack_options(packed, ORDER), query, ORDER) == NOW
    assert pack_rest(dict(NOW), ORDER) == {"a": None, "w": None}, "taken out of the address"
    with pytest.raises(RecipeError, match="damaged"):
        with_rest(dict(NOW), {"a": query["a"]}, [*ORDER, "w"])


def test_recipes_round_trip_through_files() -> None:
    structure = STRUCTURES["unet"]()
    order = [x.name for x in structure.choices]
    now = Choices(dict.fromkeys(order, U4), {order[0]: A8, order[1]: TABLES}, {order[2]: SET})
    data: Any = recipe_to_json(recipe_of(structure, now), structure)
    assert of_recipe(order, recipe_from_json(data)) == now
    assert data["sizes"]["bytes"] > recipe_to_json(recipe_of(structure, dict(now)), structure)["sizes"]["bytes"]


def test_history_and_pins_hold_inputs() -> None:
    start = fresh("m", dict(NOW), "bits", Settings())
    state = edited(start, NOW)
    assert state.options == NOW and travelled(state, -1).options == dict(NOW)
    assert edited(state, NOW) is state, "no change, no version"
    assert edited(state, {"x": U3, "y": U3, "z": U3}).options.activations == NOW.activations  # type: ignore[attr-defined]
    assert pinned(state, "A").pins["A"] == NOW


def test_changes_are_said_in_words() -> None:
    plain = Choices(dict(NOW))
    assert describe_change(plain, Choices(dict(NOW), {"x": A8})) == "x: uaq-4 to uaq-4 A8"
    assert describe_change(plain, Choices(dict(NOW), {"x": A8, "y": A8})) == "inputs of 2 layers to A8"
    assert describe_change(Choices(dict(NOW), {"x": A8, "y": A8}), plain) == "inputs of 2 layers to full precision"
    assert changed_layers(plain, NOW) == ["x", "y"] and layer_text(NOW, "y") == "uaq-4 calibrated A6 static"
    assert inputs_note(NOW) == "A6 to A8 on 2 of 3 layers" and inputs_note(plain) == ""


def test_what_a_browser_says_of_inputs_is_checked() -> None:
    assert inputs_from_browser({"x": "token-8", "y": ""}, ORDER) == {"x": A8}
    with pytest.raises(ValueError, match="another model"):
        inputs_from_browser({"w": "token-8"}, ORDER)
    with pytest.raises(OptionError):
        inputs_from_browser({"x": "token-3"}, ORDER)


def test_heads_of_tables_are_read_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page offers what `needed_tables` will accept, and prices it as the engine does."""
    import torch

    from engine.core.sizes import table_bytes
    from engine.live.activations import needed_tables
    from engine.live.tableheads import find_heads
    from engine.live.tables import ActivationTables, find_tables, save_tables, tables_path
    from engine.quant.activation import StaticTable

    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    structure = STRUCTURES["unet"]()
    first, second = structure.choices[:2]
    low, high = -torch.ones(2), torch.ones(2)
    made = ActivationTables(structure.identity, (9.0, 1.0), (0, 1), {
        first.name: StaticTable(low, high), second.name: StaticTable(low, high, torch.ones(second.shape[1]), None, 6)})
    save_tables(tables_path(structure, made.id), made)
    (tmp_path / "activations" / f"x-{structure.identity[:8]}.000000000000.activations.safetensors").write_bytes(b"junk")
    heads = find_heads(structure)
    data = inputs_data(structure, heads, None, {}, None)
    assert data["widths"] == [4, 5, 6, 7, 8]  # every width there is
    assert list(heads) == [made.id] and set(data["static"]) == {first.name, second.name}
    settings = {}
    for layer in (first, second):
        text, width, cost = data["static"][layer.name][made.id]
        settings[layer.name] = activation_of(f"{text}-6")
        assert width == (6 if layer is second else 0)
        assert cost == table_bytes(layer, settings[layer.name], structure.precision_bits)
    assert needed_tables(settings, structure, lambda name: find_tables(structure, name)).keys() == {made.id}
    assert heads[made.id].setting(second.name, 8) is None
    value = inputs_value(structure, Choices(dict.fromkeys([x.name for x in structure.choices], U4), settings))
    assert value["tables"][second.name][1] == data["static"][second.name][made.id][2]
