"""Looks at the inputs or outputs of layers while a denoiser runs; halves of a split layer see their own channels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from engine.core.layer import Layer
from engine.live.model import Model
from engine.quant.activation import CHANNEL_AXIS

Take = Callable[[Layer, Tensor], None]


@contextlib.contextmanager
def looking(model: Model, layers: Iterable[Layer], *, inputs: Take | None = None,
            outputs: Take | None = None) -> Iterator[None]:
    """Within the block every execution of a layer is shown to the callers' functions.

    A layer that several modules share is shown for each of them. Halves of a split layer have inputs of their own but
    one output together, which is shown for each half. Inputs are those the layer's weight meets: quantized where a
    recipe quantizes them.

    Args:
        model: the model.
        layers: which.
        inputs, outputs: called with the layer and the tensor.
    """
    handles: list[Any] = []
    try:
        for layer in layers:
            for path in layer.modules or (layer.module,):
                module = model.denoiser.get_submodule(path)
                # a forward hook runs after every pre-hook, so it is given the inputs as the weight met them
                handles.append(module.register_forward_hook(_hook(layer, module, inputs, outputs), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(value: Any) -> Tensor:
    """A layer's result: the tensor itself, or the first of several."""
    return value if isinstance(value, Tensor) else first_tensor(value[0])


def _hook(layer: Layer, module: Any, inputs: Take | None, outputs: Take | None) -> Callable[..., None]:
    axis, whole = CHANNEL_AXIS[layer.kind], layer.stop - layer.start == module.weight.shape[1]

    def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if inputs is not None:
            x = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
            inputs(layer, x if whole else x.narrow(axis, layer.start, layer.stop - layer.start))
        if outputs is not None:
            outputs(layer, first_tensor(result))

    return look
