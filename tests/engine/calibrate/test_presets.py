"""Shipping a calibrated preset: everything it names goes with it, what nobody names any more goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.calibrate.presets import ship_preset
from engine.core.errors import InputError
from engine.core.places import CACHE_VARIABLE, assets_dir
from engine.models.structure import read_structure

OLD_SET, OLD_TABLES, NEW_SET, NEW_TABLES = "3" * 12, "4" * 12, "1" * 12, "2" * 12


def place(root: Path, stem: str, name: str, weights: str, tables: str) -> None:
    """A preset as it lies in a cache or among the assets."""
    text = next((assets_dir() / "presets").glob("emoji-unet*.W4A8.recipe.json")).read_text()
    content = json.loads(text)
    for setting in content["activations"].values():
        setting["tables"] = tables
    for origin in content["weights"].values():
        origin["set"] = weights
    for folder, end, what in (("presets", f"{name}.recipe.json", json.dumps(content)),
                              ("weights", f"{weights}.weights.safetensors", weights),
                              ("activations", f"{tables}.activations.safetensors", tables),
                              ("activations", f"{tables}.channels.safetensors", "c")):
        path = root / folder / f"{stem}.{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(what)


def test_it_takes_along_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    structure, stem, assets = read_structure("emoji-unet"), "emoji-unet-15dce591", tmp_path / "assets"
    with pytest.raises(InputError, match=r"There is no calibrated W4A6 of emoji-unet in .*--preset W4A6"):
        ship_preset(structure, "W4A6", assets)
    place(tmp_path / "cache", stem, "W4A6", NEW_SET, NEW_TABLES)
    place(assets, stem, "W4A6", OLD_SET, OLD_TABLES)
    place(assets, stem, "W4A8", OLD_SET, NEW_TABLES)
    written = ship_preset(structure, "W4A6", assets)
    assert len(written) == 4 and all(p.is_file() for p in written)
    names = {p.name.split(".", 1)[1] for p in assets.rglob("*") if p.is_file()}
    assert names == {"W4A6.recipe.json", "W4A8.recipe.json", f"{NEW_SET}.weights.safetensors",
                     f"{OLD_SET}.weights.safetensors",  # W4A8 has it still
                     f"{NEW_TABLES}.activations.safetensors", f"{NEW_TABLES}.channels.safetensors"}
    shutil.rmtree(assets)
    assert len(ship_preset(structure, "W4A6", assets)) == 4
