"""Dequantized weights kept at hand for small models, within a stated bound of memory."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from engine.core.graph import Structure
from engine.core.option import Option

# On a GPU dequantizing means work on the CPU and a copy over the bus; on a CPU it is as fast as copying.
CACHE_BYTES = 1 << 30
SHARE = 4


class WeightCache:
    """Least recently used (layer, option) weights on the model's own device, at most `CACHE_BYTES`.

    It keeps anything only on devices other than the CPU, and only for models of which several whole recipes fit.
    """

    def __init__(self, denoiser: nn.Module, structure: Structure, limit_bytes: int = CACHE_BYTES) -> None:
        first = next(denoiser.parameters())
        whole = sum(layer.weights for layer in structure.layers) * first.element_size()
        self.limit_bytes = limit_bytes if first.device.type != "cpu" and whole * SHARE <= limit_bytes else 0
        self.bytes = 0
        self._kept: OrderedDict[tuple[str, Option], Tensor] = OrderedDict()

    def get(self, layer: str, option: Option) -> Tensor | None:
        """The weight [O, in, *kernel], or None."""
        found = self._kept.get((layer, option))
        if found is not None:
            self._kept.move_to_end((layer, option))
        return found

    def keep(self, layer: str, option: Option, live: Tensor) -> None:
        """Remember what the live weight holds now."""
        if not self.limit_bytes or (layer, option) in self._kept:
            return
        weight = live.clone(memory_format=torch.contiguous_format)
        self._kept[layer, option] = weight
        self.bytes += weight.nbytes
        while self.bytes > self.limit_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0
