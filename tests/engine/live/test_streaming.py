"""Stores built from files alone: the same store as through the opened model, and the model itself is never built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.core.errors import ModelError
from engine.core.option import Option
from engine.live import model as model_module
from engine.live.model import open_model
from engine.live.store import build, requests
from engine.live.streaming import opened_store, streamable
from engine.models.quiet import quiet
from engine.models.tiny import TINY

OPTIONS = (Option("uaq", 4), Option("kmeans_a", 3))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "sd1"
    with quiet():
        TINY["sd1"]().save_pretrained(place, max_shard_size="200KB")
    assert len(list((place / "unet").glob("*.safetensors"))) > 2
    return place


def test_the_store_is_that_of_the_opened_model(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(model_module, "open_model", lambda *a, **k: pytest.fail("the model was opened"))
        with opened_store(home, tmp_path / "store") as store:
            records = list(build(store, requests(store, OPTIONS)))
    model = open_model(home, store=tmp_path / "store")
    assert len(records) == len(model.structure.layers)
    assert requests(model.store, OPTIONS) == []
    other = open_model(home, store=tmp_path / "other")
    for layer in model.structure.layers:
        for option in OPTIONS:
            ours, theirs = model.store.load(layer.name, option), other.store.load(layer.name, option)
            assert torch.equal(ours.dequantize(), theirs.dequantize())
    assert model.store.repaired == []
    for each in (model, other):
        each.close()


@pytest.mark.slow
def test_building_goes_on_after_its_files_were_unmapped(home: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.live import store as store_module

    monkeypatch.setattr(store_module, "SHARD_BYTES", 1)
    with opened_store(home, tmp_path / "store") as store:
        first, second, *_ = store.structure.layers
        kept = store.originals.tensor(first)
        expected = kept.clone()
        list(build(store, requests(store, OPTIONS[:1])))
        assert torch.equal(kept, expected) and torch.equal(store.originals.tensor(first), expected)
        assert store.has(second.name, OPTIONS[0])


@pytest.mark.parametrize("name", ["lumina2", "hunyuan"])
def test_sources_of_every_kind_have_a_store(name: str, tmp_path: Path) -> None:
    with quiet():
        TINY[name]().save_pretrained(tmp_path / name)
    with opened_store(tmp_path / name, tmp_path / "store") as store:
        layer = store.structure.layers[-1]
        assert len(list(build(store, [(layer, OPTIONS)]))) == 1
    found = streamable(tmp_path / name)
    assert found is None or found[0].identity == store.structure.identity


def test_whole_numbers_are_no_weights(home: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "coded"
    shutil.copytree(home, broken)
    shard = sorted((broken / "unet").glob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = next(n for n in tensors if n.endswith(".weight") and tensors[n].ndim > 1)
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, shard, metadata={"format": "pt"})
    for attempt in (lambda: streamable(broken), lambda: open_model(broken, store=tmp_path / "store")):
        with pytest.raises(ModelError, match=r"stores .* as I8, expected one of F32, F16, BF16"):
            attempt()
