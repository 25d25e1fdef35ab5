"""Adapters (LoRA) fused into the weights of a pipeline, so that what is quantized is what is drawn.

The libraries ignore what they do not recognise in an adapter file; here everything in it must have found its layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.errors import ModelError
from engine.models.checkpoint import read_header
from engine.models.quiet import quiet

# The first matrix of a pair, as peft, diffusers and kohya's scripts name it.
FIRST = re.compile(r"(lora_A|lora_down|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")


def fuse_lora(pipeline: Any, path: Path, scale: float = 1.0) -> int:
    """Add an adapter to the weights for good. Returns how many weights it changes.

    Args:
        pipeline: changed in place; its tensors keep names and shapes.
        path: a `.safetensors` file with pairs of low-rank matrices.
        scale: W + scale * alpha / rank * B A.

    Raises:
        ModelError: it is no such file, or parts of it belong to no layer of this pipeline.
    """
    if not math.isfinite(scale):
        raise ModelError(f"An adapter cannot be scaled by {scale}; name a number such as 0.8.")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path.name} is no .safetensors file; adapters are read from those only.")
    offered = sum(1 for name in read_header(path) if FIRST.search(name))
    if not offered:
        raise ModelError(f"{path.name} holds no adapter: expected pairs of low-rank matrices (lora_A and lora_B).")
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelError(f"{type(pipeline).__name__} takes no adapters; open a model whose pipeline does.")
    before = {name: set(module.state_dict()) for name, module in _modules(pipeline)}
    try:
        with quiet():
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
            taken = sum(1 for _, module in _modules(pipeline) for key in module.state_dict() if ".lora_A." in key)
            pipeline.fuse_lora(lora_scale=scale)
            pipeline.unload_lora_weights()
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError, OSError, ImportError) as failure:
        raise ModelError(f"{path.name} does not fit this {type(pipeline).__name__} "
                         f"({(str(failure) or type(failure).__name__).splitlines()[0][:160]}); it was made for another "
                         f"model.") from None
    if taken != offered:
        raise ModelError(f"Of {offered} pairs in {path.name} only {taken} belong to layers of this "
                         f"{type(pipeline).__name__}; it was made for another model.")
    for name, module in _modules(pipeline):
        _check_finite(module, name, path)
        if set(module.state_dict()) != before[name]:
            raise ModelError(f"{path.name} left parts of itself in {name}; this kind of adapter cannot be fused.")
    return taken


def _modules(pipeline: Any) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in pipeline.components.items() if isinstance(part, nn.Module))


def _check_finite(module: nn.Module, name: str, path: Path) -> None:
    for key, tensor in module.named_parameters():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path.name} makes {name}.{key} infinite or NaN; the file is broken, or the scale too "
                             f"large.")
