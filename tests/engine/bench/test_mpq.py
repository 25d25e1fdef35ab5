"""MPQ-Diff's table at the smallest size: every contender within the same bytes, kept, and compared image by image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bench.mpq import (
    AFFINE,
    CONTROLS,
    ENDS,
    EVERY,
    FAITHFUL,
    FLAT,
    KEPT_ENDS,
    OPTIONS,
    USEFUL,
    WIDTHS,
    MpqPlan,
    MpqRow,
    contenders,
    lines,
    table,
)
from engine.core.errors import InputError
from engine.core.layer import Role
from engine.core.recipe import load_recipe
from engine.core.sizes import bits_per_weight
from engine.live.model import Model, open_model
from engine.models.tiny import TINY
from engine.providers.files import find_scores

PLAN = MpqPlan((3.5,), images=2, draws=1, steps=2)


@pytest.fixture(scope="module")
def demo() -> Iterator[Model]:
    model = open_model("emoji-dit")
    yield model
    model.close()


@pytest.mark.slow
def test_contenders_share_the_budget_and_rows_are_kept(demo: Model, tmp_path: Path) -> None:
    places = {"partial": tmp_path / "rows.jsonl", "recipes": tmp_path}
    rows = [e for e in table(demo, PLAN, **places) if isinstance(e, MpqRow)]
    names = [(row.group, row.contender) for row in rows]
    assert {(g, n) for g in (AFFINE, EVERY) for n in (USEFUL, *CONTROLS, "measured one at a time", "random 1")} | {
        (AFFINE, FAITHFUL), (AFFINE, FLAT), (KEPT_ENDS, FAITHFUL), (KEPT_ENDS, USEFUL)} <= set(names)
    assert len(names) == len(set(names)) and any(name.startswith("uniform") for _, name in names)
    assert all(row.bits_per_weight <= 3.5 and len(row.images["psnr"]) == 2 for row in rows)
    again = list(table(demo, PLAN, **places))
    assert [e for e in again if isinstance(e, MpqRow)] == rows and len(again) == len(rows)  # nothing was measured
    place = tmp_path / "3-5-uaq-2-to-8-mpq-diff-useful.recipe.json"
    assert load_recipe(place).hash == rows[names.index((AFFINE, USEFUL))].recipe
    shown = lines(rows)
    assert [bool(line[f"psnr against {USEFUL}"]) for line in shown] == [name != USEFUL for _, name in names]


def test_within_a_group_all_choose_from_the_same(demo: Model) -> None:
    """And the control without importances differs from the published program in nothing but importances."""
    structure = demo.structure
    offered = {AFFINE: set(WIDTHS), EVERY: set(OPTIONS), KEPT_ENDS: set(WIDTHS)}
    ends = [x.name for x in structure.choices if x.role in (Role.INPUT, Role.OUTPUT)]
    seen = set()
    for group, name, recipe in contenders(demo, 3.5, 1):
        seen.add((group, name))
        taken = {recipe.option(x.name) for x in structure.choices}
        assert taken <= offered[group], (group, name)
        assert bits_per_weight(structure, recipe.options) <= 3.5
        assert group != KEPT_ENDS or all(recipe.option(x) == ENDS for x in ends)
    assert ends and {(AFFINE, FAITHFUL), (AFFINE, FLAT), (KEPT_ENDS, USEFUL)} <= seen
    linear = find_scores(structure)["orthogonality-linear"]
    assert {o for row in linear.layers.values() for o in row} == {str(o) for o in WIDTHS}


def test_scores_that_are_missing_are_named(tmp_path: Path) -> None:
    TINY["dit"]().save_pretrained(tmp_path / "tiny")
    model = open_model(str(tmp_path / "tiny"))
    with pytest.raises(InputError, match="no orthogonality scores"):
        list(table(model, PLAN))
    model.close()
    with pytest.raises(InputError, match="at least two"):
        MpqPlan(images=1)
