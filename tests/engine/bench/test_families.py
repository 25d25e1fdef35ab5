"""Every family from a saved directory to a reloaded export; nothing is particular to one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.bench import families
from engine.bench.families import ROUNDING, walk
from engine.core.errors import EngineError
from engine.models.tiny import TINY

QUICK = ("sana",)  # a family that few other tests use; the rest are slow only in their number


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in TINY])
def test_a_family_goes_all_the_way(name: str, tmp_path: Path) -> None:
    row = walk(name, tmp_path)
    assert row["reloaded difference"] == 0.0 and row["reloaded picture"] < ROUNDING < row["picture moved by"]
    assert row["stored options"] >= row["choices"] and row["layers"] >= row["choices"] and row["edges"] > 0
    # tiny files: the header and two small tensors per layer weigh more than in real ones
    assert row["MB promised"] <= row["MB on disk"] <= row["MB promised"] * 1.5 + 0.2


def test_a_step_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "applied", lambda model, recipe: __import__("contextlib").nullcontext())
    with pytest.raises(EngineError, match="ddpm, generate: the recipe changes nothing"):
        walk("ddpm", tmp_path)
