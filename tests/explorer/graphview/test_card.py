"""Drawing data: the tables sent to the page give the engine's own sizes, and it is plain JSON."""

from __future__ import annotations

import json

import pytest

from engine.core.option import FP16, options_for, parse_option
from engine.core.recipe import uniform_bits
from engine.core.sizes import full_bytes, recipe_bytes, sensible_options
from explorer.graphview.card import graph_data, graph_text, layer_label, view_value
from tests.explorer.ui.models import STRUCTURES, damage_of, small_unet, transformer


@pytest.mark.parametrize("name", ["unet", "dit", "sdxl"])
def test_tables_add_up_to_the_engines_bytes(name: str) -> None:
    structure = STRUCTURES[name]()
    data = graph_data(structure)
    for bits in (2, 4, 8):
        recipe = uniform_bits(structure, bits).options
        assert sum(row["bytes"][str(recipe[c])] for c, row in data["layers"].items()) == recipe_bytes(structure, recipe)
    assert sum(row["bytes"]["fp16"] for row in data["layers"].values()) == data["full_bytes"] == full_bytes(structure)


def test_tied_copies_keep_their_own_bytes() -> None:
    structure = transformer(5)
    row = graph_data(structure)["layers"]["transformer_blocks.0.emb"]
    assert row["copies"] == 5
    assert row["bytes"]["fp16"] == 5 * structure.layer("transformer_blocks.0.emb").weights * 2


def test_every_layer_offers_its_options_and_marks_the_sensible_ones() -> None:
    structure = small_unet()
    for name, row in graph_data(structure)["layers"].items():
        layer = structure.layer(name)
        assert set(row["bytes"]) == {str(o) for o in options_for(layer.kind)}
        assert [parse_option(o) for o in row["sensible"]] == list(sensible_options(layer, structure.precision_bits))
        assert str(FP16) in row["sensible"]


def test_damage_travels_with_the_layers_and_names_what_was_scaled() -> None:
    structure = small_unet()
    data = graph_data(structure, damage_of(structure), scaled={"conv_in": ["uaq-5"]})
    assert set(data["layers"]["conv_in"]["damage"]) >= {"uaq-2", "kmeans_c-4"}
    assert data["layers"]["conv_in"]["scaled"] == ["uaq-5"] and "scaled" not in data["layers"]["conv_out"]
    assert "damage" not in graph_data(structure)["layers"]["conv_in"]


def test_the_text_holds_the_same_tables_in_less_space() -> None:
    structure = STRUCTURES["sdxl"]()
    data, text = graph_data(structure, damage_of(structure)), graph_text(structure, damage_of(structure))
    packed = json.loads(text)
    for name, row in data["layers"].items():
        got = packed["layers"][name]
        sizes = dict(zip(packed["options"], got["bytes"], strict=True))
        assert {option: size for option, size in sizes.items() if size is not None} == row["bytes"]
        assert [packed["options"][i] for i in got["sensible"]] == row["sensible"]
        damage = dict(zip(packed["options"], got["damage"], strict=True))
        assert all(damage[o] == pytest.approx(v, rel=1e-4) for o, v in row["damage"].items())
    assert len(text) < 900_000


def test_labels_are_relative_to_the_block() -> None:
    structure = small_unet()
    assert layer_label(structure.layer("up_blocks.0.resnets.0.conv1:1")) == "conv1 · skip"
    assert layer_label(structure.layer("conv_in")) == "conv_in"


def test_a_value_names_options_as_text() -> None:
    value = view_value({"conv_in": parse_option("uaq-3"), "conv_out": "fp16"}, selected=("conv_in",), rev=4, edit=2)
    assert value["options"] == {"conv_in": "uaq-3", "conv_out": "fp16"}
    assert (value["rev"], value["edit"], value["selected"]) == (4, 2, ["conv_in"])
    assert "edit" not in view_value({})
