"""The identity of a model: a hash over the names, shapes and strided samples of its denoiser's weights.

Constraints: fast (a few pages per tensor are read), and the same for a module and for the files it was loaded from.
Samples are compared as float32 and the stored type does not enter, so float16 files opened in float32 keep their
identity; the same model saved in another precision has other values, hence another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.core.errors import ModelError
from engine.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLES = 64
DIGITS = 32
MAPPED_BYTES = 500_000_000


def identity_of(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits that depend on names, shapes and samples, in no particular order of names."""
    return _hash((name, tensors[name]) for name in sorted(tensors))


def identity_of_module(module: nn.Module) -> str:
    """Identity of a live module: of its parameters (shared ones under their first name)."""
    return identity_of({name: p.detach() for name, p in module.named_parameters()})


def identity_of_files(checkpoint: Checkpoint, names: Iterable[str], called: Mapping[str, str] | None = None) -> str:
    """Identity of stored parameters, or "" if the files do not hold all of `names` (a converted checkpoint).

    Args:
        checkpoint: the files' headers.
        names: the parameters.
        called: name -> what it is called in its file, where that is something else.

    Raises:
        ModelError: a file cannot be read.
    """
    in_file = {name: (called or {}).get(name, name) for name in sorted(names)}
    if not set(in_file.values()) <= set(checkpoint.tensors):
        return ""
    return _hash(_stored(checkpoint, in_file))


def _stored(checkpoint: Checkpoint, in_file: Mapping[str, str]) -> Iterable[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    opened: dict[Any, Any] = {}
    mapped = 0
    for name, stored in in_file.items():
        path = checkpoint.tensors[stored].file
        try:
            if path not in opened:
                opened[path] = safe_open(path, framework="pt", device="cpu")
            tensor = opened[path].get_tensor(stored)
        except (OSError, SafetensorError) as failure:
            raise ModelError(f"{path} cannot be read ({failure}); download the model again.") from None
        yield name, tensor
        mapped += tensor.nbytes
        if mapped > MAPPED_BYTES:  # pages that were read count as memory while their file is mapped
            opened.clear()
            mapped = 0


def _hash(items: Iterable[tuple[str, Tensor]]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in items:
        digest.update(f"{name}|{'x'.join(map(str, tensor.shape))}|".encode())
        flat = tensor.reshape(-1)
        sample = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].to(device="cpu", dtype=torch.float32)
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
