"""What a model's denoiser stores under a recipe: quantized layers, and everything else without loss."""

from __future__ import annotations

import torch

from engine.core.layer import Layer
from engine.core.recipe import Recipe
from engine.live.model import Model
from engine.quant.qweight import QuantizedWeight
from engine.quant.table import quantize

_HALVES = (torch.float16, torch.bfloat16)


def quantized(model: Model, layer: Layer, recipe: Recipe) -> QuantizedWeight:
    """A layer under the recipe, from its weight set or the store; untouched layers as the checkpoint has them."""
    option, origin = recipe.option(layer.choice), recipe.weights.get(layer.choice)
    if option.is_untouched:
        return quantize(model.originals.tensor(layer), option, model.structure.precision_bits)
    if origin is not None:
        return model.find_weight_set(origin.set).load(layer.name, option)
    return model.store.load(layer.name, option)


def module_weights(model: Model, layers: tuple[Layer, ...], recipe: Recipe) -> tuple[QuantizedWeight, ...]:
    """The weights of one module (one layer, or two halves) under the recipe."""
    return tuple(quantized(model, layer, recipe) for layer in layers)


def dense(weights: tuple[QuantizedWeight, ...]) -> torch.Tensor:
    """The whole weight of a module, [O, in, *kernel]; float32, or as the checkpoint has it where all is untouched."""
    if all(weight.option.is_untouched for weight in weights):
        return torch.cat([weight.tensors["weight"] for weight in weights], dim=1)
    return torch.cat([weight.dequantize() for weight in weights], dim=1)


def weight_names(model: Model) -> dict[str, str]:
    """Tensor name of every quantizable weight, shared ones included -> path of the module that owns it."""
    return {f"{path}.weight": layer.module for layer in model.structure.layers for path in users(layer)}


def users(layer: Layer) -> tuple[str, ...]:
    """Every module path that uses the layer's tensor."""
    return layer.modules or (layer.module,)


def others(model: Model) -> dict[str, torch.Tensor]:
    """Biases, norms and tables, on the CPU, each in the narrowest type that holds it exactly."""
    weights = weight_names(model)
    return {name: narrowed(tensor.detach().cpu(), model.structure.precision_bits)
            for name, tensor in model.denoiser.state_dict().items() if name not in weights}


def narrowed(tensor: torch.Tensor, precision_bits: int) -> torch.Tensor:
    """A tensor of the checkpoint's precision again, if that loses nothing (it may have been widened while loading)."""
    if not tensor.is_floating_point():
        return tensor
    for dtype in _HALVES if precision_bits == 16 else ():
        small = tensor.to(dtype)
        if torch.equal(small.to(tensor.dtype), tensor):
            return small
    return tensor
