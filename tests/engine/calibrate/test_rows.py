"""Drawn rows: even over the steps, whole pictures held out, and replayed to the very inputs of the whole call."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.calibrate.capture import Captured, replay
from engine.calibrate.gather import block_inputs, block_outputs, grouped, layer_inputs
from engine.calibrate.rows import RowsPlan, draw_rows
from engine.calibrate.units import alone, units_of
from engine.core.errors import InputError
from engine.live.model import Model
from engine.models.structure import read_structure
from tests.engine.calibrate.trajectories import captured_of

BLOCKS = ("down_blocks.0.resnets.0", "down_blocks.0.attentions.0.transformer_blocks.0", "up_blocks.1.resnets.0")


@pytest.fixture(scope="module")
def trajectories(guided: Model) -> Captured:
    return captured_of(guided, images=5, steps=3)


def test_rows_are_even_over_steps_and_whole_pictures_are_held(guided: Model, trajectories: Captured) -> None:
    rows = draw_rows(guided, trajectories, RowsPlan(count=14, held=0.4))
    assert rows.count == 14 and sorted(torch.bincount(rows.steps).tolist()) == [4, 5, 5]
    assert rows.held.any() and not rows.held.all()
    everything = draw_rows(guided, trajectories, RowsPlan(count=10_000, held=0.4))
    assert everything.count == 3 * 5 * 2  # both guidance halves
    assert int(everything.held.sum()) == 3 * 2 * 2  # two pictures, every step, both halves
    again = draw_rows(guided, trajectories, RowsPlan(count=14, held=0.4))
    assert again.id == rows.id and torch.equal(again.steps, rows.steps) and torch.equal(again.held, rows.held)
    assert draw_rows(guided, trajectories, RowsPlan(count=14, held=0.4, seed=1)).id != rows.id


def test_inputs_are_those_of_the_whole_calls(guided: Model, trajectories: Captured) -> None:
    rows = draw_rows(guided, trajectories, RowsPlan(count=10_000))
    module = "up_blocks.1.resnets.0.conv_shortcut"
    found = dict(layer_inputs(guided, rows, [module]))[module]
    seen: list[Tensor] = []
    handle = guided.denoiser.get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for _ in replay(guided, trajectories):
        pass
    handle.remove()
    assert torch.allclose(found, torch.cat(seen), atol=1e-5)
    small = dict(layer_inputs(guided, rows, [module, "conv_in"], budget=1))
    assert torch.equal(small[module], found) and list(small) == [module, "conv_in"]


def test_blocks_run_alone_as_within(guided: Model, trajectories: Captured) -> None:
    rows = draw_rows(guided, trajectories, RowsPlan(count=9))
    outputs = block_outputs(guided, rows, BLOCKS)
    index = torch.tensor([1, 7, 4])
    for path in BLOCKS:
        inputs = block_inputs(guided, rows, path)
        assert inputs is not None
        module = guided.denoiser.get_submodule(path)
        with torch.no_grad():
            alike = inputs.call(module, {}, index)
            name = next(n for n, p in module.named_parameters() if n.endswith("weight") and p.ndim > 1)
            other = inputs.call(module, {name: module.get_parameter(name) * 2}, index)
        for a, b, c in zip(alike, outputs[path], other, strict=True):
            assert torch.allclose(a, b[index], atol=1e-5) and not torch.allclose(c, a, atol=1e-3)


def test_rows_that_cannot_be_cut_are_picked(guided: Model, trajectories: Captured,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    plan, path, module = RowsPlan(count=9), BLOCKS[0], "up_blocks.1.resnets.0.conv_shortcut"
    cut = draw_rows(guided, trajectories, plan)
    monkeypatch.setattr("engine.calibrate.rows._same", lambda *_: False)
    picked = draw_rows(guided, trajectories, plan)
    assert all(one.pick is not None for one in picked.drawn) and all(one.pick is None for one in cut.drawn)
    a, b = (dict(layer_inputs(guided, rows, [module]))[module] for rows in (cut, picked))
    assert torch.allclose(a, b, atol=1e-5)
    inputs = [block_inputs(guided, rows, path) for rows in (cut, picked)]
    outputs = block_outputs(guided, picked, [path])[path]
    for found in inputs:
        assert found is not None
        with torch.no_grad():
            made = found.call(guided.denoiser.get_submodule(path), {}, torch.arange(9))
        assert torch.allclose(made[0], outputs[0], atol=1e-5)


def test_what_is_never_executed(guided: Model, trajectories: Captured) -> None:
    rows = draw_rows(guided, trajectories, RowsPlan(count=6))
    idle = torch.nn.Linear(4, 4)
    guided.denoiser.add_module("idle", idle)
    try:
        assert dict(layer_inputs(guided, rows, ["idle"])) == {}
        assert block_inputs(guided, rows, "idle") is None
    finally:
        del guided.denoiser.idle


def test_bad_input(guided: Model, trajectories: Captured) -> None:
    with pytest.raises(InputError, match="at least two"):
        draw_rows(guided, replace(trajectories, images=1))
    with pytest.raises(InputError, match="holds out a share"):
        RowsPlan(held=1.0)
    guided.dtype = "float16"
    try:
        with pytest.raises(InputError, match="float32"):
            draw_rows(guided, trajectories)
    finally:
        guided.dtype = "float32"


def test_groups_stay_within_the_budget() -> None:
    assert list(grouped({"a": 3, "b": 3, "c": 9, "d": 1}, 6)) == [["a", "b"], ["c"], ["d"]]
    assert list(grouped({}, 6)) == []


@pytest.mark.parametrize(("name", "units", "first"), [
    ("emoji-unet", 35, "down_blocks.0.resnets.0"), ("pixart-alpha-512", 35, "transformer_blocks.0"),
    ("flux-dev", 67, "transformer_blocks.0")])
def test_units_hold_every_layer_once(name: str, units: int, first: str) -> None:
    structure = read_structure(name)
    found = units_of(structure)
    assert len(found) == units
    names = [x.name for unit in found for x in unit.layers]
    assert sorted(names) == sorted(x.name for x in structure.layers)
    whole = next(u for u in found if len({x.module for x in u.layers}) > 1)
    assert whole.name == first
    assert [x.name for u in alone(whole) for x in u.layers] == [x.name for x in whole.layers]
