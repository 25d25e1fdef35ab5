"""Allocation x weight method x activation scheme: equal bytes, the same layers, kept, compared image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.bench.composition import PROVIDERS, UNIFORM, allocations, composition_plan, lines, table, treatments
from engine.bench.dmq import TablePlan, TableRow
from engine.bench.mpq import WIDTHS
from engine.calibrate.allocation import EXCLUSIONS
from engine.core.errors import InputError
from engine.core.record import Scores
from engine.core.sizes import recipe_bytes
from engine.live.model import open_model
from engine.models.structure import read_structure
from engine.models.tiny import TINY
from engine.providers.files import find_scores
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
    assert all(recipe.options.keys() == searched and not recipe.activations for recipe in found.values())
    assert all(len(set(found[name].options.values()) & set(WIDTHS)) > 1 for name in PROVIDERS)
    assert len({recipe.hash for recipe in found.values()}) == 3


def test_every_treatment_differs_from_the_others_in_what_its_name_says() -> None:
    made = {name: (bool(plan.scaling), bool(plan.rounding), bool(plan.shifts), plan.scheme, quantized)
            for name, (plan, quantized) in treatments(composition_plan()).items()}
    assert list(made.values()) == [
        (False, False, False, "static", False), (False, False, False, "token", True),
        (False, False, False, "static", True), (False, True, False, "static", False),
        (True, True, True, "static", True)]
    assert {p.rounding.iterations for p, _ in treatments(composition_plan()).values() if p.rounding} == {400}
    with pytest.raises(InputError, match="two pictures"):
        composition_plan(images=1)


def test_rows_are_compared_with_uniform_bits_under_the_same_treatment() -> None:
    rows = [row(UNIFORM, "a", [20.0, 30.0]), row("MPQ-Diff useful", "a", [21.0, 31.0]),
            row(UNIFORM, "b", [10.0, 12.0]), row("MPQ-Diff useful", "b", [9.0, 11.0])]
    assert [line[f"psnr against {UNIFORM}"] for line in lines(rows)] == ["", "+1 [+1, +1]", "", "-1 [-1, -1]"]


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
    assert rows[:2] == some and len(rows) == 15
    assert [(r.row, r.preset) for r in rows] == [(t, n) for t in treatments(SMALL) for n in (UNIFORM, *PROVIDERS)]
    again = list(table(model, SMALL, scores, **places))
    assert again == rows  # nothing was measured, and nothing said on the way
    found = {(r.row, r.preset): r for r in rows}
    full, online, static, rounded, complete = ([found[t, n] for n in (UNIFORM, *PROVIDERS)] for t in treatments(SMALL))
    assert all(a.bit_operations > b.bit_operations == c.bit_operations for a, b, c in zip(full, online, static,
                                                                                         strict=True))
    assert all(not r.calibration["tables"] and not r.calibration["weights"] for r in (*full, *online))
    assert all(r.calibration["tables"] and not r.calibration["weights"] for r in static)
    assert all(r.calibration["weights"] and not r.calibration["tables"] for r in rounded)
    assert all(r.calibration["weights"] and r.calibration["tables"] for r in complete)
    assert len({r.calibration["recipe"] for r in rows}) == 15
    assert all(len(r.images["psnr"]) == 2 for r in rows)
    assert model.recipe.options == {} and model.inputs.settings == {}
    model.close()
