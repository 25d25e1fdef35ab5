"""Ranges: streamed equals taken at once; tables hold what was seen; layers and channels that never speak are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from engine.calibrate.capture import Captured, CapturePlan, capture, replay
from engine.calibrate.looking import looking
from engine.calibrate.ranges import Ranges, collect_ranges
from engine.core.activation import Activation
from engine.core.errors import InputError, RecipeError
from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.live.apply import applied
from engine.live.generate import pictures
from engine.live.macs import layer_macs
from engine.live.model import Model
from engine.live.request import Request
from engine.live.schedules import other_scheduler


def last(events: Any) -> Any:
    return [*events][-1]


@pytest.fixture()
def captured(unet: Model) -> Captured:
    found = last(capture(unet, CapturePlan(images=3, steps=4, batch=2)))
    assert isinstance(found, Captured)
    return found


def test_streamed_ranges_equal_those_of_all_inputs_at_once(unet: Model, captured: Captured) -> None:
    ranges: Ranges = last(collect_ranges(unet, captured))
    layer = next(x for x in unet.structure.layers if x.name.endswith(":1"))
    seen: dict[int, list[torch.Tensor]] = {}
    rows: list[torch.Tensor] = []
    with looking(unet, [layer], inputs=lambda _, x: rows.append(x)):
        for call in replay(unet, captured):
            seen.setdefault(call.step, []).extend(rows)
            rows.clear()
    for step, parts in seen.items():
        x = torch.cat(parts)
        assert x.shape[1] == layer.stop - layer.start
        assert torch.equal(ranges.low[layer.name][step], x.amin((0, 2, 3)))
        assert torch.equal(ranges.high[layer.name][step], x.amax((0, 2, 3)))
    assert ranges.missing == () and set(ranges.low) == {x.name for x in unet.structure.layers}


def test_tables_cover_what_was_seen_per_group(unet: Model, captured: Captured) -> None:
    ranges: Ranges = last(collect_ranges(unet, captured))
    tables = ranges.tables(2)
    assert tables.count == 2 and len(tables.timesteps) == 4 and tables.groups == (0, 0, 1, 1)
    name = unet.structure.layers[5].name
    for group, steps in ((0, [0, 1]), (1, [2, 3])):
        assert tables.layers[name].low[group] == ranges.low[name][steps].min()
        assert tables.layers[name].high[group] == ranges.high[name][steps].max()
    tau = torch.full((ranges.low[name].shape[1],), 2.0)
    scaled = ranges.tables(1, {name: tau}).layers[name]
    assert scaled.high[0] == ranges.high[name].max() / 2 and torch.equal(scaled.tau, tau)
    assert ranges.tables(99).count == 4
    with pytest.raises(InputError, match="0 timestep groups"):
        ranges.tables(0)


def test_a_percentile_cuts_and_more_groups_err_less(unet: Model, captured: Captured) -> None:
    whole: Ranges = last(collect_ranges(unet, captured))
    cut: Ranges = last(collect_ranges(unet, captured, percentile=99))
    for name in whole.low:
        assert bool((cut.high_cut[name] <= whole.high[name].amax(1)).all())
        assert bool((cut.low_cut[name] >= whole.low[name].amin(1)).all())
    with pytest.raises(InputError, match="without a percentile"):
        cut.tables(2, {"x": torch.ones(1)})
    request = Request(prompts=("a cat",), seeds=(3,), steps=4)
    full = pictures(unet, request, exact=True)[0].exact
    assert full is not None
    errors = []
    for groups in (1, 4):
        tables = whole.tables(groups)
        unet.add_tables(tables)
        settings = {x.name: tables.setting(x.name, 5) for x in unet.structure.choices}
        with applied(unet, Recipe(model_ref(unet.structure), {}, settings)):
            made = pictures(unet, request, exact=True)[0].exact
        assert made is not None
        errors.append(float(np.square(made - full).mean()))
    assert 0 < errors[1] < errors[0] < 1e-2


def test_outliers_and_dead_channels_by_hand() -> None:
    low, high = torch.tensor([[-1.0, -1.0, -8.0, 0.0]]), torch.tensor([[1.0, 0.5, 2.0, 0.0]])
    ranges = Ranges("m", (1.0,), {"a": low, "b": low * 0}, {"a": high, "b": high * 0})
    assert ranges.outlier_scores() == {"a": 8.0, "b": 0.0}
    assert ranges.dead_channels() == {"a": 1, "b": 4}
    assert float(ranges.tables(1).layers["b"].parameters(8)[0]) == 1.0, "a dead layer has a grid that holds zero"


def test_layers_that_never_run_have_no_table(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("dit")
    found = last(capture(model, CapturePlan(images=1, steps=2)))
    block = model.denoiser.transformer_blocks[1]
    own = block.forward
    try:
        block.forward = lambda hidden_states, *args, **kwargs: hidden_states
        ranges: Ranges = last(collect_ranges(model, found))
    finally:
        block.forward = own
    assert ranges.missing and all(name.startswith("transformer_blocks.1.") for name in ranges.missing)
    with pytest.raises(RecipeError, match="was not executed"):
        ranges.tables(1).setting(ranges.missing[0], 8)


def test_ranges_are_of_the_weights_applied_and_of_unquantized_inputs(unet: Model, captured: Captured) -> None:
    plain: Ranges = last(collect_ranges(unet, captured))
    with applied(unet, uniform(unet.structure, Option("uaq", 3))):
        other: Ranges = last(collect_ranges(unet, captured))
    assert other.about["weights"] != plain.about["weights"]
    assert not torch.equal(other.high[unet.structure.layers[-1].name], plain.high[unet.structure.layers[-1].name])
    name = unet.structure.choices[0].name
    with applied(unet, Recipe(model_ref(unet.structure), {}, {name: Activation(8)})), \
            pytest.raises(RecipeError, match="full precision"):
        next(collect_ranges(unet, captured))
    for bad in (0, 50, 101):
        with pytest.raises(InputError, match="percentile"):
            next(collect_ranges(unet, captured, percentile=bad))
    with pytest.raises(InputError, match="no layer called 'nowhere'"):
        next(collect_ranges(unet, captured, layers=["nowhere"]))


def test_macs_are_weights_times_positions(unet: Model) -> None:
    macs = layer_macs(unet)
    assert set(macs) == {x.name for x in unet.structure.layers}
    first = unet.structure.layer("conv_in")
    assert macs["conv_in"] == first.weights * 8 * 8  # latents of 8 x 8
    query = next(x for x in unet.structure.layers if x.name.endswith("attn2.to_q"))
    key = next(x for x in unet.structure.layers if x.name.endswith("attn2.to_k"))
    tokens = 77  # as the pipeline pads them
    assert macs[key.name] == key.weights * tokens and macs[query.name] % query.weights == 0


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", pytest.param("pixart-alpha", marks=pytest.mark.slow), "ddpm"])
@pytest.mark.parametrize("calibrated", [5, 20])
def test_tables_serve_five_to_fifty_steps_of_their_scheduler(tiny_model: Callable[[str], Model], name: str,
                                                             calibrated: int) -> None:
    model = tiny_model(name)
    found: Captured = last(capture(model, CapturePlan(images=1, steps=calibrated)))
    layer = model.structure.choices[0].name
    tables = last(collect_ranges(model, found, layers=[layer])).tables()
    model.add_tables(tables)
    recipe = Recipe(model_ref(model.structure), {}, {layer: tables.setting(layer, 8)})
    for steps in {5, 50} - {calibrated}:
        request = Request(prompts=("x",), steps=steps)
        assert other_scheduler(model, recipe, request) == ""
        with applied(model, recipe):
            assert np.isfinite(pictures(model, request, exact=True)[0].exact).all()


def test_another_scheduler_is_told(unet: Model, captured: Captured) -> None:
    tables = last(collect_ranges(unet, captured)).tables()
    unet.add_tables(tables)
    layer = unet.structure.choices[0].name
    recipe = Recipe(model_ref(unet.structure), {}, {layer: tables.setting(layer, 8)})
    request = Request(prompts=("x",), steps=2, scheduler="EulerDiscreteScheduler")
    sentence = other_scheduler(unet, recipe, request)
    assert "calibrated with DDIMScheduler, and EulerDiscreteScheduler draws" in sentence and sentence.count(".") == 1
    assert other_scheduler(unet, Recipe(recipe.model, {}, {layer: Activation(8)}), request) == ""
