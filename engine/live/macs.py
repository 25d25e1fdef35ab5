"""Multiply-adds of every layer in one call of the denoiser for one picture, counted while it makes one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from engine.core.layer import Layer
from engine.live.activations import argument_reader
from engine.live.generate import generate
from engine.live.model import Model
from engine.live.request import Request
from engine.models.inputs import LATENT_NAMES

STEPS = 2  # some pipelines refuse one


def layer_macs(model: Model) -> dict[str, int]:
    """Layer name -> multiply-adds per picture and denoiser call at the model's default size.

    Weights times output positions, so every text token counts as the pipeline pads it; layers that are not executed
    are left out. Guidance doubles all layers alike and is not counted. Counted by making one picture in two steps and
    remembered by the model.
    """
    if model.macs is None:
        counter = _Counter(model)
        try:
            for _ in generate(model, Request(steps=STEPS)):
                pass
        finally:
            counter.remove()
        model.macs = counter.macs()
    return model.macs


class _Counter:
    """Output positions of every layer and rows of the denoiser, over all calls."""

    def __init__(self, model: Model) -> None:
        self._layers = model.structure.layers
        self._positions: dict[str, int] = {}
        self._rows = 0
        latent = argument_reader(model.denoiser, LATENT_NAMES)

        def count_rows(_: Any, args: Any, kwargs: Any) -> None:
            self._rows += len(latent(args, kwargs))

        self._handles = [model.denoiser.register_forward_pre_hook(count_rows, with_kwargs=True)]
        self._handles += [
            model.denoiser.get_submodule(path).register_forward_hook(self._hook(layer))
            for layer in self._layers for path in layer.modules or (layer.module,)
        ]

    def macs(self) -> dict[str, int]:
        """Per layer that was executed: weights x positions per row."""
        return {layer.name: layer.weights * self._positions[layer.name] // self._rows for layer in self._layers
                if layer.name in self._positions}

    def _hook(self, layer: Layer) -> Any:
        def count(module: Any, args: Any, output: Any) -> None:
            x: Tensor = output if isinstance(output, Tensor) else output[0]
            self._positions[layer.name] = self._positions.get(layer.name, 0) + x.numel() // layer.out_channels

        return count

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
