"""Placement: offloaded pipelines take recipes and give the same pictures; memory that runs out is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.core.errors import ModelError
from engine.core.placement import Placement
from engine.core.recipe import uniform
from engine.live import apply as apply_module
from engine.live import model as model_module
from engine.live.apply import applied, apply_all, restore
from engine.live.generate import pictures
from engine.live.model import Model, open_model
from engine.live.offload import offload
from engine.live.request import Request
from engine.models.memory import ran_out
from engine.models.tiny import TINY

CPU_SAYS = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: tried 9 bytes"


def test_bad_placements_are_one_sentence() -> None:
    with pytest.raises(ModelError, match="not in 'int8'"):
        Placement("cpu", "int8")
    for device in ("cpu", "cpu:0"):
        with pytest.raises(ModelError, match="name one with --device cuda"):
            Placement(device, offload=True)


@pytest.mark.parametrize("name", ["sd1", "dit", "ddpm"])
def test_an_offloaded_pipeline_gives_the_same_pictures_under_recipes(name: str, tmp_path: Path) -> None:
    """Here the accelerator is the CPU itself: the same hooks run, with nowhere to go."""
    model = open_model(TINY[name](), store=tmp_path / "store")
    recipe, request = uniform(model.structure, "uaq-3"), Request(seeds=(3,), steps=2)
    plain = pictures(model, request)[0].pixels
    with applied(model, recipe):
        quantized = pictures(model, request)[0].pixels
    offload(model.pipeline, "cpu")
    assert hasattr(model.denoiser, "_hf_hook"), "nothing brings the denoiser to the device"
    assert (pictures(model, request)[0].pixels == plain).all()
    apply_all(model, recipe)
    assert (pictures(model, request)[0].pixels == quantized).all()
    restore(model)
    assert (pictures(model, request)[0].pixels == plain).all()
    assert (plain != quantized).any()
    model.close()


def test_a_pipeline_that_cannot_be_offloaded_is_one_sentence() -> None:
    pipeline = TINY["ddpm"]()
    pipeline.model_cpu_offload_seq = None
    with pytest.raises(ModelError, match=r"DDPMPipeline cannot be offloaded from cuda:0 \(.+\)"):
        offload(pipeline, "cuda:0")


@pytest.mark.parametrize("failure", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
                                     RuntimeError(CPU_SAYS)])
def test_memory_that_runs_out_is_one_sentence(failure: Exception, tiny_model: Callable[[str], Model],
                                              monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    assert ran_out(failure) and not ran_out(RuntimeError("shape mismatch"))
    with monkeypatch.context() as patched, pytest.raises(ModelError, match="does not fit into the memory of cpu"):
        patched.setattr(model_module, "load_pipeline", fail)
        open_model(tmp_path)
    model = tiny_model("ddpm")
    restore(model)
    moved = model.structure.choices[2].name
    real = apply_module._source
    with monkeypatch.context() as patched, pytest.raises(ModelError, match=f"ran out while {moved} was moved to uaq-4"):
        patched.setattr(apply_module, "_source", lambda m, x, o: fail() if x.name == moved else real(m, x, o))
        apply_all(model, uniform(model.structure, "uaq-4"))
    assert len(model.recipe.options) == 2, "what was moved before is told as it is"
    assert restore(model) == 2


def test_memory_that_runs_out_while_loading_is_not_called_a_broken_download(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.models import loading

    TINY["ddpm"]().save_pretrained(tmp_path / "model")

    def fail(*_: object) -> None:
        raise RuntimeError(CPU_SAYS)

    monkeypatch.setattr(loading, "_load_module", fail)
    with pytest.raises(ModelError, match="does not fit into the memory"):
        open_model(tmp_path / "model", store=tmp_path / "store")
