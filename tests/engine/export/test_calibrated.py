"""Calibrated recipes in files: scaled weights, static and online activations, and one sentence where that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.core.activation import Activation
from engine.core.errors import RecipeError
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, load_recipe, uniform
from engine.export.exporting import Exported, export, plan_export
from engine.export.packed_format import WEIGHTS
from engine.export.packed_loader import load_packed
from engine.live.apply import applied, apply_all
from engine.live.generate import pictures
from engine.live.model import Model, open_model
from engine.live.request import Request
from engine.live.tables import ActivationTables
from engine.live.weightsets import weight_set
from engine.quant.activation import StaticTable
from engine.quant.qweight import TAU
from engine.quant.table import quantize_scaled

U4 = Option("uaq", 4)


def calibrated(model: Model) -> Recipe:
    """Scaled or plain weights, and inputs static (own scale, the weight's, shifted), online or left, layer by layer."""
    generator = torch.Generator().manual_seed(0)
    precision = model.structure.precision_bits
    weights, tables = {}, {}
    for number, layer in enumerate(model.structure.layers):
        channels = layer.shape[1]
        grouped = model.denoiser.get_submodule(layer.module)
        scalable = getattr(grouped, "groups", 1) == 1
        tau = (torch.rand(channels, generator=generator) + 0.5).half().float() if number % 2 and scalable else None
        weights[layer.name] = quantize_scaled(model.originals.tensor(layer).float(), U4, tau, precision)
        own = tau if number % 4 != 2 else (torch.rand(channels, generator=generator) + 0.5).half().float()
        own = own if scalable else None
        shifts = torch.randint(0, 4, (3, channels), generator=generator).to(torch.uint8) if number % 3 == 0 else None
        low = -(torch.rand(3, generator=generator) + 2).half().float()
        tables[layer.name] = StaticTable(low, -low * 2, own, shifts if scalable else None)
    held = weight_set(model.structure, weights, dict.fromkeys(weights, 0.0))
    model.add_weight_set(held)
    made = ActivationTables(model.structure.identity, (900.0, 500.0, 1.0), (0, 1, 2), tables)
    model.add_tables(made)
    names = [x.name for x in model.structure.choices]
    inputs = {n: made.setting(n, 6) if i % 5 else Activation(8) for i, n in enumerate(names) if i % 7}
    options = dict.fromkeys(names[1:], U4)
    sets = {n: s for n, s in held.settings(model.structure).items() if n in options}
    inputs = {n: a for n, a in inputs.items() if n != names[0]}
    return Recipe(uniform(model.structure, U4).model, {**options, names[0]: FP16}, inputs, weights=sets)


@pytest.fixture(params=["unet", "transformer"])
def subject(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


def test_the_packed_file_computes_what_was_previewed(subject: Model, tmp_path: Path) -> None:
    recipe = calibrated(subject)
    plan = plan_export(subject.structure, recipe, "packed")
    assert plan.counts["exact"] == len(subject.structure.layers)
    *_, done = export(subject, recipe, "packed", tmp_path / "out")
    assert isinstance(done, Exported) and done.difference.weight == 0 and done.difference.output == 0
    size = (tmp_path / "out" / subject.denoiser_name / WEIGHTS).stat().st_size
    assert abs(size / plan.file_bytes - 1) < 0.01
    pipeline = load_packed(tmp_path / "out")
    loaded = getattr(pipeline, subject.denoiser_name)
    with applied(subject, recipe):
        state = subject.denoiser.state_dict()
        assert all(torch.equal(v, state[k].to(v.dtype)) for k, v in loaded.state_dict().items())


@pytest.mark.slow
def test_the_pipeline_of_the_file_makes_the_same_pictures(unet: Model, tmp_path: Path) -> None:
    recipe = calibrated(unet)
    for _ in export(unet, recipe, "packed", tmp_path / "out"):
        pass
    request = Request(prompts=("x",), steps=3, seeds=(1,))
    with applied(unet, recipe):
        expected = pictures(unet, request, exact=True)[0]
    again = open_model(load_packed(tmp_path / "out"), store=tmp_path / "store")
    found = pictures(again, request, exact=True)[0]
    again.close()
    assert expected.exact is not None and found.exact is not None
    assert abs(expected.exact - found.exact).max() < 1e-4
    with pytest.raises(ValueError, match="calibrated for timesteps"):
        loaded = load_packed(tmp_path / "out").unet
        loaded(torch.zeros(1, 4, 8, 8), torch.tensor(5000), torch.zeros(1, 4, 32))


def test_dequantized_holds_the_weights_alone(unet: Model, tmp_path: Path) -> None:
    recipe = replace(calibrated(unet), activations={})
    *_, done = export(unet, recipe, "dequantized", tmp_path / "out")
    assert isinstance(done, Exported) and done.difference.weight == 0


def test_the_recipe_export_takes_its_sets_along(unet: Model, tmp_path: Path) -> None:
    recipe = calibrated(unet)
    for _ in export(unet, recipe, "recipe", tmp_path / "out"):
        pass
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len(names) == 3 and any(n.endswith(".weights.safetensors") for n in names)
    assert load_recipe(next((tmp_path / "out").glob("*.recipe.json"))) == recipe
    assert "beside it" in plan_export(unet.structure, recipe, "recipe").notes[0]
    assert plan_export(unet.structure, uniform(unet.structure, U4), "recipe").notes == ()


@pytest.mark.parametrize(("name", "what"), [("sdnq", "weight sets"), ("torchao", "weight sets"),
                                            ("bitsandbytes", "weight sets"), ("dequantized", "activations")])
def test_what_a_format_cannot_hold_is_one_sentence(name: str, what: str, unet: Model) -> None:
    recipe = calibrated(unet)
    if what == "weight sets":
        recipe = replace(recipe, activations={})
    with pytest.raises(RecipeError, match=what):
        plan_export(unet.structure, recipe, name)


def different(model: Model, recipe: Recipe, change: Callable[[StaticTable], StaticTable]) -> Recipe:
    """The recipe with one scaled layer's table changed."""
    name = next(n for n, a in recipe.activations.items() if a.scaled and recipe.weights[n].scaled)
    old = model.find_tables(recipe.activations[name].tables)
    made = ActivationTables(old.model, old.timesteps, old.groups, {**old.layers, name: change(old.layers[name])})
    model.add_tables(made)
    settings = {n: made.setting(n, a.bits) if a.tables else a for n, a in recipe.activations.items()}
    return replace(recipe, activations=settings)


def test_tables_that_no_file_or_arithmetic_could_hold(transformer: Model, tmp_path: Path) -> None:
    recipe = calibrated(transformer)
    doubled = different(transformer, recipe, lambda t: StaticTable(t.low, t.high, t.tau * 2, t.shifts))  # type: ignore[operator]
    with pytest.raises(RecipeError, match="scaled differently"):
        list(export(transformer, doubled, "packed", tmp_path / "a"))
    finer = different(transformer, recipe, lambda t: StaticTable(t.low * 1.0001, t.high, t.tau, t.shifts))
    with pytest.raises(RecipeError, match="more digits"):
        list(export(transformer, finer, "packed", tmp_path / "b"))
    name = next(n for n, a in recipe.activations.items() if a.tables)
    other = different(transformer, recipe, lambda t: StaticTable(t.low * 2, t.high, t.tau, t.shifts))
    mixed = replace(recipe, activations={**recipe.activations, name: other.activations[name]})
    with pytest.raises(RecipeError, match="2 sets of activation tables"):
        list(export(transformer, mixed, "packed", tmp_path / "c"))
    assert not list(tmp_path.iterdir())
    assert apply_all(transformer, Recipe(recipe.model, {})) == 0


def test_scales_are_where_they_belong(unet: Model) -> None:
    recipe = calibrated(unet)
    held = unet.find_weight_set(next(iter(recipe.weights.values())).set)
    assert any(TAU in held.load(n, U4).tensors for n in held.entries)
    kinds = {(recipe.weights[n].scaled, a.scaled, a.shifted) for n, a in recipe.activations.items()}
    assert {(True, True, False), (True, True, True), (False, False, True), (False, True, False)} <= kinds
