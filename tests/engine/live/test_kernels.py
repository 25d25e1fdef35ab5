"""Recipes executed on packed weights: pictures against simulation, memory that falls, and a model that comes back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.core.activation import Activation
from engine.core.errors import InputError, ModelError, RecipeError
from engine.core.option import Option, parse_option
from engine.core.recipe import Recipe, model_ref
from engine.live.apply import applied, apply_all
from engine.live.generate import pictures
from engine.live.kernels import executable, executing, out_of_files
from engine.live.model import Model, open_model
from engine.live.request import Request
from engine.live.weightsets import weight_set
from engine.models.quiet import quiet
from engine.models.tiny import TINY
from engine.quant.bnb import EXECUTABLE
from engine.quant.table import quantize_scaled

REQUEST = Request(prompts=("red apple",), labels=(1,), seeds=(3,), steps=3)


def recipe_of(model: Model, method: str, *, beside: str = "uaq-4") -> Recipe:
    """Every Linear layer under a method, the convolutions under another option."""
    return Recipe(model_ref(model.structure), {
        layer.name: parse_option(method if layer.kind == "linear" else beside) for layer in model.structure.choices})


def drawn(model: Model) -> np.ndarray:
    """A picture in [0, 1], not rounded."""
    exact = pictures(model, REQUEST, exact=True)[0].exact
    assert exact is not None
    return exact


def held(module: nn.Module) -> int:
    """Bytes of memory behind a module's parameters and buffers, shared ones once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in (*module.parameters(), *module.buffers())}.values())


# Largest difference of the pictures. nf4 and fp4 multiply with the very weights that are simulated. int8 rounds inputs
# to 8 bits per row as well: 0.0034 was measured on this pipeline, whose full precision is 0.033 from the simulation;
# 0.003 to 0.012 on the other tiny ones, 0.05 on DiT and 0.12 on HunyuanDiT, about what int8 weights alone change there.
TOLERANCE = {"nf4": 1e-5, "fp4": 1e-5, "int8": 0.01}


@pytest.mark.parametrize("method", EXECUTABLE)
def test_pictures_are_those_of_simulation(method: str, unet: Model) -> None:
    recipe = recipe_of(unet, method)
    before = {k: v.clone() for k, v in unet.denoiser.state_dict().items()}
    modules = dict(unet.denoiser.named_modules())
    full = drawn(unet)
    with applied(unet, recipe):
        simulated = drawn(unet)
    with executing(unet, recipe) as execution:
        found = drawn(unet)
        swapped = [n for n, m in modules.items() if unet.denoiser.get_submodule(n) is not m]
        packed = sum(held(unet.denoiser.get_submodule(name)) for name in swapped)
    linear = [layer for layer in unet.structure.layers if layer.kind == "linear"]
    assert set(execution.layers) == set(swapped) == {layer.name for layer in linear}
    assert set(execution.simulated) == {layer.name for layer in unet.structure.layers} - set(swapped)
    assert float(np.abs(found - simulated).max()) < TOLERANCE[method] < float(np.abs(full - simulated).max()) / 2
    biases = sum(m.bias.nbytes for n, m in modules.items() if n in swapped and m.bias is not None)
    codes = sum(layer.weights for layer in linear) * parse_option(method).bits // 8
    assert codes <= packed - biases < 1.01 * codes, "4-bit codes end in whole blocks"
    assert codes < execution.packed_bytes < 0.4 * execution.dense_bytes
    assert execution.dense_bytes == sum(layer.weights for layer in linear) * 4
    assert dict(unet.denoiser.named_modules()) == modules and unet.recipe.options == {}
    assert all(torch.equal(v, before[k]) for k, v in unet.denoiser.state_dict().items())
    assert np.array_equal(drawn(unet), full)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "dit", "hunyuan"])
def test_families_whose_pipelines_look_at_their_layers(name: str, tmp_path: Path) -> None:
    model = open_model(TINY[name](), store=tmp_path)
    recipe = recipe_of(model, "nf4")
    with applied(model, recipe):
        simulated = drawn(model)
    with executing(model, recipe) as execution:
        found = drawn(model)
    assert float(np.abs(found - simulated).max()) < TOLERANCE["nf4"]
    assert not any(":" in layer for layer in execution.layers), "halves of a split weight"
    assert len(execution.layers) + len(execution.simulated) == len(model.structure.layers)
    model.close()


def test_weights_leave_the_memory_and_their_mapped_file(tmp_path: Path) -> None:
    with quiet():
        TINY["sd1"]().save_pretrained(tmp_path / "saved")
    model = open_model(tmp_path / "saved", store=tmp_path / "store")
    linear = {layer.module for layer in model.structure.layers if layer.kind == "linear"}
    weights = {name: model.denoiser.get_submodule(name).weight for name in linear}
    whole = held(model.denoiser)
    maps, checkpoint = Path("/proc/self/maps"), str(tmp_path / "saved" / "unet")
    assert checkpoint in maps.read_text(), "weights are used where the file is mapped"
    with executing(model, recipe_of(model, "nf4")) as execution:
        assert all(weight.untyped_storage().nbytes() == 0 for weight in weights.values())
        saved = execution.dense_bytes - execution.packed_bytes
        assert held(model.denoiser) < whole - 0.95 * saved
        assert checkpoint not in maps.read_text(), "else its pages are resident, whoever needs them"
    assert all(model.denoiser.get_submodule(name).weight is weight for name, weight in weights.items())
    model.close()


def test_the_model_comes_back_under_the_recipe_it_had_whatever_happens(unet: Model) -> None:
    earlier = recipe_of(unet, "uaq-3")
    apply_all(unet, earlier)
    before = {k: v.clone() for k, v in unet.denoiser.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), executing(unet, recipe_of(unet, "fp4")):
        raise RuntimeError("stop")
    assert unet.recipe == earlier and not unet.executing
    assert all(torch.equal(v, before[k]) for k, v in unet.denoiser.state_dict().items())


def test_no_recipe_moves_layers_that_execute(unet: Model) -> None:
    with executing(unet, recipe_of(unet, "nf4")), pytest.raises(ModelError, match="executed on packed weights"):
        apply_all(unet, recipe_of(unet, "uaq-4"))


def test_quantized_inputs_execute_at_four_bits_and_are_refused_at_int8(unet: Model) -> None:
    layers = [layer for layer in unet.structure.choices if layer.kind == "linear"]
    inputs: Mapping[str, Activation] = {layer.name: Activation(6) for layer in layers}
    recipe = recipe_of(unet, "nf4").with_activations(inputs)
    with applied(unet, recipe):
        simulated = drawn(unet)
    with executing(unet, recipe):
        found = drawn(unet)
    with executing(unet, recipe_of(unet, "nf4")):
        assert float(np.abs(found - drawn(unet)).max()) > 1e-3, "the inputs were quantized"
    assert float(np.abs(found - simulated).max()) < TOLERANCE["nf4"]
    with pytest.raises(RecipeError, match=r"int8 with 6-bit inputs.*int8 kernel rounds inputs"):
        executable(unet, recipe_of(unet, "int8").with_activations(inputs))


def test_weights_of_a_set_execute_and_scaled_ones_are_refused(unet: Model) -> None:
    layer = next(layer for layer in unet.structure.choices if layer.kind == "linear" and layer.shape[1] >= 16)
    option, original = Option("nf4", 4), unet.originals.tensor(layer).float()
    found = {}
    for tau in (None, torch.linspace(0.5, 2, layer.shape[1])):
        source = weight_set(unet.structure, {layer.name: quantize_scaled(original * 2, option, tau, 16)},
                            {layer.name: 0.0})
        unet.add_weight_set(source)
        found[tau is not None] = Recipe(model_ref(unet.structure), {layer.name: option}).with_weights(
            source.settings(unet.structure))
    with applied(unet, found[False]):
        simulated = drawn(unet)
    with executing(unet, found[False]) as execution:
        assert execution.layers == (layer.name,) and execution.simulated == ()
        assert float(np.abs(drawn(unet) - simulated).max()) < TOLERANCE["nf4"]
    with pytest.raises(RecipeError, match=r"scaled by a factor per input channel \(tau\)"):
        executable(unet, found[True])


def test_what_cannot_be_executed_is_one_sentence(unet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="no whole Linear layer at nf4, fp4 or int8"):
        executable(unet, recipe_of(unet, "uaq-4"))
    monkeypatch.setattr(unet, "device", "cuda")
    with pytest.raises(InputError, match="run on the CPU, and the model is on cuda"):
        executable(unet, recipe_of(unet, "nf4"))


def test_tensors_that_share_memory_share_it_outside_of_their_file() -> None:
    module = nn.Module()
    file = torch.arange(100.0)
    module.a, module.b = nn.Parameter(file[:10]), nn.Parameter(file[:10])
    module.c = nn.Parameter(file[20:30])
    out_of_files(module, besides=[module.c])
    assert module.a.data_ptr() == module.b.data_ptr() != file.data_ptr()
    assert torch.equal(module.a, file[:10]) and module.c.data_ptr() == file[20:].data_ptr()
