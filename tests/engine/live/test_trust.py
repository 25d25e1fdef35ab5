"""What lies on disk or came from memory is not taken for something else: sets, shards, originals, components."""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from pathlib import Path

import pytest
import torch

from engine.core.activation import Activation
from engine.core.errors import StoreError
from engine.core.option import Option, options_for, parse_option
from engine.core.recipe import Recipe, model_ref
from engine.export.exporting import Exported, export
from engine.export.packed_loader import part_table
from engine.live.model import Model, open_model
from engine.live.store import ORPHAN_SECONDS, _remove_orphans, build, requests
from engine.live.weightsets import weight_set
from engine.models.tiny import TINY
from engine.quant.qweight import QuantizedWeight, part_sizes
from engine.quant.table import quantize

CASES = [(option, shape) for shape in ((16, 64), (8, 24, 3, 3), (12, 1, 3, 3))
         for option in options_for("conv2d" if len(shape) > 2 else "linear")]


@pytest.mark.parametrize(("option", "shape"), CASES)
def test_sizes_are_those_of_what_is_made(option: Option, shape: tuple[int, ...]) -> None:
    made = quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), option)
    assert made.is_whole and part_sizes(option, shape) == {n: t.numel() for n, t in made.tensors.items()}
    beside = {n: math.prod(size) for n, _, size in part_table(str(option), shape, torch.float16)}
    assert beside == part_sizes(option, shape), "the packed loader stands alone, so it says the same a second time"
    name = next(iter(made.tensors))
    cut = {**made.tensors, name: made.tensors[name].reshape(-1)[:-1]}
    assert not QuantizedWeight(option, shape, cut).is_whole
    assert not QuantizedWeight(option, shape, {**made.tensors, "tau": torch.ones(shape[1] + 1)}).is_whole


def test_a_set_with_too_few_codes_is_refused_before_compiled_loops_read_them(tmp_path: Path) -> None:
    model = open_model(TINY["sd1"](), store=tmp_path / "store")
    layer, option = model.structure.layers[0], parse_option("kmeans_c-8")
    made = quantize(torch.randn(layer.shape), option)
    cut = QuantizedWeight(option, made.shape, {**made.tensors, "codes": made.tensors["codes"][:8].clone()})
    held = weight_set(model.structure, {layer.name: cut}, {layer.name: 0.1})
    with pytest.raises(StoreError, match="are not those of kmeans_c-8"):
        held.load(layer.name, option)
    model.close()


@pytest.mark.slow
def test_shards_that_another_process_finished_are_left(tmp_path: Path) -> None:
    TINY["sd1"]().save_pretrained(tmp_path / "model")
    first, second = (open_model(str(tmp_path / "model"), store=tmp_path / "store") for _ in range(2))
    list(build(second.store, requests(second.store, [parse_option("uaq-4")])))
    shards = list((tmp_path / "store").glob("shard-*.safetensors"))
    orphan = tmp_path / "store" / "shard-9999-none.safetensors"
    orphan.write_bytes(b"x")
    for path in (*shards, orphan):
        os.utime(path, (0, time.time() - 2 * ORPHAN_SECONDS))
    _remove_orphans(first.store)
    assert shards and all(p.exists() for p in shards) and not orphan.exists()
    for model in (first, second):
        model.close()


@pytest.mark.slow
def test_an_edit_that_no_sample_sees_is_kept(tmp_path: Path) -> None:
    TINY["sd1"]().save_pretrained(tmp_path / "model")
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    name, weight = next((n, p) for n, p in pipeline.unet.named_parameters() if p.ndim == 4 and p.shape[1] >= 16)
    with torch.no_grad():
        weight[:, 1] = 0
    model = open_model(pipeline, store=tmp_path / "store")
    assert not model.originals.is_checkpoint
    layer = next(x for x in model.structure.layers if f"{x.module}.weight" == name)
    assert model.originals.tensor(layer)[:, 1].abs().max() == 0
    model.close()


@pytest.mark.slow
def test_a_model_that_cannot_be_opened_leaves_nothing_in_the_temporary_folder(tmp_path: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    model = open_model(TINY["sd1"](), store=tmp_path / "store")
    list(build(model.store, requests(model.store, [parse_option("uaq-4")])))
    model.close()
    with pytest.raises(StoreError):
        open_model(TINY["ddpm"](), store=tmp_path / "store")
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())


def exported(model: Model, recipe: Recipe, out: Path) -> Exported:
    return next(s for s in export(model, recipe, "packed", out) if isinstance(s, Exported))


@pytest.mark.slow
def test_components_from_memory_are_those_in_memory(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, DiffusionPipeline, EulerAncestralDiscreteScheduler

    TINY["sd1"]().save_pretrained(tmp_path / "model")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    other = EulerAncestralDiscreteScheduler if isinstance(pipeline.scheduler, DDIMScheduler) else DDIMScheduler
    pipeline.scheduler = other.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        parameter = next(pipeline.vae.parameters())
        parameter += 1
    model = open_model(pipeline, store=tmp_path / "store")
    exported(model, Recipe(model_ref(model.structure), {}), tmp_path / "out")
    again = DiffusionPipeline.from_pretrained(tmp_path / "out", unet=pipeline.unet, safety_checker=None)
    assert isinstance(again.scheduler, other) and torch.equal(next(again.vae.parameters()), parameter)
    model.close()


def test_inputs_of_grouped_convolutions_are_quantized_whole_in_the_file(tmp_path: Path) -> None:
    model = open_model(TINY["sana"](), store=tmp_path / "store")
    layers = [x for x in model.structure.choices if "conv_depth" in x.name and x.name not in model.structure.unexecuted]
    inputs = {x.name: Activation(4) for x in layers}
    assert inputs, "Sana's depthwise convolutions"
    done = exported(model, Recipe(model_ref(model.structure), {}, inputs), tmp_path / "out")
    assert done.difference.output == 0.0
    model.close()
