"""Checkpoints and recipes that do not fit, at the level of stores and live models: one sentence, nothing moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.core.errors import ModelError, OptionError, RecipeError
from engine.core.option import Option
from engine.core.recipe import uniform
from engine.live.apply import apply_all, restore
from engine.live.model import open_model
from engine.live.originals import live_weight
from engine.live.store import build, requests
from engine.live.streaming import opened_store
from engine.models.quiet import quiet
from engine.models.structure import read_structure
from engine.models.tiny import TINY

UAQ = Option("uaq", 4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "ddpm"
    with quiet():
        TINY["ddpm"]().save_pretrained(place, max_shard_size="60KB")
    return place


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Callable[[], Path]:
    def made() -> Path:
        shutil.copytree(home, tmp_path / "model")
        return tmp_path / "model"

    return made


def changed(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> str:
    """Change the first weight of the first shard that has one; its layer."""
    shard = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = next(n for n in sorted(tensors) if n.endswith(".weight") and tensors[n].ndim == 4)
    tensors[name] = change(name, tensors[name].clone()).contiguous()
    save_file(tensors, shard, metadata={"format": "pt"})
    return name.removesuffix(".weight")


def test_shards_that_the_index_does_not_name_are_ignored(copy: Callable[[], Path], home: Path, tmp_path: Path) -> None:
    broken = copy()
    first = sorted((broken / "unet").glob("*-of-*.safetensors"))[0]
    stranger = first.with_name("diffusion_pytorch_model-00099-of-00099.safetensors")
    save_file({name: torch.zeros_like(t) for name, t in load_file(first).items()}, stranger, metadata={"format": "pt"})
    assert read_structure(broken).identity == read_structure(home).identity
    model = open_model(broken, store=tmp_path / "store")
    layer = model.structure.layers[0]
    assert stranger not in model.originals._files.values()
    assert torch.equal(model.originals.tensor(layer), live_weight(model.denoiser, layer))
    model.close()


def test_a_missing_shard_stops_a_store_before_anything_is_written(copy: Callable[[], Path], tmp_path: Path) -> None:
    broken = copy()
    sorted((broken / "unet").glob("*-of-*.safetensors"))[1].unlink()
    missing = pytest.raises(ModelError, match=r"is missing: .* names it as a part")
    with missing, opened_store(broken, tmp_path / "store"):
        raise AssertionError("never reached")
    assert not (tmp_path / "store").exists()


def test_an_index_that_names_other_tensors(copy: Callable[[], Path], tmp_path: Path) -> None:
    broken = copy()
    (index,) = (broken / "unet").glob("*.index.json")
    table = json.loads(index.read_text())
    one, other = sorted(set(table["weight_map"].values()))[:2]
    name = next(n for n, file in table["weight_map"].items() if file == one)
    table["weight_map"][name] = other
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="index and shards belong to different models"):
        read_structure(broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_end_a_store_by_name_and_keep_the_rest(value: float, copy: Callable[[], Path],
                                                                           tmp_path: Path) -> None:
    broken = copy()

    def spoil(_: str, weight: torch.Tensor) -> torch.Tensor:
        weight.view(-1)[3] = value
        return weight

    name = changed(broken / "unet", spoil)
    with pytest.raises(OptionError, match=f"{name}.*1 of .* weights are NaN or infinite"), \
            opened_store(broken, tmp_path / "store") as store:
        list(build(store, requests(store, (UAQ,))))
    with opened_store(broken, tmp_path / "store") as store:
        rest = [(layer, options) for layer, options in requests(store, (UAQ,)) if layer.module != name]
        list(build(store, rest))
        assert {layer.module for layer, _ in requests(store, (UAQ,))} == {name}
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        open_model(broken, store=tmp_path / "store")


def test_channels_without_variance_and_layers_below_the_group_are_stored_as_they_are(copy: Callable[[], Path],
                                                                                     tmp_path: Path) -> None:
    def flatten(_: str, weight: torch.Tensor) -> torch.Tensor:
        weight[0], weight[1] = 0.25, 0.0
        return weight

    broken = copy()
    name = changed(broken / "unet", flatten)
    options = (UAQ, Option("kmeans_c", 3), Option("rtn_g64", 4))
    with opened_store(broken, tmp_path / "store") as store:
        layer = next(x for x in store.structure.layers if x.module == name and x.start == 0)
        assert layer.shape[1] < 64, "smaller than a group"
        list(build(store, [(layer, options)]))
        for option in options:
            found = store.load(layer.name, option).dequantize()
            assert torch.equal(found[1], torch.zeros_like(found[1])) and (found[0] == 0.25).all(), option


def test_a_recipe_of_the_float32_twin_is_refused_unless_meant(home: Path, tmp_path: Path) -> None:
    with quiet():
        TINY["ddpm"]().to(torch.float16).save_pretrained(tmp_path / "half")
    whole, half = read_structure(home), read_structure(tmp_path / "half")
    assert (whole.precision_bits, half.precision_bits) == (32, 16) and whole.identity != half.identity
    model = open_model(tmp_path / "half", store=tmp_path / "store")
    recipe = uniform(whole, "uaq-3")
    with pytest.raises(RecipeError, match=r"made for another model .* Use transfer to apply it by name and shape"):
        apply_all(model, recipe)
    assert not model.recipe.options
    assert apply_all(model, recipe, transfer=True) == len(half.choices)
    restore(model)
    model.close()
