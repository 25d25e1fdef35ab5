"""Scaling, rounding and shifts over a whole tiny model: resumed, reversible, in order, and only where they belong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from engine.calibrate.adaround import BlockProblem, Rounding, RoundingPlan
from engine.calibrate.adaround import _error as block_error
from engine.calibrate.allocation import EXCLUSIONS, preset_recipe
from engine.calibrate.capture import Captured
from engine.calibrate.files import Folder
from engine.calibrate.les import LesPlan, Scaling
from engine.calibrate.pts import (
    LayerShifts,
    ShiftPlan,
    choose_shifts,
    room,
    shift_layers,
    static_tables,
    with_shifts,
    with_tables,
)
from engine.calibrate.ranges import Ranges, collect_ranges
from engine.calibrate.roundings import holding, learn_roundings
from engine.calibrate.rows import Rows, RowsPlan, draw_rows
from engine.calibrate.scalings import Inputs, groups_of, learn_scalings, problem_of
from engine.calibrate.units import units_of
from engine.core.errors import InputError, StoreError
from engine.core.layer import Role
from engine.core.option import Option
from engine.core.recipe import Recipe
from engine.live.apply import applied
from engine.live.model import Model
from engine.live.originals import live_weight
from engine.live.tables import ActivationTables
from engine.providers.progress import Progress
from engine.quant.qweight import QuantizedWeight
from engine.quant.table import quantize
from tests.engine.calibrate.trajectories import captured_of

T = TypeVar("T")
LES, ROUND, INPUTS = LesPlan(iterations=12, checks=3), RoundingPlan(iterations=25, batch=8), Inputs(groups=2)


def of(kind: type[T], events: Iterable[Any]) -> list[T]:
    return [e for e in events if isinstance(e, kind)]


def state(model: Model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.denoiser.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def trajectories(plain: Model) -> Captured:
    return captured_of(plain, images=4, steps=3)


@pytest.fixture(scope="module")
def rows(plain: Model, trajectories: Captured) -> Rows:
    return draw_rows(plain, trajectories, RowsPlan(count=12, held=0.25))


@pytest.fixture(scope="module")
def allocation(plain: Model) -> Recipe:
    return preset_recipe(plain.structure, "W4A6")


def nearest(model: Model, allocation: Recipe) -> dict[str, QuantizedWeight]:
    return {x.name: quantize(model.originals.tensor(x).float(), allocation.option(x.choice), 32)
            for x in model.structure.layers if not allocation.option(x.choice).is_untouched}


def test_presets_leave_out_what_the_paper_does(plain: Model) -> None:
    recipe = preset_recipe(plain.structure, "w4a6")
    left = {x.role for x in plain.structure.choices if x.name not in recipe.options}
    assert left <= set(EXCLUSIONS["dmq"]) and Role.INPUT in left and Role.TIME in left
    assert set(recipe.options.values()) == {Option("uaq", 4)}
    assert {a.bits for a in recipe.activations.values()} == {6} and recipe.activations.keys() == recipe.options.keys()
    assert len(preset_recipe(plain.structure, "W8A8", "none").options) == len(plain.structure.choices)
    assert preset_recipe(plain.structure, "W4A16").activations == {}
    for bad in ("W7A8", "W4A3", "4/8", ""):
        with pytest.raises(InputError, match="preset"):
            preset_recipe(plain.structure, bad)
    with pytest.raises(InputError, match="full precision"):
        preset_recipe(plain.structure, "W4A8", "some")


def test_scalings_resume_and_do_not_depend_on_order(plain: Model, rows: Rows, allocation: Recipe,
                                                    tmp_path: Path) -> None:
    before = state(plain)
    head = {"model": plain.structure.identity}
    first = learn_scalings(plain, rows, allocation, LES, INPUTS, folder=Folder(tmp_path, head))
    some = [next(e for e in first if isinstance(e, Scaling)) for _ in range(2)]
    first.close()  # interrupted
    assert same(before, state(plain))
    second = of(Scaling, learn_scalings(plain, rows, allocation, LES, INPUTS, folder=Folder(tmp_path, head)))
    names = [x.name for x in plain.structure.layers if x.choice in allocation.options]
    assert sorted(s.layer for s in second) == sorted(names)
    found = {s.layer: s for s in second}
    assert all(found[s.layer].seconds == s.seconds for s in some)  # not learned again
    last = names[-1]
    alone = of(Scaling, learn_scalings(plain, rows, allocation, LES, INPUTS, only=[last]))
    assert [s.layer for s in alone] == [last] and alone[0].curve == found[last].curve
    with pytest.raises(StoreError, match="other settings"):
        Folder(tmp_path, {"model": "another"})


def test_a_layers_problem_is_that_of_the_model(plain: Model, rows: Rows, allocation: Recipe) -> None:
    layer = next(x for x in plain.structure.layers if ":1" in x.name)
    problem = problem_of(plain, rows, layer.name, allocation, INPUTS)
    assert problem.inputs.shape[1] == layer.shape[1] == layer.stop - layer.start
    assert problem.bits == 6 and problem.scheme == "static" and problem.option == Option("uaq", 4)
    assert groups_of(rows, 2).unique().tolist() == [0, 1]
    assert torch.equal(groups_of(rows, 99), rows.steps)


def test_rounding_resumes_and_leaves_the_model(plain: Model, rows: Rows, allocation: Recipe, tmp_path: Path) -> None:
    before, weights = state(plain), nearest(plain, allocation)
    folder = Folder(tmp_path, {})
    first = learn_roundings(plain, rows, weights, ROUND, folder=folder)
    one = next(e for e in first if isinstance(e, Rounding))
    first.close()
    assert same(before, state(plain))
    found = of(Rounding, learn_roundings(plain, rows, weights, ROUND, folder=folder))
    assert found[0].seconds == one.seconds and found[0].block == one.block
    assert sorted(n for r in found for n in r.weights) == sorted(weights)
    for r in found:
        assert not r.accepted or r.after < r.before
        for name, weight in r.weights.items():
            assert torch.equal(weight.tensors["delta"], weights[name].tensors["delta"])
    assert any(r.accepted and r.moved > 0 for r in found)
    assert same(before, state(plain))
    again = of(Rounding, learn_roundings(plain, rows, weights, ROUND, folder=folder, only=[found[2].block]))
    assert [r.block for r in again] == [r.block for r in found[:3]] and not again[0].accepted


@pytest.mark.parametrize(("shape", "kind", "axis"), [
    ((4, 6, 5), "conv1d", 1), ((4, 5, 6), "linear", 2), ((4, 5, 6), "conv2d", 2),  # tokens, whatever made them
    ((4, 6, 5, 5), "conv2d", 1), ((4, 6, 5, 5), "linear", 1), ((4, 6), "linear", 1)])
def test_a_blocks_error_is_summed_over_channels(shape: tuple[int, ...], kind: str, axis: int) -> None:
    wanted = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    held = torch.tensor([True, False, False, False])
    problem = BlockProblem("b", {}, lambda _, rows: (torch.zeros(shape)[rows],), lambda rows: (wanted[rows],), held,
                           kind)
    error = block_error(problem, {}, torch.arange(4))
    assert float(error) == pytest.approx(float(wanted.square().sum(axis).mean()))


def test_a_block_knows_the_kind_of_its_last_layer(plain: Model, rows: Rows, allocation: Recipe,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: dict[str, str] = {}

    def noted(problem: BlockProblem, *_: Any) -> Any:
        kinds[problem.name] = problem.kind
        nearest = {name: choice.nearest for name, choice in problem.choices.items()}
        return Rounding(problem.name, nearest, 1.0, 1.0, 0.0, 1, 0.0, False)

    monkeypatch.setattr("engine.calibrate.roundings.rounding_of", noted)
    of(Rounding, learn_roundings(plain, rows, nearest(plain, allocation), ROUND))
    last = {u.name: u.layers[-1].kind for u in units_of(plain.structure)}
    assert kinds and kinds == {name: last[name] for name in kinds} and set(kinds.values()) == {"linear", "conv2d"}


def test_methods_without_order_are_rounded_to_nearest(plain: Model, rows: Rows) -> None:
    layer = next(x for x in plain.structure.layers if x.kind == "linear" and x.role == Role.QUERY)
    held = {layer.name: quantize(plain.originals.tensor(layer).float(), Option("nf4", 4), 32)}
    found = of(Rounding, learn_roundings(plain, rows, held, ROUND))
    assert len(found) == 1 and not found[0].accepted and found[0].weights[layer.name] is held[layer.name]


def test_weights_are_held_for_a_while(plain: Model, allocation: Recipe) -> None:
    before, weights = state(plain), nearest(plain, allocation)
    with holding(plain, weights):
        layer = next(x for x in plain.structure.layers if x.name in weights)
        assert torch.equal(live_weight(plain.denoiser, layer), weights[layer.name].dequantize())
    assert same(before, state(plain))


@pytest.fixture(scope="module")
def ranges(plain: Model, trajectories: Captured, allocation: Recipe) -> Ranges:
    with applied(plain, replace(allocation, activations={})):
        *_, last = collect_ranges(plain, trajectories)
    assert isinstance(last, Ranges)
    return last


def test_tables_are_of_the_scaled_inputs(plain: Model, ranges: Ranges, allocation: Recipe) -> None:
    name = next(x.name for x in plain.structure.layers if x.choice in allocation.options)
    tau = torch.linspace(0.5, 2, ranges.low[name].shape[1]).half().float()
    tables = static_tables(ranges, 3, {name: tau}, allocation, plain.structure, {"why": "test"})
    table = tables.layers[name]
    assert torch.equal(table.high, (ranges.high[name] / tau).amax(1)) and torch.equal(table.low, (
        ranges.low[name] / tau).amin(1))
    assert table.bits == 6 and tables.about["why"] == "test"
    others = [n for n in tables.layers if n != name]
    assert all(tables.layers[n].tau is None and tables.layers[n].bits == 0 for n in others)
    assert "conv_in" not in tables.layers
    narrow = replace(plain.structure, precision_bits=16)
    stored = static_tables(ranges, 3, {}, allocation, narrow, {}).layers[name]
    assert torch.equal(stored.low, stored.low.half().float())
    recipe = with_tables(allocation, tables, plain.structure)
    assert recipe.activations[name].scaled and recipe.activations[name].tables == tables.id
    assert not recipe.activations[others[0]].scaled


def test_shifts_go_to_skip_convolutions_or_where_channels_are_spread(plain: Model, ranges: Ranges,
                                                                     allocation: Recipe) -> None:
    tables = static_tables(ranges, 3, {}, allocation, plain.structure, {})
    structure = plain.structure
    skips = {x.name for x in structure.layers if x.role == Role.SKIP}

    def chosen(recipe: Recipe, **how: Any) -> set[str]:
        return {x.name for x in shift_layers(structure, ranges, tables, recipe, ShiftPlan(**how))}

    assert chosen(allocation) == chosen(allocation, where="skip") == skips
    assert chosen(allocation, where="all") == set(tables.layers)
    assert chosen(allocation, where="spread", threshold=0.0) == set(tables.layers)
    assert chosen(allocation, where="spread", threshold=1e9, share=0.0) == set()
    assert len(chosen(allocation, where="spread", threshold=1e9, share=0.25)) == round(0.25 * len(tables.layers))
    # 8-bit weights cannot be shifted within 8 bits
    wide = preset_recipe(structure, "W8A8")
    assert chosen(wide) == set() and chosen(wide, operand_bits=16) == skips
    layer = next(x for x in structure.layers if x.name in skips)
    assert room(allocation, layer, ShiftPlan()) == 3 and room(allocation, layer, ShiftPlan(max_shift=1)) == 1


def test_shifts_are_chosen_in_forward_order(plain: Model, trajectories: Captured, ranges: Ranges,
                                            allocation: Recipe) -> None:
    before = state(plain)
    structure = plain.structure
    tables = static_tables(ranges, 3, {}, allocation, structure, {})
    plan = ShiftPlan(kappa=0.5, tested=False)
    layers = shift_layers(structure, ranges, tables, allocation, plan)
    voters = draw_rows(plain, trajectories, RowsPlan(count=100))
    events = list(choose_shifts(plain, voters, allocation, tables, layers, plan))
    found, last = of(LayerShifts, events), events[-1]
    assert isinstance(last, ActivationTables) and same(before, state(plain)) and plain.inputs.settings == {}
    assert [f.layer for f in found] == [x.name for x in layers]
    for f in found:
        assert f.shifts.shape == f.agreement.shape == (3, structure.layer(f.layer).shape[1])
        assert f.samples == (3, 3, 3) and int(f.shifts.max()) <= 3 and f.accepted  # one picture of four is held out
        assert last.layers[f.layer].shifts is not None and last.layers[f.layer].bits == 6
        assert torch.equal(f.shifts[f.agreement < 0.5], torch.zeros_like(f.shifts[f.agreement < 0.5]))
    assert sum(int(f.shifts.sum()) for f in found) > 0
    tested = ShiftPlan(choose="error")
    *errors, judged = (e for e in choose_shifts(plain, voters, allocation, tables, layers, tested)
                       if not isinstance(e, Progress))
    assert isinstance(judged, ActivationTables)
    for e in errors:
        assert isinstance(e, LayerShifts) and e.accepted == (e.after < e.before)
        assert (judged.layers[e.layer].shifts is not None) == e.accepted
    # the first layer's shifts are on when the second looks at its inputs
    first = with_shifts(tables, found[0].layer, found[0].shifts, 6)
    rest = of(LayerShifts, choose_shifts(plain, voters, allocation, first, layers[1:], plan))
    assert torch.equal(rest[-1].shifts, found[-1].shifts) and rest[-1].before == found[-1].before


def test_bad_plans() -> None:
    for bad in ({"choose": "luck"}, {"where": "here"}, {"kappa": 2.0}, {"max_shift": 4}, {"operand_bits": 12},
                {"votes": 0}, {"share": -0.1}):
        with pytest.raises(InputError):
            ShiftPlan(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        RoundingPlan(iterations=0)
