"""Quantized inputs on live models: off is bit-identical, 8 bits err little, tables follow the denoiser's timestep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.core.activation import Activation
from engine.core.errors import InputError, RecipeError, StoreError
from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.live.activations import TimeContext
from engine.live.apply import applied, apply_all, restore
from engine.live.generate import pictures
from engine.live.model import Model, open_model
from engine.live.request import Request
from engine.live.tables import ActivationTables, find_tables, load_tables, merged_groups, save_tables, tables_path
from engine.models.tiny import TINY
from engine.quant.activation import StaticTable, quantize_online

FAMILIES = ("sd1", "sdxl", "sd3", "pixart-alpha", "dit", "hunyuan", "sana", "ddpm")
STEPS = (980.0, 660.0, 340.0, 20.0)


def inputs_only(model: Model, setting: Activation) -> Recipe:
    return Recipe(model_ref(model.structure), {}, {layer.name: setting for layer in model.structure.choices})


def picture(model: Model, **settings: Any) -> np.ndarray:
    made = pictures(model, Request(prompts=("a cat",), seeds=(3,), **{"steps": 2, **settings}), exact=True)
    assert made[0].exact is not None
    return made[0].exact


def tables_of(model: Model, groups: int = 2, reach: float = 4.0) -> ActivationTables:
    """Hand-made tables with the same generous range for every layer; later groups are a little narrower."""
    high = torch.tensor([reach * (1 - 0.1 * g) for g in range(groups)])
    return ActivationTables(model.structure.identity, STEPS, merged_groups(STEPS, groups),
                            {layer.name: StaticTable(-high, high) for layer in model.structure.layers})


@pytest.mark.parametrize("name", FAMILIES)
def test_eight_bits_err_little_and_off_is_bit_identical(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    before = picture(model)
    with applied(model, inputs_only(model, Activation(8))):
        eight = picture(model)
    with applied(model, inputs_only(model, Activation(4))):
        four = picture(model)
    assert np.array_equal(picture(model), before) and model.inputs.settings == {}
    errors = [float(np.square(x - before).mean()) for x in (eight, four)]
    assert 0 < errors[0] < 1e-3 and errors[0] < errors[1]


def test_a_layer_sees_its_quantized_input(unet: Model) -> None:
    """By hand on one linear layer, one convolution, and both halves of a split convolution."""
    linear = next(x for x in unet.structure.choices if x.kind == "linear")
    trunk = next(x for x in unet.structure.choices if x.name.endswith(":0"))
    skip = unet.structure.layer(f"{trunk.module}:1")
    settings = {linear.name: Activation(6), skip.name: Activation(4)}
    apply_all(unet, Recipe(model_ref(unet.structure), {}, settings))
    module: Any = unet.denoiser.get_submodule(linear.module)
    x = torch.randn(2, 5, linear.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(module(x), torch.nn.functional.linear(quantize_online(x, 6, "linear"), module.weight,
                                                                 module.bias))
    conv: Any = unet.denoiser.get_submodule(trunk.module)
    x = torch.randn(2, skip.stop, 4, 4, generator=torch.Generator().manual_seed(0))
    halves = torch.cat([x[:, :trunk.stop], quantize_online(x[:, trunk.stop:], 4, "conv2d")], dim=1)
    with torch.no_grad():
        expected = torch.nn.functional.conv2d(halves, conv.weight, conv.bias)
        assert torch.equal(conv(x), expected)
        assert torch.equal(conv(input=x), expected)


def test_weights_and_inputs_of_a_recipe_compose_and_differences_switch(unet: Model) -> None:
    names = [layer.name for layer in unet.structure.choices]
    both = uniform(unet.structure, Option("uaq", 4)).with_activations(dict.fromkeys(names, Activation(8)))
    apply_all(unet, both)
    assert unet.recipe is both
    first = picture(unet)
    fewer = both.with_activations({names[0]: None, names[1]: Activation(4)})
    assert apply_all(unet, fewer) == 0, "no weight moves"
    assert unet.inputs.settings == fewer.activations and unet.recipe is fewer
    assert not np.array_equal(picture(unet), first)
    apply_all(unet, both)
    assert np.array_equal(picture(unet), first)
    restore(unet)
    assert unet.recipe.activations == {}


@pytest.mark.parametrize("name", ["sd1", "dit", "pixart-alpha", "sdxl"])
@pytest.mark.parametrize("steps", [1, 5])
def test_static_tables_serve_other_step_counts(tiny_model: Callable[[str], Model], name: str, steps: int) -> None:
    model = tiny_model(name)
    if name == "pixart-alpha" and steps == 1:
        steps = 3  # its pipeline takes one step for a distilled model
    tables = tables_of(model)
    model.add_tables(tables)
    recipe = inputs_only(model, tables.setting(model.structure.choices[0].name, 8))
    before = picture(model, steps=steps)
    with applied(model, recipe):
        eight = picture(model, steps=steps)
    assert 0 < float(np.square(eight - before).mean()) < 5e-3


def test_the_group_follows_the_denoisers_own_argument(unet: Model) -> None:
    tables = tables_of(unet, groups=4)
    unet.add_tables(tables)
    apply_all(unet, inputs_only(unet, tables.setting(unet.structure.choices[0].name, 4)))
    seen: list[Any] = []
    module = unet.denoiser.get_submodule(unet.structure.choices[0].module)
    hook = module.register_forward_hook(lambda *_: seen.append(unet.inputs.context.group(tables)))
    picture(unet, steps=4)
    hook.remove()
    scheduler = unet.pipeline.scheduler
    scheduler.set_timesteps(4)
    assert seen == [tables.group(float(t)) for t in scheduler.timesteps] and len(set(seen)) == 3
    assert unet.inputs.context.timestep is None
    with pytest.raises(Exception, match="outside of its denoiser"), torch.no_grad():
        unet.denoiser.get_submodule(unet.structure.layers[0].module)(torch.zeros(1, 4, 8, 8))


def test_a_batch_of_several_timesteps_equals_its_samples_alone(unet: Model) -> None:
    tables = tables_of(unet)
    unet.add_tables(tables)
    apply_all(unet, inputs_only(unet, tables.setting(unet.structure.choices[0].name, 6)))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 7, unet.denoiser.config.cross_attention_dim, generator=generator)
    times = torch.tensor([900, 100])
    with torch.no_grad():
        together = unet.denoiser(latents, times, text).sample
        for i in range(2):
            alone = unet.denoiser(latents[i:i + 1], times[i], text[i:i + 1]).sample
            assert torch.allclose(together[i:i + 1], alone, atol=1e-4)


def test_half_precision_models_take_both_schemes(tmp_path: Path) -> None:
    model = open_model(TINY["sd1"](), dtype="float16", store=tmp_path)
    tables = tables_of(model)
    model.add_tables(tables)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    text = torch.randn(2, 7, model.denoiser.config.cross_attention_dim).half()
    with torch.no_grad():
        full = model.denoiser(latents, 500, text).sample
        for setting in (Activation(8), tables.setting(model.structure.choices[0].name, 8)):
            with applied(model, inputs_only(model, setting)):
                out = model.denoiser(latents, 500, text).sample
            assert out.dtype == torch.float16
            assert 0 < float((out - full).float().square().mean() / full.float().square().mean()) < 0.05
    model.close()


def test_context_groups() -> None:
    tables = ActivationTables("m", STEPS, (0, 0, 1, 1), {})
    assert tables.edges == (500.0,) and tables.count == 2
    assert [tables.group(t) for t in (999, 980, 501, 499, 20, 1, 0)] == [0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(InputError, match=r"calibrated for timesteps 980 to 20, and this schedule asks for 1500"):
        tables.group(1500)
    context = TimeContext()
    context.enter(torch.tensor([900, 900]))
    assert context.group(tables) == 0
    context.enter(torch.tensor([900, 100]))
    assert context.group(tables).tolist() == [0, 1]  # type: ignore[union-attr]
    assert merged_groups(STEPS, 3) == (0, 0, 1, 2) and merged_groups(STEPS, 9) == (0, 1, 2, 3)
    with pytest.raises(InputError, match="0 timestep groups"):
        merged_groups(STEPS, 0)


def schedule(*timesteps: float) -> ActivationTables:
    return ActivationTables("m", timesteps, tuple(range(len(timesteps))), {})


@pytest.mark.parametrize(("calibrated", "served", "refused"), [
    ((999,), (1000, 950), (5000, 940, 1, 1051)),  # one timestep shows no gap: a twentieth of the schedule
    ((1,), (1,), (980, 51)), ((0.9,), (0.95, 0.86), (0.8, 1.0)), ((500,), (550, 450), (600, 0)),
    ((501, 1), (801, 0), (902, 980, 5000)),  # two steps, leading, serve five and not fifty
    ((999, 499), (999, 200), (90, 1051, 5000)),
    ((801, 601, 401, 201, 1), (981, 1, 0), (1002, 1100, 5000)),  # five, leading: any number of steps
    ((1000, 923, 818, 667, 429), (1000, 58), (20, 1051)),  # five, flow with a shift of 3
    ((1.0, 0.923, 0.818, 0.667, 0.429), (0.058,), (0.02, 1.06, 58)),  # the same in shares
    ((951, 901, 851), (999, 500), (1002, 400)),
])
def test_how_far_tables_serve(calibrated: tuple[float, ...], served: tuple[float, ...],
                              refused: tuple[float, ...]) -> None:
    tables = schedule(*calibrated)
    assert all(0 <= tables.group(t) < len(calibrated) for t in served)
    for timestep in refused:
        with pytest.raises(InputError, match="choose the scheduler they were made with"):
            tables.group(timestep)


def test_tables_round_trip_bit_exact_and_are_found_by_id(unet: Model) -> None:
    layers = unet.structure.layers
    held = {layers[0].name: StaticTable(torch.tensor([-1.0, -0.3]), torch.tensor([2.0, 1 / 3]),
                                        torch.rand(layers[0].shape[1]) + 0.5,
                                        torch.randint(0, 4, (2, layers[0].shape[1]), dtype=torch.uint8), bits=6)}
    tables = ActivationTables(unet.structure.identity, STEPS, (0, 0, 0, 1), held, {"images": "4"})
    path = tables_path(unet.structure, tables.id)
    save_tables(path, tables)
    again = find_tables(unet.structure, tables.id)
    assert again.id == tables.id and again.about == {"images": "4"} and again.groups == tables.groups
    for part in ("low", "high", "tau", "shifts"):
        assert torch.equal(getattr(again.layers[layers[0].name], part), getattr(held[layers[0].name], part))
    setting = again.setting(layers[0].name, 6)
    assert setting == Activation(6, "static", tables.id, 2, scaled=True, shifted=True)
    apply_all(unet, Recipe(model_ref(unet.structure), {}, {layers[0].name: setting}))
    with pytest.raises(RecipeError, match="made for 6 bits, not 8"):
        again.setting(layers[0].name, 8)
    with pytest.raises(RecipeError, match="was not executed"):
        again.setting(layers[1].name, 6)
    with pytest.raises(RecipeError, match="what they are not"):
        apply_all(unet, Recipe(model_ref(unet.structure), {}, {layers[0].name: replace(setting, groups=3)}))
    path.unlink()


def test_tables_of_another_model_and_damaged_ones_are_refused(unet: Model, tmp_path: Path) -> None:
    stranger = replace(tables_of(unet), model="f" * 64)
    with pytest.raises(StoreError, match="another model"):
        unet.add_tables(stranger)
    path = tables_path(unet.structure, stranger.id)
    save_tables(path, stranger)
    with pytest.raises(StoreError, match="another model"):
        find_tables(unet.structure, stranger.id)
    path.unlink()
    good = tables_of(unet)
    path = tmp_path / "x.safetensors"
    save_tables(path, good)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="calibrate again"):
        load_tables(path)
    with pytest.raises(StoreError, match="cannot be read"):
        load_tables(tmp_path / "missing.safetensors")
    with pytest.raises(StoreError, match="falling timesteps"):
        replace(good, timesteps=(1.0, 2.0, 3.0, 4.0))
