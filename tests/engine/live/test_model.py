"""Opening a model: originals found in its checkpoint or saved aside, limits from the pipeline, nothing left behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from engine.core.errors import ModelError, StoreError
from engine.core.recipe import uniform
from engine.live import originals as originals_module
from engine.live.apply import apply_all, restore
from engine.live.generate import pictures
from engine.live.model import Model, open_model
from engine.live.originals import find_originals, live_weight
from engine.live.request import Request
from engine.live.weights import WeightCache
from engine.models.tiny import TINY


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline saved in float16, as published checkpoints are."""
    home = tmp_path_factory.mktemp("saved") / "ddpm"
    TINY["ddpm"]().to(dtype=torch.float16).save_pretrained(home)
    return home


def checksums(home: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(home.rglob("*.safetensors"))}


def test_a_directory_serves_its_own_originals_and_is_never_written(saved: Path, tmp_path: Path) -> None:
    before = checksums(saved)
    model = open_model(saved, store=tmp_path / "store")
    assert model.directory == saved and model.originals.is_checkpoint
    assert {p.parent.name for p in model.originals._files.values()} == {"unet"}
    assert next(model.denoiser.parameters()).dtype == torch.float32
    layer = model.structure.layers[3]
    assert model.originals.tensor(layer).dtype == torch.float16
    apply_all(model, uniform(model.structure, "uaq-2"))
    restore(model)
    assert torch.equal(live_weight(model.denoiser, layer), model.originals.tensor(layer).float())
    model.close()
    assert checksums(saved) == before


def test_shards_are_found_by_their_index(tmp_path: Path) -> None:
    home = tmp_path / "sharded"
    pipeline = TINY["ddpm"]()
    pipeline.save_pretrained(home, max_shard_size="60KB")
    assert len(list((home / "unet").glob("*.safetensors"))) > 2
    model = open_model(home, store=tmp_path / "store")
    assert model.originals.is_checkpoint and len(set(model.originals._files.values())) > 2
    for layer in model.structure.layers:
        assert torch.equal(model.originals.tensor(layer), live_weight(model.denoiser, layer))
    model.close()


def test_files_that_disagree_with_the_weights_are_not_trusted(saved: Path, tmp_path: Path) -> None:
    """Weights changed after loading (a fused LoRA, say) must come back as they were, not as the file has them."""
    model = open_model(saved, store=tmp_path / "store")
    changed = model.structure.layers[2]
    with torch.no_grad():
        live_weight(model.denoiser, changed).mul_(1.5)
    found = find_originals(model.denoiser, model.structure.layers, [saved / "unet"])
    assert found._scratch is not None and found._scratch.is_dir()
    assert torch.equal(found.tensor(changed), live_weight(model.denoiser, changed))
    found.close()
    assert not found._scratch.exists()
    model.close()


@pytest.mark.slow
def test_a_pipeline_in_memory_is_saved_aside_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals_module, "SCRATCH_SHARD_BYTES", 50_000)
    model = open_model(TINY["ddpm"](), store=tmp_path)
    scratch = model.originals._scratch
    assert scratch is not None and len(list(scratch.iterdir())) > 2
    names = [k for p in scratch.iterdir() for k in safe_open(p, "pt").keys()]
    assert sorted(names) == sorted({f"{x.module}.weight" for x in model.structure.layers})
    model.close()
    assert not scratch.exists()
    dropped = open_model(TINY["ddpm"](), store=tmp_path)
    scratch = dropped.originals._scratch
    del dropped
    gc.collect()
    assert scratch is not None and not scratch.exists()


def test_limits_come_from_the_pipeline(tiny_model: Callable[[str], Model]) -> None:
    text, labels, bare = (tiny_model(n).limits for n in ("sd1", "dit", "ddpm"))
    assert (text.conditioning, labels.conditioning, bare.conditioning) == ("text", "class", "none")
    assert (text.height, text.width, text.free_size) == (16, 16, True)
    assert labels.labels == 1000 and not labels.free_size and text.labels == 0
    assert bare.steps == bare.max_steps == 1000 and (bare.height, bare.width) == (16, 16)
    assert len(text.schedulers) > 3


def test_what_cannot_be_opened_is_said_in_one_sentence(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float32, float16, bfloat16"):
        open_model(saved, dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA device"):
            open_model(saved, device="cuda")
    open_model(saved, store=tmp_path / "store").close()
    other = open_model(saved, store=tmp_path / "first")
    apply_all(other, uniform(other.structure, "uaq-4"))
    other.close()
    with pytest.raises(StoreError, match="another model"):
        open_model(TINY["dit"](), store=tmp_path / "first")


def test_two_opens_share_one_store_and_one_identity(saved: Path, tmp_path: Path) -> None:
    first = open_model(saved, store=tmp_path)
    apply_all(first, uniform(first.structure, "uaq-4"))
    first.close()
    second = open_model(saved, store=tmp_path)
    second.store._add = None  # type: ignore[assignment, method-assign]  nothing may be quantized again
    apply_all(second, uniform(second.structure, "uaq-4"))
    assert second.structure.identity == first.structure.identity
    assert second.limits == first.limits
    second.close()


@pytest.mark.slow
def test_half_precision_keeps_identity_and_store(saved: Path, tmp_path: Path) -> None:
    whole = open_model(saved, store=tmp_path)
    recipe = uniform(whole.structure, "uaq-4")
    apply_all(whole, recipe)
    whole.close()
    half = open_model(saved, dtype="bfloat16", store=tmp_path)
    assert half.structure.identity == whole.structure.identity
    half.store._add = None  # type: ignore[assignment, method-assign]
    apply_all(half, recipe)
    half.close()


@pytest.mark.slow
def test_schedulers_on_offer_all_work(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("sd1")
    for name in model.limits.schedulers:
        (made,) = pictures(model, Request(steps=4, scheduler=name))
        assert made.settings["scheduler"] == name
    assert len(model.limits.schedulers) > 8


def test_a_closed_model_gives_its_weights_back(saved: Path, tmp_path: Path) -> None:
    model = open_model(saved, store=tmp_path)
    pictures(model, Request(steps=1))
    model.close()
    assert model.pipeline is None and model.denoiser is None


class OnGpu:
    """A module whose weights claim to lie on a GPU."""

    def parameters(self) -> Any:
        yield torch.empty(1, device="meta")


def test_the_cache_stays_within_its_bound(tiny_model: Callable[[str], Model]) -> None:
    structure = tiny_model("ddpm").structure
    cache = WeightCache(OnGpu(), structure, limit_bytes=10**9)  # type: ignore[arg-type]
    cache.limit_bytes = 1000
    weight = torch.ones(10, 10)
    from engine.core.option import Option

    options = [Option("uaq", b) for b in (2, 3, 4)]
    for option in options:
        cache.keep("a", option, weight)
    assert cache.bytes == 800 and cache.get("a", options[0]) is None
    found = cache.get("a", options[2])
    assert found is not None and torch.equal(found, weight) and found.data_ptr() != weight.data_ptr()
    small = WeightCache(OnGpu(), structure, limit_bytes=1000)  # type: ignore[arg-type]
    assert small.limit_bytes == 0
    assert WeightCache(tiny_model("ddpm").denoiser, structure).limit_bytes == 0
