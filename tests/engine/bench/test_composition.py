"""Allocation x weight method x activation scheme: equal bytes, the same layers, kept, compared image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.allocate.knapsack import knapsack
from engine.allocate.problem import Limits, layer_problem
from engine.bench.composition import (
    CODEBOOKS,
    EVERYWHERE,
    FULL,
    IMPORTANCE,
    KMEANS,
    NEAREST,
    PROVIDERS,
    ROWS,
    SIZE_ONLY,
    STATIC,
    UNIFORM,
    absent,
    allocations,
    composition_plan,
    lines,
    table,
    treatments,
)
from engine.bench.dmq import TablePlan, TableRow
from engine.bench.mpq import QUA, WIDTHS
from engine.calibrate.allocation import EXCLUSIONS, preset_recipe
from engine.core.errors import InputError
from engine.core.option import FP16
from engine.core.record import Scores
from engine.core.sizes import recipe_bytes
from engine.live.model import open_model
from engine.models.structure import read_structure
from engine.models.tiny import TINY
from engine.providers.files import find_scores
from engine.providers.table import completed
from engine.providers.weight_error import weight_error

SMALL = TablePlan(images=2, iterations=4, rounding_iterations=4, capture=4, rows=12, groups=3, steps=3)


def row(allocation: str, treatment: str, psnr: list[float]) -> TableRow:
    return TableRow(allocation, treatment, {"psnr": (sum(psnr) / len(psnr), 0.0, 0.0)}, {"psnr": tuple(psnr)}, 4.5,
                    10**9, {})


@pytest.mark.parametrize("demo", ["emoji-unet", "emoji-dit"])
def test_allocations_have_the_bytes_of_the_uniform_one_and_leave_out_the_same(demo: str) -> None:
    structure = read_structure(demo)
    found = allocations(structure, find_scores(structure), "dmq")
    assert list(found) == [UNIFORM, *PROVIDERS]
    sizes = {name: recipe_bytes(structure, recipe.options) for name, recipe in found.items()}
    assert all(0.97 * sizes[UNIFORM] <= size <= sizes[UNIFORM] for size in sizes.values())
    searched = {x.name for x in structure.choices if x.role not in EXCLUSIONS["dmq"]}
    whole = found.pop(EVERYWHERE)
    assert whole.options.keys() == {x.name for x in structure.choices} > searched
    assert all(recipe.options.keys() == searched and not recipe.activations for recipe in found.values())
    assert all(set(recipe.options.values()) <= set(WIDTHS) for recipe in [*found.values(), whole])
    blind = found.pop(SIZE_ONLY)  # may be the uniform one, where layers are of few sizes
    assert sum(o.bits for o in blind.options.values()) >= 4 * len(searched)
    assert len({recipe.hash for recipe in [*found.values(), whole]}) == 5
    books = allocations(structure, find_scores(structure), "dmq", CODEBOOKS, ROWS[KMEANS])
    assert list(books) == [UNIFORM, *ROWS[KMEANS]] and books[UNIFORM].hash == found[UNIFORM].hash
    assert set(books[IMPORTANCE].options.values()) <= set(CODEBOOKS)
    assert 0.97 * sizes[UNIFORM] <= recipe_bytes(structure, books[IMPORTANCE].options) <= sizes[UNIFORM]


BEFORE = ("nearest, full-precision inputs", "nearest, online A6", "nearest, static A6",
          "AdaRound, full-precision inputs", "LES, AdaRound, static A6 with PTS")


@pytest.mark.parametrize("demo", ["emoji-unet", "emoji-dit"])
def test_rows_that_were_kept_of_three_allocations_and_five_treatments_stay_valid(demo: str) -> None:
    """They go by hash and treatment: the recipes are what they were, and every one is still asked for."""
    structure = read_structure(demo)
    scores = find_scores(structure)
    uniform = preset_recipe(structure, "W4A16", "dmq")
    limits = Limits(options=WIDTHS, keep_untouched=False,
                    pinned={x.name: FP16 for x in structure.choices if x.name not in uniform.options})
    budget, found = recipe_bytes(structure, uniform.options), allocations(structure, scores, "dmq")
    assert found[UNIFORM].hash == uniform.hash
    for name, provider in (("MPQ-Diff useful", "orthogonality"), ("measured one at a time", "measured")):
        problem = layer_problem(structure, completed(structure, scores, provider), budget, limits)
        assert found[name].hash == knapsack(problem).recipe.hash
        assert all({UNIFORM, name} <= set(ROWS[treatment]) for treatment in BEFORE)


def test_what_is_measured_is_about_twenty_rows_with_a_control_and_all_layers_searched() -> None:
    assert ROWS.keys() == treatments(SMALL).keys() and sum(map(len, ROWS.values())) <= 22
    assert all(name in (UNIFORM, *PROVIDERS) for names in ROWS.values() for name in names)
    assert all({QUA, SIZE_ONLY} <= set(ROWS[t]) for t in (NEAREST, FULL))
    assert all(EVERYWHERE in ROWS[t] for t in (STATIC, FULL))  # the baseline, and everything


def test_allocations_without_scores_are_named() -> None:
    scores = find_scores(read_structure("emoji-unet"))
    assert absent(scores) == []
    guided = replace(scores["gnn-operation"], about={"kind": "guided"})  # not the network of the paper
    assert absent(scores | {"gnn-operation": guided}) == [QUA]
    assert absent({"orthogonality": scores["orthogonality"]}) == ["measured one at a time", QUA]


def test_every_treatment_differs_from_the_others_in_what_its_name_says() -> None:
    made = {name: (bool(plan.scaling), bool(plan.rounding), bool(plan.shifts), plan.scheme, quantized)
            for name, (plan, quantized) in treatments(composition_plan()).items()}
    assert list(made.values()) == [
        (False, False, False, "static", False), (False, False, False, "token", True),
        (False, False, False, "static", True), (False, True, False, "static", False),
        (True, True, True, "static", True), (False, False, False, "static", False)]
    assert {p.rounding.iterations for p, _ in treatments(composition_plan()).values() if p.rounding} == {400}
    with pytest.raises(InputError, match="two pictures"):
        composition_plan(images=1)


def test_rows_are_compared_with_uniform_bits_under_the_same_treatment() -> None:
    rows = [row(UNIFORM, "a", [20.0, 30.0]), row("MPQ-Diff useful", "a", [21.0, 31.0]),
            row(UNIFORM, "b", [10.0, 12.0]), row("MPQ-Diff useful", "b", [9.0, 11.0])]
    assert [line[f"psnr against {UNIFORM}"] for line in lines(rows)] == ["", "+1 [+1, +1]", "", "-1 [-1, -1]"]
    rows = [row(UNIFORM, NEAREST, [20.0, 30.0]), row(IMPORTANCE, KMEANS, [22.0, 32.0]),
            row(EVERYWHERE, NEAREST, [19.0, 29.0])]
    assert [line[f"psnr against {UNIFORM}"] for line in lines(rows)] == ["", "+2 [+2, +2]", "-1 [-1, -1]"]
    assert [line["layers"] for line in lines(rows)] == ["all but dmq's", "all but dmq's", "all"]


@pytest.mark.slow
def test_every_combination_and_none_twice(tmp_path: Path) -> None:
    TINY["ddpm"]().save_pretrained(tmp_path / "tiny")
    model = open_model(str(tmp_path / "tiny"))
    *_, errors = weight_error(model)
    assert isinstance(errors, Scores)
    backwards = {n: {o: 1e-3 * d * (i + 1)**4 for o, d in r.items()} for i, (n, r) in enumerate(errors.layers.items())}
    scores = {"weight-error": errors, "orthogonality": replace(errors, provider="orthogonality"),
              "measured": replace(errors, provider="measured", layers=backwards)}
    with pytest.raises(InputError, match="no orthogonality scores"):
        list(table(model, SMALL, {"weight-error": errors}))
    places = {"partial": tmp_path / "rows.jsonl", "directory": tmp_path / "work"}
    first = table(model, SMALL, scores, **places)
    some = [next(e for e in first if isinstance(e, TableRow)) for _ in range(2)]
    first.close()  # interrupted
    rows = [e for e in table(model, SMALL, scores, **places) if isinstance(e, TableRow)]
    there = {name: [n for n in names if n != QUA] for name, names in ROWS.items()}  # no scores of a graph network
    assert rows[:2] == some and [(r.row, r.preset) for r in rows] == [(t, n) for t in ROWS for n in there[t]]
    again = list(table(model, SMALL, scores, **places))
    assert again == rows  # nothing was measured, and nothing said on the way
    found = {(r.row, r.preset): r for r in rows}
    old = (UNIFORM, IMPORTANCE, "measured one at a time")
    full, online, static, rounded, complete = ([found[t, n] for n in old] for t in BEFORE)
    assert all(a.bit_operations > b.bit_operations == c.bit_operations for a, b, c in zip(full, online, static,
                                                                                         strict=True))
    assert all(not r.calibration["tables"] and not r.calibration["weights"] for r in (*full, *online))
    assert all(r.calibration["tables"] and not r.calibration["weights"] for r in static)
    assert all(r.calibration["weights"] and not r.calibration["tables"] for r in rounded)
    assert all(r.calibration["weights"] and r.calibration["tables"] for r in complete)
    assert len({r.calibration["recipe"] for r in (*full, *online, *static, *rounded, *complete)}) == 15
    books, whole = found[KMEANS, IMPORTANCE], found[STATIC, EVERYWHERE]
    assert not books.calibration["tables"] and not books.calibration["weights"]
    assert whole.calibration["tables"] not in {r.calibration["tables"] for r in static}  # inputs of all layers
    assert all(len(r.images["psnr"]) == 2 for r in rows)
    assert model.recipe.options == {} and model.inputs.settings == {}
    model.close()
