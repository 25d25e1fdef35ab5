"""Files are told by what is in them; whatever is broken is the sentence of the tool it looks like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.core.errors import RecipeError
from engine.core.option import parse_option
from engine.core.recipe import ModelRef, Recipe, load_recipe, model_ref, save_recipe, uniform
from engine.export.anyfile import OWN, kind_of, read_any
from engine.models.structure import read_structure

MODEL = "emoji-unet"
LAYER = "conv_in"
SDNQ = {"quant_method": "sdnq", "weights_dtype": "uint4", "group_size": 64, "quant_conv": True,
        "modules_to_not_convert": []}
FILES = {
    "apple": json.dumps({LAYER: 4}), "mixdq": f"model.{LAYER}: 4\n", "sdnq": json.dumps(SDNQ),
}


@pytest.mark.parametrize("kind", FILES)
def test_each_tool_is_recognised_and_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(FILES[kind])
    assert kind_of(path.read_bytes()) == kind
    recipe, lines = read_any(read_structure(MODEL), path)
    assert recipe.options[LAYER].bits == 4 and "layers taken over" in lines[0]
    assert main(["import", str(path), "--model", MODEL, "--out", str(tmp_path / "r.json")]) == 0
    assert load_recipe(tmp_path / "r.json").options == recipe.options


def test_our_own_file_is_read_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structure = read_structure(MODEL)
    recipe = uniform(structure, "kmeans_a-3")
    save_recipe(tmp_path / "own.json", recipe, structure)
    assert kind_of((tmp_path / "own.json").read_bytes()) == OWN
    assert read_any(structure, tmp_path / "own.json")[0].options == recipe.options
    assert main(["import", str(tmp_path / "own.json"), "--model", MODEL, "--out", str(tmp_path / "r.json")]) == 2
    assert "is a recipe already" in capsys.readouterr().err


def test_our_own_file_of_another_model_is_refused(tmp_path: Path) -> None:
    structure = read_structure(MODEL)
    ref = model_ref(structure)
    stranger = Recipe(ModelRef("twin", ref.denoiser_class, "f" * 32), {LAYER: parse_option("uaq-4")})
    save_recipe(tmp_path / "own.json", stranger)
    with pytest.raises(RecipeError, match="another model"):
        read_any(structure, tmp_path / "own.json")


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '"text"', "a: [b", "\x00\x01", "{" * 2000, "5"])
def test_what_is_no_recipe_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(RecipeError) as refused:
        read_any(read_structure(MODEL), tmp_path / "file")
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
