"""MPQ-Diff's table at the smallest size: every contender within the same bytes, kept, and compared image by image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bench.mpq import CONTROLS, FAITHFUL, USEFUL, MpqPlan, MpqRow, lines, table
from engine.core.errors import InputError
from engine.core.recipe import load_recipe
from engine.live.model import Model, open_model
from engine.models.tiny import TINY

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
    names = [row.contender for row in rows]
    assert {FAITHFUL, USEFUL, *CONTROLS, "measured one at a time", "random 1"} <= set(names)
    assert len(names) == len(set(names)) and any(name.startswith("uniform") for name in names)
    assert all(row.bits_per_weight <= 3.5 and len(row.images["psnr"]) == 2 for row in rows)
    again = list(table(demo, PLAN, **places))
    assert [e for e in again if isinstance(e, MpqRow)] == rows and len(again) == len(rows)  # nothing was measured
    assert load_recipe(tmp_path / "3-5-mpq-diff-useful.recipe.json").hash == rows[names.index(USEFUL)].recipe
    shown = lines(rows)
    assert [bool(line[f"psnr against {USEFUL}"]) for line in shown] == [name != USEFUL for name in names]


def test_scores_that_are_missing_are_named(tmp_path: Path) -> None:
    TINY["dit"]().save_pretrained(tmp_path / "tiny")
    model = open_model(str(tmp_path / "tiny"))
    with pytest.raises(InputError, match="no orthogonality scores"):
        list(table(model, PLAN))
    model.close()
    with pytest.raises(InputError, match="at least two"):
        MpqPlan(images=1)
