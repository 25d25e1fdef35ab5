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
from engine.analysis.fitting import fit_predictor, fitted
from engine.analysis.planted import Plan, measure, plant
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.ranking import spearman
from engine.analysis.training import Training
from engine.analysis.trials import subject_of, trial_table
from engine.core.errors import InputError
from engine.core.option import Option

LOUD = ("blocks.1.attn.k", "blocks.2.conv1", "blocks.3.ff.1")
PLAN = Plan(blocks=4, spread=0.3, coupling=0.0, loud=LOUD, loudness=100.0)
U3 = Option("uaq", 3)


@pytest.fixture(scope="module")
def loud() -> Predictor:
    """A model in which three layers matter a hundred times more."""
    truth = plant(PLAN, 1)
    trials = measure(truth, 100, 2)
    table = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")
    training = Training(epochs=20, hidden=12, batch=32, weight=0.1, patience=20, rate=1e-2)
    return fitted(fit_predictor(table, training, about={"study": "planted", "images": "8"}))


def at_3(predictor: Predictor, method: Method, kind: Kind | None = None) -> Attribution:
    return attribute(predictor, recipe_at(predictor, U3), reference_of(predictor), method, kind=kind, permutations=6)


@pytest.mark.parametrize(("method", "kind"), [
    (Method.SHAPLEY, Kind.DAMAGE), (Method.SHAPLEY, Kind.GUIDED), (Method.ABLATION, Kind.DAMAGE),
    (Method.ABLATION, Kind.GUIDED), (Method.INTEGRATED_GRADIENTS, Kind.GUIDED), (Method.INPUT_X_GRADIENT, Kind.GUIDED),
    (Method.SALIENCY, Kind.GUIDED), (Method.INTEGRATED_GRADIENTS, Kind.GNN),
])
def test_planted_causes_are_found(loud: Predictor, method: Method, kind: Kind) -> None:
    found = at_3(loud, method, kind)
    # A gradient at one point sees less than one along the whole way, or than switching.
    local = method in (Method.INPUT_X_GRADIENT, Method.SALIENCY)
    assert recovered(found.layers, LOUD) >= (2 / 3 if local or kind is Kind.GNN else 1.0)


def test_shapley_values_add_up_exactly(loud: Predictor) -> None:
    for kind in (Kind.DAMAGE, Kind.GUIDED):
        found = at_3(loud, Method.SHAPLEY, kind)
        assert sum(found.layers.values()) == pytest.approx(found.expected, rel=1e-3)
        assert found.expected > 0  # three bits are worse than the reference


def test_integrated_gradients_add_up_nearly(loud: Predictor) -> None:
    found = at_3(loud, Method.INTEGRATED_GRADIENTS, Kind.GUIDED)
    assert sum(found.nodes.values()) == pytest.approx(found.expected, rel=0.15)
    assert sum(found.features.values()) == pytest.approx(sum(found.nodes.values()))
    graph = loud.subject.graph
    for c, name in enumerate(graph.choices):
        own = [i for i, k in enumerate(graph.choice_of) if k == c]
        assert found.layers[name] == pytest.approx(sum(found.nodes[graph.node_ids[i]] for i in own))


def test_masks_say_which_node_and_which_feature(loud: Predictor) -> None:
    found = at_3(loud, Method.INTEGRATED_GRADIENTS, Kind.GUIDED)
    assert set(found.nodes) == set(loud.subject.graph.node_ids)
    junctions = [n for n, c in zip(loud.subject.graph.node_ids, loud.subject.graph.choice_of, strict=True) if c < 0]
    assert all(found.nodes[n] == 0 for n in junctions)  # their features are the same in every recipe
    assert all(found.features[n] == 0 for n in ("stage", "block", "unit", "type"))
    assert any(found.features[n] for n in ("method", "bits", "error", "damage"))


def test_a_recipe_explained_by_itself_is_blameless(loud: Predictor) -> None:
    reference = reference_of(loud)
    for method in (Method.SHAPLEY, Method.ABLATION, Method.INTEGRATED_GRADIENTS):
        found = attribute(loud, reference, reference, method)
        assert set(found.layers.values()) == {0.0}
        assert found.expected == pytest.approx(0, abs=1e-6)


def test_scores_cover_layers_and_blocks(loud: Predictor) -> None:
    scores = attribution_scores(loud, Method.SHAPLEY, [U3], kind=Kind.DAMAGE, permutations=4)
    assert scores.provider == "attribution-shapley"
    assert set(scores.layers) == set(loud.subject.graph.choices)
    assert all("uaq-3" in row for row in scores.layers.values())
    assert scores.trust.study == "planted"
    assert scores.trust.rank_correlation is not None
    block = next(b for b in loud.subject.structure.blocks if b.id == "blocks.1")
    assert scores.blocks["blocks.1"]["uaq-3"] == pytest.approx(sum(scores.layers[n]["uaq-3"] for n in block.layers))
    # by default only options that trials held
    held = attribution_scores(loud, Method.ABLATION, kind=Kind.DAMAGE)
    assert {o for row in held.layers.values() for o in row} <= {"uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4",
                                                                "kmeans_a-3", "kmeans_a-4"}


def test_attributions_agree_with_the_planted_damage(loud: Predictor) -> None:
    truth = plant(PLAN, 1)
    scores = attribution_scores(loud, Method.SHAPLEY, [U3], kind=Kind.DAMAGE, permutations=6)
    names = loud.subject.graph.choices
    planted = np.array([truth.damage[n]["uaq-3"] for n in names])
    assert spearman(np.array([scores.layers[n]["uaq-3"] for n in names]), planted) > 0.6


def test_gradients_need_networks(loud: Predictor) -> None:
    from dataclasses import replace

    bare = replace(loud, members={k: v for k, v in loud.members.items() if k in (Kind.RIDGE, Kind.DAMAGE)})
    with pytest.raises(InputError, match="no such networks"):
        at_3(bare, Method.SALIENCY)
