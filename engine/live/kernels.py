"""A recipe's nf4, fp4 and int8 layers executed on packed weights, the rest of it simulated; and back exactly.

Constraints: the executed layers' full matrices are never made quantized and do not stay in memory, so that the process
holds what such a model needs; nothing is executed otherwise than the recipe says without being told. nf4 and fp4 give
what simulation gives, up to the order of sums. int8 is bitsandbytes' own product, which rounds the inputs to 8 bits
per row as well (LLM.int8()), so that it differs from the simulation of its weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from engine.core.errors import InputError, RecipeError
from engine.core.layer import Layer
from engine.core.option import FP16
from engine.core.recipe import Recipe, check
from engine.live.apply import applied
from engine.live.model import Model
from engine.live.weightsets import needed_sets
from engine.quant.bnb import EXECUTABLE, executed
from engine.quant.qweight import QuantizedWeight

NAMES = "nf4, fp4 or int8"


@dataclass(frozen=True, slots=True)
class Execution:
    """What computes how within `executing`.

    Attributes:
        layers: names of the layers that execute on packed weights, in execution order.
        simulated: names of the recipe's other quantized layers; they compute with dequantized weights.
        packed_bytes: of the executed layers' weights as they are now in memory.
        dense_bytes: of the same weights in full, which are not in memory now.
    """

    layers: tuple[str, ...]
    simulated: tuple[str, ...]
    packed_bytes: int
    dense_bytes: int


def executable(model: Model, recipe: Recipe, *, transfer: bool = False) -> tuple[Layer, ...]:
    """The layers of a recipe that packed kernels execute: whole Linear weights of their own at nf4, fp4 or int8.

    Halves of a split weight and weights that several modules share stay simulated, with whoever copies their choice.

    Args:
        model: see `open_model`.
        recipe: for this model.
        transfer: take a recipe of another identity by name, on purpose.

    Raises:
        InputError: the model is not in main memory, where these kernels run.
        RecipeError: it does not fit the model, has no such layer, or asks of one what the kernels cannot do exactly:
            quantized inputs at int8, or weights scaled by tau.
    """
    check(model.structure, recipe, transfer=transfer)
    if model.device != "cpu":
        raise InputError(f"Packed kernels run on the CPU, and the model is on {model.device}; open it on the CPU, or "
                         f"leave the packed kernels out.")
    found = tuple(layer for layer in model.structure.layers if recipe.option(layer.choice).method in EXECUTABLE
                  and all(_is_own(copy) for copy in model.groups[layer.choice]))
    if not found:
        raise RecipeError(f"The recipe has no whole Linear layer at {NAMES}, so packed kernels have nothing to "
                          f"execute; give some layers one of these options, or leave the packed kernels out.")
    for layer in found:
        option, inputs = recipe.option(layer.choice), recipe.activations.get(layer.choice)
        origin = recipe.weights.get(layer.choice)
        if option.method == "int8" and inputs is not None:
            raise RecipeError(f"{layer.name} is int8 with {inputs.bits}-bit inputs, but the int8 kernel rounds inputs "
                              f"its own way; leave its inputs in full precision, or leave the packed kernels out.")
        if origin is not None and origin.scaled:
            raise RecipeError(f"The weights of {layer.name} are scaled by a factor per input channel (tau), which no "
                              f"{option} kernel undoes; take another option for it, or leave the packed kernels out.")
    return found


@contextlib.contextmanager
def executing(model: Model, recipe: Recipe, *, transfer: bool = False) -> Iterator[Execution]:
    """The model under a recipe within the block, its nf4, fp4 and int8 layers executed on packed weights.

    Their full weights are released meanwhile and read back from the originals; afterwards, whatever happens, the model
    is as it was before, bit for bit. Within the block only pictures may be made with it: no recipe can be applied, and
    `model.recipe` holds the simulated part alone.

    Args:
        model, recipe, transfer: as for `executable`.

    Raises:
        InputError, RecipeError: as `executable`.
        OptionError, StoreError, ModelError: as `engine.live.apply.apply`.
    """
    layers = executable(model, recipe, transfer=transfer)
    own = {layer.module: layer for layer in layers}
    simulated = tuple(layer.name for layer in model.structure.layers
                      if not recipe.option(layer.choice).is_untouched and layer.module not in own)
    rest = recipe.with_options({layer.choice: FP16 for layer in layers})
    with applied(model, rest, transfer=transfer):
        weights = _weights(model, recipe, layers)
        dense = [model.denoiser.get_submodule(path).weight for path in own]
        execution = Execution(tuple(layer.name for layer in layers), simulated,
                              sum(weight.size_bytes for weight in weights.values()),
                              sum(weight.nbytes for weight in dense))
        out_of_files(model.denoiser, besides=dense)
        with executed(model.denoiser, weights, reload=lambda path: model.originals.tensor(own[path])):
            del weights  # the modules hold copies of their own
            model.store.release()
            model.originals.release()
            model.executing = True
            try:
                yield execution
            finally:
                model.executing = False


def out_of_files(module: nn.Module, besides: Iterable[torch.Tensor] = ()) -> None:
    """Copy parameters and buffers out of mapped files: pages that were read stay resident as long as one is in use.

    Tensors that share memory share it afterwards.

    Args:
        module: on the CPU.
        besides: those that stay where they are.
    """
    kept = {id(tensor) for tensor in besides}
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], torch.Tensor] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in kept:
            key = (tensor.data_ptr(), tensor.shape, tensor.stride())
            if key not in copies:
                copies[key] = tensor.detach().clone()
            tensor.data = copies[key]


def _is_own(layer: Layer) -> bool:
    """Whether a layer is the whole weight of one module."""
    return layer.name == layer.module and len(layer.modules) <= 1


def _weights(model: Model, recipe: Recipe, layers: tuple[Layer, ...]) -> dict[str, QuantizedWeight]:
    """Module path -> packed weight: from a weight set where the recipe names one, else from the store."""
    sets = needed_sets(recipe, model.structure, model.find_weight_set)
    found = {}
    for layer in layers:
        option, origin = recipe.option(layer.choice), recipe.weights.get(layer.choice)
        held = sets[origin.set] if origin else model.store
        found[layer.module] = held.load(layer.name, option)
    model.store.flush()
    return found
