"""Presets: every name works, best-of never costs more and never errs more."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from engine.core.errors import RecipeError
from engine.core.option import ALL_OPTIONS, parse_option
from engine.core.presets import RULES, preset, uniform_presets
from engine.core.recipe import check
from engine.core.record import Scores
from engine.core.sizes import stored_bytes

_spec = importlib.util.spec_from_file_location("records", Path(__file__).with_name("records.py"))
assert _spec and _spec.loader
records = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(records)
S = records.structure()
ERRORS = {str(o): 2.0 ** (-2 * o.bits) * (0.5 if o.method == "kmeans_a" else 1) for o in ALL_OPTIONS}
SCORES = Scores("weight-error", S.identity, "relative squared weight error", {x.name: ERRORS for x in S.layers})


@pytest.mark.parametrize("name", [p.name for p in (*uniform_presets(), *RULES)])
def test_every_preset_is_a_valid_recipe(name: str) -> None:
    recipe = preset(S, name, SCORES)
    check(S, recipe)
    assert set(recipe.options) == {x.name for x in S.choices}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_best_of_is_no_larger_and_no_worse(bits: int) -> None:
    limit = parse_option(f"uaq-{bits}")
    for layer in S.layers:
        chosen = preset(S, f"best-{bits}", SCORES).option(layer.name)
        assert stored_bytes(layer, chosen, 16) <= stored_bytes(layer, limit, 16)
        assert ERRORS[str(chosen)] <= ERRORS[str(limit)]
        # The planted best, wherever its codebook is no larger than the scales and zero points it replaces.
        assert chosen.method == ("kmeans_a" if 2**bits * 16 <= 2 * 16 * layer.out_channels else "uaq")


def test_refusals() -> None:
    with pytest.raises(RecipeError, match="weight errors"):
        preset(S, "best-4")
    with pytest.raises(RecipeError, match="no preset"):
        preset(S, "uaq-7")
