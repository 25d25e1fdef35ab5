"""MPQ-Diff's table at the smallest size: every contender within the same bytes, kept, and compared image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.allocate.blocks import PAPER
from engine.bench.mpq import (
    AFFINE,
    CONTROLS,
    ENDS,
    EVERY,
    FAITHFUL,
    FLAT,
    KEPT_ENDS,
    OPTIONS,
    QUA,
    QUA_FAITHFUL,
    USEFUL,
    WIDTHS,
    MpqPlan,
    MpqRow,
    contenders,
    learned,
    lines,
    named,
    notes,
    table,
)
from engine.core.errors import InputError
from engine.core.layer import Role
from engine.core.recipe import Recipe, load_recipe
from engine.core.sizes import bits_per_weight, stored_bytes
from engine.live.model import Model, open_model
from engine.models.tiny import TINY
from engine.providers.files import find_scores

PLAN = MpqPlan((3.5,), images=2, draws=1, steps=2)


@pytest.fixture(scope="module")
def demo() -> Iterator[Model]:
    model = open_model("emoji-dit")
    yield model
    model.close()


@pytest.fixture(scope="module")
def chosen(demo: Model) -> dict[tuple[str, str], Recipe]:
    """Group and contender -> recipe at 3.5 bits."""
    return {(group, name): recipe for group, name, recipe in contenders(demo, 3.5, 3)}


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
    more = table(demo, replace(PLAN, draws=2), **places)
    assert [next(more) for _ in names[:3]] == rows[:3]  # kept rows hold for any number of draws
    more.close()
    assert QUA_FAITHFUL not in {n for _, n, _ in contenders(demo, 3.0, 1)}  # six options of 3 and 4 bits do not fit
    place = tmp_path / "3-5-uaq-2-to-8-mpq-diff-useful.recipe.json"
    assert load_recipe(place).hash == rows[names.index((AFFINE, USEFUL))].recipe
    shown = lines(rows)
    assert [bool(line[f"psnr against {USEFUL}"]) for line in shown] == [name != USEFUL for _, name in names]


def test_within_a_group_all_choose_from_the_same(demo: Model, chosen: dict[tuple[str, str], Recipe]) -> None:
    """And the control without importances differs from the published program in nothing but importances."""
    structure = demo.structure
    offered = {AFFINE: set(WIDTHS), EVERY: set(OPTIONS), KEPT_ENDS: set(WIDTHS)}
    ends = [x.name for x in structure.choices if x.role in (Role.INPUT, Role.OUTPUT)]
    for (group, name), recipe in chosen.items():
        taken = {recipe.option(x.name) for x in structure.choices}
        assert taken <= offered[group], (group, name)
        assert bits_per_weight(structure, recipe.options) <= 3.5
        assert group != KEPT_ENDS or all(recipe.option(x) == ENDS for x in ends)
    assert ends and {(AFFINE, FAITHFUL), (AFFINE, FLAT), (KEPT_ENDS, USEFUL)} <= chosen.keys()
    controls = {chosen[KEPT_ENDS, name].hash for name in (*CONTROLS, "uniform uaq", FAITHFUL, USEFUL)}
    assert len(controls) == 5  # the papers' exclusion has controls over the same layers
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


@pytest.mark.slow
def test_three_random_recipes_a_group_the_first_as_if_it_were_alone(
        demo: Model, chosen: dict[tuple[str, str], Recipe]) -> None:
    assert MpqPlan().draws == 3
    one = {(g, n): r.hash for g, n, r in contenders(demo, 3.5, 1)}
    three = {key: recipe.hash for key, recipe in chosen.items()}
    assert one.items() < three.items()
    assert three.keys() - one.keys() == {(g, f"random {i}") for g in (AFFINE, EVERY) for i in (2, 3)}
    assert len({h for (_, name), h in three.items() if name.startswith("random")}) == 6


def test_only_scores_of_the_graph_network_go_by_the_name_of_qua2sedimo(demo: Model) -> None:
    structure = demo.structure
    scores = find_scores(structure)
    graph = replace(scores["gnn-operation"], about={**scores["gnn-operation"].about, "kind": "gnn"})
    guided = replace(graph, about={**graph.about, "kind": "guided"})
    assert learned(scores | {"gnn-operation": graph})[QUA] == "gnn-operation"
    assert QUA not in learned(scores | {"gnn-operation": guided}) and QUA not in learned({})
    assert named(graph) == "gnn-operation of the graph network"
    assert named(scores["attribution-shapley"]) == "attribution-shapley of the additive model"
    assert named(scores["attribution-integrated-gradients"]) == "attribution-integrated-gradients of the guided network"
    said = notes(scores)
    assert all(words in said[FAITHFUL] for words in ("debiased orthogonality matrix", "gamma = mean", "beta 10"))
    plain = replace(scores["orthogonality-linear"], about={**scores["orthogonality-linear"].about, "debiased": "False",
                                                           "summed": "True"})
    other = notes(scores | {"orthogonality-linear": plain})[FAITHFUL]
    assert "the biased orthogonality matrix, gamma = sum" in other
    assert said[QUA].startswith("gnn-operation") and all(str(option) in said[QUA_FAITHFUL] for option in PAPER)


def test_the_faithful_selection_takes_the_six_options_of_the_paper_where_they_fit(
        demo: Model, chosen: dict[tuple[str, str], Recipe]) -> None:
    structure = demo.structure
    operation = find_scores(structure)["gnn-operation"]
    recipe = chosen[EVERY, QUA_FAITHFUL]
    assert {recipe.option(x.name) for x in structure.choices} <= set(PAPER) and (AFFINE, QUA_FAITHFUL) not in chosen
    price = recipe.provenance["lambda"] * 8 / sum(x.weights for x in structure.layers)
    for layer in structure.choices:
        held = recipe.option(layer.name)
        cost = {o: operation.layers[layer.name][str(o)] + price * stored_bytes(layer, o, structure.precision_bits)
                for o in PAPER}
        assert cost[held] == min(cost.values())  # its best alone, whatever the others take
