"""Memory that computing needs beside the weights: the most that is alive at once in one call, counted without weights.

The module runs on the meta device under a dispatch mode that follows every tensor's storage from its making to its
end, so the count is that of eager execution. Attention counts as the fused kernels compute it, without its matrix of
scores. What libraries need for themselves (convolution workspaces, allocator rounding) is not in it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.core.errors import ModelError
from engine.models.building import UNRUNNABLE, meta_twin
from engine.models.catalog import row_for
from engine.models.inputs import LATENT_NAMES, example_inputs
from engine.models.loading import component_class, denoiser_entry
from engine.models.quiet import quiet
from engine.models.sources import component_config, read_index, resolve

PIXELS_PER_TOKEN = 16  # of packed latents: 8 by the autoencoder, 2 by packing
PACKED_PIXELS = 1024  # of models with packed latents that the catalogue does not know


@dataclass(frozen=True, slots=True)
class Working:
    """Peak bytes of activations for one picture at the model's own size.

    Attributes:
        denoiser: of one call, doubled where guidance runs two at once.
        decoder: of the autoencoder's decoding; None where its configuration is not here.
    """

    denoiser: int
    decoder: int | None

    @property
    def peak(self) -> int:
        """Bytes that must be free beside the weights; the two never run at once."""
        return max(self.denoiser, self.decoder or 0)


def working_memory(source: str | os.PathLike[str], *, precision_bits: int, guided: bool = True) -> Working:
    """Count a model's activations; needs its configuration, not its weights.

    Args:
        source: catalogue name or diffusers directory.
        precision_bits: of the arithmetic, 16 or 32.
        guided: two predictions at once.

    Raises:
        ModelError: no configuration is here, or the denoiser cannot run without weights.
    """
    found = resolve(source)
    if found.directory:
        name, cls = denoiser_entry(found.directory)
        config = component_config(found.directory / name)
        decoder = _decoder(found.directory, config)
    elif found.row:
        cls, config, decoder = component_class("diffusers", found.row.denoiser_class), found.row.config, None
    else:
        raise ModelError(f"The activations of {found.name} cannot be counted without its directory; name the memory "
                         f"they need instead.")
    twin: Any = meta_twin(cls, config)
    row = found.row or row_for(cls.__name__, config)
    peak = _denoiser_peak(twin, row.size if row else PACKED_PIXELS, precision_bits)
    return Working(peak * (2 if guided else 1), peak_bytes(*decoder, precision_bits) if decoder else None)


def _denoiser_peak(twin: Any, pixels: int, precision_bits: int) -> int:
    """With as few inputs as possible, else with all that are known."""
    reason = ""
    for sparing in (True, False):
        try:
            inputs = _at_size(example_inputs(twin, twin.config, sparing=sparing), pixels)
            return peak_bytes(twin, inputs, precision_bits)
        except UNRUNNABLE as failure:
            reason = reason or (str(failure) or type(failure).__name__).splitlines()[0][:120]
    raise ModelError(f"{type(twin).__name__} cannot be run without its weights ({reason}); name the memory its "
                     f"activations need instead.")


def _at_size(inputs: dict[str, Any], pixels: int) -> dict[str, Any]:
    """Example inputs with as many packed tokens as a picture has; other latents have the model's own size already."""
    if not {"img_ids", "img_shapes"} & inputs.keys():
        return inputs
    side = pixels // PIXELS_PER_TOKEN
    found = dict(inputs)
    for name, value in inputs.items():
        if name in LATENT_NAMES:
            found[name] = value.new_empty((1, side**2, value.shape[2]))
        elif name == "img_ids":
            found[name] = value.new_empty((side**2, value.shape[1]))
        elif name == "img_shapes":
            found[name] = [(1, side, side)]
    return found


def _decoder(directory: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Decoding of one picture's latents as a call, where a component does that and the size is known."""
    side = config.get("sample_size")
    for name, entry in read_index(directory)[1].items():
        own = component_config(directory / name)
        channels = own.get("latent_channels")
        if isinstance(channels, int) and isinstance(side, int):
            twin: Any = meta_twin(component_class(*entry), own)
            if hasattr(twin, "decode"):
                latents = torch.empty(1, channels, side, side, device="meta")
                return partial(twin.decode, return_dict=False), {"z": latents}
    return None


def peak_bytes(module: Any, inputs: Mapping[str, Any], precision_bits: int = 32) -> int:
    """The most bytes alive at once, beyond inputs and weights, while `module(**inputs)` runs on the meta device."""
    follow = _Follow()
    with torch.no_grad(), quiet(), _FusedAttention(), follow:
        result = module(**inputs)
    del result
    return follow.peak * precision_bits // 32


class _FusedAttention(TorchFunctionMode):
    """Attention gives its output and nothing in between."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False), **(kwargs or {}))
            return given["query"].new_empty((*given["query"].shape[:-1], given["value"].shape[-1]))
        return function(*args, **(kwargs or {}))


class _Follow(TorchDispatchMode):
    """Adds a storage when an operation makes it and takes it off when the last tensor on it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in known and key not in self._seen:
                    self._begin(key, tensor, storage.nbytes())
        return result

    def _begin(self, key: int, tensor: torch.Tensor, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)
        self._seen[key] = weakref.finalize(tensor.untyped_storage(), self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.alive -= size
