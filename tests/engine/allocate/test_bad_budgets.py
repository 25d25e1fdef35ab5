"""Budgets as text, and one sentence for every impossible request."""

from __future__ import annotations

import pytest
from allocation_cases import U3, U4, scores, structure

from engine.allocate.allocators import allocate
from engine.allocate.budget import layers_budget, parse_budget
from engine.allocate.faithful import argmax
from engine.allocate.problem import Limits, layer_problem
from engine.core.errors import InputError
from engine.core.graph import Component
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import full_bytes

MADE = structure(6)
SCORES = scores(MADE, 0)
FULL = full_bytes(MADE)


@pytest.mark.parametrize(("text", "budget"), [
    ("4bits", FULL // 4), ("4 bpw", FULL // 4), ("25%", FULL // 4), ("0.05MB", 50_000), ("50 kB", 50_000),
    (".05mb", 50_000), ("0.00005GB", 50_000), ("50000 bytes", 50_000), ("16bits", FULL), ("100%", FULL),
    ("16KiB", 16_384),
])
def test_budgets_people_write(text: str, budget: int) -> None:
    assert parse_budget(text, MADE) == budget


@pytest.mark.parametrize("text", ["", "3.5", "MB", "-3MB", "3,5bits", "3.5 elephants", "1e9MB", "0bits", "nan bits",
                                  "101%", "17bits", "900GB"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_budget(text, MADE)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(("budget", "limits", "words"), [
    (100, Limits(), "too small"),
    (FULL + 1, Limits(), "larger than full precision"),
    (FULL // 5, Limits(pinned={"nowhere": U3}), "no layer 'nowhere'"),
    (FULL // 5, Limits(groups=(("blocks.0.linear0", "x"),)), "no layer 'x'"),
    (FULL // 5, Limits(pinned={"blocks.0.linear0": Option("kmeans_c", 8)}), "cannot be pinned"),
    (FULL // 5, Limits(groups=(("blocks.0.linear0", "blocks.0.linear1"), ("blocks.0.linear1", "blocks.1.linear0"))),
     "two same-option groups"),
    (FULL // 5, Limits(pinned={"blocks.0.linear0": U3, "blocks.0.linear1": U4},
                       groups=(("blocks.0.linear0", "blocks.0.linear1"),)), "none in common"),
    (FULL // 5, Limits(options=(Option("rtn_g64", 5),), keep_untouched=False), "none of the wanted options"),
])
def test_impossible_problems(budget: int, limits: Limits, words: str) -> None:
    with pytest.raises(InputError, match=words):
        layer_problem(MADE, SCORES, budget, limits)


def test_scores_with_holes_or_nan_are_refused() -> None:
    table = {name: dict(row) for name, row in SCORES.layers.items()}
    table["blocks.1.linear0"]["uaq-3"] = float("nan")
    with pytest.raises(InputError, match=r"blocks\.1\.linear0 at uaq-3 is nan"):
        layer_problem(MADE, Scores("p", "", "", table), FULL // 4)
    del table["blocks.1.linear0"]
    with pytest.raises(InputError, match=r"none of the wanted options for blocks\.1\.linear0"):
        layer_problem(MADE, Scores("p", "", "", table), FULL // 4)


def test_other_refusals() -> None:
    problem = layer_problem(MADE, SCORES, FULL // 4)
    with pytest.raises(InputError, match="Unknown allocator"):
        allocate(problem, "magic")
    with pytest.raises(InputError, match="lambda"):
        argmax(problem, float("nan"))
    with pytest.raises(InputError, match="too small"):
        problem.with_budget(1)


def test_what_is_left_for_the_layers() -> None:
    from dataclasses import replace

    rich = replace(MADE, components=(Component("vae", "V", 10, 1000),), other_weights=50)
    assert layers_budget(21_100, rich) == 20_000
    assert layers_budget(21_100, rich, working_bytes=500) == 19_500
    assert layers_budget(10**9, rich) == FULL
    with pytest.raises(InputError, match="too small"):
        layers_budget(1_100, rich)
