"""Fused adapters: the weights are the sum, nothing in the file is ignored, what is written opens like any model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.cli.main import main
from engine.core.errors import ModelError
from engine.models.loading import load_pipeline, stored_dtype
from engine.models.lora import fuse_lora
from engine.models.structure import read_structure
from engine.models.tiny import TINY

RANK = 2


def linear(pipeline: Any) -> str:
    return next(n for n, m in pipeline.unet.named_modules() if n.endswith("attn1.to_q"))


def adapter(path: Path, pipeline: Any, name: str, prefix: str = "unet.") -> torch.Tensor:
    """Write an adapter for one Linear layer; what it adds."""
    weight = pipeline.unet.get_submodule(linear(pipeline)).weight
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(RANK, weight.shape[1], generator=generator)
    b = torch.randn(weight.shape[0], RANK, generator=generator)
    save_file({f"{prefix}{name}.lora_A.weight": a, f"{prefix}{name}.lora_B.weight": b}, path)
    return b @ a


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_weights_are_the_sum_and_nothing_else_changes(scale: float, tmp_path: Path) -> None:
    pipeline = TINY["sd1"]()
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    name = linear(pipeline)
    added = adapter(tmp_path / "a.safetensors", pipeline, name)
    assert fuse_lora(pipeline, tmp_path / "a.safetensors", scale) == 1
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + scale * added)
    assert all(torch.equal(after[k], v) for k, v in before.items() if k != f"{name}.weight")


def test_what_belongs_nowhere_is_refused(tmp_path: Path) -> None:
    pipeline = TINY["sd1"]()
    path = tmp_path / "a.safetensors"
    adapter(path, pipeline, "down_blocks.9.attn1.to_q")
    with pytest.raises(ModelError, match="another model"):
        fuse_lora(pipeline, path)
    save_file({"unet.conv_in.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="holds no adapter"):
        fuse_lora(pipeline, path)
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        fuse_lora(pipeline, tmp_path / "a.bin")
    adapter(path, pipeline, linear(pipeline))
    with pytest.raises(ModelError, match="takes no adapters"):
        fuse_lora(TINY["ddpm"](), path)
    for scale in (float("nan"), float("inf")):
        with pytest.raises(ModelError, match="cannot be scaled"):
            fuse_lora(pipeline, path, scale)


def test_the_command_writes_a_model(saved: Callable[[str], Path], tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    home, path, out = saved("sd1"), tmp_path / "a.safetensors", tmp_path / "fused"
    pipeline = load_pipeline(home)
    name = linear(pipeline)
    added = adapter(path, pipeline, name)
    assert main(["fuse", str(home), "--lora", str(path), "--scale", "0.25", "--out", str(out)]) == 0
    assert "changes 1 weights" in capsys.readouterr().out
    made = load_pipeline(out)
    torch.testing.assert_close(made.unet.get_submodule(name).weight,
                               pipeline.unet.get_submodule(name).weight + 0.25 * added)
    assert read_structure(out).identity != read_structure(home).identity
    assert len(read_structure(out).layers) == len(read_structure(home).layers)
    assert main(["fuse", str(home), "--lora", str(path), "--scale", "1", "2", "--out", str(tmp_path / "b")]) == 2
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_it_is_written_in_what_the_checkpoint_is_stored_in(dtype: str, tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "a.safetensors"
    pipeline = TINY["sd1"]().to(getattr(torch, dtype))
    pipeline.save_pretrained(home)
    adapter(path, load_pipeline(home), linear(pipeline))
    assert main(["fuse", str(home), "--lora", str(path), "--out", str(tmp_path / "fused")]) == 0
    assert stored_dtype(tmp_path / "fused") == stored_dtype(home) == dtype
