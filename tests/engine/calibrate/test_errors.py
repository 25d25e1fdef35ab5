"""Errors of quantized inputs per width, and of layers per sampling step, against what they are by definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.calibrate.activation_errors import activation_errors
from engine.calibrate.activation_files import (
    ActivationErrors,
    errors_path,
    find_activation_errors,
    load_activation_errors,
    save_activation_errors,
    with_activation_damage,
)
from engine.calibrate.capture import Captured, CapturePlan, capture
from engine.calibrate.looking import looking
from engine.calibrate.ranges import Ranges, collect_ranges
from engine.calibrate.step_errors import StepErrors, step_errors
from engine.core.activation import Activation
from engine.core.errors import InputError, RecipeError, StoreError
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.live.apply import applied
from engine.live.model import Model
from engine.quant.activation import quantize_online

PLAN = CapturePlan(images=2, steps=3)


def last(events: Any) -> Any:
    return [*events][-1]


@pytest.fixture()
def captured(unet: Model) -> Captured:
    found = last(capture(unet, PLAN))
    assert isinstance(found, Captured)
    return found


def test_input_errors_are_those_of_the_inputs(unet: Model, captured: Captured) -> None:
    found: ActivationErrors = last(activation_errors(unet, captured, steps=1))
    layer = next(x for x in unet.structure.layers if x.name.endswith(":1"))
    seen: list[torch.Tensor] = []
    call = next(captured.calls([0]))
    with looking(unet, [layer], inputs=lambda _, x: seen.append(x)), torch.no_grad():
        unet.denoiser(*call.args, **call.kwargs)
    x = seen[0]
    expected = float((quantize_online(x, 6, layer.kind) - x).square().sum() / x.square().sum())
    assert found.layers[layer.name]["6"] == pytest.approx(expected, rel=1e-4)
    for row in found.layers.values():
        assert row["4"] > row["6"] > row["8"] >= 0 or row["4"] == 0
    assert set(found.macs) == {x.name for x in unet.structure.layers}
    assert found.setting(layer.name, 5) == Activation(5)


def test_static_errors_use_the_tables(unet: Model, captured: Captured) -> None:
    ranges: Ranges = last(collect_ranges(unet, captured))
    errors = []
    for groups in (1, 3):
        tables = ranges.tables(groups)
        found: ActivationErrors = last(activation_errors(unet, captured, bits=(6,), tables=tables))
        assert found.scheme == "static"
        assert found.setting(unet.structure.choices[0].name, 6) == tables.setting(unet.structure.choices[0].name, 6)
        errors.append(sum(row["6"] for row in found.layers.values()))
    assert errors[1] < errors[0], "ranges of their own per group err less"


def test_tied_layers_count_together(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("dit")
    found: ActivationErrors = last(activation_errors(model, last(capture(model, PLAN)), bits=(8,)))
    assert set(found.layers) == {x.name for x in model.structure.choices}
    assert set(found.macs) == {x.name for x in model.structure.layers}, "copies do work of their own"


def test_records_are_found_by_identity_and_bad_input_is_refused(unet: Model, captured: Captured,
                                                               tmp_path: Path) -> None:
    found: ActivationErrors = last(activation_errors(unet, captured, bits=(8, 4), steps=1))
    assert find_activation_errors(unet.structure) is None
    save_activation_errors(errors_path(unet.structure, "token"), found)
    assert find_activation_errors(unet.structure) == found
    save_activation_errors(errors_path(unet.structure, "token"), replace(found, model="f" * 64))
    assert find_activation_errors(unet.structure) is None
    errors_path(unet.structure, "token").unlink()
    path = tmp_path / "x.json"
    path.write_text('{"version": 1, "model": 3}')
    with pytest.raises(StoreError, match="no activation errors"):
        load_activation_errors(path)
    with pytest.raises(InputError, match="4 to 8 bits, got 3"):
        next(activation_errors(unet, captured, bits=(3,)))
    with pytest.raises(InputError, match="cannot be profiled"):
        next(activation_errors(unet, captured, steps=9))
    one = Recipe(model_ref(unet.structure), {}, {unet.structure.choices[0].name: Activation(8)})
    with applied(unet, one), pytest.raises(RecipeError, match="without activations"):
        next(activation_errors(unet, captured))


def test_activation_damage_is_scaled_like_weight_damage() -> None:
    rows = {"a": {"8": 1e-4, "4": 1e-2}, "b": {"8": 2e-4}, "c": {"8": 1.0}}
    errors = ActivationErrors("m", "token", rows, {}, {}, {})
    weight = {"a": {"uaq-4": 0.01, "uaq-2": 0.1}, "b": {"uaq-4": 0.02}}
    found = with_activation_damage(errors, weight, {"a": {"uaq-4": 0.03, "uaq-2": 0.3}, "b": {"uaq-4": 0.02}})
    assert found["a"] == pytest.approx({8: 3e-4, 4: 3e-2}) and found["b"] == pytest.approx({8: 2e-4})
    assert found["c"][8] == pytest.approx(2.0), "a layer without damages takes the mean scale"
    assert with_activation_damage(errors, weight, weight)["a"] == pytest.approx({8: 1e-4, 4: 1e-2})


def test_full_precision_has_no_error_at_any_step(unet: Model) -> None:
    found: StepErrors = last(step_errors(unet, Recipe(model_ref(unet.structure), {}), images=2, steps=2))
    assert all(v == 0 for row in found.values for v in row)
    assert set(found.output) == {0.0} and set(found.latents) == {0.0}


def test_step_errors_are_relative_output_errors(unet: Model, captured: Captured) -> None:
    recipe = uniform(unet.structure, Option("uaq", 3))
    found: StepErrors = last(step_errors(unet, recipe, captured=captured))
    assert found.timesteps == captured.timesteps and len(found.layers) == len(unet.structure.layers)
    layer = unet.structure.layers[6]
    seen: list[torch.Tensor] = []
    call = next(captured.calls([1]))

    def look() -> tuple[torch.Tensor, torch.Tensor]:
        with looking(unet, [layer], outputs=lambda _, x: seen.append(x.clone())), torch.no_grad():
            return unet.denoiser(*call.args, **call.kwargs)[0], seen.pop()

    full_out, full = look()
    with applied(unet, recipe):
        out, other = look()
    index = found.layers.index(layer.name)
    assert found.values[index][1] == pytest.approx(float((other - full).square().sum() / full.square().sum()), rel=1e-4)
    assert found.output[1] == pytest.approx(float((out - full_out).square().sum() / full_out.square().sum()), rel=1e-4)
    assert len(found.latents) == 3 and all(v > 0 for v in found.latents)
    assert from_json(StepErrors, to_json(found)) == found


def test_steps_can_be_compared_one_at_a_time_and_the_recipe_comes_back(unet: Model, captured: Captured,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    names = [x.name for x in unet.structure.choices]
    recipe = uniform(unet.structure, Option("uaq", 4)).with_activations({names[2]: Activation(6)})
    before = uniform(unet.structure, Option("uaq", 6))
    with applied(unet, before):
        whole: StepErrors = last(step_errors(unet, recipe, captured=captured))
        monkeypatch.setattr("engine.calibrate.step_errors.HELD_BYTES", 1)
        parts: StepErrors = last(step_errors(unet, recipe, captured=captured))
        assert unet.recipe is before
    assert whole == parts


def test_activations_alone_show_from_their_layer_on(unet: Model, captured: Captured) -> None:
    layer = next(x for x in unet.structure.choices if x.name.startswith("up_blocks.0"))
    recipe = Recipe(model_ref(unet.structure), {}, {layer.name: Activation(4)})
    found: StepErrors = last(step_errors(unet, recipe, captured=captured))
    first = found.layers.index(layer.name)
    assert all(v == 0 for row in found.values[:first - 1] for v in row)
    assert all(v > 0 for v in found.values[first])
