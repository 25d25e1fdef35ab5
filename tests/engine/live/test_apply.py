"""Recipes in and out of live weights: only differences move, and everything comes back bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.core.activation import Activation
from engine.core.errors import Cancelled, OptionError, RecipeError
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.live.apply import applied, apply, apply_all, restore
from engine.live.model import Model, open_model
from engine.live.originals import live_weight
from engine.models.tiny import TINY
from engine.quant.table import quantize

U3, U4, K3 = Option("uaq", 3), Option("uaq", 4), Option("kmeans_a", 3)


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.denoiser.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["sd1", "dit", "ddpm"])
def test_restoring_is_bit_for_bit(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    before = weights(model)
    with applied(model, uniform(model.structure, U3)):
        assert not same(before, weights(model))
        apply_all(model, uniform(model.structure, K3))
    assert same(before, weights(model)) and model.recipe.options == {}


def test_weights_are_what_the_quantizer_says(unet: Model) -> None:
    apply_all(unet, uniform(unet.structure, U3))
    for layer in unet.structure.layers[::7]:
        expected = quantize(unet.originals.tensor(layer), U3, unet.structure.precision_bits).dequantize()
        assert torch.equal(live_weight(unet.denoiser, layer), expected)


def test_a_difference_equals_a_fresh_application(unet: Model, tmp_path: Path) -> None:
    names = [layer.name for layer in unet.structure.choices]
    first = uniform(unet.structure, U4)
    second = first.with_options({names[3]: U3, names[10]: FP16, names[20]: K3})
    apply_all(unet, first)
    records = list(apply(unet, second))
    assert [r.layer for r in records] == [names[3], names[10], names[20]]
    assert [(r.index, r.of) for r in records] == [(1, 3), (2, 3), (3, 3)]
    stepwise = weights(unet)
    fresh = open_model(TINY["sd1"](), store=tmp_path)
    apply_all(fresh, second)
    assert same(stepwise, weights(fresh))
    assert list(apply(unet, second)) == []
    fresh.close()


def test_layers_a_recipe_does_not_name_return_to_full_precision(unet: Model) -> None:
    before = weights(unet)
    name = unet.structure.choices[5].name
    apply_all(unet, uniform(unet.structure, U3))
    apply_all(unet, Recipe(model_ref(unet.structure), {name: U4}))
    assert unet.recipe.options == {name: U4}
    layer = unet.structure.layer(name)
    changed = [k for k, v in weights(unet).items() if not torch.equal(v, before[k])]
    assert changed == [f"{layer.module}.weight"]
    assert restore(unet) == 1 and same(before, weights(unet))


def test_halves_of_a_split_tensor_move_alone(unet: Model) -> None:
    halves = [x for x in unet.structure.layers if x.name.endswith(":1")]
    assert halves, "the tiny U-Net has long skips"
    for layer in halves[:2]:
        before = unet.denoiser.get_submodule(layer.module).weight.detach().clone()
        apply_all(unet, Recipe(model_ref(unet.structure), {layer.name: U3}))
        after = unet.denoiser.get_submodule(layer.module).weight.detach()
        assert torch.equal(after[:, :layer.start], before[:, :layer.start])
        expected = quantize(before[:, layer.start:layer.stop], U3, unet.structure.precision_bits).dequantize()
        assert torch.equal(after[:, layer.start:layer.stop], expected) and not torch.equal(after, before)
        restore(unet)


def test_tied_copies_follow_their_choice_with_their_own_weights(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("dit")
    copies = [x for x in model.structure.layers if x.tie]
    assert copies, "the tiny DiT repeats its timestep embedder"
    leader = model.structure.layer(copies[0].tie)
    group = model.groups[leader.name]
    assert len(group) == 3
    (record,) = apply(model, Recipe(model_ref(model.structure), {leader.name: U3}))
    assert record.weights == sum(x.weights for x in group)
    for layer in group:
        expected = quantize(model.originals.tensor(layer), U3, model.structure.precision_bits).dequantize()
        assert torch.equal(live_weight(model.denoiser, layer), expected)
    restore(model)


class After:
    """Asks to stop at the n-th question."""

    def __init__(self, n: int) -> None:
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_cancelled_recipe_leaves_true_layers_and_a_true_record(unet: Model) -> None:
    before = weights(unet)
    recipe = uniform(unet.structure, U3)
    with pytest.raises(Cancelled):
        apply_all(unet, recipe, cancel=After(7))
    assert len(unet.recipe.options) == 7 and set(unet.recipe.options.values()) == {U3}
    for layer in unet.structure.choices:
        live = live_weight(unet.denoiser, layer)
        original = unet.originals.tensor(layer)
        option = unet.recipe.option(layer.name)
        bits = unet.structure.precision_bits
        expected = original if option == FP16 else quantize(original, option, bits).dequantize()
        assert torch.equal(live, expected.to(live.dtype))
    with pytest.raises(Cancelled), applied(unet, uniform(unet.structure, U4), cancel=After(3)):
        raise AssertionError("not reached")
    assert len(unet.recipe.options) == 7
    restore(unet)
    assert same(before, weights(unet))


def test_a_layer_interrupted_half_way_is_written_again(unet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import engine.live.apply as module

    layer = unet.structure.choices[4]
    calls = []

    def broken(denoiser: torch.nn.Module, one: object) -> torch.Tensor:
        calls.append(one)
        live_weight(denoiser, layer).fill_(7)
        raise KeyboardInterrupt

    recipe = Recipe(model_ref(unet.structure), {layer.name: U3})
    monkeypatch.setattr(module, "live_weight", broken)
    with pytest.raises(KeyboardInterrupt):
        apply_all(unet, recipe)
    monkeypatch.undo()
    restore(unet)
    assert torch.equal(live_weight(unet.denoiser, layer), unet.originals.tensor(layer))


def test_an_exception_inside_the_block_restores_too(unet: Model) -> None:
    before = weights(unet)
    with pytest.raises(ZeroDivisionError), applied(unet, uniform(unet.structure, U3)):
        raise ZeroDivisionError
    assert same(before, weights(unet))


def test_a_recipe_keeps_its_origin_while_it_is_applied(unet: Model) -> None:
    recipe = uniform(unet.structure, U4)
    apply_all(unet, recipe)
    assert unet.recipe is recipe and unet.recipe.provenance["allocator"] == "uniform"
    apply_all(unet, recipe.with_options({unet.structure.choices[0].name: U3}))
    assert unet.recipe is not recipe


def test_recipes_that_do_not_fit_are_refused_before_anything_moves(unet: Model) -> None:
    before = weights(unet)
    good = uniform(unet.structure, U3)
    for bad, words in (
        (replace(good, options={"nowhere": U3}), "does not have"),
        (replace(good, model=replace(good.model, identity="f" * 64)), "made for another model"),
        (replace(good, activations={unet.structure.choices[0].name: Activation(8, "static", "0" * 12, 4)}),
         "tables 000000000000"),
    ):
        with pytest.raises(RecipeError, match=words):
            apply(unet, bad)
    assert same(before, weights(unet))
    stranger = replace(good, model=replace(good.model, identity="f" * 64))
    assert apply_all(unet, stranger, transfer=True) == len(unet.structure.choices)


def test_broken_weights_are_named_and_the_rest_stays(tmp_path: Path) -> None:
    pipeline = TINY["ddpm"]()
    module = next(m for m in pipeline.unet.modules() if isinstance(m, torch.nn.Linear))
    path = next(n for n, m in pipeline.unet.named_modules() if m is module)
    with torch.no_grad():
        module.weight[0, 0] = float("nan")
    model = open_model(pipeline, store=tmp_path)
    with pytest.raises(OptionError, match=path.replace(".", r"\.")):
        apply_all(model, uniform(model.structure, U3))
    assert path not in model.recipe.options
    restore(model)
    model.close()


def test_half_precision_models_take_recipes_and_come_back(tmp_path: Path) -> None:
    model = open_model(TINY["ddpm"](), dtype="bfloat16", store=tmp_path)
    before = weights(model)
    layer = model.structure.choices[1]
    with applied(model, uniform(model.structure, U3)):
        expected = quantize(model.originals.tensor(layer), U3, model.structure.precision_bits).dequantize()
        assert torch.equal(live_weight(model.denoiser, layer), expected.bfloat16())
    assert same(before, weights(model))
    model.close()


def test_a_preview_goes_on_when_the_store_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = threading.active_count()
    model = open_model(TINY["ddpm"](), store=tmp_path / "file" / "store")
    assert apply_all(model, uniform(model.structure, U3)) > 0
    assert "Cannot write" in model.store.problem
    restore(model)
    model.close()
    assert threading.active_count() < before + 20
