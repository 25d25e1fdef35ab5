"""The additive damage table by hand: measured options stand, others are scaled and marked."""

from __future__ import annotations

import pytest

from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.core.record import Scores
from engine.providers.table import CAP_DB, damage_table
from tests.engine.core.records import structure

SHAPE = structure(2)
A, B = (x.name for x in SHAPE.choices)
ERRORS = Scores("weight-error", SHAPE.identity, "relative squared weight error", {
    A: {"uaq-2": 0.4, "uaq-3": 0.1, "uaq-4": 0.025, "uaq-8": 0.0001},
    B: {"uaq-2": 0.4, "uaq-3": 0.1, "uaq-4": 0.025},
})
MEASURED = Scores("measured", SHAPE.identity, "image MSE", {A: {"uaq-3": 1e-2, "uaq-4": 1e-3}, B: {"uaq-3": 2e-2}},
                  about={"around": "fp16"})


def test_measured_options_stand_and_others_are_scaled_from_the_nearest() -> None:
    table = damage_table(SHAPE, {"measured": MEASURED, "weight-error": ERRORS})
    assert table.values[A] == pytest.approx(
        {"uaq-2": 4e-2, "uaq-3": 1e-2, "uaq-4": 1e-3, "uaq-8": 1e-3 * 0.0001 / 0.025, "fp16": 0.0})
    assert table.values[B] == pytest.approx({"uaq-2": 8e-2, "uaq-3": 2e-2, "uaq-4": 5e-3, "fp16": 0.0})
    assert table.scaled == {A: ("uaq-2", "uaq-8"), B: ("uaq-2", "uaq-4")}


def test_a_recipe_is_predicted_by_the_sum() -> None:
    table = damage_table(SHAPE, {"measured": MEASURED, "weight-error": ERRORS})
    assert table.predict_mse(uniform(SHAPE, "uaq-3")) == pytest.approx(3e-2)
    assert table.predict_psnr(uniform(SHAPE, "uaq-3")) == pytest.approx(15.2288, abs=1e-3)
    only = Recipe(model_ref(SHAPE), {B: Option("uaq", 3)})
    assert table.predict_mse(only) == pytest.approx(2e-2)
    assert table.predict_psnr(Recipe(model_ref(SHAPE), {})) == CAP_DB
    assert table.predict_mse(uniform(SHAPE, "kmeans_c-3")) is None


def test_around_a_uniform_recipe_damage_counts_from_there() -> None:
    around = Scores("measured-uaq4", SHAPE.identity, "image MSE", {A: {"uaq-3": 3e-3}, B: {"uaq-3": 6e-3}},
                    about={"around": "uaq-4", "base_mse": "0.004"})
    table = damage_table(SHAPE, {"measured-uaq4": around, "weight-error": ERRORS}, "measured-uaq4")
    assert table.predict_mse(uniform(SHAPE, "uaq-4")) == pytest.approx(0.004)
    assert table.predict_mse(uniform(SHAPE, "uaq-3")) == pytest.approx(0.013)
    assert table.values[A]["fp16"] == pytest.approx(3e-3 * (0 - 0.025) / (0.1 - 0.025))
    assert "fp16" in table.scaled[A] and table.values[A]["uaq-4"] == 0
    assert table.predict_mse(Recipe(model_ref(SHAPE), {})) == pytest.approx(0.004 - 1e-3 - 2e-3)


def test_without_measurements_nothing_is_predicted() -> None:
    assert damage_table(SHAPE, {"weight-error": ERRORS}).values == {}
    assert damage_table(SHAPE, {"weight-error": ERRORS}).predict_psnr(uniform(SHAPE, "uaq-3")) is None
    other = Scores("measured", SHAPE.identity, "relative squared latent error", MEASURED.layers)
    assert damage_table(SHAPE, {"measured": other}).values == {}
    bare = damage_table(SHAPE, {"measured": MEASURED})
    assert bare.values[B] == {"uaq-3": 2e-2, "fp16": 0.0} and bare.scaled[B] == ()
