"""A hand-made model file and its structure: stores are tested without any pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.core.graph import Structure
from engine.live.originals import Originals
from tests.engine.core.records import structure as line


def model_file(directory: Path, layers: int = 4, identity: str = "a" * 64) -> tuple[Structure, Originals]:
    """`layers` linear layers [64, 64] with seeded weights, in one safetensors file."""
    shape = replace(line(layers), identity=identity)
    path = directory / "weights.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{x.module}.weight": torch.randn(x.shape, generator=generator).half() for x in shape.layers}
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    return shape, Originals(dict.fromkeys(tensors, path))
