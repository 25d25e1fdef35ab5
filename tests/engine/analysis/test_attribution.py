"""Captum's attributions against planted causes, and that the parts add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest

from engine.analysis.attribution import (
    Attribution,
    Method,
    attribute,
    attribution_scores,
    recipe_at,
    reference_of,
)
from engine.analysis.faithfulness import recovered
from engine.analysis.planted import Truth
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.ranking import spearman
from engine.core.errors import InputError
from engine.core.option import Option
from tests.engine.analysis.conftest import LOUD

U3 = Option("uaq", 3)


def at_3(predictor: Predictor, method: Method, kind: Kind | None = None) -> Attribution:
    return attribute(predictor, recipe_at(predictor, U3), reference_of(predictor), method, kind=kind, permutations=6)


@pytest.mark.parametrize(("method", "kind"), [
    (Method.SHAPLEY, Kind.DAMAGE), (Method.SHAPLEY, Kind.GUIDED), (Method.ABLATION, Kind.DAMAGE),
    (Method.ABLATION, Kind.GUIDED), (Method.INTEGRATED_GRADIENTS, Kind.GUIDED), (Method.INPUT_X_GRADIENT, Kind.GUIDED),
    (Method.SALIENCY, Kind.GUIDED),
])
def test_planted_causes_are_found(predictor: Predictor, method: Method, kind: Kind) -> None:
    found = at_3(predictor, method, kind)
    # A gradient at one point sees less than one along the whole way, or than switching.
    local = method in (Method.INPUT_X_GRADIENT, Method.SALIENCY)
    assert recovered(found.layers, LOUD) >= (2 / 3 if local else 1.0)


def test_a_network_told_nothing_blames_the_causes_more(predictor: Predictor) -> None:
    """A dozen epochs on 100 recipes do not single them out, but they are above the rest."""
    found = at_3(predictor, Method.INTEGRATED_GRADIENTS, Kind.GNN)
    others = [v for n, v in found.layers.items() if n not in LOUD]
    assert np.mean([found.layers[n] for n in LOUD]) > np.mean(others) + np.std(others) / 2


def test_shapley_values_add_up_exactly(predictor: Predictor) -> None:
    for kind in (Kind.DAMAGE, Kind.GUIDED):
        found = at_3(predictor, Method.SHAPLEY, kind)
        assert sum(found.layers.values()) == pytest.approx(found.expected, rel=1e-3)
        assert found.expected > 0  # three bits are worse than the reference


def test_integrated_gradients_add_up_nearly(predictor: Predictor) -> None:
    found = at_3(predictor, Method.INTEGRATED_GRADIENTS, Kind.GUIDED)
    assert sum(found.nodes.values()) == pytest.approx(found.expected, rel=0.15)
    assert sum(found.features.values()) == pytest.approx(sum(found.nodes.values()))
    graph = predictor.subject.graph
    for c, name in enumerate(graph.choices):
        own = [i for i, k in enumerate(graph.choice_of) if k == c]
        assert found.layers[name] == pytest.approx(sum(found.nodes[graph.node_ids[i]] for i in own))


def test_masks_say_which_node_and_which_feature(predictor: Predictor) -> None:
    found = at_3(predictor, Method.INTEGRATED_GRADIENTS, Kind.GUIDED)
    assert set(found.nodes) == set(predictor.subject.graph.node_ids)
    graph = predictor.subject.graph
    junctions = [n for n, c in zip(graph.node_ids, graph.choice_of, strict=True) if c < 0]
    assert all(found.nodes[n] == 0 for n in junctions)  # their features are the same in every recipe
    assert all(found.features[n] == 0 for n in ("stage", "block", "unit", "type"))
    assert any(found.features[n] for n in ("method", "bits", "error", "damage"))


@pytest.mark.parametrize("method", [Method.INTEGRATED_GRADIENTS, Method.SALIENCY, Method.INPUT_X_GRADIENT])
def test_scores_keep_what_each_layer_owes_to_its_features(predictor: Predictor, method: Method) -> None:
    scores = attribution_scores(predictor, method, [U3])
    assert scores.provider == f"attribution-{method}" and set(scores.features) == {"uaq-3"}
    found = at_3(predictor, method)
    for name, row in scores.layers.items():
        parts = scores.features["uaq-3"].get(name, {})
        assert sum(parts.values()) == pytest.approx(row["uaq-3"], rel=2e-3, abs=1e-3 * max(map(abs, row.values())))
        assert not {"stage", "block", "unit", "type"} & set(parts)  # the same in both recipes
    for group, total in found.features.items():
        summed = sum(row.get(group, 0.0) for row in scores.features["uaq-3"].values())
        assert summed == pytest.approx(total, rel=1e-2, abs=1e-3 * max(map(abs, found.features.values())))
    assert not attribution_scores(predictor, Method.ABLATION, [U3], kind=Kind.DAMAGE).features


def test_a_recipe_explained_by_itself_is_blameless(predictor: Predictor) -> None:
    reference = reference_of(predictor)
    for method in (Method.SHAPLEY, Method.ABLATION, Method.INTEGRATED_GRADIENTS):
        found = attribute(predictor, reference, reference, method)
        assert set(found.layers.values()) == {0.0}
        assert found.expected == pytest.approx(0, abs=1e-6)


def test_scores_cover_layers_and_blocks(predictor: Predictor) -> None:
    scores = attribution_scores(predictor, Method.SHAPLEY, [U3], kind=Kind.DAMAGE, permutations=4)
    assert scores.provider == "attribution-shapley"
    assert set(scores.layers) == set(predictor.subject.graph.choices)
    assert all("uaq-3" in row for row in scores.layers.values())
    assert scores.trust.study == "planted"
    assert scores.trust.rank_correlation is not None
    block = next(b for b in predictor.subject.structure.blocks if b.id == "blocks.1")
    assert scores.blocks["blocks.1"]["uaq-3"] == pytest.approx(sum(scores.layers[n]["uaq-3"] for n in block.layers))
    # by default only options that trials held
    held = attribution_scores(predictor, Method.ABLATION, kind=Kind.DAMAGE)
    assert {o for row in held.layers.values() for o in row} <= {"uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4",
                                                                "kmeans_a-3", "kmeans_a-4"}


def test_attributions_agree_with_the_planted_damage(predictor: Predictor, loud: Truth) -> None:
    scores = attribution_scores(predictor, Method.SHAPLEY, [U3], kind=Kind.DAMAGE, permutations=6)
    names = predictor.subject.graph.choices
    planted = np.array([loud.damage[n]["uaq-3"] for n in names])
    assert spearman(np.array([scores.layers[n]["uaq-3"] for n in names]), planted) > 0.6


def test_gradients_need_networks(predictor: Predictor) -> None:
    from dataclasses import replace

    bare = replace(predictor, members={k: v for k, v in predictor.members.items() if k in (Kind.RIDGE, Kind.DAMAGE)})
    with pytest.raises(InputError, match="no such networks"):
        at_3(bare, Method.SALIENCY)
