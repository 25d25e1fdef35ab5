"""Other tools' files become recipes, and what they cannot say here is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.core.errors import InputError, RecipeError
from engine.core.graph import Structure
from engine.core.layer import Layer, Role
from engine.core.option import FP16, parse_option
from engine.core.record import Scores
from engine.export.imported import Imported, import_recipe
from engine.export.node_data import node_data, save_node_data

NAMES = ("conv_in", "blocks.0.attn.to_q", "blocks.0.ff.net.2", "up.conv_shortcut", "proj_out")


def structure() -> Structure:
    """A convolution, two Linear layers, a split convolution, and a tied pair."""
    layers = (
        Layer("conv_in", "conv_in", "conv2d", (32, 4, 3, 3), 0, 4, Role.INPUT, "b", ("conv_in",)),
        Layer("blocks.0.attn.to_q", "blocks.0.attn.to_q", "linear", (64, 128), 0, 128, Role.QUERY, "b"),
        Layer("blocks.0.ff.net.2", "blocks.0.ff.net.2", "linear", (64, 100), 0, 100, Role.FEED_FORWARD, "b"),
        Layer("up.conv_shortcut:0", "up.conv_shortcut", "conv2d", (32, 64, 1, 1), 0, 64, Role.SKIP, "b"),
        Layer("up.conv_shortcut:1", "up.conv_shortcut", "conv2d", (32, 32, 1, 1), 64, 96, Role.SKIP, "b"),
        Layer("proj_out", "proj_out", "linear", (64, 64), 0, 64, Role.OUTPUT, "b"),
        Layer("copy", "copy", "linear", (64, 64), 0, 64, Role.OUTPUT, "b", (), "proj_out"),
    )
    return Structure("toy", "Toy", "1" * 64, 16, layers, (), (), (), (), 0, (), "line")


def read(tmp_path: Path, kind: str, content: Any, name: str = "") -> Imported:
    path = tmp_path / "file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return import_recipe(structure(), path, kind, name)


def options(found: Imported) -> dict[str, str]:
    return {name: str(option) for name, option in found.recipe.options.items()}


def test_apple_recipes_are_tables_per_tensor(tmp_path: Path) -> None:
    recipe = {"conv_in": 16, "blocks.0.attn.to_q": 6, "blocks.0.ff.net.2": 1, "up.conv_shortcut": 4, "gone.conv": 2}
    content = {"model_version": "m", "single_layer": {}, "recipes": {"recipe_4.50_bit_mixedpalette": recipe}}
    found = read(tmp_path, "apple", content)
    assert options(found) == {"conv_in": "fp16", "blocks.0.attn.to_q": "kmeans_a-6", "blocks.0.ff.net.2": "kmeans_a-2",
                              "up.conv_shortcut:0": "kmeans_a-4", "up.conv_shortcut:1": "kmeans_a-4"}
    assert found.unknown == ("gone.conv",) and found.unmentioned == ("proj_out",)
    assert list(found.caveats) == ["blocks.0.ff.net.2"] and "1 bits" in found.caveats["blocks.0.ff.net.2"]
    assert found.recipe.option("proj_out") == FP16
    assert options(read(tmp_path, "apple", recipe)) == options(found), "a bare table works too"
    assert any("gone.conv" in line for line in found.lines())


def test_one_of_several_apple_recipes_has_to_be_named(tmp_path: Path) -> None:
    content = {"recipes": {"recipe_a": {"conv_in": 8}, "recipe_b": {"conv_in": 4}}}
    with pytest.raises(RecipeError, match="recipe_a, recipe_b"):
        read(tmp_path, "apple", content)
    assert options(read(tmp_path, "apple", content, "recipe_b")) == {"conv_in": "kmeans_a-4"}


def test_mixdq_weights_are_uniform_per_channel(tmp_path: Path) -> None:
    text = "model.conv_in: 8\nmodel.blocks.0.attn.to_q: 2\nmodel.up.conv_shortcut: 4\nmodel.add_embedding.linear_1: 4\n"
    found = read(tmp_path, "mixdq", text)
    assert options(found) == {"conv_in": "uaq-8", "blocks.0.attn.to_q": "uaq-2", "up.conv_shortcut:0": "uaq-4",
                              "up.conv_shortcut:1": "uaq-4"}
    assert found.unknown == ("add_embedding.linear_1",)
    assert found.unmentioned == ("blocks.0.ff.net.2", "proj_out")


@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.system ['true']", "a: [", "- 1\n- 2", "model.conv_in: 4.5", "model.conv_in: yes", "",
    "1: 4", "model.conv_in: 99", "model.nothing.here: 4", "\x00",
])
def test_bad_yaml_is_one_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, "mixdq", text)
    assert "\n" not in str(caught.value)


def sdnq(**changes: Any) -> dict[str, Any]:
    config = {"quant_method": "sdnq", "weights_dtype": "uint4", "group_size": 64, "quant_conv": True,
              "modules_to_not_convert": [], "modules_dtype_dict": {}, "modules_quant_config": {},
              "minimum_allowed_numel": 0, "minimum_allowed_channel_size": 0}
    return {**config, **changes}


def test_sdnq_types_by_its_own_rules(tmp_path: Path) -> None:
    config = sdnq(
        modules_to_not_convert=["conv_in.weight"],
        modules_dtype_dict={"int6": ["blocks.0.attn.to_q.weight"], "uint3": ["*net*"], "int8": ["stranger.weight"]},
        modules_quant_config={"up.conv_shortcut.weight": {"group_size": -1, "use_codebook": True}})
    found = read(tmp_path, "sdnq", {"_class_name": "X", "quantization_config": config})
    assert options(found) == {
        "conv_in": "fp16", "blocks.0.attn.to_q": "rtn_g64-6", "blocks.0.ff.net.2": "rtn_g64-3",
        "up.conv_shortcut:0": "kmeans_c-4", "up.conv_shortcut:1": "kmeans_c-4", "proj_out": "rtn_g64-4"}
    assert not found.caveats and not found.unmentioned
    assert any("stranger.weight" in note for note in found.notes)


@pytest.mark.parametrize(("changes", "layer", "option", "caveat"), [
    ({"quant_conv": False}, "conv_in", "fp16", ""),
    ({"minimum_allowed_numel": 5000}, "proj_out", "fp16", ""),
    ({"minimum_allowed_channel_size": 32}, "conv_in", "fp16", ""),
    ({"weights_dtype": "int8", "group_size": -1}, "proj_out", "int8", ""),
    ({"weights_dtype": "uint5", "group_size": -1}, "proj_out", "uaq-5", "clip ratio"),
    ({"weights_dtype": "int4"}, "proj_out", "rtn_g64-4", "zero point"),
    ({"weights_dtype": "int8", "group_size": 32}, "blocks.0.attn.to_q", "rtn_g64-8", "groups are of 32"),
    ({"weights_dtype": "int8", "group_size": 0}, "blocks.0.attn.to_q", "rtn_g64-8", "automatic size"),
    ({"weights_dtype": "float8_e4m3fn"}, "proj_out", "rtn_g64-8", "8-bit float"),
    ({"weights_dtype": "int7"}, "proj_out", "rtn_g64-8", "7 bits are not offered"),
    ({"weights_dtype": "uint4", "group_size": -2, "use_codebook": True}, "proj_out", "kmeans_a-4", ""),
    ({"modules_to_not_convert": [".proj"]}, "proj_out", "fp16", ""),
    ({"modules_to_not_convert": ["attn"]}, "blocks.0.attn.to_q", "fp16", ""),
])
def test_sdnq_settings(changes: dict[str, Any], layer: str, option: str, caveat: str, tmp_path: Path) -> None:
    found = read(tmp_path, "sdnq", sdnq(**changes))
    assert str(found.recipe.option(layer)) == option
    assert caveat in found.caveats.get(layer, "") and bool(caveat) == (layer in found.caveats)


def test_what_we_write_for_sdnq_we_read_back(tmp_path: Path) -> None:
    from engine.core.recipe import Recipe, model_ref
    from engine.export.sdnq_format import _configuration, plan
    from engine.export.sdnq_layout import layout

    wanted = {"conv_in": "uaq-3", "blocks.0.attn.to_q": "rtn_g64-5", "blocks.0.ff.net.2": "kmeans_a-4",
              "up.conv_shortcut:0": "kmeans_c-4", "up.conv_shortcut:1": "kmeans_c-4", "proj_out": "int8"}
    model = structure()
    recipe = Recipe(model_ref(model), {n: parse_option(o) for n, o in wanted.items()})
    held = plan(model, recipe)
    assert not held.changes

    import torch

    own: dict[str, Any] = {}
    for layer in model.layers:
        own.setdefault(layer.module, []).append(layer)
    layouts = {m: layout(layers, [recipe.option(x.choice) for x in layers]) for m, layers in own.items()}
    config = _configuration(torch.nn.Module(), {m: found for m, found in layouts.items() if found})
    assert options(read(tmp_path, "sdnq", config)) == wanted


@pytest.mark.parametrize("content", ["{", "[]", "{}", {"quant_method": "gptq"}, sdnq(group_size="wide"), "null",
                                     sdnq(minimum_allowed_numel=[1])])
def test_bad_sdnq_configs_are_one_sentence(content: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, "sdnq", content)
    assert "\n" not in str(caught.value)


def test_missing_files_and_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Cannot read"):
        import_recipe(structure(), tmp_path / "none", "apple")
    (tmp_path / "a").write_text("{}")
    with pytest.raises(RecipeError, match="choose one of apple, mixdq, sdnq"):
        import_recipe(structure(), tmp_path / "a", "gguf")


def test_node_data_has_the_shape_model_explorer_reads(tmp_path: Path) -> None:
    scores = Scores("weight-error", "1" * 64, "error", {"conv_in": {"uaq-4": 0.5}, "proj_out": {"uaq-4": 0.25},
                                                        "blocks.0.attn.to_q": {"uaq-3": 1.0}})
    save_node_data(tmp_path / "data.json", structure(), scores, "uaq-4")
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["toy"]["results"] == {"conv_in": {"value": 0.5}, "proj_out": {"value": 0.25}, "copy": {"value": 0.25}}
    stops = [item["stop"] for item in data["toy"]["gradient"]]
    assert stops[0] == 0 and stops[-1] == 1 and stops == sorted(stops)
    with pytest.raises(InputError, match="uaq-3, uaq-4"):
        node_data(structure(), scores, "nf4")
