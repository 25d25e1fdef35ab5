"""Recipes that take weights from a set: applied by difference, taken back bit for bit, refused where the set is not."""

from __future__ import annotations

import pytest
import torch

from engine.core.errors import RecipeError
from engine.core.fromset import FromSet
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, load_recipe, recipe_from_json, recipe_to_json, save_recipe, sizes, uniform
from engine.live.apply import applied, apply_all, restore
from engine.live.model import Model
from engine.live.originals import live_weight
from engine.live.weightsets import WeightSet, weight_set
from engine.quant.table import quantize, quantize_scaled

U4, U3 = Option("uaq", 4), Option("uaq", 3)


def held_of(model: Model, *, scaled: bool) -> WeightSet:
    """Every layer at uaq-4, with a factor per channel if `scaled`, else with every code one too high or low."""
    weights = {}
    for layer in model.structure.layers:
        original = model.originals.tensor(layer).float()
        tau = torch.linspace(0.5, 2, layer.shape[1]) if scaled else None
        weights[layer.name] = quantize_scaled(original if scaled else original * 1.01, U4, tau, 16)
    return weight_set(model.structure, weights, dict.fromkeys(weights, 0.0))


def with_set(model: Model, held: WeightSet) -> Recipe:
    model.add_weight_set(held)
    return uniform(model.structure, U4).with_weights(held.settings(model.structure))


def test_weights_come_from_the_set_and_go_back(unet: Model) -> None:
    before = {k: v.clone() for k, v in unet.denoiser.state_dict().items()}
    held = held_of(unet, scaled=True)
    recipe = with_set(unet, held)
    with applied(unet, recipe):
        assert unet.recipe == recipe
        for layer in unet.structure.layers[::5]:
            expected = held.load(layer.name, U4).dequantize()
            assert torch.equal(live_weight(unet.denoiser, layer), expected)
    assert unet.sets == {}
    assert all(torch.equal(before[k], v) for k, v in unet.denoiser.state_dict().items())


def test_only_what_differs_moves(unet: Model) -> None:
    first, second = held_of(unet, scaled=True), held_of(unet, scaled=False)
    plain, a, b = uniform(unet.structure, U4), with_set(unet, first), with_set(unet, second)
    assert apply_all(unet, plain) == len(unet.structure.choices)
    assert apply_all(unet, a) == len(unet.structure.choices)
    assert apply_all(unet, a) == 0
    name = unet.structure.choices[4].name
    mixed = a.with_weights({**a.weights, name: b.weights[name]})
    assert apply_all(unet, mixed) == 1 and unet.recipe == mixed
    assert apply_all(unet, plain) == len(unet.structure.choices)
    layer = unet.structure.layer(name)
    expected = quantize(unet.originals.tensor(layer), U4, unet.structure.precision_bits).dequantize()
    assert torch.equal(live_weight(unet.denoiser, layer), expected)
    restore(unet)


def test_editing_a_layer_leaves_the_set_there(unet: Model) -> None:
    recipe = with_set(unet, held_of(unet, scaled=True))
    name, other = (unet.structure.choices[i].name for i in (4, 5))
    changed = recipe.with_options({name: U3, other: U4})
    assert name not in changed.weights and other in changed.weights
    with applied(unet, changed):
        assert unet.options[name] == U3 and name not in unet.sets and other in unet.sets


def test_what_does_not_fit_moves_nothing(unet: Model) -> None:
    held = held_of(unet, scaled=True)
    recipe = with_set(unet, held)
    name = unet.structure.choices[0].name
    unknown = recipe.with_weights({name: FromSet("f" * 12)})
    for bad, said in ((unknown, "not on this machine"),
                      (recipe.with_weights({name: FromSet(held.id)}), "scaling"),
                      (recipe.with_weights({"nowhere": FromSet(held.id)}), "does not have"),
                      (Recipe(recipe.model, {name: FP16}, weights={name: FromSet(held.id, True)}), "untouched"),
                      (Recipe(recipe.model, {name: U3}, weights={name: FromSet(held.id, True)}), "asks for uaq-3")):
        with pytest.raises(RecipeError, match=said):
            apply_all(unet, bad)
        assert unet.recipe.options == {}


def test_recipes_carry_the_reference(unet: Model, tmp_path: object) -> None:
    recipe = with_set(unet, held_of(unet, scaled=True))
    assert recipe_from_json(recipe_to_json(recipe, unet.structure)) == recipe
    path = f"{tmp_path}/a.recipe.json"
    save_recipe(path, recipe, unet.structure)
    assert load_recipe(path) == recipe and load_recipe(path).hash == recipe.hash
    plain = uniform(unet.structure, U4)
    assert plain.hash != recipe.hash and "weights" not in recipe_to_json(plain)
    extra = sum(layer.shape[1] * unet.structure.precision_bits // 8 for layer in unet.structure.layers)
    assert sizes(unet.structure, recipe)["bytes"] == sizes(unet.structure, plain)["bytes"] + extra
