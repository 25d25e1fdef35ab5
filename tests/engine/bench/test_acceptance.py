"""The bench of MPQ-Diff's importance: oracles from the shipped record of the demo U-Net."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from engine.bench import acceptance
from engine.bench.acceptance import LEARNED, THETA, absent, agreement_rows, calibrated, cost_rows, stability_rows
from engine.bench.mpq import named
from engine.calibrate.orthogonality import Orthogonality, find_orthogonality
from engine.calibrate.profile import ProfilePlan
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.record import Scores
from engine.live.model import Model
from engine.models.structure import read_structure
from engine.providers.files import find_scores

Shipped = tuple[Structure, Orthogonality, dict[str, Scores]]


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    structure = read_structure("emoji-unet")
    found = find_orthogonality(structure)
    assert found is not None
    return structure, found, find_scores(structure)


@pytest.mark.slow
def test_a_calibration_agrees_with_itself_and_not_with_one_of_other_layers(shipped: Shipped) -> None:
    structure, found, scores = shipped
    turned = replace(found, matrices=found.matrices.flip(1, 2))  # every layer has another's similarities
    rows = stability_rows(structure, [found, found, turned], scores["weight-error"])
    assert [row["seeds"] for row in rows] == ["0 and 1", "0 and 2", "1 and 2"]
    assert rows[0]["Spearman of theta"] == 1 and rows[0]["same option at 3.5 bits"] == "100.0%"
    assert rows[1]["Spearman of theta"] == rows[2]["Spearman of theta"] < 0.5
    assert rows[1]["same option at 3.5 bits"] != "100.0%"


def test_an_importance_that_is_the_damage_agrees_with_it(shipped: Shipped) -> None:
    """Matrices are planted so that gamma falls in the order of measured damage: theta = exp(-beta gamma) rises with it.
    """
    structure, found, scores = shipped
    truth = scores["measured"]
    (option,) = {o for row in truth.layers.values() for o in row} & {"uaq-3"}
    by_row: dict[str, float] = {}
    for layer in structure.choices:
        row = layer.module if layer.module in found.rows else layer.name
        by_row[row] = max(by_row.get(row, 0.0), truth.layers[layer.name][option])
    order = sorted(found.rows, key=lambda row: by_row.get(row, 0.0))
    similar = torch.tensor([1 - order.index(row) / len(order) for row in found.rows], dtype=torch.float64)
    planted = replace(found, matrices=torch.sqrt(similar[:, None] * similar[None]).expand_as(found.matrices).clone())
    for matrix in planted.matrices:
        matrix.fill_diagonal_(1.0)
    few = {name: scores[name] for name in ("measured", "weight-error")}
    rows = [r for r in agreement_rows(structure, planted, scores["weight-error"], few)
            if (r["measured"], r["option"], r["level"], r["score"]) == ("measured", option, "layers", THETA)]
    assert float(rows[0]["Spearman"].split()[0]) > 0.95


@pytest.mark.slow
def test_scores_that_a_model_lacks_are_named_and_an_anchored_predictor_is_none_of_them(shipped: Shipped) -> None:
    structure, found, scores = shipped
    few = {n: s for n, s in scores.items() if not n.startswith("measured-")}
    compared = {row["score"] for row in agreement_rows(structure, found, scores["weight-error"], few)}
    assert absent(scores) == [] and {named(scores[name]) for name in LEARNED} <= compared
    assert {"attribution-shapley of the additive model", "attribution-integrated-gradients of the guided network",
            "gnn-operation of the graph network"} <= compared  # whose each score is, from the scores
    assert "predictor" in scores and not [name for name in compared if name.startswith("predictor")]
    assert absent({n: s for n, s in scores.items() if n != "gnn-block"}) == ["gnn-block"]


def test_without_measured_damage_there_is_nothing_to_agree_with(shipped: Shipped) -> None:
    structure, found, scores = shipped
    with pytest.raises(InputError, match="measured"):
        list(agreement_rows(structure, found, scores["weight-error"], {"weight-error": scores["weight-error"]}))


def test_each_calibration_says_what_it_took(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures of its own, and with a peak that begins anew, so that none reports an earlier and larger one's."""
    calls: list[Any] = []

    def slow(model: Any, plan: ProfilePlan) -> Iterator[Orthogonality]:
        calls.append((plan.capture.first, plan.capture.images))
        time.sleep(0.2)
        yield shipped[1]

    monkeypatch.setattr(acceptance, "score", slow)
    monkeypatch.setattr(acceptance, "forget_peak", lambda: calls.append("forget"))
    monkeypatch.setattr(acceptance, "peak_memory", lambda: calls.append("peak") or 2_500_000)
    found = [calibrated(cast(Model, None), 4, seed) for seed in (0, 1)]
    assert calls == ["forget", (0, 4), "peak", "forget", (4, 4), "peak"]
    assert all(o is shipped[1] and seconds and 0.2 < seconds < 60 and peak == 2.5 for o, (seconds, peak) in found)
    assert cost_rows([(61.4, 812.2), (None, None)]) == [
        {"seed": 0, "seconds": 61, "peak MB": 812}, {"seed": 1, "seconds": "unknown", "peak MB": "unknown"}]
